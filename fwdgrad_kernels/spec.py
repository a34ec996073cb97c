"""NoiseSpec: everything that defines the draws of a run, as one frozen value."""

from __future__ import annotations

import dataclasses
import math
import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fwdgrad_kernels.checks import DTYPES as DTYPES
from fwdgrad_kernels.checks import (
    check_alike,
    check_floating,
    check_integer,
    check_memory,
    check_writable,
)
from fwdgrad_kernels.features import Elements, Features, Grid, Labels, View, grid_of
from fwdgrad_kernels.scale import AdaptiveScale

DISTRIBUTIONS = ("normal", "cauchy", "hyperbolic", "logistic", "uniform", "rademacher")
DESIGNS = ("independent", "hadamard")
CONTRACT = 2
"""The version of docs/noise-contract.md: of draws, and of the order of sums."""
CHUNK = 256
"""Samples that are summed together: sums are cut where their numbers are multiples of this."""
PARAMETER_STREAM = 16
"""The stream of the first parameter tensor of a model: that of the t-th is t further on."""


def _integers(name: str, value: Any, low: int, high: int) -> tuple[int, ...]:
    if isinstance(value, (int, np.integer)):
        value = (value,)
    if not isinstance(value, (tuple, list)):
        raise TypeError(f"{name} must be an integer or a tuple of them, got {value!r}")
    return tuple(check_integer(name, number, low, high) for number in value)


def first_outside(tensor: Tensor, good: Tensor) -> tuple[int, float] | None:
    """The number and value of the first element that is not good; None where all are."""
    if bool(good.all()):
        return None
    index = int((~good).flatten().nonzero()[0])
    return index, tensor.flatten()[index].item()


