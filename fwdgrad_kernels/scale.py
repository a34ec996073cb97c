"""Scales of noise that follow from the input: AdaptGrad's, for every distribution."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from fwdgrad_kernels.checks import check_floating

FORMS = ("nearest", "released", "exact")

_PIECE = 2**20  # elements worked on at once, where a map of all is not wanted

# P(|xi| <= t) of each distribution at unit scale, and where it reaches a probability.
_WITHIN: dict[str, Callable[[Tensor], Tensor]] = {
    "normal": lambda t: torch.erf(t / math.sqrt(2)),
    "cauchy": lambda t: torch.atan(t) * (2 / math.pi),
    "hyperbolic": torch.tanh,
    "logistic": lambda t: torch.tanh(t / 2),
    "uniform": lambda t: t.clamp(max=1.0),
}
_QUANTILE: dict[str, Callable[[float], float]] = {
    "normal": lambda p: math.sqrt(2) * torch.erfinv(torch.tensor(p, dtype=torch.float64)).item(),
    "cauchy": lambda p: math.tan(math.pi * p / 2),
    "hyperbolic": math.atanh,
    "logistic": lambda p: 2 * math.atanh(p),
    "uniform": lambda p: p,
    "rademacher": lambda p: 1.0,
}


def probability_within(distribution: str, t: Tensor) -> Tensor:
    """The probability P(|xi| <= t) of a distribution with a density at unit scale.

    Args:
        distribution: one of ``DISTRIBUTIONS`` but "rademacher".
        t: distances from 0, >= 0; floating.

    Returns:
        Of t's shape and dtype.

    Raises:
        ValueError: a distribution without a density.

    Example:
        >>> probability_within("normal", torch.tensor(1.959964)).round(decimals=4)
        tensor(0.9500)
    """
    if distribution not in _WITHIN:
        raise ValueError(f"distribution must be one of {', '.join(_WITHIN)}, got {distribution!r}")
    return _WITHIN[distribution](t)


_LOG_DENSITY: dict[str, Callable[[Tensor], Tensor]] = {
    "normal": lambda t: -t * t / 2 - math.log(2 * math.pi) / 2,
    "cauchy": lambda t: -torch.log1p(t * t) - math.log(math.pi),
    # sech^2 / 2, and the logistic distribution is the same at half the argument.
    "hyperbolic": lambda t: math.log(2) - 2 * t.abs() - 2 * torch.log1p(torch.exp(-2 * t.abs())),
    "logistic": lambda t: -t.abs() - 2 * torch.log1p(torch.exp(-t.abs())),
    "uniform": lambda t: torch.where(t.abs() <= 1, -math.log(2), -math.inf).to(t.dtype),
}


def log_density(distribution: str, t: Tensor) -> Tensor:
    """The logarithm of a distribution's density at unit scale.

    Args:
        distribution: one of ``DISTRIBUTIONS`` but "rademacher".
        t: where; floating.

    Returns:
        Of t's shape and dtype.

    Raises:
        ValueError: a distribution without a density.

    Example:
        >>> log_density("uniform", torch.tensor([0.0, 2.0])).exp()
        tensor([0.5000, 0.0000])
    """
    if distribution not in _LOG_DENSITY:
        raise ValueError(
            f"distribution must be one of {', '.join(_LOG_DENSITY)}, got {distribution!r}"
        )
    return _LOG_DENSITY[distribution](t)


def _probability(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not 0 < value < 1:
        raise ValueError(f"{name} must lie between 0 and 1, got {value}")
    return float(value)


def confidence_scale(distribution: str, radius: float, probability: float) -> float:
    """The scale at which a draw lies in [-radius, radius] with a probability.

    Args:
        distribution: one of ``DISTRIBUTIONS``; +-1 lies on the bounds whatever the probability.
        radius: half the width of the interval, in the input's units.
        probability: a, between 0 and 1.

    Example:
        >>> round(confidence_scale("normal", 1.0, 0.95), 4)  # 1 / 1.96
        0.5102

    Source: *Axiomatization of gradient smoothing in neural networks*, equation 30 and its like for
    the other kernels.
    """
    if distribution not in _QUANTILE:
        raise ValueError(
            f"distribution must be one of {', '.join(_QUANTILE)}, got {distribution!r}"
        )
    return radius / _QUANTILE[distribution](_probability("probability", probability))


def _bound(name: str, value: Any) -> float | tuple[float, ...]:
    if isinstance(value, Tensor):
        value = value.tolist()
    many = isinstance(value, (tuple, list))
    values = list(value) if many else [value]
    for number in values:
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            raise TypeError(f"{name} must be a number or one for each channel, got {value!r}")
        if not math.isfinite(number):
            raise ValueError(f"{name} must be finite, got {number}")
    return tuple(map(float, values)) if many else float(values[0])


@dataclasses.dataclass(frozen=True)
class AdaptiveScale:
    """AdaptGrad's scale: each element's own, so that noise mostly keeps within bounds of values.

    The kernels compute it from the input as they go; no map of it exists. An element on a bound
    has scale ``floor``: with a floor of 0 it is frozen.

    Args:
        low: the least value that an input can have: a number, or one for each leading axis's plane
            (channel).
        high: the largest.
        confidence: c, between 0 and 1.
        form: ``"nearest"``, the paper's equation 13: noise stays within the distance to the nearer
            bound, on both sides, with probability (1 + c) / 2. ``"released"``, what the authors'
            released code does: with probability c. ``"exact"``, equation 14 solved: x + noise is
            within both bounds with probability c, which allows more noise.
        floor: no element's scale is below it, in the input's units; None is 0 here, and a tenth of
            the narrowest bounds in ``fwdgrad.explain``. The likelihood ratio divides by the scale:
            with a tiny one, a few elements next to a bound drown all others.

    Raises:
        TypeError, ValueError: naming the argument.

    Example:
        >>> x = torch.tensor([0.0, 0.1, 0.5])
        >>> AdaptiveScale(0.0, 1.0).of(x, "normal").round(decimals=4)
        tensor([0.0000, 0.0446, 0.2231])
        >>> AdaptiveScale(0.0, 1.0, form="exact").of(x, "normal").round(decimals=4)
        tensor([0.0000, 0.0608, 0.2551])

    Source: *Rethinking the principle of gradient smooth methods in model explanation*, equations
    13 and 14; for other distributions than the normal one by the rule of ``confidence_scale``.
    """

    low: float | tuple[float, ...]
    high: float | tuple[float, ...]
    confidence: float = 0.95
    form: str = "nearest"
    floor: float | None = None

    def __post_init__(self) -> None:
        """Checks each argument."""
        object.__setattr__(self, "low", _bound("low", self.low))
        object.__setattr__(self, "high", _bound("high", self.high))
        object.__setattr__(self, "confidence", _probability("confidence", self.confidence))
        if self.form not in FORMS:
            raise ValueError(f"form must be one of {', '.join(FORMS)}, got {self.form!r}")
        floor = 0.0 if self.floor is None else self.floor
        if isinstance(floor, bool) or not isinstance(floor, (int, float)):
            raise TypeError(f"floor must be a number, got {floor!r}")
        if not 0 <= floor < math.inf:
            raise ValueError(f"floor must be a finite number >= 0, got {floor}")
        lows, highs = (b if isinstance(b, tuple) else (b,) for b in (self.low, self.high))
        if 1 < len(lows) != len(highs) > 1:
            raise ValueError(f"low and high must go together, got {len(lows)} and {len(highs)}")
        count = max(len(lows), len(highs))
        for i in range(count):
            low, high = lows[i % len(lows)], highs[i % len(highs)]
            if not low < high:
                raise ValueError(f"low must be below high, got {low} and {high} for channel {i}")

    @classmethod
    def normalised(cls, mean: Any, std: Any, **options: Any) -> AdaptiveScale:
        """For inputs (pixel - mean) / std of pixels in [0, 1]: the bounds that this makes.

        Args:
            mean: a number, or one for each channel.
            std: likewise.
            **options: confidence, form and floor.

        Raises:
            TypeError, ValueError: naming the argument.

        Example:
            >>> AdaptiveScale.normalised((0.5, 0.25), (0.25, 0.25)).bounds(2)
            [[-2.0, -1.0], [2.0, 3.0]]
        """
        means, stds = _bound("mean", mean), _bound("std", std)
        rows = [value if isinstance(value, tuple) else (value,) for value in (means, stds)]
        count = max(map(len, rows))
        if any(len(row) not in (1, count) for row in rows):
            raise ValueError(f"mean and std must go together, got {mean!r} and {std!r}")
        if min(rows[1]) <= 0:
            raise ValueError(f"std must be positive, got {std!r}")
        pairs = [(rows[0][i % len(rows[0])], rows[1][i % len(rows[1])]) for i in range(count)]
        low = tuple(-m / s for m, s in pairs)
        high = tuple((1 - m) / s for m, s in pairs)
        return cls(low, high, **options) if count > 1 else cls(low[0], high[0], **options)

    def check(self, distribution: str, planes: int) -> None:
        """Raises where a distribution or a number of planes does not go with it."""
        if self.form == "exact" and distribution not in _WITHIN:
            raise ValueError(
                f"form 'exact' needs a distribution with a density, and {distribution!r} has none; "
                "use 'nearest'"
            )
        for name in ("low", "high"):
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) not in (1, planes):
                raise ValueError(
                    f"{name} must be a number or {planes}, one for each channel, got {len(value)}"
                )

    def bounds(self, planes: int) -> list[list[float]]:
        """Low and high of each plane."""
        pair = ((b if isinstance(b, tuple) else (b,)) for b in (self.low, self.high))
        return [list(b) * (planes // len(b)) if len(b) != planes else list(b) for b in pair]

    def rule(self, distribution: str) -> list[float]:
        """What the kernels need: kind, floor, factor, confidence and where Newton's steps start."""
        quantile, c, floor = _QUANTILE[distribution], self.confidence, self.floor or 0.0
        if self.form != "exact":
            return [
                1,
                floor,
                1 / quantile((1 + c) / 2 if self.form == "nearest" else c),
                c,
                0,
                0,
            ]
        return [2, floor, 0, c, quantile(c), quantile(2 * c - 1) if c > 0.5 else 0.0]

    def pieces(self, x: Tensor, distribution: str) -> Iterator[tuple[int, Tensor]]:
        """The scales of stretches of x, in float64 and in order: (number of the first, scales)."""
        check_floating("x", x)
        leading = math.prod(x.shape[:-2])
        self.check(distribution, leading)
        planes = x.detach().reshape(leading, -1)
        for plane, (low, high) in enumerate(zip(*self.bounds(leading), strict=True)):
            for start in range(0, planes.shape[1], _PIECE):
                values = planes[plane, start : start + _PIECE].double()
                below, above = (values - low).abs(), (high - values).abs()
                near, far = torch.minimum(below, above), torch.maximum(below, above)
                yield plane * planes.shape[1] + start, self._at(near, far, distribution)

    def _at(self, near: Tensor, far: Tensor, distribution: str) -> Tensor:
        """The scale at distances to the nearer and the farther bound."""
        _, floor, factor, c, *_ = self.rule(distribution)
        if self.form != "exact":
            return (near * factor).clamp(min=floor)
        # By bisection of v = 1 / scale: far slower than the kernels' way, and sure.
        within = _WITHIN[distribution]
        highest = torch.where(near > 0, 2 * _QUANTILE[distribution](c) / near, 1.0)
        lowest = torch.zeros_like(highest)
        for _ in range(100):
            v = (lowest + highest) / 2
            enough = within(near * v) + within(far * v) >= 2 * c
            lowest, highest = torch.where(enough, lowest, v), torch.where(enough, v, highest)
        return torch.where(near > 0, 1 / highest, 0.0).clamp(min=floor)

    def of(self, x: Tensor, distribution: str) -> Tensor:
        """The scale of every element, as the reference computes it.

        Args:
            x: (..., height, width), or a vector; floating.
            distribution: of the noise.

        Returns:
            Of x's shape and dtype.
        """
        check_floating("x", x)
        scale = torch.empty(x.numel(), dtype=x.dtype, device=x.device)
        for start, values in self.pieces(x, distribution):
            scale[start : start + len(values)] = values
        return scale.view(x.shape)
