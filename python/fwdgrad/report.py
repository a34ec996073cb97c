"""An explanation and how good it is, as one page that a browser opens."""

from __future__ import annotations

import base64
import dataclasses
import html
import io
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fwdgrad.advice import is_drawn
from fwdgrad.explanation import Explanation, is_of_pixels
from fwdgrad.metrics.curves import Curve
from fwdgrad.terminal import plain

MARK = '<meta name="generator" content="fwdgrad">'  # by which a page of ours is known


class Number(NamedTuple):
    """A line of the table: what it is, the number, and what it says."""

    name: str
    value: str
    note: str = ""


def report(
    explanation: Explanation,
    label: str,
    numbers: Sequence[Number],
    deletion: Curve,
    insertion: Curve,
    *,
    followed: str | None = None,
    mask: Tensor | None = None,
    command: str | None = None,
    model: str | None = None,
    saved: str = "explanation.safetensors",
) -> str:
    """A page with the picture, its map, the standard error, both curves and the numbers.

    Args:
        explanation: of a picture (C, H, W) with one or three channels.
        label: what was explained, in words.
        numbers: the table's lines.
        deletion, insertion: see ``fwdgrad.metrics``.
        followed: the name of the score that they follow. Default: the explanation's objective.
        mask: bool (H, W), true on the object, where it is known.
        command: the line that makes this page.
        model: the model's name, as ``load_classifier`` takes it.
        saved: the explanation's own file.

    Returns:
        A complete HTML document that refers to nothing outside itself. Whatever the label and the
        numbers contain is escaped.

    Raises:
        ValueError: the explanation is of something else than a picture.
        ImportError: Pillow or matplotlib is not installed.

    Example:
        >>> import fwdgrad, torch
        >>> from fwdgrad.metrics import deletion, insertion
        >>> light = lambda batch: batch.mean((1, 2, 3))
        >>> e = fwdgrad.explain(light, torch.rand(3, 8, 8), method="gradient", target=None)
        >>> curves = [f(light, e.input, e, None, objective="logit") for f in (deletion, insertion)]
        >>> page = report(e, "light", [Number("score", f"{e.score:.3g}")], *curves)
        >>> page.startswith("<!DOCTYPE html>")
        True
    """
    x = explanation.input
    if x.dim() != 3 or x.shape[0] not in (1, 3):
        raise ValueError(
            f"explanation must be of a picture (1 or 3, H, W), got an input of {tuple(x.shape)}"
        )
    followed = followed or explanation.objective
    title = escape(label)
    limits = _range(deletion.scores, insertion.scores)
    charts = "".join(
        _chart(name, curve, limits, followed, what)
        for name, curve, what in (
            ("Deletion", deletion, "blotted out"),
            ("Insertion", insertion, "put into the blur"),
        )
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'{MARK}\n<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # No request leaves the page, whatever a label would like.
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
        f"<title>{title}: explanation</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<header>\n<h1>{title}</h1>\n<p>{_summary(explanation)}</p>\n</header>\n<main>\n"
        f'<section class="pictures" aria-label="Pictures">\n{_pictures(explanation, label, mask)}'
        "</section>\n"
        "<section>\n<h2>Does the score follow the map?</h2>\n"
        "<p>Pixels change hands in the map’s order, those that speak most for the score first. "
        "Where they are blotted out, a good map makes the score fall early: a small area is good. "
        "Where they are put into a blurred picture, it makes the score rise early: a large area is "
        "good.</p>\n"
        f'<div class="curves">\n{charts}</div>\n</section>\n'
        f"<section>\n<h2>Numbers</h2>\n{_table(numbers)}</section>\n"
        "<section>\n<h2>How to repeat it</h2>\n"
        f"{_repeat(explanation, command, model, saved)}</section>\n"
        "</main>\n</body>\n</html>\n"
    )


def _summary(explanation: Explanation) -> str:
    photo = explanation.provenance.get("photo") or {}
    parts = [str(photo["name"])] if "name" in photo else []
    parts += [
        f"{explanation.objective} {explanation.score:.3g}",
        f"{explanation.queries} queries",
        f"reliability {explanation.reliability:.2f}",
    ]
    return " · ".join(map(escape, parts))


