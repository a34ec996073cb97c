"""What a method asks of a model at one input, as one plain record."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fwdgrad.importance import Sampling
from fwdgrad.parameters import ParameterNoise
from fwdgrad_kernels import Features, Grid, NoiseSpec

if TYPE_CHECKING:
    from fwdgrad.methods.base import Method


@dataclasses.dataclass(frozen=True)
class Path:
    """A straight path from a baseline to the input, and the samples on it."""

    start: Tensor  # the baseline, of the input's shape
    positions: Tensor  # of each sample, float64 on the CPU: 0 is the baseline, 1 the input
    weights: Tensor  # of each sample in the mean, float64; their mean is 1
    period: int  # samples after which the positions repeat; 1 where they are drawn
    is_drawn: bool  # or the points of a quadrature

    def point(self, x: Tensor, sample: int) -> Tensor:
        """Where a sample lies, before its noise."""
        wide = sum_dtype(x)
        t = float(self.positions[sample])
        return torch.lerp(self.start.to(wide), x.to(wide), t).to(x.dtype)


@dataclasses.dataclass(frozen=True)
class Plan:
    """The samples of one run, and what is made of their scores or gradients.

    Sample ``i`` of the input ``x`` is ``c + s xi_i``. With a baseline b it is centred at
    ``c = b + position (x - b)`` and the noise goes along ``s = scale (x - b)``; on a path it is
    centred there; else at x, with the noise's own scale.
    """

    method: Method  # with the numbers that it left open
    x: Tensor
    gradient: str  # "forward": scores alone; "autograd": the model's own
    samples: int  # a sample with both signs of its noise counts once
    seed: int
    spec: NoiseSpec | None = None  # the noise on the input, where there is any
    features: Features | None = None  # as they were given
    antithetic: bool = False  # each sample with both signs of its noise
    baseline: float | Tensor | None = None
    position: float = 1.0
    clip: tuple[float, float] | None = None
    control_variate: str | None = None
    statistic: str = "mean"  # of single gradients: "mean", "square" (of their squares), "variance"
    path: Path | None = None
    times_input: bool = False  # whether the map is multiplied by x
    parameters: ParameterNoise | None = None
    sampling: Sampling | None = None  # draws from another distribution than ...
    smoothed_with: str = "normal"  # ... this one, which the map is of
    labels: Tensor | None = None  # each element's feature, of x's shape: all coalitions are asked

    @property
    def signs(self) -> int:
        """Forward calls for each sample: 2 for antithetic pairs."""
        return 2 if self.antithetic else 1

    @property
    def n_samples(self) -> int:
        """Perturbed inputs that the model is called on."""
        return self.samples * self.signs

    @property
    def per_draw(self) -> int:
        """Consecutive samples that share a draw of the parameters."""
        return 1 if self.parameters is None else self.parameters.samples_per_draw(self.samples)

    @property
    def unit(self) -> int:
        """Consecutive samples that depend on one another."""
        group = self.spec.group if self.spec is not None else 1
        return math.lcm(group, self.per_draw, self.path.period if self.path is not None else 1)

    @property
    def half(self) -> int:
        """Samples in the first of two independent half-runs."""
        return self.samples // 2 // self.unit * self.unit

    @property
    def is_random(self) -> bool:
        """Whether anything is drawn: noise, or places on a path."""
        is_drawn = self.path is not None and self.path.is_drawn
        return self.spec is not None or self.parameters is not None or is_drawn

    @property
    def factor(self) -> Tensor | None:
        """What the map is multiplied with, of x's shape; None where nothing."""
        if self.path is not None:
            return self.x - self.path.start
        return self.x if self.times_input else None

    @functools.cached_property
    def of_one_channel(self) -> NoiseSpec:
        """The same draws of a channel alone, where all channels share them."""
        assert self.spec is not None
        if not self.spec.view.shared:
            return self.spec
        assert isinstance(self.spec.features, Grid)
        sizes = self.spec.features.sizes(self.spec.shape)
        features = dataclasses.replace(self.spec.features, cell=sizes)
        shape = self.spec.shape[-len(sizes) :]
        return dataclasses.replace(self.spec, shape=shape, features=features)

    def unmoved(self) -> Tensor:
        """Where x is on the baseline, so that no noise moves it: there nothing can matter.

        Of the input's shape, or what broadcasts to it.
        """
        spec = self.spec
        assert spec is not None
        assert self.baseline is not None
        x, view = self.x, spec.view
        # The attribution is to the draw: of what moves together all must be at the baseline.
        baseline = torch.as_tensor(self.baseline, device=x.device, dtype=x.dtype)
        if view.shared:
            planes = (
                one.reshape(view.leading, *self.of_one_channel.shape)
                for one in (x, baseline.expand(x.shape))
            )
            return functools.reduce(torch.Tensor.logical_and_, map(torch.eq, *planes))
        still, labels = torch.eq(x, baseline), spec.labels_on(x.device)
        if labels is not None:
            moves = (~still).reshape(-1, view.period, view.inner).any(2).any(0).to(torch.int32)
            moved = moves.new_zeros(spec.draws).index_add_(0, labels, moves)
            still = (moved[labels] == 0)[:, None].expand(-1, view.inner)
            still = still.expand(spec.numel // still.numel(), *still.shape).reshape(spec.shape)
        return still


def sum_dtype(x: Tensor) -> torch.dtype:
    """What sums over an input's samples are kept in: float64 for float64, else float32.

    >>> sum_dtype(torch.ones(1, dtype=torch.float16))
    torch.float32
    """
    return torch.float64 if x.dtype == torch.float64 else torch.float32
