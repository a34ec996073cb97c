"""A map of chance, to compare another with."""

from __future__ import annotations

import torch
from torch import Tensor

from fwdgrad.checks import check_integer
from fwdgrad.explanation import Explanation
from fwdgrad.methods import plan_again
from fwdgrad.parts import parts_of


def random_order(explanation: Explanation, seed: int = 0) -> Tensor:
    """A map that ranks an explanation's features by chance, for ``deletion`` and ``insertion``.

    It has the same cells, superpixels or pixels, so that parts of the same shape are changed:
    single pixels drawn by chance would spoil a picture everywhere at once.

    Args:
        explanation: of a picture, or any input.
        seed: of the draws.

    Returns:
        float64, of the shape of ``explanation.heatmap()``, in [0, 1].

    Raises:
        TypeError, ValueError: the seed is no integer from 0 on.

    Example:
        >>> import fwdgrad
        >>> model = lambda batch: batch[:, 0, :8, :8].mean((1, 2))
        >>> e = fwdgrad.explain(model, torch.ones(1, 32, 32), method=fwdgrad.Regions(0.0, 8))
        >>> random_order(e).shape, bool((random_order(e) == random_order(e, seed=1)).all())
        (torch.Size([32, 32]), False)
    """
    seed = check_integer("seed", seed, 0)
    parts = parts_of(plan_again(explanation))
    ranks = torch.rand(parts.count, generator=torch.Generator().manual_seed(seed % 2**63))
    return explanation.over_planes(parts.mask(ranks.to(explanation.input.device)))
