"""The curves of a report, drawn as SVG."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fwdgrad.metrics.curves import Curve
from fwdgrad.report.text import escape
from fwdgrad.report.words import Scale, Terms

_WIDTH, _HEIGHT = 440, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 24, 14, 50


def range_of(*curves: Tensor) -> tuple[float, float]:
    """The range of curves' scores, from zero or the lowest below it to the highest.

    >>> range_of(torch.tensor([0.25, 0.5]), torch.tensor([0.75]))
    (0.0, 0.75)
    """
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


def chart(
    name: str,
    curve: Curve,
    limits: tuple[float, float],
    scale: Scale,
    terms: Terms,
    chance: Curve | None = None,
) -> str:
    """A curve as SVG, over the area that is measured.

    Args:
        name: "Deletion" or "Insertion".
        curve: of scores.
        limits: the range of scores that the axis shows.
        scale: how scores are told.
        terms: what a page calls the input and what was done to it.
        chance: the same in an order drawn by chance.
    """
    ticks = _ticks(*limits)
    low, high = ticks[0], ticks[-1]

    def across(fraction: float) -> float:
        return _LEFT + fraction * (_WIDTH - _LEFT - _RIGHT)

    def down(value: float) -> float:
        return _TOP + (high - value) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    def path(one: Curve) -> str:
        points = zip(one.fractions.tolist(), one.scores.tolist(), strict=True)
        return "M" + "L".join(f"{across(f):.1f} {down(s):.1f}" for f, s in points)

    line = path(curve)
    area = f"{line}L{across(1):.1f} {down(0):.1f}L{across(0):.1f} {down(0):.1f}Z"
    grid = "".join(
        f'<path class="grid" d="M{across(0)} {down(t):.1f}H{across(1)}"/>'
        f'<text class="tick" x="{_LEFT - 7}" y="{down(t) + 4:.1f}" text-anchor="end">'
        f"{f'{100 * t:g} %' if scale.is_share else f'{t:g}'}</text>"
        for t in ticks
    )
    grid += "".join(
        f'<text class="tick" x="{across(f):.1f}" y="{_HEIGHT - _BOTTOM + 21}" '
        f'text-anchor="middle">{100 * f:.0f} %</text>'
        for f in (0, 0.25, 0.5, 0.75, 1)
    )
    kind = name.lower()
    what = terms.deleted if kind == "deletion" else terms.shown
    order = f"in the {terms.found}’s order"
    first, last = (scale.of(curve.scores[i].item()) for i in (0, -1))
    area_is = f"area {curve.auc:.4f}"
    drawn, key, other = f'<path class="line" d="{line}"/>', "", ""
    if chance is not None:
        drawn += f'\n<path class="chance" d="{path(chance)}"/>'  # the line shows in its gaps
        other = f" Dashed: in an order drawn by chance, area {chance.auc:.4f}."
        key = (
            f'<span class="key"><i></i> {order}</span> '
            '<span class="key"><i class="dashed"></i> in an order drawn by chance</span>'
        )
    followed = escape(scale.name.capitalize())
    return (
        f'<figure class="{kind}">\n<figcaption><h3>{name}</h3>'
        f"{followed} as more of the {terms.input} is {what}<br>{key}</figcaption>\n"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-labelledby="{kind}-title '
        f'{kind}-text">\n<title id="{kind}-title">{name} curve, {area_is}</title>\n'
        f'<desc id="{kind}-text">{followed} over the share of the {terms.input} {what}, '
        f"{order}: {escape(first)} at first, {escape(last)} at the end.{other}</desc>\n"
        f'{grid}\n<path class="area" d="{area}"/>\n{drawn}\n'
        f'<text class="tick" x="{(across(0) + across(1)) / 2:.1f}" y="{_HEIGHT - 5}" '
        f'text-anchor="middle">share of the {terms.input} {what}</text>\n</svg>\n</figure>\n'
    )
