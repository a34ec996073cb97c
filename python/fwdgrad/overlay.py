"""A map's values as colours over a picture: what plots, the command line and reports draw."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fwdgrad.checks import check_choice, check_integer, check_number
from fwdgrad.colours import BLUE, RED
from fwdgrad.errors import ArgumentError
from fwdgrad.inputs import is_of_pixels

if TYPE_CHECKING:
    from fwdgrad.explanation import Explanation

SIGNS = ("both", "increases", "decreases")
_OPACITY = 0.85  # of full strength: what is beneath can still be seen
_PALE = 0.55  # the share of white in the picture beneath
_GREY = 0.4  # and of its own grey in the rest, so that no colour of it is taken for the map's

Pixels = np.ndarray[Any, Any]


@dataclasses.dataclass(frozen=True)
class Look:
    """How a map is drawn: the options of ``Explanation.plot``.

    Raises:
        TypeError, ValueError: naming the option, what was given and what would do.
    """

    picture: bool = True
    scale: float | None = None
    sign: str = "both"
    threshold: float = 0.0
    top: int = 3

    def __post_init__(self) -> None:
        """Checks each option."""
        if self.scale is not None:
            scale = check_number("scale", self.scale)
            if not 0 < scale < math.inf:
                raise ArgumentError("scale", f"must be above 0 and finite, got {scale:g}")
            object.__setattr__(self, "scale", scale)
        check_choice("sign", self.sign, SIGNS)
        threshold = check_number("threshold", self.threshold)
        if not 0 <= threshold < 1:
            raise ArgumentError("threshold", f"must be at least 0 and below 1, got {threshold:g}")
        check_integer("top", self.top, 0)

    def strength(self, values: Tensor, errors: Tensor | None, full: float) -> Tensor:
        """How much of which colour each value has: -1 .. 1, float32.

        Args:
            values: of the map.
            errors: their standard errors; None, or NaN, where they are not known.
            full: the value at full strength.

        Example:
            >>> values = torch.tensor([8.0, -1.0, 2.0, -2.0])
            >>> Look().strength(values, torch.tensor([1.0, 1.0, 1.0, torch.nan]), 4.0).tolist()
            [1.0, -0.0, 0.25, -0.5]
        """
        share = (values.double() / full).clamp(-1, 1)
        shown = share.abs() >= self.threshold  # not what is NaN
        if self.sign != "both":
            shown &= (share > 0) == (self.sign == "increases")
        if errors is not None:
            share = share * certainty(values.double(), errors.double())
        return share.where(shown, 0.0).float()


def certainty(values: Tensor, errors: Tensor) -> Tensor:
    """How much of a value is drawn, by its size in standard errors: none up to 1, all from 3 on.

    Between them it rises smoothly, with a half at 2, which one in 20 values exceeds by chance.
    Where no error is known all is drawn.

    >>> certainty(torch.tensor([1.0, -2.0, 3.0, 1.0]), torch.tensor([1.0, 1.0, 1.0, torch.nan]))
    tensor([0.0000, 0.5000, 1.0000, 1.0000])
    """
    ratio = (values.abs() / errors).nan_to_num(torch.inf)
    at = ((ratio - 1) / 2).clamp(0, 1)
    return at.square() * (3 - 2 * at)


def full_strength(values: Tensor) -> float:
    """The value that is drawn at full strength: a large one, rounded up to two digits.

    The largest hundredth of what is not zero has it, so that one pixel does not fade the rest.

    >>> full_strength(torch.tensor([0.0, -0.02134, 0.01]).double())
    0.022
    """
    sizes = values.abs()[values.isfinite() & (values != 0)]
    if not len(sizes):
        return 1.0
    top = float(sizes.double().kthvalue(max(1, round(0.99 * len(sizes)))).values)
    digits = 1 - math.floor(math.log10(top))
    if digits > 300:  # a power of ten is no number of a float's any more
        return top
    return float(f"{math.ceil(top * 10.0**digits - 1e-6)}e{-digits}")


def values_of(explanation: Explanation) -> tuple[Tensor, Tensor]:
    """What is drawn of a map, and its standard errors: float64 (H, W) on the CPU.

    Errors of planes that are summed are summed, too: they may be alike, and are no larger. Not in
    float32, which would lose the smallest.
    """
    parts = (explanation.attribution, explanation.standard_error)
    values, errors = (explanation.over_planes(explanation.per_deviation(part)) for part in parts)
    return values.cpu(), errors.cpu()


def picture_of(explanation: Explanation) -> Tensor | None:
    """The input as a picture, (1 or 3, H, W) in [0, 1], float32; None where it is none.

    Values that leave [0, 1] are stretched to it.
    """
    x = explanation.input.detach().cpu().float()
    if x.dim() == 2 and getattr(explanation.method, "axes", None) == 2:
        x = x[None]
    if x.dim() != 3 or x.shape[0] not in (1, 3):
        return None
    if not is_of_pixels(x):
        x = (x - x.min()) / (float(x.max() - x.min()) or 1.0)
    return x.clamp(0, 1)


def bytes_of(picture: Tensor) -> Pixels:
    """A picture (1 or 3, H, W) in [0, 1] as uint8 (H, W, 3).

    >>> bytes_of(torch.ones(1, 2, 2)).shape
    (2, 2, 3)
    """
    levels = (picture.clamp(0, 1) * 255).round().to(torch.uint8)
    return np.ascontiguousarray(levels.expand(3, -1, -1).permute(1, 2, 0).numpy())


def laid_on(pixels: Pixels | None, strength: Tensor) -> Pixels:
    """Colours over a paled picture: uint8 (H, W, 3).

    Nothing but the colours' opacity tells the strength: where it is 0, the paled picture is as it
    is, and a colour is the same one at every strength.

    Args:
        pixels: of the picture, uint8 (H, W, 3); None: white.
        strength: (H, W) in -1 .. 1: of red where it is above 0, of blue where it is below.

    Example:
        >>> laid_on(None, torch.tensor([[0.0, 1.0, -1.0]])).tolist()
        [[[255, 255, 255], [219, 91, 38], [38, 122, 190]]]
    """
    found = np.full((*strength.shape, 3), 255.0, np.float32) if pixels is None else paled(pixels)
    values = strength.numpy()
    for colour, part in ((RED, values), (BLUE, -values)):
        opacity = _OPACITY * np.clip(part, 0, 1)[..., None]
        found += opacity * (np.asarray(colour, np.float32) - found)
    return (found + 0.5).astype(np.uint8)


def paled(pixels: Pixels) -> Pixels:
    """A picture (H, W, 3) mixed with its own grey, and with white: float32, in 0 .. 255.

    >>> paled(np.zeros((1, 1, 3), np.uint8)).tolist()
    [[[140.25, 140.25, 140.25]]]
    """
    found = pixels.astype(np.float32)
    grey = found @ np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
    found *= (1 - _PALE) * (1 - _GREY)
    found += ((1 - _PALE) * _GREY * grey + 255 * _PALE)[..., None]
    return found
