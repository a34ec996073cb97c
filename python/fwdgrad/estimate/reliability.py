"""Would other noise give the same map: what two halves of a run agree on."""

from __future__ import annotations

import math

from torch import Tensor

_SAMPLE = 2**20  # of a larger map, a regular sample of about as many elements is compared


def some(values: Tensor) -> Tensor:
    """All elements of a map, or a regular sample of a large one.

    >>> import torch
    >>> some(torch.arange(3.0))
    tensor([0., 1., 2.])
    """
    return values.flatten()[:: stride_of(values)].clone()


def stride_of(values: Tensor) -> int:
    """Every how manieth element is in the sample."""
    return -(-values.numel() // _SAMPLE)


def reliability(one: Tensor, other: Tensor) -> float:
    """Correlation of the maps of two half-runs, stepped up to the full run (Spearman-Brown).

    >>> import torch
    >>> reliability(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 2.0, 4.0])) > 0.98
    True
    """
    # By NumPy, whose sums do not depend on the number of threads.
    a, b = one.double().cpu().numpy(), other.double().cpu().numpy()
    a, b = a - a.mean(), b - b.mean()
    size = math.sqrt((a * a).sum() * (b * b).sum())
    correlation = float((a * b).sum()) / size if size else math.nan
    # Stepping up is meant for correlations >= 0; a negative one is reported as it is.
    return 2 * correlation / (1 + correlation) if correlation > 0 else correlation
