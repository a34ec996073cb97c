"""Texts for models that take strings: a word is in the text or out of it."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from fwdgrad.adapters.prepared import Prepared
from fwdgrad.adapters.scores_of_texts import Rows, ScoresOfTexts
from fwdgrad.adapters.splits import Split, check_split, seen, split_text
from fwdgrad.adapters.word_explanation import TextExplanation
from fwdgrad.adapters.words import Spans, shortened
from fwdgrad.errors import ArgumentError, ArgumentTypeError, Message, ModelError, Option
from fwdgrad.explanation import Explanation
from fwdgrad.methods.in_or_out import InOrOut
from fwdgrad.outputs import cause, told


class TextModel:
    """A model of strings, for ``fwdgrad.explain``: how much does each word raise the score?

    Each sample is the text with some of its words, and the model is called on a list of such
    texts. A word's score is how much the model's score rises where the word is there, averaged
    over what the others may be: its Banzhaf value. Of few words, with 2^words at most n_samples,
    each of these texts is a sample, and the values are exact; of more they are estimated. Samples
    with the same text are evaluated once in a micro-batch.

    Args:
        model: takes a list of strings and returns numbers, (batch, classes) or (batch,); or for
            each text a list of dicts with a label and its score, as a text-classification pipeline
            of Hugging Face does with ``top_k=None``; or a fitted pipeline of scikit-learn's that
            takes strings. With an objective such as ``TextAnswer`` it may return strings.
        labels: the classes' names, where the model does not tell them. Where it returns one number
            for a text, the name of that, or two, of which the second one is that.
        split: what is in or out: "words" and "characters" by Unicode's rules, "sentences" by them
            too, a function from the text to spans (start, stop), or these spans; other parts of
            the text stay. "auto" is words; of a text with more than 200 it is sentences, if it has
            three.
        mask: what a word that is out is replaced by, "[MASK]" say. None: it is left out, with the
            white space on one side of it where there is some on both.
        name: what you call the model; a checkpoint of another name is refused.

    Raises:
        TypeError, ValueError: naming the argument, what was given and what would do.

    Example:
        >>> import fwdgrad
        >>> def positive(texts):
        ...     return [text.count("fine") - text.count("dull") for text in texts]
        >>> def model(texts):
        ...     return torch.tensor(positive(texts)).sigmoid()
        >>> words = fwdgrad.explain(TextModel(model), "A fine film, not dull", n_samples=64)
        >>> print(words.to_terminal(colour=False))
        A fine(+++) film, not dull(---)

    Source: Banzhaf 1965 for the value; the estimate is that of ``Regions``, and of texts of few
    words ``Coalitions``.
    """

    def __init__(
        self,
        model: Any,
        *,
        labels: Any = None,
        split: Split = "auto",
        mask: str | None = None,
        name: str | None = None,
    ) -> None:
        """Checks what can be checked without a text."""
        self._scores = ScoresOfTexts(model, labels)
        self._split = check_split(split)
        if mask is not None and not isinstance(mask, str):
            raise ArgumentTypeError("mask", f"must be a string or None, got {told(repr(mask), 80)}")
        if mask == "":
            raise ArgumentError("mask", "must not be empty; give None to leave words out")
        if name is not None and not isinstance(name, str):
            raise ArgumentTypeError("name", f"must be a string or None, got {told(repr(name), 80)}")
        self._mask, self._name = mask, name

    def prepare(self, x: Any) -> Prepared:
        """The words of a text, each in or out.

        The model is called on the text, and that answer is used again.

        Raises:
            TypeError, ValueError: it is no text, or has no words.
            ModelError: the model fails on the text, or returns something of no use.
        """
        if not isinstance(x, str):
            raise ArgumentTypeError(
                "x",
                f"must be one text, a string, where the model is a TextModel, got "
                f"{type(x).__name__}; explain each text by itself",
            )
        spans, unit = split_text(x, self._split)
        forward = _OfParts(self._scores, x, spans, self._mask)
        forward.rows = self._rows_at(x, spans)

        def show(explanation: Explanation) -> TextExplanation:
            label = self._scores.label_of(explanation.target)
            return TextExplanation.of_presence(
                explanation, x, spans, label, unit=unit, mask=self._mask
            )

        about: dict[str, Any] = {"text": x, "spans": [list(span) for span in spans]}
        about |= {"mask": self._mask} if self._mask is not None else {}
        about |= {"text_model": self._name} if self._name is not None else {}
        many = f" of {len(spans)} {unit}s" if self._split == "auto" and unit != "word" else ""
        return Prepared(
            x=torch.ones(len(spans)),
            forward=forward,
            show=show,
            method=InOrOut(pairs=True),
            why=f"the {unit}s of a text{many} are in or out",
            about=about,
        )

    def _rows_at(self, text: str, spans: Spans) -> Rows:
        """What the model returns for the whole text."""
        try:
            return self._scores([text])
        except (ModelError, ArgumentError):
            raise
        except Exception as error:
            hint = "; it is called on a list of strings"
            first = text[: spans[0][1]]
            if len(spans) > 1 and self._scores.takes(first):
                hint = (
                    f", and not on {shortened(first)}; if the text, of {len(text)} characters, is "
                    "too long for it, give a part of it, or let the model cut it (truncation=True "
                    "of a Hugging Face pipeline)"
                )
            raise ModelError(f"the model failed on the text: {cause(error)}{hint}") from error


class _OfParts:
    """A model of rows (batch, K) of zeros and ones: which parts of a text are there."""

    called_on = "the text"  # for an error

    def __init__(self, scores: ScoresOfTexts, text: str, spans: Spans, mask: str | None) -> None:
        self.forward = scores.function  # where a run finds the model's module and parameters
        self.scores, self.mask, self.text = scores, mask, text
        self.rows: Rows = []  # of the whole text
        # What is always there, and parts that may be out, in turn; between two of them there may
        # be white space.
        self.solid: list[str] = []
        self.parts: list[int] = []  # of each, the number of the part; -1 where it is always there
        self.spaces: list[str] = []  # before each, and at the end
        last = 0
        for number, (start, stop) in enumerate([*spans, (len(text), len(text))]):
            first, end = seen(text, last, start)
            if first < end:
                self._add(text[first:end], -1, text[last:first])
                last = end
            if start < stop:
                self._add(text[start:stop], number, text[last:start])
                last = stop
        self.spaces.append(text[last:])
        self._joined: dict[tuple[int, int], str] = {}

    def _add(self, solid: str, number: int, before: str) -> None:
        self.spaces.append(before)
        self.solid.append(solid)
        self.parts.append(number)

    def __call__(self, batch: Tensor) -> Any:
        """What the model returns for the texts of the samples."""
        rows = batch.detach().cpu()
        there = rows > 0.5
        if not torch.equal(there.to(rows.dtype), rows):
            raise ArgumentError(
                "method",
                "must be 'auto', Regions(0.0) or Coalitions() for a text: a word is in it or out, "
                "and nothing between",
            )
        texts = [self.text_of(row) for row in there.tolist()]
        if texts == [self.text]:
            return self.rows
        places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        try:
            found = self.scores(list(places))
        except Exception as error:
            if "" not in places or self.scores.takes(""):
                raise
            raise ModelError(
                Message(
                    "it fails on an empty text, which is left where all words are out: "
                    f"{cause(error)}; let it return a score for '', or give ",
                    Option("mask", "[MASK]"),
                )
            ) from error
        order = [places[text] for text in texts]
        return (
            found[torch.tensor(order)] if isinstance(found, Tensor) else [found[i] for i in order]
        )

    def text_of(self, there: list[bool]) -> str:
        """The text with the parts that are there."""
        solid, spaces = self.solid, self.spaces
        if self.mask is not None:
            words = [
                one if number < 0 or there[number] else self.mask
                for one, number in zip(solid, self.parts, strict=True)
            ]
            return "".join(itertools.chain(*zip(spaces, [*words, ""], strict=True)))
        joined, found, last = self._joined, [], -1
        for at, number in enumerate(self.parts):
            if number >= 0 and not there[number]:
                continue
            if at == last + 1:
                found.append(spaces[at])
            else:
                if (last, at) not in joined:
                    joined[last, at] = self._space(last, at)
                found.append(joined[last, at])
            found.append(solid[at])
            last = at
        if last < 0:
            return ""
        found.append(spaces[-1])
        return "".join(found)

    def _space(self, last: int, at: int) -> str:
        """The white space between two that are left, where others were between them."""
        if last < 0:
            return self.spaces[0]
        return max(self.spaces[last + 1 : at + 1], key=lambda space: ("\n" in space, len(space)))

    def find(self, name: str) -> int | None:
        """The class of a name."""
        return self.scores.find(name)
