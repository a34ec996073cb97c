"""Localization: whether a map lies on the object."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fwdgrad.checks import check_integer
from fwdgrad.metrics.maps import heatmap_of


def pointing_game(heatmap: Any, mask: Tensor, tolerance: int = 15) -> bool:
    """Whether a map's highest pixel lies on the object, or nearly so.

    Args:
        heatmap: (H, W), or an ``Explanation``.
        mask: bool (H, W), true on the object.
        tolerance: pixels that the highest may lie beside it (Euclidean distance); 0 for none.

    Returns:
        Hit or miss. Where several pixels are highest, the first of them counts.

    Example:
        >>> heatmap = torch.tensor([[0.0, 0.0, 1.0]])
        >>> mask = torch.tensor([[True, False, False]])
        >>> pointing_game(heatmap, mask, tolerance=1), pointing_game(heatmap, mask, tolerance=2)
        (False, True)

    Source: Zhang et al., *Top-down neural attention by excitation backprop*, IJCV 2018, section
    4.2, whose released evaluation allows 15 pixels.
    """
    values, inside = _on_mask(heatmap, mask)
    tolerance = check_integer("tolerance", tolerance, 0)
    row, column = divmod(int(values.argmax()), values.shape[1])
    at = inside.nonzero()
    distance = (at[:, 0] - row).square() + (at[:, 1] - column).square()
    return bool((distance <= min(tolerance, sum(mask.shape)) ** 2).any())


def share_inside(heatmap: Any, mask: Tensor) -> float:
    """The share of a map's positive part that lies on the object.

    Args:
        heatmap: (H, W), or an ``Explanation``.
        mask: bool (H, W), true on the object.

    Returns:
        In [0, 1]; a constant map gives the object's share of the picture. NaN where nothing is
        positive.

    Example:
        >>> heatmap = torch.tensor([[3.0, 1.0, -9.0]])
        >>> share_inside(heatmap, torch.tensor([[True, False, False]]))
        0.75

    Source: the energy-based pointing game of Wang et al., *Score-CAM*, CVPR workshops 2020,
    section 4.4.
    """
    values, inside = _on_mask(heatmap, mask)
    positive = values.clamp(min=0)
    total = float(positive.sum())
    return float(positive[inside].sum()) / total if total else math.nan


def _on_mask(heatmap: Any, mask: Tensor) -> tuple[Tensor, Tensor]:
    values = heatmap_of(heatmap)
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        kind = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(
            f"mask must be a bool tensor, got {kind}; torch.as_tensor(...) > 0 makes one"
        )
    if values.dim() != 2 or mask.shape != values.shape:
        raise ValueError(
            f"heatmap and mask must both be (H, W), got {tuple(values.shape)} and "
            f"{tuple(mask.shape)}"
        )
    if not bool(mask.any()):
        raise ValueError("mask must be true somewhere: it marks no object")
    return values, mask.to(values.device)