@dataclasses.dataclass(frozen=True, eq=False)
class NoiseSpec:
    """What noise each sample of an input gets: a pure function of this value and a sample's number.

    Sample ``i`` of an input ``x`` is ``x + J_i * scale * xi_i``: ``xi_i`` is noise of unit scale
    and ``J_i`` the mask of a random block. Element ``k`` of ``xi_i`` depends on ``seed``, ``i``
    and ``k`` alone (Philox4x32-10), so nothing is ever stored.

    Args:
        shape: the input's shape, with any number of axes: images (C, H, W), text embeddings
            (T, E), vectors (N,).
        distribution: one of ``DISTRIBUTIONS``. ``uniform`` has no score, so no likelihood-ratio
            gradient.
        scale: the noise's scale, in the input's units: a number >= 0, or a finite floating tensor
            of the input's shape, signed where it is a direction. Elements of scale 0 are frozen:
            they get no noise, and their gradient is 0. A tensor is kept, not copied: leave it be.
            Or an ``AdaptiveScale``, which the kernels compute from the input.
        block: extents of the noisy block over the trailing axes (at most two); one integer means
            the same extent on each of them. All leading axes are covered. None covers everything.
            The start is uniform over all positions that touch the input, and the block is cut at
            the border, so every element is covered with the same probability ``coverage``.
        features: what moves together under one draw: ``Elements()``, every element by itself;
            ``Grid``, the cells of a grid; ``Labels``, what a mask gives one label.
        design: "independent" draws, or "hadamard": the signs of ``group`` consecutive samples are
            orthogonal to one another; the distribution is then ``rademacher``. Antithetic pairs
            (``perturb``) go with either.
        seed: 0 .. 2^64 - 1.
        stream: which of a sample's independent streams of draws: 0 for inputs, 16 + t for the t-th
            parameter tensor of a model, whose elements have independent draws and no blocks.

    Raises:
        TypeError, ValueError: naming the argument, what was given and what would do.

    Example:
        >>> spec = NoiseSpec((3, 224, 224), "normal", scale=0.1, block=103, seed=7)
        >>> round(spec.coverage, 3)
        0.1

    Source: blocks are those of *Is forward gradient an effective tool for explaining black-box
    models?*, section 3.3, equation 6.
    """

    shape: tuple[int, ...]
    distribution: str = "normal"
    scale: float | Tensor | AdaptiveScale = 1.0
    block: tuple[int, ...] | int | None = None
    features: Features = dataclasses.field(default_factory=Elements)
    design: str = "independent"
    seed: int = 0
    stream: int = 0
    view: View = dataclasses.field(init=False, repr=False)
    """The input as the kernels see it."""
    grid: tuple[int, int, int, int] = dataclasses.field(init=False, repr=False)
    """What takes a sample's draws: planes, layers, rows and columns of the grid of cells."""
    draws: int = dataclasses.field(init=False, repr=False)
    """K, how many independent draws a sample has; with an order also those of no line."""
    group: int = dataclasses.field(init=False, repr=False)
    """How many consecutive samples depend on one another: M of a Hadamard design, else 1."""
    encoded: tuple[int, ...] = dataclasses.field(init=False, repr=False)
    """What defines the draws, as the integers that cross to the kernels."""
    _vector: NoiseSpec | None = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Normalises the arguments and checks each."""
        shape = _integers("shape", self.shape, 0, 2**62)
        if not shape:
            raise ValueError("shape must have at least one axis, got ()")
        if math.prod(max(length, 1) for length in shape) > 2**60:
            raise ValueError(f"shape must have at most 2^60 elements, got {shape}")
        object.__setattr__(self, "shape", shape)
        if self.distribution not in DISTRIBUTIONS:
            raise ValueError(
                f"distribution must be one of {', '.join(DISTRIBUTIONS)}, got {self.distribution!r}"
            )
        if self.design not in DESIGNS:
            raise ValueError(f"design must be one of {', '.join(DESIGNS)}, got {self.design!r}")
        if self.design == "hadamard" and self.distribution != "rademacher":
            raise ValueError(
                "distribution must be 'rademacher' where design='hadamard', which is of signs, got "
                f"{self.distribution!r}"
            )
        if not isinstance(self.features, (Elements, Grid, Labels)):
            raise TypeError(
                "features must be one of Elements(), Grid(cell) and Labels(mask), got "
                f"{' '.join(repr(self.features).split()):.80}"
            )
        object.__setattr__(self, "view", self.features.view(shape))
        object.__setattr__(self, "seed", check_integer("seed", self.seed, 0, 2**64 - 1))
        self._check_scale()
        self._check_block()
        self._check_stream()
        object.__setattr__(self, "grid", grid_of(self.view))
        draws = self.view.labels or math.prod(self.grid)
        object.__setattr__(self, "draws", draws)
        group = 1 << max(draws - 1, 0).bit_length() if self.design == "hadamard" else 1
        object.__setattr__(self, "group", group)
        limit = 2**39 if self.distribution == "rademacher" else 2**34
        limit = 2**32 if self.design == "hadamard" else limit
        if draws > limit:
            raise ValueError(
                f"shape {shape} needs {draws} draws of distribution {self.distribution!r}, more "
                f"than the {limit} that a counter holds; use larger cells or share the leading axes"
            )
        view = self.view
        encoded = (
            *view[:4],
            DISTRIBUTIONS.index(self.distribution),
            DESIGNS.index(self.design),
            *self.extents,
            *view.cells,
            int(view.linear),
            int(view.shared),
            int(view.jitters),
            *view[8:],
            self.seed - 2**64 if self.seed >= 2**63 else self.seed,
            self.stream,
        )
        object.__setattr__(self, "encoded", encoded)
        # Made here, since torch.compile cannot make one. Not itself: that would be a cycle, which
        # would keep the scale map until it is collected.
        vector, plain = None, isinstance(self.scale, float) and self.scale == 1 and not self.block
        if not (plain and shape == (self.draws,) and isinstance(self.features, Elements)):
            run = self.design, self.seed, self.stream
            vector = NoiseSpec((self.draws,), self.distribution, 1.0, None, Elements(), *run)
        object.__setattr__(self, "_vector", vector)

    def _check_scale(self) -> None:
        scale = self.scale
        if isinstance(scale, AdaptiveScale):
            return scale.check(self.distribution, math.prod(self.shape[:-2]))
        if isinstance(scale, Tensor):
            check_memory("scale", scale)
            if not scale.is_floating_point():
                raise TypeError(f"scale must be a floating tensor or a number, got {scale.dtype}")
            if tuple(scale.shape) != self.shape:
                raise ValueError(
                    f"scale must be a number or have the input's shape {self.shape}, "
                    f"got shape {tuple(scale.shape)}"
                )
            bad = first_outside(scale, torch.isfinite(scale))
            if bad is not None:
                raise ValueError(f"scale must be finite, got {bad[1]} at element {bad[0]}")
            object.__setattr__(self, "scale", scale.detach())
            return
        if isinstance(scale, bool) or not isinstance(scale, (int, float)):
            raise TypeError(f"scale must be a number or a tensor, got {scale!r}")
        if not 0 <= scale <= sys.float_info.max:
            raise ValueError(f"scale must be a finite number >= 0, got {scale}")
        object.__setattr__(self, "scale", float(scale))

    def _check_stream(self) -> None:
        object.__setattr__(self, "stream", check_integer("stream", self.stream, 0, 2**31 - 1))
        if 0 < self.stream < PARAMETER_STREAM:
            raise ValueError(
                f"stream must be 0 (inputs) or {PARAMETER_STREAM} and above (parameters), got "
                f"{self.stream}: those between serve other draws"
            )
        plain = isinstance(self.features, Elements) and self.design == "independent"
        if self.stream and (self.block is not None or not plain):
            raise ValueError(
                "stream must be 0 but for independent draws of Elements() without blocks, which "
                f"have one stream of their own, got stream {self.stream}"
            )

    def _check_block(self) -> None:
        if self.block is None:
            return
        trailing = self.shape[-2:]
        block = _integers("block", self.block, -(2**62), 2**62)
        if min(block, default=1) < 1:
            raise ValueError(
                f"block must be at least 1, got {self.block!r}; extents of 1 .. {trailing} would do"
            )
        if isinstance(self.block, (int, np.integer)):
            block *= len(trailing)
        if not 1 <= len(block) <= len(trailing):
            raise ValueError(
                f"block must have 1 to {len(trailing)} extents for an input of shape "
                f"{self.shape}, got {self.block!r}"
            )
        for extent, length in zip(block, trailing[-len(block) :], strict=True):
            if extent > length:
                raise ValueError(
                    f"block must fit into the trailing axes {trailing} of the input, "
                    f"got {self.block!r}"
                )
            if extent < length and length + extent - 1 > 2**32:
                raise ValueError(
                    "block must leave at most 2^32 places for its start, got extent "
                    f"{extent} on an axis of length {length}"
                )
        block = (*trailing[: len(trailing) - len(block)], *block)
        if isinstance(self.features, Labels):
            raise ValueError(
                f"block must be None with Labels, which it would cut, got {self.block!r}"
            )
        if self.view.labels:
            raise ValueError(f"block must be None with a Grid's order, got {self.block!r}")
        if len(block) == 2 and self.view.height == 1 < block[0] < trailing[0]:
            raise ValueError(
                f"block must cover axis -2 whole, whose {trailing[0]} channels share their draws, "
                f"got {self.block!r}"
            )
        object.__setattr__(self, "block", block)

    def __eq__(self, other: object) -> bool:
        """Equal where the draws and the scale are equal."""
        if not isinstance(other, NoiseSpec):
            return NotImplemented
        mine: Any
        others: Any
        mine, others = self.scale, other.scale
        if isinstance(mine, Tensor) and isinstance(others, Tensor):
            same = mine.dtype == others.dtype and torch.equal(mine, others.to(mine.device))
        else:
            same = not isinstance(mine, Tensor) and not isinstance(others, Tensor)
            same = same and bool(mine == others)
        alike = self.features == other.features if self.view.labels else True
        return same and self.encoded == other.encoded and self.shape == other.shape and alike

    def __hash__(self) -> int:
        """Of the draws alone."""
        return hash((self.shape, self.encoded))

    @property
    def planes(self) -> tuple[int, int, int]:
        """The shape as (planes, height, width); a vector has planes = height = 1."""
        leading, depth, height, width = self.view[:4]
        return leading * depth, height, width

    @property
    def interleaves(self) -> bool:
        """Whether samples may be in channels_last format: planes are the first of three axes."""
        return len(self.shape) == 3 and self.planes[0] == self.shape[0]

    @property
    def extents(self) -> tuple[int, int]:
        """The block's height and width; an axis that is covered whole has its own length."""
        if self.block is None:
            return self.view.height, self.view.width
        assert isinstance(self.block, tuple)
        return (self.block[0] if self.view.height > 1 else 1), self.block[-1]

    @property
    def jitters(self) -> bool:
        """Whether samples shift their grid: never where a cell is one element."""
        return self.view.jitters

    def labels_on(self, device: torch.device) -> Tensor | None:
        """The labels of one period (see ``View``), int32; None without.

        Raises:
            ValueError: they are on another device.
        """
        if not isinstance(self.features, Labels):
            return None
        if self.features.mask.device != device:
            raise ValueError(
                f"features must have a mask on x's device {device}, got "
                f"{self.features.mask.device}; use Labels(mask.to(x.device))"
            )
        return self.features.table(self.shape)

    def order_on(self, device: torch.device) -> Tensor | None:
        """The draws that the lines of the grid take, int32; None without an order.

        Raises:
            ValueError: they are on another device.
        """
        order = self.features.order if isinstance(self.features, Grid) else None
        if order is not None and order.device != device:
            raise ValueError(
                f"features must have an order on x's device {device}, got {order.device}; use "
                "Grid(..., order=order.to(x.device))"
            )
        return order

    @property
    def of_features(self) -> NoiseSpec:
        """The same draws as those of a vector: feature k has draw k.

        Raises:
            ValueError: samples spread their draws differently: no feature is the same in all.
        """
        if self.block is not None:
            raise ValueError("block must be None: each sample's block leaves other elements out")
        if self.jitters:
            raise ValueError(
                "jitter must be False: each sample lays its grid elsewhere, so that a feature is "
                "another place in each"
            )
        return self.vector

    @property
    def vector(self) -> NoiseSpec:
        """A vector's with the same draws, of unit scale: element k has draw k."""
        return self if self._vector is None else self._vector

    @property
    def numel(self) -> int:
        """How many elements the input has."""
        return math.prod(self.shape)

    @property
    def coverage(self) -> float:
        """q, the probability that an element is covered by a sample's block."""
        (height, width), (rows, columns) = self.extents, self.view[2:4]
        down = 1.0 if height == rows else height / (rows + height - 1)
        across = 1.0 if width == columns else width / (columns + width - 1)
        return down * across

    @property
    def has_score(self) -> bool:
        """Whether the distribution has a likelihood-ratio gradient: all but ``uniform``."""
        return self.distribution != "uniform"

    def scale_at(self, x: Tensor) -> float | Tensor:
        """The scale as a number or a tensor; an adaptive one at the input x."""
        scale = self.scale
        return scale.of(x, self.distribution) if isinstance(scale, AdaptiveScale) else scale

    def gradient(
        self, total: Tensor, count: int, out: Tensor | None = None, x: Tensor | None = None
    ) -> Tensor:
        """The gradient that a sum of weighted unit scores estimates: total / (count q scale).

        Args:
            total: what ``accumulate_`` summed, of the input's shape.
            count: how many samples it summed, >= 1.
            out: where to write, may be ``total`` itself.
            x: the input, where the scale is adaptive.

        Returns:
            The gradient, of total's shape and dtype; 0 where the scale is 0.

        Example:
            >>> import torch
            >>> spec = NoiseSpec((2,), scale=torch.tensor([0.5, 0.0]))
            >>> spec.gradient(torch.tensor([3.0, 1.0]), count=2)
            tensor([3., 0.])

        Source: *Is forward gradient an effective tool for explaining black-box models?*,
        equations 2 and 6, with s(z) = s1(xi) / scale.
        """
        given = self.scale
        scale = given if isinstance(given, Tensor) else None
        check_floating("total", total)
        if out is not None:
            check_floating("out", out)
        if scale is not None:
            check_memory("scale", scale)
        check_alike(total=total, out=out, scale=scale)
        if tuple(total.shape) != self.shape:
            raise ValueError(
                f"total must have the spec's shape {self.shape}, got {tuple(total.shape)}"
            )
        check_integer("count", count, 1, 2**63 - 1)
        if out is not None and out.shape != total.shape:
            raise ValueError(f"out must have shape {self.shape}, got {tuple(out.shape)}")
        if out is not None and out.device != total.device:
            raise ValueError(f"out must be on {total.device}, got {out.device}")
        if out is not None:
            check_writable("out", out)
        if isinstance(given, AdaptiveScale):
            if x is None:
                raise ValueError("x must be given: the scale is adaptive")
            check_alike(total=total, x=check_floating("x", x))
            if tuple(x.shape) != self.shape:
                raise ValueError(f"x must have the spec's shape {self.shape}, got {tuple(x.shape)}")
            gradient = torch.empty_like(total) if out is None else out
            flat, sums = gradient.view(-1), total.reshape(-1)
            for start, some in given.pieces(x, self.distribution):
                part = slice(start, start + len(some))
                scaled = sums[part] / (some * (count * self.coverage))
                flat[part] = scaled.masked_fill_(some == 0, 0)
            return gradient
        if scale is not None:
            scale = scale.to(total)
            frozen = scale == 0
            gradient = torch.div(total, scale, out=out).div_(count * self.coverage)
            return gradient.masked_fill_(frozen, 0)
        factor = 1 / (count * self.coverage * given) if given else 0.0
        if not factor:
            return torch.zeros_like(total) if out is None else out.zero_()
        return torch.mul(total, factor, out=out)
