"""Sparseness: on how few pixels a map is concentrated."""

from __future__ import annotations

import math
from typing import Any

import torch

from fwdgrad.metrics.maps import heatmap_of


def gini(heatmap: Any) -> float:
    """The Gini index of a map's absolute values: 0 where all are equal, near 1 for a single pixel.

    Args:
        heatmap: a tensor, or an ``Explanation``.

    Returns:
        In [0, 1 - 1/elements]; NaN for a map of zeros.

    Example:
        >>> gini(torch.tensor([0.0, 0.0, 0.0, -2.0])), gini(torch.ones(4))
        (0.75, 0.0)

    Source: Chalasani et al., *Concise explanations of neural networks using adversarial training*,
    ICML 2020, section 6; the sparseness of AG's table 2 and AX's table 1.
    """
    sizes = heatmap_of(heatmap).abs().flatten().sort().values
    total, n = float(sizes.sum()), len(sizes)
    if not total:
        return math.nan
    at = torch.arange(1, n + 1, dtype=sizes.dtype, device=sizes.device)
    return float(((2 * at - n - 1) * sizes).sum()) / (n * total)
