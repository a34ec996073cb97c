"""Drawing an explanation with matplotlib."""

from __future__ import annotations

import dataclasses
import itertools
import textwrap
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fwdgrad.colours import GREEN, hexadecimal
from fwdgrad.marks import Extent, draw_numbers
from fwdgrad.meaning import has_sign, headline, meaning, run_in_words, unit_of
from fwdgrad.overlay import (
    Look,
    Pixels,
    bytes_of,
    certainty,
    full_strength,
    laid_on,
    picture_of,
    values_of,
)
from fwdgrad.peaks import peaks

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from fwdgrad.explanation import Explanation


@dataclasses.dataclass(frozen=True)
class Frame:
    """A larger picture, and where a map lies on it.

    Attributes:
        pixels: uint8 (h, w, 3), in whatever size.
        size: its width and height, in the units of the extent.
        extent: of the map.
        lay: what is 0 beside the map, of values (H, W) of the map: (h, w).
        interpolation: of matplotlib's; "nearest" where the pixels are those of the drawing.
    """

    pixels: Pixels
    size: tuple[int, int]
    extent: Extent
    lay: Callable[[Tensor], Tensor]
    interpolation: str | None = None


@dataclasses.dataclass(frozen=True)
class Drawn:
    """What was drawn: the value at full strength, and what a bar of the colours says."""

    full: float
    ends: tuple[float, float]  # of the bar, as shares of it
    beyond: tuple[bool, bool]  # whether a value lies beyond either end
    threshold: float
    meaning: str
    note: str
    factor: float  # of the bar's numbers


def draw(
    explanation: Explanation,
    ax: Axes | None = None,
    look: Look | None = None,
    frame: Frame | None = None,
    label: str | None = None,
) -> Axes:
    """Draws a map over its input, with a title and a bar of the colours; see ``Explanation.plot``.

    Args:
        explanation: of anything.
        ax: matplotlib axes; new ones where None.
        look: the options of ``plot``.
        frame: a picture that the input is a part of.
        label: the class, in words.

    Raises:
        ImportError: matplotlib is not installed.
    """
    if ax is None:
        try:
            import matplotlib.pyplot as plt
        except ImportError:
            raise ImportError(
                "plot needs matplotlib: pip install 'fwdgrad-kernels[image]'"
            ) from None
        ax = plt.figure(layout="constrained").subplots()
    drawn = draw_map(explanation, ax, look or Look(), frame, label)
    lines = textwrap.wrap(headline(explanation, label), 70)
    lines += [run_in_words(explanation), ax.get_title()]
    ax.set_title("\n".join(filter(None, lines)), fontsize="medium", parse_math=False)
    draw_bar(drawn, ax)
    return ax


def draw_map(
    explanation: Explanation,
    ax: Axes,
    look: Look,
    frame: Frame | None = None,
    label: str | None = None,
) -> Drawn:
    """Draws a map alone, without a title and a bar; the arguments are those of ``draw``."""
    e = explanation
    if getattr(e.method, "axes", None) == 1:
        values, errors = (one.flatten(0, -2) if one.dim() > 1 else one[None] for one in _parts(e))
        values, errors = values.mean(0), errors.mean(0)  # channels share their windows
    elif e.input.dim() == 4:
        values, errors = (one.mean(0) for one in _parts(e))
    else:
        values, errors = values_of(e)
    full = look.scale or full_strength(values)
    past = full * (1 + 1e-6)  # more than a rounding
    strength = look.strength(values, errors, full)
    if getattr(e.method, "axes", None) == 1:
        _draw_series(ax, e.input.detach().cpu(), strength)
    elif e.input.dim() == 4:
        _draw_volume(ax, e.input.detach().cpu(), values, strength, look.picture)
    else:
        _draw_picture(ax, e, look, strength, frame)
        draw_box(ax, e, frame.extent if frame else None)
        _number_peaks(ax, e, look, strength, frame)
    factor, unit = unit_of(e)
    return Drawn(
        full,
        (
            0.0 if look.sign == "increases" or not has_sign(e) else -1.0,
            0.0 if look.sign == "decreases" else 1.0,
        ),
        (bool((values < -past).any()), bool((values > past).any())),
        look.threshold,
        meaning(e, label) + unit,
        ""
        if bool(errors.isnan().all())
        else "drawn from 1 standard error on; significant() is stricter",
        factor,
    )


