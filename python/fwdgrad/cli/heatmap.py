"""heatmap.png: a photo, and beside it the map of what a score depends on."""

from __future__ import annotations

import io
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from fwdgrad.adapters.photos import Photo
from fwdgrad.cli.evidence import legend_of
from fwdgrad.drawing import draw_bar, letters_in
from fwdgrad.explanation import Explanation
from fwdgrad.found import Evidence
from fwdgrad.meaning import headline, run_in_words
from fwdgrad.overlay import Look
from fwdgrad.panels import Panels
from fwdgrad.terminal import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DPI = 120
_WIDE = 10.0  # inches, as all that follows: 1200 pixels; of narrow photos less
_HIGH = 6.5  # a photo at most
_NARROW = 3.8  # a panel at least, with its words
_EDGE = 0.15
_LINE = 0.17  # of words beneath a photo
_STACKED = 2.0  # times as wide as high: such photos stand above their maps


def heatmap(result: Explanation, photo: Photo, label: str, found: Evidence | None = None) -> bytes:
    """A photo with a frame around what the model saw, and the map on it: a PNG of 1200 pixels.

    On the map are the borders of what is enough and what is missed, where that was looked for.

    Args:
        result: of what the model saw.
        photo: with all of it.
        label: the class, in words.
        found: what is enough.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    stacked = photo.width > _STACKED * photo.height
    room = _WIDE - 2 * _EDGE if stacked else (_WIDE - 3 * _EDGE) / 2
    wide = min(room, _HIGH * photo.width / photo.height)
    high = wide * photo.height / photo.width
    room = min(room, max(wide, _NARROW))
    across = room + 2 * _EDGE if stacked else 2 * room + 3 * _EDGE
    title = textwrap.wrap(headline(result, label), letters_in(across, 17))
    legend = _legend(photo, found, letters_in(room, 9))
    head, below = 0.47 + 0.25 * len(title), 0.1 + _LINE * len(legend)
    bar = 0.95  # with its words
    tall = head + high + (below + high + bar if stacked else max(below, bar)) + _EDGE
    figure = Figure(figsize=(across, tall), dpi=_DPI)
    canvas = FigureCanvasAgg(figure)

    def axes(left: float, top: float, width: float, height: float) -> Axes:
        sides = left / across, 1 - (top + height) / tall, width / across, height / tall
        return figure.add_axes(sides)

    def text(lines: list[str], top: float, **how: Any) -> None:
        place = _EDGE / across, 1 - top / tall
        figure.text(*place, "\n".join(lines), va="top", linespacing=1.2, parse_math=False, **how)

    text(title, 0.12, fontsize=14, weight="bold")
    text([run_in_words(result)], head - 0.29, fontsize=10)
    text(legend, head + high + 0.08, fontsize=9)

    whole = axes(_EDGE + (room - wide) / 2, head, wide, high)
    panels = panels_of(photo).scaled(round(wide * _DPI), round(high * _DPI))
    panels.draw_photo(whole)

    left, top = (_EDGE, head + high + below) if stacked else (2 * _EDGE + room, head)
    heat = axes(left + (room - wide) / 2, top, wide, high)
    drawn = panels.draw_map(heat, result, Look(), label)
    if found is not None:
        found.outline(heat, panels.frame.extent)
    length = min(0.8 * room, 4.0)
    bar_axes = axes(left + (room - length) / 2, top + high + 0.1, length, 0.13)
    draw_bar(drawn, heat, bar_axes, room)

    canvas.draw()  # not by savefig, which draws everything twice and compresses for as long again
    content = io.BytesIO()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    # Runs of the same pixels alone are looked for: in a third of the time of level 6.
    picture.save(content, format="png", dpi=(_DPI, _DPI), compress_level=1, compress_type=3)
    return content.getvalue()


def panels_of(photo: Photo) -> Panels:
    """All of a photo, and what of it the model saw."""
    assert photo.whole is not None
    return Panels(photo.whole, photo.width, photo.height, photo.cut)


def _legend(photo: Photo, found: Evidence | None, wide: int) -> list[str]:
    """What the frame and the borders mean, in lines of so many letters."""
    parts = ["frame: what the model saw"] * (photo.share < 1)
    if found is not None:
        parts += plain(legend_of(found), lines=True).split("\n")
    return [line for part in parts for line in textwrap.wrap(part, wide)]
