"""The page of a report, and the tables on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from fwdgrad.explanation import Explanation
from fwdgrad.metrics.curves import Curve
from fwdgrad.objectives import OBJECTIVES
from fwdgrad.report.curves import chart, range_of
from fwdgrad.report.pictures import pictures
from fwdgrad.report.style import STYLE
from fwdgrad.report.text import escape, shown

MARK = '<meta name="generator" content="fwdgrad">'  # by which a page of ours is known


class Number(NamedTuple):
    """A line of a report's table: a name, a number and a note on it."""

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
        >>> e = fwdgrad.explain(light, torch.rand(3, 8, 8), method="gradient")
        >>> curves = [curve(light, e.input, e) for curve in (deletion, insertion)]
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
    limits = range_of(deletion.scores, insertion.scores)
    charts = "".join(
        chart(name, curve, limits, followed, what)
        for name, curve, what in (
            ("Deletion", deletion, "deleted"),
            ("Insertion", insertion, "inserted"),
        )
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'{MARK}\n<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # No request leaves the page, whatever a label would like.
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
        f"<title>{title}: explanation</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<header>\n<h1>{title}</h1>\n<p>{_summary(explanation)}</p>\n</header>\n<main>\n"
        f'<section class="pictures" aria-label="Pictures">\n{pictures(explanation, label, mask)}'
        "</section>\n"
        "<section>\n<h2>Does the score follow the map?</h2>\n"
        "<p>Pixels are deleted, or inserted into a blurred picture, in the map’s order: those that "
        "increase the score most come first. With a good map the score falls early as they are "
        "deleted: a small area is good. It rises early as they are inserted: a large area is good."
        "</p>\n"
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
        _name_of(explanation.method),
        f"{explanation.objective} {explanation.score:.3g}",
        f"{explanation.n_samples} samples",
        f"reliability {explanation.reliability:.2f}",
    ]
    if explanation.convergence_delta is not None:
        parts.append(f"convergence delta {explanation.convergence_delta:.2g}")
    return " · ".join(map(escape, parts))


def _table(numbers: Iterable[Number]) -> str:
    lines = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}'
        f"{f' <small>{escape(note)}</small>' if note else ''}</td></tr>\n"
        for name, value, note in numbers
    )
    return f"<table>\n{lines}</table>\n"


def _repeat(explanation: Explanation, command: str | None, model: str | None, saved: str) -> str:
    code = "\n".join(map(escape, _lines(explanation, model, saved)))
    parts = [f"<p>The map, in Python:</p>\n<pre><code>{code}</code></pre>\n"]
    if command is not None:
        parts.append(f"<p>This page:</p>\n<pre><code>{escape(command)}</code></pre>\n")
    for title, rows in (
        ("Settings", _settings(explanation)),
        ("Made with", _rows(explanation.provenance)),
    ):
        parts.append(f"<details>\n<summary>{title}</summary>\n{_table(rows)}</details>\n")
    return "".join(parts)


def _lines(explanation: Explanation, model: str | None, saved: str) -> list[str]:
    """The lines of Python that make the map again."""
    lines = ["import fwdgrad"]
    found, settings = "...  # the one that was explained", "e.settings"
    if model is not None:
        lines.append("from fwdgrad.adapters.images import load_classifier")
        found = f"load_classifier({model!r}, {explanation.input.shape[-1]}, labels=None).forward"
    lines += ["", f"model = {found}", f"e = fwdgrad.Explanation.load({saved!r})"]
    if explanation.objective not in OBJECTIVES:  # of a callable the name alone is known
        lines.append(f"objective = ...  # {explanation.objective}")
        settings = "{**e.settings, 'objective': objective}"
    return [*lines, f"fwdgrad.explain(model, e.input, **{settings})"]


def _settings(explanation: Explanation) -> list[Number]:
    """The arguments that repeat the run, the method followed by its options."""
    rows: list[Number] = []
    for name, value in explanation.settings.items():
        if name == "method":
            rows += [Number(name, _name_of(value)), *_rows(_options_of(value))]
        else:
            rows += _rows({name: value})
    return rows


def _rows(pairs: dict[str, Any]) -> list[Number]:
    return [Number(name, shown(value)) for name, value in pairs.items()]


def _options_of(method: Any) -> dict[str, Any]:
    if not dataclasses.is_dataclass(method):
        return {}
    return {f.name: getattr(method, f.name) for f in dataclasses.fields(method) if f.init}


def _name_of(method: Any) -> str:
    return method if isinstance(method, str) else type(method).__name__