def _parts(e: Explanation) -> list[Tensor]:
    return [one.detach().cpu().double() for one in (e.attribution, e.standard_error)]


def _draw_picture(
    ax: Axes, e: Explanation, look: Look, strength: Tensor, frame: Frame | None
) -> None:
    if frame is not None:
        width, height = frame.size
        pixels = laid_on(frame.pixels if look.picture else None, frame.lay(strength))
        ax.imshow(pixels, extent=(0, width, height, 0), interpolation=frame.interpolation)
    else:
        picture = picture_of(e)
        under = bytes_of(picture) if look.picture and picture is not None else None
        aspect: Any = "auto" if picture is None and e.input.dim() != 3 else "equal"
        ax.imshow(laid_on(under, strength), aspect=aspect)
    ax.set_axis_off()


def standing_out(
    e: Explanation, look: Look, frame: Frame | None = None
) -> Iterator[tuple[float, float, float, float]]:
    """The regions of a picture that stand out, the strongest first: x, y, value, standard error.

    Args:
        e: of a picture.
        look: what is not drawn does not stand out.
        frame: a picture that the input is a part of, in whose units x and y are.
    """
    values, errors = values_of(e)
    strength = look.strength(values, errors, look.scale or full_strength(values))
    sizes = (values * certainty(values, errors)).abs().where(strength != 0, 0.0)
    height, width = sizes.shape
    left, right, bottom, top = frame.extent if frame else (-0.5, width - 0.5, height - 0.5, -0.5)
    wide, high = frame.size if frame else (width, height)
    for row, column, value in peaks(e, values, sizes):
        x = left + (column + 0.5) * (right - left) / width
        y = top + (row + 0.5) * (bottom - top) / height
        if -0.5 <= x <= wide and -0.5 <= y <= high:  # not beside the photo
            yield x, y, value, float(errors[row, column])


def _number_peaks(
    ax: Axes, e: Explanation, look: Look, strength: Tensor, frame: Frame | None
) -> None:
    """Numbers the regions that stand out, with their values beside."""
    if not look.top or e.input.dim() != 3:
        return
    factor, found = unit_of(e)[0], itertools.islice(standing_out(e, look, frame), look.top)
    texts = [
        (x, y, f"{count}: {signed(factor * value, '#.2')}")
        for count, (x, y, value, _) in enumerate(found, 1)
    ]
    draw_numbers(ax, texts, strength, frame.extent if frame else None)


def signed(value: float, digits: str) -> str:
    """A number with its sign, to so many digits."""
    return f"{value:+{digits}g}".rstrip(".").replace("-", "−")


