"""Which direction of a Hadamard group each feature takes.

The signs of a group of M samples are M directions, of which K features take some. What two features
do together falls on the direction that is the exclusive or of theirs. Were they taken in the order
of the features, neighbours' interactions would pile up on a few features, and hardly reach the
directions without a feature, which tell the error. So the M directions are split into cosets of the
first S: features that are near one another take directions of one coset, and what any two of them
do together falls among the first S, which no feature takes. The rest is drawn at random: what
features far from one another do together, and what more than two do, falls on all other directions
alike, so those left over tell the error of the ones that are taken.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fwdgrad_kernels import Elements, NoiseSpec, noise


def directions(lines: Sequence[int], group: int, seed: int) -> Tensor:
    """The direction of each feature: int64 (K,), of K features on a grid in the order of its lines.

    Args:
        lines: how many features lie along each axis; (K,) where they are in a row.
        group: M, a power of two above K.
        seed: of the run.

    Example:
        >>> found = directions((5, 5), 32, seed=0)  # the first four directions stay free
        >>> len(found.unique()), bool(found.min() >= 4), bool(found.max() < 32)
        (25, True, True)

    Source: cosets are the blocks of a 2^(k-p) factorial design: Box and Hunter 1961. Measured in
    ``benchmarks/results/calibration.md``.
    """
    count = math.prod(lines)
    size = coset_of(count, group)
    places = torch.cartesian_prod(*map(torch.arange, lines)).view(count, -1)
    parts = _split(places, min(group // size - 1, count))
    chances = noise(NoiseSpec((group,), "uniform", seed=seed), first=0, count=1)[0].cpu()
    cosets = chances[: len(parts)].argsort(stable=True) + 1
    found = torch.empty(count, dtype=torch.int64)
    for coset, part in zip(cosets.tolist(), parts, strict=True):
        inside = chances[coset * size : (coset + 1) * size].argsort(stable=True)
        found[part] = coset * size + inside[: len(part)]
    return found


def coset_of(count: int, group: int) -> int:
    """S: half of the group, or less where the features would not fit beside the others.

    With half of it all features are in one coset, and no two of them disturb a third one.
    """
    size = max(1, group // 2)
    while size > 1 and group - size - count < spare_of(group):
        size //= 2
    return size


def spare_of(group: int) -> int:
    """How many directions are left over at least, to tell the error."""
    return max(1, group // 32)


def most_features(group: int) -> int:
    """How many features a group can have that leaves its first quarter free, and some to spare.

    >>> most_features(256)
    184
    """
    return group - group // 4 - spare_of(group)


def group_of(samples: int) -> int:
    """M: the largest group of which samples are seven eighths at least.

    >>> [group_of(n) for n in (128, 447, 448, 500)]
    [128, 256, 512, 512]
    """
    return 1 << max(1, (8 * samples // 7).bit_length() - 1)


def _split(places: Tensor, count: int) -> list[Tensor]:
    """So many parts of equal size of features at places (K, axes), each near together: indices.

    By halves across the longer axis.
    """

    def split(which: Tensor, count: int) -> list[Tensor]:
        if count == 1:
            return [which]
        at = places[which]
        axis = int((at.amax(0) - at.amin(0)).argmax())
        order = which[at[:, axis].argsort(stable=True)]
        first = count // 2
        cut = round(len(which) * first / count)
        return split(order[:cut], first) + split(order[cut:], count - first)

    return split(torch.arange(len(places)), count)


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
        used: those err more, and do not tell.

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
