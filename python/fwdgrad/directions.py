"""Which directions of a Hadamard group draws take, and which are left to tell the error by."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fwdgrad_kernels import Elements, NoiseSpec


class Directions(NamedTuple):
    """The directions of a Hadamard group, as indices: those that are used and the others."""

    used: slice | Tensor  # rising; that of draw 0, which has the scores' mean, is always among them
    spare: slice | Tensor
    telling: slice | Tensor  # the spare ones that err as the used ones do
    tellings: int  # how many of these there are

    @classmethod
    def of(cls, spec: NoiseSpec) -> Directions:
        """Those of a spec: with an order, what its grid's lines take is used.

        What few neighbours do together falls among the directions before the first one that is
        used (``fwdgrad.methods.directions``): those err more, and do not tell.

        >>> from fwdgrad_kernels import Grid
        >>> grid = Grid(2, "nearest", order=torch.tensor([5, 3]))
        >>> found = Directions.of(NoiseSpec((4,), "rademacher", features=grid, design="hadamard"))
        >>> found.used.tolist(), found.spare.tolist(), found.telling.tolist()
        ([0, 3, 5], [1, 2, 4, 6, 7], [2, 4, 6, 7])
        """
        order = order_of(spec)
        if order is None:
            spare = slice(spec.draws, None)
            return cls(slice(spec.draws), spare, spare, spec.group - spec.draws)
        is_used = torch.zeros(spec.group, dtype=torch.bool)
        is_used[order] = True
        is_used[0] = True
        other = (~is_used).nonzero()[:, 0]
        telling = other[other >= 1 << max(0, int(order.min()).bit_length() - 1)]
        return cls(is_used.nonzero()[:, 0], other, telling, len(telling))


def order_of(spec: NoiseSpec) -> Tensor | None:
    """The draws that lines of a spec's grid, or labels, take, int64 on the CPU; None: all do."""
    order = None if isinstance(spec.features, Elements) else spec.features.order
    return None if order is None else order.long().cpu()
