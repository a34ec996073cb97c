"""What is made of a gradient: the map's last step, and where along a path it is taken."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fwdgrad.inputs import numbers_of
from fwdgrad_kernels import path_positions
from fwdgrad_kernels.checks import check_integer
from fwdgrad_kernels.spec import first_outside

_LINES = 64  # of a picture that are blurred at once
_LEVELS = {"black": 0.0, "grey": 0.5, "white": 1.0}
BASELINES = (*_LEVELS, "blurred")


@dataclasses.dataclass(frozen=True, eq=False)
class Gradient:
    """The gradient itself, averaged over the copies.

    Example:
        >>> Gradient()
        Gradient()

    Source: *Rethinking the principle of gradient smooth methods in model explanation*, equation 1.
    """

    statistic: ClassVar[str] = "mean"
    """Of the copies' gradients: "mean", "square" (the mean of their squares) or "variance"."""

    def factor(self, x: Tensor) -> Tensor | None:
        """What the statistic is multiplied with, of x's shape; None where nothing."""
        return None


@dataclasses.dataclass(frozen=True, eq=False)
class GradientXInput(Gradient):
    """Gradient x input: how the score changes as an element grows in proportion.

    Example:
        >>> GradientXInput().factor(torch.tensor([2.0, -1.0]))
        tensor([ 2., -1.])

    Source: Shrikumar et al., *Not just a black box*, 2016 (arXiv 1605.01713).
    """

    def factor(self, x: Tensor) -> Tensor | None:
        """The input."""
        return x


@dataclasses.dataclass(frozen=True, eq=False)
class SquaredGrad(Gradient):
    """SmoothGrad squared: the mean of the squared gradients of the copies.

    It needs each copy's own gradient, so an ``Autograd`` source: a forward call gives none.

    Example:
        >>> SquaredGrad().statistic
        'square'

    Source: Hooker et al., *A benchmark for interpretability methods in deep neural networks*,
    NeurIPS 2019.
    """

    statistic: ClassVar[str] = "square"


@dataclasses.dataclass(frozen=True, eq=False)
class VarGrad(Gradient):
    """VarGrad: the variance of the gradients of the copies.

    It needs each copy's own gradient, so an ``Autograd`` source: a forward call gives none.

    Example:
        >>> VarGrad().statistic
        'variance'

    Source: *Noise-adding methods of saliency map as series of higher order partial derivative*,
    equation 8.
    """

    statistic: ClassVar[str] = "variance"


@dataclasses.dataclass(frozen=True, eq=False)
class IntegratedGradients(Gradient):
    """Integrated gradients: (x - x') times the mean gradient on the straight path from x' to x.

    Their sum is f(x) - f(x') (completeness); an explanation's ``delta`` is by how much the sum
    found falls short or exceeds.

    Args:
        baseline: x', where the path starts: "black" (0), "grey" (0.5), "white" (1), "blurred" (the
            input under a Gaussian a tenth as wide as its shorter side; images alone), a number, or
            a tensor of the input's shape.
        steps: points of Gauss-Legendre quadrature, taken by the copies in turn. None draws each
            copy's position at random, so that any number of copies integrates without bias.

    Raises:
        TypeError, ValueError: naming the argument.

    Example:
        >>> path = IntegratedGradients("white", steps=2).path(torch.zeros(3), copies=2, seed=0)
        >>> path.positions.round(decimals=3).tolist(), path.weights.tolist()
        ([0.211, 0.789], [1.0, 1.0])

    Source: Sundararajan et al., *Axiomatic attribution for deep networks*, ICML 2017, equation 1.
    """

    baseline: str | float | Tensor = "black"
    steps: int | None = None

    def __post_init__(self) -> None:
        """Checks what can be checked without an input."""
        value = numbers_of(self.baseline)
        object.__setattr__(self, "baseline", value)
        if isinstance(value, str):
            if value not in BASELINES:
                raise ValueError(
                    f"baseline must be one of {', '.join(BASELINES)}, a number or a tensor, got "
                    f"{value!r}"
                )
        elif isinstance(value, Tensor) or (
            isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
        ):
            values = torch.as_tensor(value)
            bad = first_outside(values, torch.isfinite(values))
            if bad is not None:
                raise ValueError(f"baseline must be finite, got {bad[1]}")
        else:
            raise TypeError(
                f"baseline must be a name, a number or a tensor, got {type(value).__name__}"
            )
        if self.steps is not None:
            object.__setattr__(self, "steps", check_integer("steps", self.steps, 1, 10_000))

    def start(self, x: Tensor) -> Tensor:
        """The baseline x' of an input, of its shape and type."""
        value = self.baseline
        if isinstance(value, Tensor):
            if value.dim() and value.shape != x.shape:
                raise ValueError(
                    f"baseline must be a number or have x's shape {tuple(x.shape)}, got "
                    f"{tuple(value.shape)}"
                )
            return value.to(x).expand(x.shape).contiguous()
        if isinstance(value, str) and value != "blurred":
            bad = first_outside(x, (x >= -1e-3) & (x <= 1 + 1e-3))
            if bad is not None:
                raise ValueError(
                    f"baseline {value!r} is for values in [0, 1], got x = {bad[1]} at element "
                    f"{bad[0]}; give a number or a tensor"
                )
            value = _LEVELS[value]
        if isinstance(value, str):
            return blurred(x, min(x.shape[-2:]) / 10 if x.dim() > 1 else 0.0)
        return torch.full_like(x, float(value))

    def path(self, x: Tensor, copies: int, seed: int) -> Path:
        """Where on the path each copy lies, and its weight in the mean."""
        start = self.start(x)
        if torch.equal(start, x):
            raise ValueError("baseline must differ from x somewhere: the path to it has no length")
        if self.steps is None:
            positions = path_positions(seed, 0, copies)
            return Path(start, positions, torch.ones_like(positions), 1)
        if copies % self.steps:
            raise ValueError(
                f"queries must give each of the {self.steps} steps as many copies, got {copies} "
                f"copies; ask for a multiple of {self.steps}"
            )
        nodes, weights = np.polynomial.legendre.leggauss(self.steps)
        at = torch.arange(copies) % self.steps
        positions = torch.from_numpy((nodes + 1) / 2)[at]
        return Path(start, positions, torch.from_numpy(weights / 2)[at] * self.steps, self.steps)

    def factor(self, x: Tensor) -> Tensor | None:
        """x - x'."""
        return x - self.start(x).to(x)


