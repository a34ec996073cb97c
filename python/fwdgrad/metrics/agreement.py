"""Agreement of two maps: of an estimate and the gradient itself, of two seeds, of two models."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fwdgrad.metrics.maps import pair_of


def cosine(one: Any, other: Any) -> float:
    """The cosine of the angle between two maps: 1 for one direction, 0 for none in common.

    Args:
        one, other: tensors of one shape, or explanations (of which all elements count).

    Returns:
        In [-1, 1]; NaN where a map is zero.

    Example:
        >>> cosine(torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1.0]))
        0.707...

    Source: *Is forward gradient an effective tool for explaining black-box models?*, table 1.
    """
    a, b = pair_of(one, other)
    return _cosine(a, b)


def pearson(one: Any, other: Any) -> float:
    """Pearson's correlation of two maps: their cosine after each one's mean is taken off.

    Args:
        one, other: see ``cosine``.

    Returns:
        In [-1, 1]; NaN where a map is constant.

    Example:
        >>> pearson(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([30.0, 20.0, 10.0]))
        -1.0
    """
    a, b = pair_of(one, other)
    return _cosine(_centred(a), _centred(b))


def spearman(one: Any, other: Any) -> float:
    """Spearman's rank correlation of two maps; equal elements share their mean rank.

    Args:
        one, other: see ``cosine``.

    Returns:
        In [-1, 1]; NaN where a map is constant.

    Example:
        >>> spearman(torch.tensor([0.1, 5.0, 900.0]), torch.tensor([1.0, 2.0, 3.0]))
        1.0
    """
    a, b = pair_of(one, other)
    return _cosine(_centred(_ranks(a)), _centred(_ranks(b)))


def top_k_overlap(one: Any, other: Any, k: int) -> float:
    """The share of the k largest elements of one map that are among the k largest of the other.

    Args:
        one, other: see ``cosine``.
        k: 1 .. elements.

    Returns:
        In [0, 1]; k / elements by chance.

    Example:
        >>> top_k_overlap(torch.tensor([3.0, 2.0, 1.0]), torch.tensor([2.0, 1.0, 3.0]), 2)
        0.5
    """
    a, b = pair_of(one, other)
    if not 1 <= k <= len(a):
        raise ValueError(f"k must be from 1 to {len(a)}, the maps' elements, got {k}")
    first, second = (v.argsort(descending=True, stable=True)[:k] for v in (a, b))
    return float(torch.isin(first, second).double().mean())


def _centred(values: Tensor) -> Tensor:
    # A constant map's mean may be off by a rounding, and its correlation with anything is none.
    return values - values.mean() if bool((values != values[0]).any()) else torch.zeros_like(values)


def _cosine(a: Tensor, b: Tensor) -> float:
    a, b = (v / v.abs().max() if bool(v.any()) else v for v in (a, b))  # squares stay in range
    size = math.sqrt(float(a @ a) * float(b @ b))
    return max(-1.0, min(1.0, float(a @ b) / size)) if size else math.nan


def _ranks(values: Tensor) -> Tensor:
    _, place, counts = values.unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    mean: Tensor = last - (counts - 1) / 2
    return mean[place]
