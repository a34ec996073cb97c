"""What can be done with any explanation: its features as a list, a frame, JSON, in a notebook."""

from __future__ import annotations

import base64
import dataclasses
import html
import io
import json
import math
import os
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from fwdgrad.checks import check_integer
from fwdgrad.terminal import plain

if TYPE_CHECKING:
    from fwdgrad.explanation import Explanation
    from fwdgrad.feature_table import Feature, FeatureTable


class Shown:
    """What explanations of tensors, pictures, texts and rows have in common."""

    _kind = "tensor"

    def _whole(self) -> Explanation:
        """The explanation of what the model saw."""
        raise NotImplementedError

    def _features(self) -> FeatureTable:
        """Its features with their scores."""
        raise NotImplementedError

    def _about(self) -> dict[str, Any]:
        """What ``to_json`` says of it besides."""
        return {}

    def top(self, n: int = 10) -> list[Feature]:
        """The features with the largest scores by size, the largest first.

        Words of a text, columns of a row, cells of a picture in the photo's own pixels, elements.
        Where each element's noise had its own scale, they are compared per deviation, as ``plot``
        does; of a grid with ``jitter`` they are its cells as they lie where it starts.

        Args:
            n: how many; all where there are no more.

        Returns:
            Records with ``name``, ``score``, ``standard_error``, ``place`` (which indexes the
            photo, the text or the input) and ``value`` (of columns and elements).

        Raises:
            TypeError, ValueError: n is no number from 1 on.

        Example:
            >>> import torch, fwdgrad
            >>> model = lambda batch: 3 * batch[:, 1] - batch[:, 0]
            >>> e = fwdgrad.explain(model, torch.ones(3), method=fwdgrad.Coalitions())
            >>> [(one.name, one.score) for one in e.top(2)]
            [('element 1', 3.0), ('element 0', -1.0)]
        """
        n = check_integer("n", n, 1)
        table = self._features()
        return table.rows(table.order[:n])

    def to_frame(self) -> Any:
        """A pandas DataFrame with a row for each feature, the largest score by size first.

        Its columns: feature (the name), value (of columns and elements), where it lies (start and
        stop of a word, row and column of a pixel, ...), score, standard_error, and significant:
        what differs from zero by more than chance at a level of .05, see ``significant``; missing
        where that cannot be told.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            import pandas  # type: ignore[import-untyped]
        except ImportError:
            raise ImportError(
                "to_frame needs pandas: pip install 'fwdgrad-kernels[tables]'"
            ) from None
        table = self._features()
        columns, count = table.columns(), len(table.scores)
        told: Any = pandas.array([None] * count, dtype="boolean")
        if table.told is not None:
            told = table.told()[table.order].numpy()
        return pandas.DataFrame({**columns, "significant": told})

    def to_json(self) -> str:
        """What was explained, how, and all features with scores and errors: a JSON object's text.

        It is strict JSON: what is not finite is null. Its seconds are those of the call of
        ``explain``: the model's calls and the map, but neither imports nor loading the model.

        Example:
            >>> import torch, fwdgrad
            >>> e = fwdgrad.explain(lambda b: b[:, 0], torch.ones(2), method="gradient")
            >>> json.loads(e.to_json())["features"][0]
            {'feature': 'element 0', 'value': 1.0, 'place': {'element': [0, 1]}, 'score': 1.0,
            'standard_error': 0.0}
        """
        e = self._whole()
        label = getattr(self, "label", e.provenance.get("label"))
        found = {
            "kind": self._kind,
            "objective": e.objective,
            "target": e.target,
            "label": None if label is None else str(label),
            "score": e.score,
            "n_samples": e.n_samples,
            "reliability": self.reliability,  # type: ignore[attr-defined]
            "method": {"name": e.method.name, **_options(e.method)},
            "seed": e.seed,
            "seconds": e.seconds,
            "seconds_of": "the call of explain, without imports and loading the model",
            **self._about(),
            "features": self._features().records(),
        }
        return json.dumps(_strict(found), allow_nan=False)

    def to_shap(self, feature_names: Sequence[str] | None = None) -> Any:
        """The same as a ``shap.Explanation``: see ``fwdgrad.integrations.shap``."""
        from fwdgrad.integrations.shap import to_shap

        return to_shap(self, feature_names)

    def _html(self) -> str:
        """As a notebook shows it: what ``plot`` draws, with one line of text."""
        return f"<p>{html.escape(plain(repr(self)))}</p>{_drawn(self)}"  # type: ignore[arg-type]

    def _repr_html_(self) -> str:
        """As a notebook shows it; where it cannot be drawn, as ``repr`` does."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return self._html()
        except Exception:  # no matplotlib, say: a cell shows something all the same
            return f"<pre>{html.escape(plain(repr(self)))}</pre>"