# ---- pictures ------------------------------------------------------------------------------


def _pictures(explanation: Explanation, label: str, mask: Tensor | None) -> str:
    x = explanation.input.detach().float().cpu()
    height, width = x.shape[1:]
    is_plain = is_of_pixels(x)
    photo = x if is_plain else (x - x.min()) / (float(x.max() - x.min()) or 1.0)
    note = "" if is_plain else "; its values are stretched to the screen’s"
    shown = [
        _figure(
            "Picture",
            f"{width} × {height} pixels, as the model sees it{note}.",
            _png(photo),
            "The picture that was explained",
            width,
        ),
        _figure(
            "Map",
            "Red speaks for it, blue against."
            '<span class="scale"><span>against</span><i></i><span>for</span></span>',
            _drawn(explanation),
            f"The picture in grey; red where it speaks for {label}, blue where against",
            width,
        ),
        _error_figure(explanation),
    ]
    if mask is not None:
        dimmed = photo * (0.25 + 0.75 * mask.float())
        alternative = "The picture, dark but for the object"
        shown.append(_figure("Object", "What the mask marks.", _png(dimmed), alternative, width))
    return "".join(shown)


def _error_figure(explanation: Explanation) -> str:
    error = explanation.over_planes(explanation.standard_error).cpu()
    known = error.isfinite()
    largest = float(error[known].max()) if bool(known.any()) else math.nan
    if not largest > 0:
        why = "None: the run was too short to tell, or its method leaves no way to."
        if largest == 0:
            why = "Zero everywhere: every copy said the same."
            if not is_drawn(explanation.settings):
                why = "Zero everywhere: nothing was drawn by chance."
        return f"<figure>\n<figcaption><h2>Standard error</h2>{why}</figcaption>\n</figure>\n"
    strength = (error / largest).where(known, 0.0)[..., None]
    paper, ink = torch.tensor([[247, 246, 250], [72, 42, 120]], dtype=torch.float64) / 255
    colours = (paper + (ink - paper) * strength).permute(2, 0, 1)
    top = float(explanation.over_planes(explanation.attribution).abs().max())
    unknown = float((~known).double().mean())
    rest = f" It is not known at {100 * unknown:.2g} % of the places." if unknown else ""
    return _figure(
        "Standard error",
        f"Of the map, at most: dark is {largest:.2g}, where the map’s own largest value is "
        f"{top:.2g}.{rest}",
        _png(colours),
        f"The standard error at each place: the darker the larger, {largest:.2g} at most",
        error.shape[1],
    )


def _figure(title: str, caption: str, source: str, alternative: str, width: int) -> str:
    coarse = ' class="coarse"' if width < 112 else ""
    return (
        f'<figure>\n<img{coarse} src="{source}" alt="{escape(alternative)}">\n'
        f"<figcaption><h2>{title}</h2>{caption}</figcaption>\n</figure>\n"
    )


def _png(pixels: Tensor) -> str:
    """Values (1 or 3, H, W) in [0, 1] as a data URI."""
    try:
        from PIL import Image
    except ImportError:
        raise ImportError("a report needs Pillow: pip install 'fwdgrad-kernels[image]'") from None
    levels = (pixels.clamp(0, 1) * 255).round().to(torch.uint8)
    array = np.ascontiguousarray(levels.expand(3, -1, -1).permute(1, 2, 0).numpy())
    content = io.BytesIO()
    Image.fromarray(array).save(content, format="png", optimize=True)
    return _data(content)