def draw_bar(drawn: Drawn, ax: Axes, cax: Axes | None = None, wide: float | None = None) -> None:
    """Draws the bar of the colours, with numbers and what they mean.

    Args:
        drawn: what is explained.
        ax: with the map.
        cax: the bar's own axes; None: it takes a part of the map's.
        wide: inches that its words may take; None: as the map.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    low, high = drawn.ends
    shares = torch.linspace(low, high, 256)
    shares = shares.where(shares.abs() >= drawn.threshold, 0.0)
    colours = ListedColormap(laid_on(None, shares[None])[0] / 255)
    limits = Normalize(low * drawn.full, high * drawn.full)
    where: dict[str, Any] = {"cax": cax}
    if cax is None:
        where = {"ax": ax, "shrink": 0.9, "aspect": 30, "pad": 0.04 + 0.08 * ax.axison}
    inches = wide or ax.get_position().width * ax.figure.bbox.width / ax.figure.dpi
    bar = ax.figure.colorbar(ScalarMappable(limits, colours), orientation="horizontal", **where)
    all_ticks = (-1.0, -0.5, 0.0, 0.5, 1.0) if inches > 3.5 else (-1.0, 0.0, 1.0)
    ticks = [share for share in all_ticks if low <= share <= high]
    names = [signed(share * drawn.full * drawn.factor, ".3") if share else "0" for share in ticks]
    for end, is_beyond, sign in zip((0, -1), drawn.beyond, "≤≥", strict=True):
        if is_beyond and ticks[end]:
            names[end] = f"{sign} {names[end]}"
    bar.set_ticks([share * drawn.full for share in ticks], labels=names)
    bar.ax.tick_params(labelsize=9, length=3)
    bar.outline.set_linewidth(0.5)
    letters = letters_in(inches, 9)
    lines = textwrap.wrap(drawn.meaning, letters) + textwrap.wrap(drawn.note, letters)
    bar.ax.set_xlabel("\n".join(lines), fontsize=9, parse_math=False)


def letters_in(inches: float, points: float) -> int:
    """How many letters of a size fit into a line."""
    return max(20, int(inches * 72 / (0.5 * points)))


def draw_box(ax: Axes, e: Explanation, extent: Extent | None = None) -> None:
    """Draws the box that a detector found, where an explanation is of one whose place is known.

    Args:
        ax: where the picture is.
        e: of it.
        extent: where it lies there; None: as it is.
    """
    from matplotlib.patches import Rectangle

    if "box" not in e.provenance:
        return
    height, width = e.input.shape[-2:]
    left, right, bottom, top = extent or (-0.5, width - 0.5, height - 0.5, -0.5)
    across, down = (right - left) / width, (bottom - top) / height
    x, y, x_end, y_end = e.provenance["box"]
    sides = (x_end - x) * across, (y_end - y) * down
    for colour, wide in (("white", 3.6), (hexadecimal(GREEN), 1.8)):
        corner = left + x * across, top + y * down
        ax.add_patch(Rectangle(corner, *sides, fill=False, ec=colour, lw=wide, zorder=3))


def _draw_series(ax: Axes, x: Tensor, strength: Tensor) -> None:
    """Channels as lines, over a strip of what each time adds: (C, T) or (T,)."""
    lines = x.double().reshape(-1, x.shape[-1])
    low, high = float(lines.min()), float(lines.max())
    room = 0.05 * (high - low) or 1.0
    extent = (-0.5, x.shape[-1] - 0.5, low - room, high + room)
    ax.imshow(laid_on(None, strength[None]), aspect="auto", extent=extent, zorder=0)
    for line in lines:
        ax.plot(line.numpy(), color="black", linewidth=0.8, alpha=1 / len(lines) ** 0.5)
    ax.set_xlim(extent[:2])
    ax.set_ylim(extent[2:])


def _draw_volume(ax: Axes, x: Tensor, values: Tensor, strength: Tensor, picture: bool) -> None:
    """Slices (H, W), (D, W) and (D, H) through the largest value, side by side: (C, D, H, W)."""
    volume = x.double().mean(0)
    # Where something is drawn; what is not finite is no largest value.
    sizes = torch.where(strength != 0, values.abs(), 0.0 * values).nan_to_num(0.0)
    peak = [int(i) for i in torch.unravel_index(sizes.argmax(), sizes.shape)]
    low, high = float(volume.min()), float(volume.max())
    grey = ((volume - low) / ((high - low) or 1.0)).float()
    height = max(strength.shape[:2])
    slices = []
    for axis, at in enumerate(peak):
        one = strength.select(axis, at)
        under = bytes_of(grey.select(axis, at)[None]) if picture else None
        side = np.full((height, one.shape[1] + 2, 3), 255, np.uint8)
        side[: one.shape[0], : one.shape[1]] = laid_on(under, one)
        slices.append(side)
    ax.imshow(np.concatenate(slices, 1))
    ax.set_axis_off()
    depth, row, column = peak
    ax.set_title(f"slices at depth {depth}, row {row}, column {column}")
