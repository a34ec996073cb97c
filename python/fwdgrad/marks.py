"""Marks on a picture: the borders of its parts, and numbers beside places."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Extent = tuple[float, float, float, float]  # left, right, bottom, top
_Box = tuple[float, float, float, float]  # left, bottom, right, top, in points

_FINE = 448  # points along a picture's shorter side that a border is found among, or more
_ROUND = 1 / 150  # of the shorter side: how far a border is rounded
_LEVELS = {"-": 0.15, "--": 0.65}  # of the rounded part: a little outside of it and inside
_LINES = {"-": (1.7, 3.0), "--": (1.2, 2.2)}  # points, of the line and of the white beneath
_DOT = 3.2  # points that a place is marked by

_PAPER = {"boxstyle": "round,pad=0.1", "fc": "white", "alpha": 0.8, "lw": 0}


def draw_outline(ax: Axes, part: Tensor, line: str = "-", extent: Extent | None = None) -> None:
    """Draws the border of a part of a picture, rounded, to be seen on any.

    A solid line lies a little outside, and pieces that touch at a corner, or nearly touch, are one;
    a dashed line lies a little inside, and leaves them two. So none crosses itself, and where two
    parts have the same border both lines are seen, side by side.

    Args:
        ax: matplotlib axes with the picture.
        part: bool (H, W) or (C, H, W), where it is in any channel.
        line: "-" or "--".
        extent: where the picture lies: left, right, bottom, top; None: a pixel is one.

    Raises:
        ValueError: it is of no picture.
    """
    from contourpy import contour_generator
    from matplotlib.collections import LineCollection

    if part.dim() not in (2, 3):
        raise ValueError(f"an outline is of a picture (C, H, W), got shape {tuple(part.shape)}")
    # In NumPy: torch's threads cost more than so little work.
    inside = part.cpu().numpy() if part.dim() == 2 else part.cpu().numpy().any(0)
    height, width = inside.shape
    times = -(-_FINE // min(height, width))
    level = _LEVELS[line]
    rounded, edge = _rounded(inside, times, level)
    left, right, bottom, top = extent or (-0.5, width - 0.5, height - 0.5, -0.5)
    across, down = (
        first + (np.arange(count * times + 2 * edge) - edge + 0.5) * (last - first) / count / times
        for count, first, last in ((width, left, right), (height, top, bottom))
    )
    low, high = (min(left, right), min(top, bottom)), (max(left, right), max(top, bottom))
    found: Any = contour_generator(across, down, rounded).lines(level)
    lines = [one.clip(low, high) for one in found]
    inner, outer = _LINES[line]
    for colour, wide, style in (("white", outer, "-"), ("black", inner, line)):
        drawn = LineCollection(lines, colors=colour, linewidths=wide, linestyles=style)
        ax.add_collection(drawn, autolim=False)


def _rounded(inside: Any, times: int, level: float) -> tuple[Any, int]:
    """A mask at so many times its pixels, smoothed by three boxes, within an edge of zeros.

    At a level below a half its slits are closed before. Where a piece of it would be lost at a
    level, it is smoothed less.

    Returns:
        The smoothed mask, and the edge's width.
    """
    reach = round(_ROUND * min(inside.shape) * times)
    edge = 3 * reach + 1
    fine = np.pad(inside.repeat(times, 0).repeat(times, 1).astype(np.float64), edge)
    while True:
        rounded = fine
        if level < 0.5:
            rounded = (_mean_around(rounded, 2 * reach) > 0).astype(np.float64)
            rounded = (_mean_around(rounded, 2 * reach) == 1).astype(np.float64)
        for _ in range(3):
            rounded = _mean_around(rounded, reach)
        is_near = _mean_around((rounded > level).astype(np.float64), 3 * reach) > 0
        if not reach or bool(is_near[fine > 0].all()):
            return rounded, edge
        reach //= 2


def _mean_around(values: Any, reach: int) -> Any:
    """The mean over squares of whole multiples of one number; beside the values are zeros.

    >>> _mean_around(np.eye(3), 1)[1] * 9
    array([2., 3., 2.])
    """
    side = 2 * reach + 1
    for _ in range(2):  # along either axis
        sums = np.pad(values, ((reach + 1, reach), (0, 0))).cumsum(0)
        values = (sums[side:] - sums[:-side]).T
    return values / side**2


def draw_numbers(
    ax: Axes,
    places: Iterable[tuple[float, float, str]],
    strength: Tensor,
    extent: Extent | None = None,
    size: float = 9.0,
    bbox: dict[str, Any] | None = None,
    **how: Any,
) -> None:
    """Writes a text beside each place, with a line to a dot on it.

    It stands where it covers no other text and no dot, and the least of the colours.

    Args:
        ax: matplotlib axes with what the places lie on.
        places: x, y and the text.
        strength: of the colours that are drawn, (H, W) in -1 .. 1.
        extent: where they lie, see ``draw_outline``.
        size: of the letters, in points.
        bbox, **how: of matplotlib's texts.
    """
    from matplotlib.patheffects import withStroke

    ax.apply_aspect()
    point, back = 72 / ax.figure.get_dpi(), ax.transData.inverted()
    places, colours = list(places), strength.abs().numpy()
    dots = [[float(one) * point for one in ax.transData.transform(at[:2])] for at in places]
    taken: list[_Box] = [(x - _DOT, y - _DOT, x + _DOT, y + _DOT) for x, y in dots]
    low, high = np.asarray(ax.bbox.extents).reshape(2, 2) * point

    def cost(box: _Box) -> float:
        ends = np.array(box).reshape(2, 2)
        outside = bool((ends < low).any() or (ends > high).any())
        overlaps = sum(_overlap(box, other) for other in taken)
        return (
            100 * outside + 10 * overlaps + _covered(colours, back.transform(ends / point), extent)
        )

    for (x, y, text), (right, up) in zip(places, dots, strict=True):
        sides = max(0.62 * size * len(text), 1.5 * size), 1.5 * size
        boxes = list(_around(right, up, *sides))
        costs = [cost(box) + 0.1 * (i // len(_SIDES)) for i, box in enumerate(boxes)]
        box = boxes[costs.index(min(costs))]
        taken.append(box)
        ax.annotate(
            text, (x, y), ((box[0] + box[2]) / 2 - right, (box[1] + box[3]) / 2 - up),
            textcoords="offset points", ha="center", va="center", fontsize=size, zorder=5,
            bbox={**_PAPER, **(bbox or {})},
            arrowprops={
                "arrowstyle": "-", "lw": 0.8, "shrinkA": 0, "shrinkB": 2,
                "path_effects": [withStroke(linewidth=2, foreground="white")],
            },
            **how,
        )  # fmt: skip
        ax.plot(x, y, "o", ms=_DOT, mfc="white", mec="black", mew=0.8, zorder=5)


_SIDES = ((1, 0), (1, 1), (1, -1), (-1, 0), (-1, 1), (-1, -1), (0, 1), (0, -1))  # right first


def _around(right: float, up: float, wide: float, high: float) -> Iterator[_Box]:
    """Boxes on all sides of a place, the nearest first."""
    for far, (across, along) in itertools.product((8.0, 16.0, 28.0, 44.0), _SIDES):
        apart = 0.7 * far if across and along else far
        left = right + across * (apart + wide / 2) - wide / 2
        below = up + along * (apart + high / 2) - high / 2
        yield left, below, left + wide, below + high


def _covered(colours: Any, ends: Any, extent: Extent | None) -> float:
    """The mean strength of colours (H, W) between two corners, in the axes' units."""
    height, width = colours.shape
    left, right, bottom, top = extent or (-0.5, width - 0.5, height - 0.5, -0.5)
    at = (ends - (left, top)) / (right - left, bottom - top) * (width, height)
    (across, down), (across_end, down_end) = np.sort(at, 0).round().astype(int).tolist()
    part = colours[max(0, down) : max(0, down_end), max(0, across) : max(0, across_end)]
    room: int = (down_end - down) * (across_end - across)
    return float(part.sum()) / max(1, room)


def _overlap(one: _Box, other: _Box) -> bool:
    """Whether two boxes do."""
    return all(one[i] < other[i + 2] and other[i] < one[i + 2] for i in (0, 1))
