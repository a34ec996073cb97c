"""Objectives for models that return a class alone: its number, its name, or a sentence.

Each is given as ``objective=`` to ``fwdgrad.explain``, with ``target`` left to the objective.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fwdgrad.errors import ModelError, warn
from fwdgrad.names import check_labels, split_names
from fwdgrad.objectives import class_number
from fwdgrad.outputs import told
from fwdgrad.taxonomy import Taxonomy

PROMPT = "The input image belongs to [MASK]"  # section 3.4: the model fills in the mask


class KeptLabel:
    """1 where the model predicts the target, else 0; other classes need not be known.

    Its gradient is that of the label's probability under the noise. Where the model predicts
    another label at the input itself, ``explain`` warns.

    Args:
        target: a class's number, or its name exactly as the model writes it.

    Example:
        >>> KeptLabel(1)([1, 0, 1])
        tensor([1., 0., 1.], dtype=torch.float64)
        >>> KeptLabel("cat")(["cat", "dog"])
        tensor([1., 0.], dtype=torch.float64)
    """

    def __init__(self, target: int | str) -> None:
        """Checks the target."""
        self.target = target
        if not isinstance(target, str):
            self.target = class_number("target", target, "a class's number or name")
        self.__qualname__ = f"KeptLabel({self.target!r})"  # the objective's name in a run

    def __call__(self, outputs: Any) -> Tensor:
        """Labels (batch,) or scores (batch, classes) of samples to their scores (batch,)."""
        labels, classes = _predicted(outputs)
        if labels and isinstance(self.target, str) != isinstance(labels[0], str):
            raise ModelError(
                f"the model returned labels such as {labels[0]!r}, and target is {self.target!r}; "
                "give it as the model does"
            )
        if classes is not None and self.target not in range(classes):
            raise ModelError(f"the model returned {classes} classes, and target is {self.target}")
        return torch.tensor([label == self.target for label in labels], dtype=torch.float64)

    def check_at_input(self, outputs: Any) -> None:
        """Warns where the model predicts another label, before any sample is evaluated."""
        answer = _predicted(outputs)[0][0]
        if answer != self.target:
            warn(
                f"the model predicts {answer!r} at x, so KeptLabel({self.target!r}) explains what "
                f"would give that label; KeptLabel({answer!r}) explains what keeps the prediction"
            )

    def why_still(self, outputs: Any, score: float) -> str:
        """Why every sample may have the same score, by the model's output at the input."""
        answer = _predicted(outputs)[0][0]
        if score or answer == self.target:
            return ""
        return (
            f"the model predicts {answer!r} at x, and {self.target!r} neither there nor for any "
            f"sample; KeptLabel({answer!r}), "
        )


class LabelDistance:
    """The negative distance in a taxonomy from the predicted class to the target.

    The distance says more than the label alone: a tabby classified as a tiger cat (-2) has changed
    less than one classified as a sports car (-14).

    Args:
        target: a class's number or name.
        taxonomy: whose classes are the model's, in the model's order.

    Raises:
        TypeError, ValueError: the taxonomy has no such class.

    Example:
        >>> score = LabelDistance("tabby", Taxonomy.imagenet())
        >>> score(torch.tensor([281, 282, 817]))
        tensor([  0.,  -2., -14.], dtype=torch.float64)
        >>> score(["tiger cat"])
        tensor([-2.], dtype=torch.float64)

    Source: *Is forward gradient an effective tool for explaining black-box models?*, section 3.4,
    hard-label decision.
    """

    def __init__(self, target: int | str, taxonomy: Taxonomy) -> None:
        """Looks the target up."""
        self.taxonomy = _check_taxonomy(taxonomy)
        self.target = taxonomy.find(target, "target")
        self.__qualname__ = f"LabelDistance({self.target})"

    def __call__(self, outputs: Any) -> Tensor:
        """Labels (batch,), numbers or names, or scores (batch, classes), to distances (batch,).

        Where several classes have a name, the one nearest to the target counts.
        """
        labels, classes = _predicted(outputs)
        if classes not in (None, len(self.taxonomy)):
            raise ModelError(
                f"the model returned {classes} classes, and the taxonomy has {len(self.taxonomy)}"
            )
        try:
            return _negative([self.taxonomy.nearest(self.target, label) for label in labels])
        except ValueError as error:
            raise ModelError(f"the model returned a label of no class: {error}") from None

    def why_still(self, outputs: Any, score: float) -> str:
        """Why every sample may have the same score, by the model's output at the input."""
        return f"the model predicts {_predicted(outputs)[0][0]!r} at x; "


