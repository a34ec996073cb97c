"""The lines of Python that repeat an explanation, once what no file has is filled in."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fwdgrad.explanation import Explanation
from fwdgrad.objectives import OBJECTIVES
from fwdgrad.terminal import plain


def lines_of(result: Any, model: str | None, saved: str, x: str) -> list[str]:
    """The lines; ``...`` is to be filled in.

    Args:
        result: what was explained.
        model: of a picture the name of its model; None where it is not known.
        saved: the explanation's own file.
        x: what the last line explains.

    Example:
        >>> import torch
        >>> import fwdgrad
        >>> e = fwdgrad.explain(lambda batch: batch.sum(1), torch.ones(3), method="gradient")
        >>> print("\\n".join(lines_of(e, None, "map.safetensors", "e.input")))
        import fwdgrad
        <BLANKLINE>
        model = ...  # the one that was explained
        e = fwdgrad.Explanation.load('map.safetensors')
        fwdgrad.explain(model, e.input, **e.settings)
    """
    e: Explanation = result if isinstance(result, Explanation) else result.explanation
    settings = "e.settings"
    if e is result:
        imports, made = _of_picture(e, model)
    else:
        imports, made = (_of_text if hasattr(result, "words") else _of_row)(result)
    lines = ["import fwdgrad", *imports, "", *made, f"e = fwdgrad.Explanation.load({saved!r})"]
    if e.objective not in OBJECTIVES:  # of a callable the name alone is known
        lines.append(f"objective = ...  # {e.objective}")
        settings = "{**e.settings, 'objective': objective}"
    return [*lines, f"fwdgrad.explain(model, {x}, **{settings})"]


_Lines = tuple[list[str], list[str]]  # imports, and what makes the model


def _of_picture(e: Explanation, model: str | None) -> _Lines:
    if model is None:
        return [], ["model = ...  # the one that was explained"]
    load = f"load_classifier({model!r}, {e.input.shape[-1]}, labels=None).forward"
    return ["from fwdgrad.adapters.images import load_classifier"], [f"model = {load}"]


def _asked(result: Any) -> dict[str, Any]:
    """What the command line was asked for."""
    return result.explanation.provenance.get("request") or {}


def _of_text(result: Any) -> _Lines:
    asked = _asked(result)
    options = "" if result.mask is None else f", mask={result.mask!r}"
    if asked.get("split") is not None:
        options += f", split={asked['split']!r}"
    name = plain(asked.get("model", "the one that was explained"))
    if asked.get("url") is not None:
        made = [
            "server = ...  # its address",
            "answer = ...  # as --target had it, or None",
            f"model = Completions(server, {asked['model']!r}, answer=answer{options})",
        ]
        return ["from fwdgrad.adapters.completions import Completions"], made
    made = [
        f"scores = ...  # from a list of texts to scores: {name}",
        f"model = TextModel(scores{options})",
    ]
    return ["from fwdgrad.adapters.strings import TextModel"], made


def _of_row(result: Any) -> _Lines:
    asked, about = _asked(result), result.explanation.provenance.get("table") or {}
    named = isinstance(result.row, dict) or hasattr(result.row, "iloc")
    groups = ", ".join(
        f"{name!r}: {f'list(background.columns[{[*columns]}])' if named else [*columns]}"
        for name, columns in zip(about.get("features", ()), about.get("columns", ()), strict=True)
        if len(columns) > 1
    )
    options = f", groups={{{groups}}}" if groups else ""
    if result.background_rows < result.background_of:
        options += f", max_background={result.background_rows}"
    table = asked.get("background")
    of_file = "" if table is None else f": pandas.read_csv({table!r})"
    made = [
        f"predict = ...  # from rows to scores: {plain(asked.get('model', 'what was explained'))}",
        f"background = ...  # the other rows{plain(of_file)}",
        f"model = TableModel(predict, background{options})",
        f"row = {_literal(result.row) or '...  # the one that was explained'}",
    ]
    return ["from fwdgrad.adapters.tables import TableModel"], made


def _literal(row: Any) -> str:
    """A row in Python; nothing where one of its values has no literal.

    >>> _literal({"age": np.float64(0.5), "town": "Ulm", "debt": math.nan}), _literal([1, object()])
    ("{'age': 0.5, 'town': 'Ulm', 'debt': float('nan')}", '')
    """
    if hasattr(row, "columns"):  # a DataFrame of one row
        row = {name: row.iloc[0, i] for i, name in enumerate(row.columns)}
    elif hasattr(row, "iloc"):
        row = {name: row.iloc[i] for i, name in enumerate(row.index)}
    if isinstance(row, dict):
        pairs = [(_value(name), _value(value)) for name, value in row.items()]
        each = [f"{name}: {value}" if name and value else "" for name, value in pairs]
        return f"{{{', '.join(each)}}}" if all(each) else ""
    if row is None:
        return ""
    each = [_value(value) for value in (row.tolist() if hasattr(row, "tolist") else row)]
    return f"[{', '.join(each)}]" if all(each) else ""


def _value(value: Any) -> str:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return f"float({str(value)!r})"
    return repr(value) if value is None or isinstance(value, (str, int, float)) else ""