class OfExplanation(Shown):
    """What is shown of an ``Explanation``, with all of its attributes as its own."""

    explanation: Explanation

    def __getattr__(self, name: str) -> Any:
        """What it does not have itself, the explanation has."""
        # Not what is private, nor anything while it is being copied or loaded.
        found = self.__dict__.get("explanation")
        if not name.startswith("_") and found is not None and hasattr(found, name):
            return getattr(found, name)
        raise AttributeError(
            f"neither {type(self).__name__} nor its Explanation has an attribute {name!r}",
            name=name,
            obj=self,
        )

    def __dir__(self) -> list[str]:
        """Its own names, and those of the explanation."""
        found = self.__dict__.get("explanation")
        return sorted({*super().__dir__(), *(n for n in dir(found) if not n.startswith("_"))})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes all of it into one file: ``Explanation.load`` gives the same again.

        The model is not in it.

        Raises:
            ValueError, OSError: see ``Explanation.save``.
        """
        self.explanation._save(path, {self._kind: self._saved()})

    def _saved(self) -> dict[str, Any]:
        """What is saved besides the explanation: its own values, as tensors, tuples and JSON."""
        own = dataclasses.fields(self)  # type: ignore[arg-type]
        return {f.name: getattr(self, f.name) for f in own if f.name != "explanation"}

    @classmethod
    def _of_saved(cls, explanation: Explanation, values: dict[str, Any]) -> OfExplanation:
        """What it was, from what ``_saved`` gave."""
        return cls(explanation=explanation, **values)  # type: ignore[call-arg]

    def _whole(self) -> Explanation:
        return self.explanation


def page(body: str, style: dict[str, str]) -> str:
    """A complete HTML document.

    Args:
        body: its markup.
        style: rules by what they are for; "" is for all of it.
    """
    rules = "".join(f"{what or 'body'}{{{rule}}}" for what, rule in style.items())
    return (
        '<!DOCTYPE html>\n<html><head><meta charset="utf-8"><title>Explanation</title>\n'
        f"<style>{rules}</style></head>\n<body>{body}</body></html>\n"
    )


def part_of_page(body: str, style: dict[str, str], kind: str) -> str:
    """The same markup as a part of another page, whose own look it leaves alone."""
    style = {**style, "": f"{style['']};margin:0;padding:.1em 1em"}
    rules = "".join(f".fwdgrad-{kind} {what}{{{rule}}}" for what, rule in style.items())
    return f'<div class="fwdgrad-{kind}"><style>{rules}</style>{body}</div>'


class _Drawable(Protocol):
    def plot(self, ax: Any) -> Any: ...


def _drawn(result: _Drawable) -> str:
    """What ``plot`` draws, as an image in the page: no window, and no figure that stays open."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained")
    FigureCanvasAgg(figure)
    result.plot(figure.subplots())
    content = io.BytesIO()
    figure.savefig(content, format="png", bbox_inches="tight", facecolor="white")
    data = base64.b64encode(content.getvalue()).decode()
    return f'<img alt="{html.escape(plain(repr(result)))}" src="data:image/png;base64,{data}">'


def _options(value: Any) -> dict[str, Any]:
    return {f.name: _option(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}


def _option(value: Any) -> Any:
    """A method's option as JSON has it; a tensor in a few words."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (tuple, list)):
        return [_option(one) for one in value]
    if dataclasses.is_dataclass(value):
        return {"name": type(value).__name__, **_options(value)}
    from fwdgrad.report.text import shown

    return shown(value)


def _strict(value: Any) -> Any:
    """The same with null for each number that is not finite."""
    if isinstance(value, dict):
        return {name: _strict(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