def _drawn(explanation: Explanation) -> str:
    """What ``plot`` draws, a pixel for each of the map's."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError(
            "a report needs matplotlib: pip install 'fwdgrad-kernels[image]'"
        ) from None
    height, width = explanation.heatmap().shape
    figure = Figure(figsize=(width / 100, height / 100), dpi=100)
    FigureCanvasAgg(figure)
    explanation.plot(figure.add_axes((0, 0, 1, 1)))
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return _data(content)


def _data(content: io.BytesIO) -> str:
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()


# ---- curves --------------------------------------------------------------------------------

_WIDTH, _HEIGHT = 440, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 24, 14, 50


def _range(*curves: Tensor) -> tuple[float, float]:
    """From zero, or the lowest score below it, to the highest."""
    finite = torch.cat([c[c.isfinite()] for c in curves])
    low, high = min(0.0, float(finite.min())), max(0.0, float(finite.max()))
    return (low, high) if high > low else (low, low + 1.0)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from at or below ``low`` to at or above ``high``.

    >>> _ticks(0.0, 0.83)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    rough = (high - low) / 4
    unit: float = 10.0 ** math.floor(math.log10(rough))
    step = unit * next(m for m in (1, 2, 5, 10) if m * unit >= 0.75 * rough)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]


def _chart(name: str, curve: Curve, limits: tuple[float, float], followed: str, what: str) -> str:
    """A curve as SVG: the area that is measured is the area that is filled."""
    ticks = _ticks(*limits)
    low, high = ticks[0], ticks[-1]

    def across(fraction: float) -> float:
        return _LEFT + fraction * (_WIDTH - _LEFT - _RIGHT)

    def down(value: float) -> float:
        return _TOP + (high - value) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    points = [
        f"{across(f):.1f} {down(s):.1f}"
        for f, s in zip(curve.fractions.tolist(), curve.scores.tolist(), strict=True)
    ]
    line = "M" + "L".join(points)
    area = f"{line}L{across(1):.1f} {down(0):.1f}L{across(0):.1f} {down(0):.1f}Z"
    grid = "".join(
        f'<path class="grid" d="M{across(0)} {down(t):.1f}H{across(1)}"/>'
        f'<text class="tick" x="{_LEFT - 7}" y="{down(t) + 4:.1f}" text-anchor="end">{t:g}</text>'
        for t in ticks
    )
    grid += "".join(
        f'<text class="tick" x="{across(f):.1f}" y="{_HEIGHT - _BOTTOM + 21}" '
        f'text-anchor="middle">{100 * f:.0f} %</text>'
        for f in (0, 0.25, 0.5, 0.75, 1)
    )
    kind = name.lower()
    first, last = curve.scores[0].item(), curve.scores[-1].item()
    return (
        f'<figure class="{kind}">\n<figcaption><h3>{name} <b>{curve.auc:.4f}</b></h3>'
        f"{escape(followed)} as pixels are {what}</figcaption>\n"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-labelledby="{kind}-title '
        f'{kind}-text">\n<title id="{kind}-title">{name} curve, area {curve.auc:.4f}</title>\n'
        f'<desc id="{kind}-text">{escape(followed)} over the share of pixels {what}, in the map’s '
        f"order: {first:.3g} at first, {last:.3g} at the end.</desc>\n"
        f'{grid}\n<path class="area" d="{area}"/>\n<path class="line" d="{line}"/>\n'
        f'<text class="tick" x="{(across(0) + across(1)) / 2:.1f}" y="{_HEIGHT - 5}" '
        f'text-anchor="middle">share of the pixels {what}</text>\n</svg>\n</figure>\n'
    )


# ---- numbers -------------------------------------------------------------------------------


def _table(numbers: Sequence[Number]) -> str:
    lines = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}'
        f"{f' <small>{escape(note)}</small>' if note else ''}</td></tr>\n"
        for name, value, note in numbers
    )
    return f"<table>\n{lines}</table>\n"


def _repeat(explanation: Explanation, command: str | None, model: str | None, saved: str) -> str:
    lines = ["import fwdgrad"]
    found = "...  # the one that was explained"
    if model is not None:
        lines.append("from fwdgrad.adapters.images import load_classifier")
        found = f"load_classifier({model!r}, {explanation.input.shape[-1]}, labels=None).forward"
    lines += [
        "",
        f"model = {found}",
        f"e = fwdgrad.Explanation.load({saved!r})",
        "fwdgrad.explain(model, e.input, target=e.target, objective=e.objective, **e.settings)",
    ]
    again = "\n".join(lines)
    shown = "\n".join(map(escape, again.split("\n")))
    parts = [f"<p>The map, in Python:</p>\n<pre><code>{shown}</code></pre>\n"]
    if command is not None:
        parts.append(f"<p>This page:</p>\n<pre><code>{escape(command)}</code></pre>\n")
    for title, pairs in (
        ("Settings", {"target": explanation.target, **explanation.settings}),
        ("Made with", explanation.provenance),
    ):
        rows = [Number(name.replace("_", " "), _shown(value)) for name, value in pairs.items()]
        parts.append(f"<details>\n<summary>{title}</summary>\n{_table(rows)}</details>\n")
    return "".join(parts)


def _shown(value: Any) -> str:
    """A setting in a few words."""
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(one)}" for name, one in value.items())
    if isinstance(value, (tuple, list)):
        return f"({', '.join(map(_shown, value))})"
    if dataclasses.is_dataclass(value):
        pairs = ((f.name, _shown(getattr(value, f.name))) for f in dataclasses.fields(value))
        return f"{type(value).__name__}({', '.join(f'{name}={one}' for name, one in pairs)})"
    if value is None or isinstance(value, bool):
        return "none" if value is None else "yes" if value else "no"
    return str(value)


_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1d1d20; --quiet: #62626b;
  --line: #e2e2e6; --well: #f6f6f8; --deletion: #9a5b00; --insertion: #0b7a6f; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #17171a; --ink: #ececef; --quiet: #a2a2ac; --line: #34343b; --well: #212126;
    --deletion: #e5a53d; --insertion: #4fc3b4; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 66rem; padding: 2rem 1.25rem 4rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.55 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { margin: 0; font-size: 1.9rem; line-height: 1.2; font-weight: 650; letter-spacing: -.01em; }
h2 { margin: 3rem 0 .5rem; font-size: 1.25rem; line-height: 1.3; font-weight: 650; }
h3 { margin: 0; font-size: 1rem; font-weight: 650; }
header p, p, figcaption, small { color: var(--quiet); }
header p { margin: .35rem 0 2rem; }
p { max-width: 44rem; }
figure { margin: 0; min-width: 0; }
figcaption { font-size: .9rem; line-height: 1.45; }
figcaption h2, figcaption h3 { color: var(--ink); }
figcaption h2 { margin: .6rem 0 .1rem; font-size: 1rem; }
.pictures, .curves { display: grid; gap: 1.75rem 1.5rem; }
.pictures { grid-template-columns: repeat(auto-fit, minmax(min(100%, 14rem), 1fr)); }
.curves { grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); }
img, svg { display: block; width: 100%; height: auto; }
img { border-radius: 4px; }
img.coarse { image-rendering: pixelated; }
.scale { display: flex; align-items: center; gap: .5rem; margin-top: .35rem; }
.scale i { flex: 1; height: .5rem; border-radius: 4px; border: 1px solid var(--line);
  background: linear-gradient(90deg, #00004c, #00f, #fff, #f00, #800000); }
.deletion { --colour: var(--deletion); }
.insertion { --colour: var(--insertion); }
.curves b { color: var(--colour); font-variant-numeric: tabular-nums; }
.curves svg { margin-top: .5rem; max-width: 34rem; }
.grid { stroke: var(--line); }
.tick { fill: var(--quiet); font: 13px system-ui, sans-serif; font-variant-numeric: tabular-nums; }
.line { fill: none; stroke: var(--colour); stroke-width: 2; stroke-linejoin: round; }
.area { fill: var(--colour); fill-opacity: .16; }
table { border-collapse: collapse; width: 100%; max-width: 44rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: .4rem 0; border-top: 1px solid var(--line); text-align: left;
  vertical-align: baseline; }
tr:first-child > * { border-top: 0; }
th { width: 11.5rem; padding-right: 1rem; font-weight: 400; color: var(--quiet); }
small { font-size: .85rem; margin-left: .4rem; }
pre { margin: .5rem 0 1.25rem; padding: .8rem 1rem; max-width: 100%; overflow-x: auto;
  border-radius: 6px; background: var(--well); font-size: .85rem; overflow-wrap: normal; }
details { margin-top: .75rem; }
summary { cursor: pointer; color: var(--ink); }
@media (max-width: 40rem) {
  body { padding-top: 1.25rem; }
  h1 { font-size: 1.5rem; }
  th { width: 8.5rem; }
  small { display: block; margin-left: 0; }
}
@media (max-width: 30rem) { .tick { font-size: 15px; } }
"""


def escape(text: object) -> str:
    """Text as a page shows it, on one line: no markup, nothing that turns its direction."""
    return html.escape(plain(text))
