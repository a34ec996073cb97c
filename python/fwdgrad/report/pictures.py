"""The pictures of a report: the photo, its map, the object and the standard error."""

from __future__ import annotations

import base64
import dataclasses
import io
import itertools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fwdgrad.advice import is_drawn
from fwdgrad.drawing import draw_box
from fwdgrad.explanation import Explanation
from fwdgrad.inputs import is_of_pixels
from fwdgrad.meaning import has_sign, is_change, meaning, unit_of
from fwdgrad.overlay import Look, Pixels, bytes_of, full_strength, picture_of, values_of
from fwdgrad.panels import Panels
from fwdgrad.peaks import side_of
from fwdgrad.ranked import found_again
from fwdgrad.report.text import escape, tied
from fwdgrad.report.words import (
    PICTURE,
    Region,
    Scale,
    answer,
    named,
    percent,
    question,
    region_in_words,
    significant_share,
    sureness,
    tells_errors,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SIDE = 640  # pixels of a panel's longer side
_DPI = 120
_RAISING, _LOWERING = 3, 2  # regions that are numbered, at most


class OfPicture:
    """A picture, as a page of a report tells of it.

    Args:
        explanation: of it.
        label: what was explained, in words.
        mask: true on the object, where it is known.
        panels: all of the photo.
    """

    terms = PICTURE
    again = "e.input"
    below = False  # its curves are in the order of what raises the score

    def __init__(
        self, explanation: Explanation, label: str, mask: Tensor | None, panels: Panels
    ) -> None:
        """Finds the regions that stand out."""
        self.explanation = self.result = explanation
        self.label, self.mask, self.panels = label, mask, panels
        self.question, self.answer = question(explanation, label), answer(explanation, label)
        side, scale = side_of(explanation), panels.cut.scale
        square = None if side is None else (side * scale[0], side * scale[1])
        found = [
            Region(x / panels.width, y / panels.height, value, error, square)
            for x, y, value, error in panels.standing_out(explanation)
        ]
        self.regions = [  # that raise the score most, and then those that lower it most
            *itertools.islice((one for one in found if one.value > 0), _RAISING),
            *itertools.islice((one for one in found if one.value < 0), _LOWERING),
        ]

    def shown(self) -> str:
        """The pictures, as a section of HTML."""
        e, panels, regions = self.explanation, self.panels, self.regions
        width, height = panels.width, panels.height
        size = _SIDE * width // max(width, height), _SIDE * height // max(width, height)
        panels = panels.scaled(*(max(1, side) for side in size))
        parts = found_again(e)
        lines = _lines_in_words(e, panels)

        def photo(ax: Axes) -> None:
            panels.draw_photo(ax)
            draw_box(ax, e, panels.frame.extent)
            for name, line in (("enough", "-"), ("missing", "--")):
                if name in parts:
                    panels.outline(ax, parts[name], line)

        def heat(ax: Axes) -> None:
            panels.draw_map(ax, e, Look(top=0), self.label)
            panels.number(ax, e, [(one.x * width, one.y * height) for one in regions])

        of, scale = "the model" if e.target is None else named(self.label), Scale.of_scores(e)
        colours = (
            f"Red parts raise the {scale.name} of {of}, blue ones lower it: "
            "the more colour, the more."
        )
        ends, unit = ("lowers it", "raises it"), ""
        if not has_sign(e):
            colours = (
                f"The {scale.name} of {of} depends on red parts: the stronger the colour, the more."
            )
            ends = ("little", "much")
        elif is_change(e):
            full = scale.change(full_strength(values_of(e)[0]))
            ends = (f"−{full.split()[0]}", f"+{full.split()[0]}")
            unit = f'<span class="unit">Full colour is a change of {full} or more.</span>'
        errors = e.standard_error
        is_tested = bool((errors.isfinite() & (errors > 0)).any())
        pale = is_tested * (
            " Where there is no colour, nothing is told apart from chance; "
            "pale parts may be chance."
        )
        one = ' class="one"' * (not has_sign(e))
        found = [
            figure(
                "The picture",
                tied(lines),
                _panel(photo, panels),
                "The picture that was explained" + f". {lines}" * bool(lines),
            ),
            figure(
                "The map",
                f'{escape(colours)}{pale}<span class="scale" aria-hidden="true">'
                f"<span>{ends[0]}</span><i{one}></i><span>{ends[1]}</span></span>{unit}",
                _panel(heat, panels),
                f"The picture, paled, with numbered regions: red where it raises the score of "
                f"{of}, blue where it lowers it",
            ),
        ]
        if self.mask is not None:
            picture = picture_of(e)
            assert picture is not None
            dimmed = _png(bytes_of(picture * (0.25 + 0.75 * self.mask.float())))
            alternative = "The picture, dark but for the object"
            found.append(figure("Object", "What the mask marks.", dimmed, alternative))
        return f'<section class="pictures" aria-label="Pictures">\n{"".join(found)}</section>\n'

    def listed(self) -> str:
        """The numbered regions in words, as HTML."""
        e, regions = self.explanation, self.regions
        if not regions:
            return "<p>No region stands out from chance.</p>\n"
        errors = tells_errors([(one.value, one.error) for one in regions])
        told = [region_in_words(i, one, e, errors) for i, one in enumerate(regions, 1)]
        lines = [f"<li>{tied(one)}</li>\n" for one in told]
        found = f'<ol class="regions">\n{"".join(lines)}</ol>\n'
        if has_sign(e) and len({one.value > 0 for one in regions}) == 1:
            verb = "lowers" if regions[0].value > 0 else "raises"
            found += f"<p>No region {verb} it by more than chance would.</p>\n"
        return found

    def sure(self) -> list[str]:
        """What another run would give, and how much of the picture counts."""
        e = self.explanation
        terms = self.terms
        if not is_change(e):
            terms = dataclasses.replace(terms, tried="noise added to the picture")
        more = is_drawn(e) and e.reliability == e.reliability
        return [sureness(e, terms), *(significant_share(e) if more else [])]

    def details(self) -> tuple[str, str]:
        """The standard error, as HTML, below a title."""
        e, title = self.explanation, "What a value is, and its standard error"
        means, (factor, unit) = meaning(e, self.label), unit_of(e)
        means = f"{' is the ' if means.startswith('change') else ': '}{escape(means)}{unit}."
        means = f"<p>A value of the map{means}</p>\n"
        error = e.over_planes(e.standard_error).cpu()
        known = error.isfinite()
        largest = float(error[known].max()) if bool(known.any()) else math.nan
        if not largest > 0:
            why = "None: the run was too short to tell, or its method leaves no way to."
            if largest == 0:
                why = "Zero everywhere: no other seed would change the map."
            return title, f"{means}<p>{why}</p>\n"
        strength = (error / largest).where(known, 0.0)[..., None]
        paper, ink = torch.tensor([[247, 246, 250], [72, 42, 120]], dtype=torch.float64) / 255
        colours = (paper + (ink - paper) * strength).permute(2, 0, 1)
        top = float(e.over_planes(e.attribution).abs().max())
        top, most = factor * top, factor * largest
        unknown = float((~known).double().mean())
        rest = f" It is not known at {100 * unknown:.2g} % of the places." if unknown else ""
        return title, means + figure(
            "Standard error",
            f"Of the map, at most: dark is {most:.2g}, where the map’s own largest value is "
            f"{top:.2g}.{rest}",
            _png(bytes_of(colours)),
            f"The standard error at each place: the darker the larger, {most:.2g} at most",
            level=3,
            kind="coarse" if error.shape[1] < 112 else "",
        )

    def tried(self) -> str:
        """Of pictures the lines on them tell."""
        return ""


def figure(
    title: str, caption: str, source: str, alternative: str, level: int = 2, kind: str = ""
) -> str:
    """A picture with its caption, as HTML: the caption is markup, the rest is text."""
    coarse = f' class="{kind}"' if kind else ""
    return (
        f'<figure>\n<img{coarse} src="{source}" alt="{escape(alternative)}">\n'
        f"<figcaption><h{level}>{title}</h{level}>{caption}</figcaption>\n</figure>\n"
    )


def _lines_in_words(explanation: Explanation, panels: Panels) -> str:
    """What the borders on the picture mean."""
    known = explanation.provenance.get("evidence") or {}
    said = ["Green line: what was found."] * ("box" in explanation.provenance)
    if known.get("enough_share") is not None:
        said.append(f"Solid line: the part that is enough, {percent(known['enough_share'])}.")
    if known.get("missing_share") is not None:
        said.append(f"Dashed line: the part that is missed, {percent(known['missing_share'])}.")
    if panels.share < 1:
        said.append("Frame: what the model saw. Shares of the picture are shares of that.")
    if not is_of_pixels(explanation.input):
        said.append("Its values are stretched to the screen’s.")
    return " ".join(said)


def _panel(draw: Callable[[Axes], None], panels: Panels) -> str:
    """What is drawn on axes that fill a picture of a panel's size, as a data URI."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height, width = panels.pixels.shape[:2]
    drawn = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI)
    canvas = FigureCanvasAgg(drawn)
    axes = drawn.add_axes((0, 0, 1, 1))
    draw(axes)
    axes.set_aspect("auto")  # a rounded side leaves no white edge
    canvas.draw()
    return _png(np.asarray(canvas.buffer_rgba())[..., :3])


def _png(pixels: Pixels) -> str:
    """Pixels, uint8 (H, W, 3), as a data URI."""
    try:
        from PIL import Image
    except ImportError:
        raise ImportError("a report needs Pillow: pip install 'fwdgrad-kernels[image]'") from None
    content = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(content, format="png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()
