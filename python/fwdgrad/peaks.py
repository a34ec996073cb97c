"""The places of a map that stand out: which regions a picture numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fwdgrad.methods.blur import smallest_cell
from fwdgrad_kernels import Grid, Labels

if TYPE_CHECKING:
    from fwdgrad.explanation import Explanation


def peaks(
    explanation: Explanation, values: Tensor, sizes: Tensor
) -> Iterator[tuple[int, int, float]]:
    """The local maxima of a map of a picture, the strongest first: row, column and value.

    A cell's is its value. Where pixels are features by themselves it is the mean over as many
    pixels as a small cell has; with labels it is a region's.

    Args:
        explanation: of a picture.
        values: of its map (H, W).
        sizes: how large each counts, (H, W): what is not drawn is 0, and no maximum.

    Example:
        >>> import fwdgrad
        >>> model = lambda batch: batch[:, 0, :8, :8].mean((1, 2))
        >>> e = fwdgrad.explain(model, torch.ones(1, 32, 32), method=fwdgrad.Regions(0.0, 8))
        >>> row, column, value = next(peaks(e, e.heatmap(), e.heatmap().abs()))
        >>> row < 8, column < 8, value > 0.5
        (True, True, True)
    """
    side = _cell(explanation)
    if side is None:
        side = smallest_cell(tuple(values.shape))
        values, sizes = (_blurred(one, side) for one in (values, sizes))
    # As far apart as their numbers, which are wider than high, do not overlap.
    down, across = (
        max(2 * side, length // part) for length, part in zip(sizes.shape, (8, 4), strict=True)
    )
    pool, wide = torch.nn.functional.max_pool2d, 2 * side + 1
    largest = pool(pool(sizes[None], (1, wide), 1, (0, side)), (wide, 1), 1, (side, 0))[0]
    left = sizes.where((sizes == largest) & (sizes > 0), 0.0)
    while bool((left > 0).any()):
        row, column = divmod(int(left.argmax()), left.shape[1])
        same = (values == values[row, column]) & (sizes == sizes[row, column])
        if side > 1:  # a cell as large may be elsewhere
            near = torch.zeros_like(same)
            near[_around(row, side), _around(column, side)] = True
            same &= near
        places = same.nonzero()
        middle = (places - places.double().mean(0)).square().sum(1).argmin()
        row, column = places[middle].tolist()
        yield row, column, float(values[row, column])
        left[same] = 0
        left[_around(row, down), _around(column, across)] = 0


def side_of(explanation: Explanation) -> int | None:
    """The side of the squares that a picture's values are of; None with labels, which are regions.

    >>> import fwdgrad
    >>> model = lambda batch: batch.mean((1, 2, 3))
    >>> side_of(fwdgrad.explain(model, torch.ones(1, 32, 32), method=fwdgrad.Regions(0.0, 8)))
    8
    """
    if isinstance(explanation.features, Labels):
        return None
    return _cell(explanation) or smallest_cell(tuple(explanation.input.shape[-2:]))


def _around(at: int, apart: int) -> slice:
    return slice(max(0, at - apart), at + apart + 1)


def _cell(explanation: Explanation) -> int | None:
    """The side of a cell; 1 with labels; None where pixels are features by themselves."""
    features = explanation.features
    if isinstance(features, Labels):
        return 1
    if isinstance(features, Grid):
        return max(features.sizes(tuple(explanation.input.shape)))
    cell = getattr(explanation.method, "cell", None)
    return cell if isinstance(cell, int) else None


def _blurred(values: Tensor, side: int) -> Tensor:
    """The mean over squares of an odd side."""
    return torch.nn.functional.avg_pool2d(
        values[None], 2 * (side // 2) + 1, 1, side // 2, count_include_pad=False
    )[0]
