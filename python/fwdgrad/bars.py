"""Scores as bars, one for each word or column."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from fwdgrad.colours import BLUE, RED, hexadecimal
from fwdgrad.terminal import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST = 20  # features that are shown


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
    count = len(names)
    if ax is None:
        _, ax = plt.subplots(figsize=(7, 1 + 0.3 * count), layout="constrained")
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
    ax.set_title(title, fontsize="small", parse_math=False)
    return ax


def shortened(text: object, most: int) -> str:
    """A text on one line, of so many characters at most.

    >>> shortened("a long name", 7)
    'a long…'
    """
    text = plain(text)
    return text if len(text) <= most else text[: most - 1] + "…"
