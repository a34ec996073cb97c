"""Scaling by powers of two, so that sums neither overflow nor underflow nor lose a digit."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fwdgrad.errors import warn

_SLICE = 2**20  # elements that are worked on at once


def exponent_of(values: Tensor) -> int:
    """The power of two that the largest size lies below; 0 where all are zero.

    >>> exponent_of(torch.tensor([0.0, -3.0])), exponent_of(torch.zeros(2))
    (2, 0)
    """
    low, high = values.aminmax()
    return math.frexp(max(-float(low), float(high)))[1]


def times_power(values: Tensor, exponent: int) -> Tensor:
    """Values times a power of two, in halves: the power itself may be out of range.

    >>> times_power(torch.tensor([3e-300], dtype=torch.float64), 1100)
    tensor([4.0749e+31], dtype=torch.float64)
    """
    half = exponent // 2
    return values * 2.0**half * 2.0 ** (exponent - half)


def unscale_(attribution: Tensor, error: Tensor, exponent: int) -> None:
    """Multiplies a finished map and its standard error by a power of two, in place.

    Warns where their type is too narrow for the result: even the largest value has few digits left.
    """
    if not exponent:
        return
    digits = torch.finfo(attribution.dtype)
    if abs(exponent) <= 60:  # the power is in range, and loses nothing of maps of values about 1
        attribution.mul_(2.0**exponent)
        error.mul_(2.0**exponent)
        return
    lost = False
    for values in (attribution, error):
        top = 0.0
        for start in range(0, values.numel(), _SLICE):
            part = values.view(-1)[start : start + _SLICE]
            top = max(top, float(part.abs().nan_to_num_(0.0, posinf=math.inf).max()))
            part.copy_(times_power(part.double(), exponent))
        if 0 < top < math.inf and not lost:
            bits = math.log2(top) + exponent
            lost = bits < math.log2(digits.tiny * digits.eps) + 10
            if lost:
                warn(
                    f"{_name(values is error)} is about 1e{bits * math.log10(2):.0f} at most, and "
                    f"{values.dtype} does not hold that, so it is rounded or zero; {_REMEDY}"
                )


def sum_of_squares(values: Tensor) -> float:
    """The sum of a map's squares, in float64, a slice at a time: a map of float64 would be large.

    >>> sum_of_squares(torch.tensor([3.0, 4.0]).expand(2, 2))
    50.0
    """
    times, own = _once(values)
    parts = own.reshape(-1).split(_SLICE)
    return times * sum(float(part.double().square().sum()) for part in parts)


def _once(values: Tensor) -> tuple[int, Tensor]:
    """How often a map that channels share is seen in an expanded one, and the map itself."""
    times = 1
    while values.dim() > 1 and len(values) > 1 and not values.stride(0):
        times, values = times * len(values), values[0]
    return times, values


def warn_unless_finite(*maps: Tensor) -> None:
    """Warns of an attribution, or its standard error, beyond what their type holds."""
    for i, values in enumerate(maps):
        if any(bool(part.isinf().any()) for part in _once(values)[1].reshape(-1).split(_SLICE)):
            warn(
                f"{_name(i > 0)} has values beyond what {values.dtype} holds, which are infinite; "
                f"{_REMEDY}"
            )
            return


def _name(is_error: bool) -> str:
    return "the standard error" if is_error else "the attribution"


_REMEDY = (
    "give x in a wider type, such as x.double(), or an objective in a handier unit, such as "
    "'log-probability'"
)