class TextAnswer:
    """The negative distance in a taxonomy from the class in a model's sentence to the target.

    Of the names in an answer the one with the most words counts, and the first of several such.
    Names are compared by whole words in any case, with hyphens and other signs as spaces. Where
    several classes have a name, the one nearest to the target counts. An answer without a name
    scores as the class farthest from the target, and is counted. Grammar is ignored: "not a tabby"
    names the tabby, and "tabbies" names no class.

    Args:
        target: a class's number or name.
        taxonomy: of the classes.
        names: for each class of the taxonomy what the model may call it, separated by commas;
            default: the taxonomy's labels.
        prompt: the form of the answer, kept for the model, whose own prompt should state it.

    Attributes:
        answers: how many were read since the last ``reset``, with the one at the input itself; a
            resumed run counts those that it evaluates, and not those in its checkpoint.
        unparsed: how many of them named no class.

    Raises:
        TypeError, ValueError: the taxonomy has no such target; names without a word.

    Example:
        >>> score = TextAnswer("tabby", Taxonomy.imagenet())
        >>> score(["The input image belongs to Tiger cat.", "I cannot see anything."])
        tensor([ -2., -18.], dtype=torch.float64)
        >>> score.unparsed, score.answers
        (1, 2)

    Source: *Is forward gradient an effective tool for explaining black-box models?*, section 3.4,
    text-based decision.
    """

    def __init__(
        self,
        target: int | str,
        taxonomy: Taxonomy,
        names: Sequence[str] | None = None,
        prompt: str = PROMPT,
    ) -> None:
        """Indexes every name by its words."""
        self.taxonomy = _check_taxonomy(taxonomy)
        self.target = taxonomy.find(target, "target")
        self.prompt = prompt
        self.__qualname__ = f"TextAnswer({self.target})"
        names = taxonomy.labels if names is None else check_labels("names", names, len(taxonomy))
        self._classes: dict[tuple[str, ...], list[int]] = {}
        for i, label in enumerate(names):
            for name in split_names(label) or [label]:
                if not _words(name):
                    raise ValueError(
                        f"names must have letters or digits, got {name!r} at class {i}"
                    )
                self._classes.setdefault(_words(name), []).append(i)
        self._longest = max(map(len, self._classes))
        self.reset()

    def reset(self) -> None:
        """Sets ``answers`` and ``unparsed`` to 0, to count the next run alone."""
        self.answers = 0
        self.unparsed = 0

    def classes(self, answer: str) -> tuple[int, ...]:
        """The classes that an answer names: none, one, or all that share the name.

        >>> TextAnswer(0, Taxonomy.imagenet()).classes("A man-eating shark, no goldfish!")
        (2,)
        """
        words = _words(answer)
        for length in range(min(self._longest, len(words)), 0, -1):
            for first in range(len(words) - length + 1):
                found = self._classes.get(words[first : first + length])
                if found:
                    return tuple(found)
        return ()

    def __call__(self, outputs: Any) -> Tensor:
        """Answers of samples, a list or an array of strings, to their scores (batch,)."""
        answers = _texts(outputs)
        if answers is None:
            raise ModelError(
                "the model must return a list of strings, an answer for each sample, got "
                f"{' '.join(repr(outputs).split()):.60}"
            )
        row = self.taxonomy.distances(self.target)
        found = [list(self.classes(answer)) for answer in answers]
        self.answers += len(found)
        self.unparsed += found.count([])
        least = [row[classes].min() if classes else row.max() for classes in found]
        return _negative(least)

    def why_still(self, outputs: Any, score: float) -> str:
        """Why every sample may have the same score, by the model's output at the input."""
        (answer,) = _texts(outputs) or [""]
        text = f"the model answers {told(repr(answer), 80)} at x, which names "
        if found := self.classes(answer):
            return f"{text}{self.taxonomy.labels[found[0]]!r}; "
        return f"{text}no class; a prompt that states the form of the answer, names=, "


def _negative(distances: list[float]) -> Tensor:
    return 0 - torch.tensor(distances, dtype=torch.float64)  # not -0.0


def _check_taxonomy(taxonomy: Any) -> Taxonomy:
    if not isinstance(taxonomy, Taxonomy):
        raise TypeError(
            f"taxonomy must be a Taxonomy, e.g. Taxonomy.imagenet(), got {type(taxonomy).__name__}"
        )
    return taxonomy


def _words(text: str) -> tuple[str, ...]:
    """The words of a text, without case or punctuation."""
    return tuple(re.findall(r"[^\W_]+", text.casefold()))


def _texts(outputs: Any) -> list[str] | None:
    """A list of strings where that is what the outputs are."""
    values = outputs.tolist() if isinstance(outputs, np.ndarray) else outputs
    if isinstance(values, (list, tuple)) and all(isinstance(value, str) for value in values):
        return [str(value) for value in values]
    return None


def _predicted(outputs: Any) -> tuple[list[int] | list[str], int | None]:
    """The label of each sample, a number or a name, and the number of classes where it is known.

    Args:
        outputs: (batch,) integers, booleans or strings; or (batch, classes) numbers, of which the
            largest counts.
    """
    names = _texts(outputs)
    if names is not None:
        return names, None
    if isinstance(outputs, Tensor):
        outputs = outputs.detach().cpu()
        outputs = (outputs.double() if outputs.is_floating_point() else outputs).numpy()
    try:
        values = np.asarray(outputs)
    except (TypeError, ValueError):  # rows of several lengths, say
        values = np.asarray(None)
    whole, real = values.dtype.kind in "biu", values.dtype.kind in "biuf"
    if values.ndim == 1 and whole:
        return [int(label) for label in values], None
    if values.ndim == 2 and values.shape[1] > 1 and real:
        if np.isnan(values).any():
            raise ModelError("the model returned NaN, so no class has the largest score")
        return [int(label) for label in values.argmax(1)], values.shape[1]
    found = f"{values.dtype} {values.shape}" if real else " ".join(repr(outputs).split())
    raise ModelError(
        "the model must return a label for each sample, integers or strings (batch,), or scores "
        f"(batch, classes), got {found:.60}"
    )
