"""The page of a report, and the tables on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from fwdgrad.explanation import Explanation
from fwdgrad.meaning import score_name
from fwdgrad.metrics.curves import Curve
from fwdgrad.panels import Panels
from fwdgrad.report.careful import warning
from fwdgrad.report.checked import checked, tests_passed
from fwdgrad.report.curves import chart, range_of
from fwdgrad.report.features import OfFeatures
from fwdgrad.report.pictures import OfPicture
from fwdgrad.report.repeat import lines_of
from fwdgrad.report.style import STYLE
from fwdgrad.report.text import escape, shown, tied
from fwdgrad.report.words import Scale

MARK = '<meta name="generator" content="fwdgrad">'  # by which a page of ours is known


class Number(NamedTuple):
    """A line of a report's table: a name, a number and a note on it."""

    name: str
    value: str
    note: str = ""


def report(
    explanation: Any,
    label: str,
    numbers: Sequence[Number],
    deletion: Curve | None = None,
    insertion: Curve | None = None,
    *,
    chance: Sequence[Curve] | None = None,
    calls: int | None = None,
    followed: str | None = None,
    mask: Tensor | None = None,
    command: str | None = None,
    model: str | None = None,
    saved: str = "explanation.safetensors",
    panels: Panels | None = None,
) -> str:
    """A page for people who have never seen a map: what was found, and how far to trust it.

    It says in plain English what the model answers and which part decides it; shows the picture
    and its map with numbered regions, the marked text or a bar for each column; says how sure that
    is and how it was checked; and has the method, the numbers and what repeats them in parts that
    unfold.

    Args:
        explanation: of a picture (C, H, W) with one or three channels, of a text
            (``TextExplanation``) or of a row (``TableExplanation``). What ``fwdgrad explain``
            told to be enough is outlined or underlined, and said first.
        label: what was explained, in words.
        numbers: the table's lines.
        deletion, insertion: see ``fwdgrad.metrics``; None: nothing was checked.
        chance: both of them in an order drawn by chance.
        calls: of the model, for these curves.
        followed: the name of the score that they follow. Default: the explanation's objective.
        mask: of a picture, bool (H, W), true on the object, where it is known.
        command: the line that makes this page.
        model: the model's name, as ``load_classifier`` takes it.
        saved: the explanation's own file.
        panels: all of the photo that the input is a part of. Default: the input.

    Returns:
        A complete HTML document that refers to nothing outside itself. Whatever the label and the
        numbers contain is escaped.

    Raises:
        ValueError: the explanation is of something else.
        ImportError: of a picture, Pillow or matplotlib is not installed.

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
    below = None
    if deletion is not None and insertion is not None:
        below = bool(insertion.scores[0] > deletion.scores[0])
    of = _subject(explanation, label, mask, panels, below)
    explanation, title = of.explanation, escape(of.question)
    check = f"<p>{tied(of.tried()) or 'It was not.'}</p>\n"
    if deletion is not None and insertion is not None:
        scale = Scale.of_scores(explanation, followed)
        check = _checked(deletion, insertion, chance, scale, calls, of)
    passed = tests_passed(deletion, insertion, chance, of.below)
    careful = warning(of.result, label, passed, of.terms.found)
    careful = f'<p class="careful">{tied(careful)}</p>\n' if careful else ""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'{MARK}\n<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # No request leaves the page, whatever a label would like.
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f'<header>\n<h1>{title}</h1>\n{careful}<p class="answer">{tied(of.answer)}</p>\n'
        f"{_file(explanation)}"
        "</header>\n<main>\n"
        f"{of.shown()}"
        "<section>\n<h2>What raises the answer, and what lowers it</h2>\n"
        f"{of.listed()}</section>\n"
        f"<section>\n<h2>How sure is that?</h2>\n{_paragraphs(of.sure())}</section>\n"
        f"<section>\n<h2>How was it checked?</h2>\n{check}</section>\n"
        "<section>\n<h2>Details</h2>\n"
        f"{_folded('Method and numbers', f'<p>{_summary(of)}</p>{_table(numbers)}')}"
        f"{_folded(*of.details())}{_repeat(of, command, model, saved)}</section>\n"
        "</main>\n</body>\n</html>\n"
    )


def _subject(
    result: Any, label: str, mask: Tensor | None, panels: Panels | None, below: bool | None
) -> OfPicture | OfFeatures:
    """What the page is of."""
    if hasattr(result, "standard_errors"):  # of a text's words or a row's columns
        return OfFeatures(result, label, below)
    x = result.input
    if x.dim() != 3 or x.shape[0] not in (1, 3):
        raise ValueError(
            "explanation must be of a picture (1 or 3, H, W), a text or a row of a table, got an "
            f"input of {tuple(x.shape)}"
        )
    return OfPicture(result, label, mask, panels or Panels.of_input(result))


def _file(explanation: Explanation) -> str:
    photo = explanation.provenance.get("photo") or {}
    return f'<p class="file">{escape(photo["name"])}</p>\n' if "name" in photo else ""


def _checked(
    deletion: Curve,
    insertion: Curve,
    chance: Sequence[Curve] | None,
    scale: Scale,
    calls: int | None,
    of: OfPicture | OfFeatures,
) -> str:
    """What the curves say, and the curves."""
    limits = range_of(*(curve.scores for curve in (deletion, insertion, *(chance or ()))))
    charts = "".join(
        chart(name, curve, limits, scale, of.terms, other)
        for name, curve, other in (
            ("Deletion", deletion, chance[0] if chance else None),
            ("Insertion", insertion, chance[1] if chance else None),
        )
    )
    n_samples = of.explanation.n_samples
    *each, last = checked(deletion, insertion, chance, scale, of.terms, of.below)
    if chance is None:
        each, last = [*each, last], ""
    cost = f"The {of.terms.found} took {n_samples:,} call{'s' * (n_samples != 1)} of the model"
    cost = "" if calls is None else f"{cost}, and this check {calls:,} more."
    lines = "".join(f"<li>{tied(one)}</li>\n" for one in each)
    return (
        f"{_paragraphs(filter(None, [of.tried(), of.terms.check]))}<ul>\n{lines}</ul>\n"
        f"{_paragraphs(filter(None, [last, cost]))}"
        f'<div class="curves">\n{charts}</div>\n'
    )


def _paragraphs(texts: Iterable[str]) -> str:
    return "".join(f"<p>{tied(text)}</p>\n" for text in texts)


def _folded(title: str, content: str) -> str:
    return f"<details>\n<summary>{title}</summary>\n{content}</details>\n"


def _summary(of: OfPicture | OfFeatures) -> str:
    explanation = of.explanation
    parts = [
        _name_of(explanation.method),
        f"{score_name(explanation)} {explanation.score:.3g}",
        f"{explanation.n_samples} samples",
        f"reliability {of.result.reliability:.2f}",
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


def _repeat(of: OfPicture | OfFeatures, command: str | None, model: str | None, saved: str) -> str:
    explanation, found = of.explanation, ""
    if of.again:
        model = model if isinstance(of, OfPicture) else None
        code = "\n".join(map(escape, lines_of(of.result, model, saved, of.again)))
        code = f'<pre tabindex="0"><code>{code}</code></pre>\n'
        found = f"<p>The {of.terms.found}, in Python:</p>\n{code}"
        if str(explanation.provenance.get("engine", "")).startswith("ONNX"):
            found += (
                "<p>These lines call the network by torch, and the command line called it by ONNX "
                "Runtime: values differ by 1e-6 or less.</p>\n"
            )
    if command is not None:
        line = f'<pre tabindex="0"><code>{escape(command)}</code></pre>\n'
        found += f"<p>This page:</p>\n{line}"
    return "".join(
        (
            _folded("How to repeat it", found),
            _folded("Settings", _table(_settings(explanation))),
            _folded("Made with", _table(_rows(explanation.provenance))),
        )
    )


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
