"""What a model of strings returns, as rows of numbers with names for the classes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fwdgrad.errors import ArgumentError, ModelError, Option
from fwdgrad.names import ClassNames, check_different
from fwdgrad.outputs import tensor_of, told
from fwdgrad.runner.sklearn_digest import is_estimator

Rows = Tensor | list[str]  # numbers of each text, or what the model answered

_ALL = "give a Hugging Face pipeline top_k=None"


class ScoresOfTexts:
    """A model of strings that returns numbers, whatever form they come in.

    Args:
        model: see ``fwdgrad.adapters.strings.TextModel``.
        labels: the classes' names, or None.

    Attributes:
        function: what is called on lists of strings.
        labels: the names of the classes, where they are known: from the first call on of a model
            that tells them with its scores.

    Raises:
        TypeError, ValueError: naming the argument.

    Example:
        >>> model = ScoresOfTexts(lambda texts: [
        ...     [{"label": "good", "score": 0.75}, {"label": "bad", "score": 0.25}] for _ in texts
        ... ])
        >>> model(["A fine film"]), model.labels, model.find("good")
        (tensor([[0.2500, 0.7500]], dtype=torch.float64), ('bad', 'good'), 1)
    """

    def __init__(self, model: Any, labels: Any = None) -> None:
        """Checks the model."""
        known = _names_in(model)
        self.function = _function_of(model)
        if labels is not None:
            known = check_different("labels", labels, 1)
        self.labels: tuple[str, ...] | None = known
        self._classes: int | None = None  # 1 where the model returns one number for each text

    def __call__(self, texts: list[str]) -> Rows:
        """The scores (texts, classes) or (texts,); strings where the model returns such.

        Raises:
            ModelError: it returns something of no use.
        """
        with torch.no_grad():
            found = self.function(list(texts))
        if isinstance(found, (list, tuple, np.ndarray)) and len(found):
            if isinstance(found[0], str):
                if len(found) != len(texts):
                    raise ModelError(
                        f"the model returned {len(found)} strings for {len(texts)} texts"
                    )
                return [str(one) for one in found]
            first = found[0]
            if isinstance(first, (list, tuple)) and len(first):
                first = first[0]
            if isinstance(first, Mapping):
                found = self._numbers(found, len(texts))
        rows = tensor_of(found, len(texts))
        self._check(rows)
        return rows

    def takes(self, text: str) -> bool:
        """Whether the model has a score for a text."""
        try:
            self([text])
        except Exception:  # whatever is wrong with the model
            return False
        return True

    def _check(self, rows: Tensor) -> None:
        """Raises where there is another number of classes than of names."""
        self._classes = rows.shape[1] if rows.dim() == 2 else 1
        names = self.labels
        if names is None or len(names) == self._classes or (len(names), self._classes) == (2, 1):
            return
        raise ArgumentError(
            "labels", f"must be {self._classes}, one for each class, got {len(names)}"
        )

    def _numbers(self, found: Any, count: int) -> list[Any]:
        """Numbers of what a pipeline of Hugging Face returns, in the order of the labels."""
        if len(found) != count:
            raise ModelError(
                f"the model returned {len(found)} lists of dicts for {count} texts; it must return "
                "one for each"
            )
        rows = []
        for row in found:
            scores: dict[str, float] = {}
            for one in [row] if isinstance(row, Mapping) else row:
                try:
                    scores[str(one["label"])] = float(one["score"])
                except (KeyError, TypeError, ValueError):
                    raise ModelError(
                        "the model must return dicts such as {'label': 'good', 'score': 0.9}, got "
                        f"{told(repr(one), 80)}"
                    ) from None
            rows.append(scores)
        if len(rows[0]) == 1 and (self.labels is None or len(self.labels) > 1):
            raise ModelError(
                f"the model must return the scores of all labels, got one alone, "
                f"{told(repr(min(rows[0])), 80)}: {_ALL}, or TextModel labels= if it has no other"
            )
        if self.labels is None:
            self.labels = tuple(sorted(rows[0], key=_by_number))
        for scores in rows:
            if scores.keys() != set(self.labels):
                raise ModelError(
                    "the model must return the scores of the same labels for each text, "
                    f"{told(', '.join(self.labels), 80)}, got those of "
                    f"{told(', '.join(sorted(scores, key=_by_number)), 80)}: {_ALL}"
                )
        if len(self.labels) == 1:
            return [scores[self.labels[0]] for scores in rows]
        return [[scores[label] for label in self.labels] for scores in rows]

    def find(self, name: str) -> int | None:
        """The class of a name, after a call; None where the model returns one number.

        Raises:
            ArgumentError: there is none.
        """
        labels = self.labels
        if labels is None or (name not in labels and name.isdecimal()):
            if name.isdecimal():
                return int(name)
            if self._classes == 1:
                raise ArgumentError(
                    "target",
                    f"must be left out: the model returns one number for each text, got {name!r}; "
                    "or name it: ",
                    Option("labels"),
                )
            raise ArgumentError(
                "target",
                f"must be a number where the classes have no names, got {name!r}; or name them: ",
                Option("labels"),
            )
        found = labels.index(name) if name in labels else None
        if found is None:
            found = ClassNames(labels).find(name, "target", "the model")
        if self._classes != 1:
            return found
        if found != len(labels) - 1:
            raise ArgumentError(
                "target",
                f"must be {labels[-1]!r}, got {name!r}: the model returns one number, which is of "
                f"{labels[-1]!r}, and what raises one lowers the other",
            )
        return None

    def label_of(self, target: int | None) -> str:
        """A class in words, after a call."""
        if target is None:
            return self.labels[-1] if self.labels and self._classes == 1 else "the model's output"
        return f"class {target}" if self.labels is None else self.labels[target]


def _function_of(model: Any) -> Any:
    """What to call of a model."""
    if isinstance(model, type):
        raise TypeError(f"model must be callable on a list of strings, got the class {model!r}")
    if hasattr(model, "classes_"):
        for name in ("predict_proba", "decision_function"):
            if callable(getattr(model, name, None)):
                return getattr(model, name)
    if is_estimator(model):
        raise TypeError(
            f"model must be fitted and have predict_proba or decision_function, got "
            f"{type(model).__name__}, which has not; of a regressor give its predict"
        )
    if not callable(model):
        raise TypeError(
            f"model must be callable on a list of strings, got {type(model).__name__}; give a "
            "function, a text-classification pipeline of Hugging Face or a fitted pipeline of "
            "scikit-learn's"
        )
    return model


def _names_in(model: Any) -> tuple[str, ...] | None:
    """The classes' names that a pipeline of scikit-learn's or of Hugging Face knows."""
    classes = getattr(model, "classes_", None)
    if classes is not None and getattr(classes, "ndim", 0) == 1:
        return tuple(map(str, classes))
    config = getattr(getattr(model, "model", None), "config", None)
    names = getattr(config, "id2label", None)
    if isinstance(names, Mapping) and names:
        return tuple(str(names[number]) for number in sorted(names))
    return None


def _by_number(label: str) -> list[Any]:
    """A label's place among others: "LABEL_2" is before "LABEL_10"."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in _NUMBERS.split(label)]


_NUMBERS = re.compile(r"(\d+)")
