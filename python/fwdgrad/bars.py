"""Scores as bars, one for each word or column."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from fwdgrad.colours import BLUE, RED, hexadecimal
from fwdgrad.drawing import letters_in
from fwdgrad.terminal import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST = 20  # features that are shown
_LETTER, _LINE = 0.08, 0.15  # inches that a name's letter takes, and a line of the title


def draw_bars(
    ax: Axes | None,
    names: Sequence[str],
    scores: Tensor,
    errors: Tensor,
    title: str,
    meaning: str,
) -> Axes:
    """Draws a bar for each score, the first on top: red increases the score, blue decreases it.

    Args:
        ax: matplotlib axes; new ones where None.
        names: beside the bars.
        scores, errors: (K,); without lines where all errors are 0 or unknown.
        title: above.
        meaning: of a bar's length.

    Returns:
        The axes.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        raise ImportError("plot needs matplotlib: pip install 'fwdgrad-kernels[image]'") from None
    count, figure = len(names), None
    if ax is None:
        figure, ax = plt.subplots(figsize=(7, 1 + 0.3 * count), layout="constrained")
    lines = textwrap.wrap(title, letters_in(_inches_beside(ax, names), 8.5))
    if figure is not None:
        figure.set_figheight(figure.get_figheight() + _LINE * (len(lines) - 1))
    errors = errors.nan_to_num(0.0)
    ax.barh(
        range(count),
        scores.numpy(),
        xerr=errors.numpy() if bool(errors.any()) else None,
        color=[hexadecimal(RED if score > 0 else BLUE) for score in scores.tolist()],
        error_kw={"capsize": 2},
    )
    ax.set_yticks(range(count), list(names), parse_math=False)
    ax.invert_yaxis()
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set_xlabel(meaning, parse_math=False)
    ax.set_title("\n".join(lines), fontsize="small", parse_math=False)
    return ax


def _inches_beside(ax: Axes, names: Sequence[str]) -> float:
    """How wide the bars are at least, once a layout has made room for the names beside them."""
    across = ax.figure.bbox.width / ax.figure.dpi
    wide = max(map(len, names), default=0) * _LETTER
    return float(ax.get_position().width * across - max(0.0, wide - 0.125 * across))


def shortened(text: object, most: int) -> str:
    """A text on one line, of so many characters at most.

    >>> shortened("a long name", 7)
    'a long…'
    """
    text = plain(text)
    return text if len(text) <= most else text[: most - 1] + "…"