@dataclasses.dataclass(frozen=True)
class Path:
    """A straight path to the input, and the copies on it."""

    start: Tensor  # x', of the input's shape
    positions: Tensor  # of each copy, float64 on the CPU: 0 is x', 1 the input
    weights: Tensor  # of each copy in the mean, float64; their mean is 1
    period: int  # copies after which the positions repeat; 1 where they are random

    def point(self, x: Tensor, copy: int) -> Tensor:
        """Where a copy lies, before its noise."""
        wide = x.dtype if x.dtype == torch.float64 else torch.float32
        t = float(self.positions[copy])
        return torch.lerp(self.start.to(wide), x.to(wide), t).to(x.dtype)


def blur_deviation(shape: Sequence[int]) -> float:
    """The deviation in pixels of a light blur: a 32nd of the shortest side, 2 at least."""
    return max(2.0, min(shape[1:]) / 32)


def smallest_cell(shape: Sequence[int]) -> int:
    """Larger than that deviation: what the blur mixes are the neighbours of a smaller one.

    >>> smallest_cell((3, 224, 224))
    8
    """
    return int(blur_deviation(shape)) + 1


def blurred(x: Tensor, deviation: float, axes: int = 2) -> Tensor:
    """An image (..., H, W) under a Gaussian of that standard deviation, in pixels.

    Or a volume (..., D, H, W), where it is along three axes.

    Raises:
        ValueError: it is no image.
    """
    if x.dim() < 3:
        raise ValueError(
            f"baseline 'blurred' is for images (..., H, W), got shape {tuple(x.shape)}; give a "
            "number or a tensor"
        )
    reach = min(math.ceil(3 * deviation), min(x.shape[-axes:]) - 1)
    at = torch.arange(-reach, reach + 1, dtype=torch.float64, device=x.device)
    kernel = torch.exp(-0.5 * (at / deviation) ** 2)
    kernel /= kernel.sum()

    def along_rows(lines: Tensor) -> Tensor:
        padded = functional.pad(lines.to(torch.float64), (reach, reach), mode="reflect")
        # By Fourier: torch's convolution takes a minute for a picture of 2,048 x 2,048.
        size = padded.shape[-1]
        product = torch.fft.rfft(padded) * torch.fft.rfft(kernel, size)
        blurred_lines: Tensor = torch.fft.irfft(product, size)
        return blurred_lines[..., 2 * reach :]

    # A few lines at a time: in memory there are beside the result one plane, and little more.
    result = torch.empty_like(x, memory_format=torch.contiguous_format)
    height, width = x.shape[-2:]
    rows = torch.empty((height, width), dtype=torch.float64, device=x.device)
    for plane, out in zip(
        x.reshape(-1, height, width), result.view(-1, height, width), strict=True
    ):
        for top in range(0, height, _LINES):
            rows[top : top + _LINES] = along_rows(plane[top : top + _LINES])
        for left in range(0, width, _LINES):
            out[:, left : left + _LINES] = along_rows(rows[:, left : left + _LINES].mT).mT
    if axes == 3:
        for volume in result.view(-1, x.shape[-3], height * width):
            for left in range(0, height * width, _LINES):
                some = volume[:, left : left + _LINES]
                some.copy_(along_rows(some.mT).mT)
    return result
