"""The explanation of a text, and how it is shown in a terminal and as a page."""

from __future__ import annotations

import html
import math
import os
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fwdgrad.adapters.words import Spans
from fwdgrad.bars import MOST, draw_bars, shortened
from fwdgrad.colours import BLUE, RED, TERMINAL_BLUE, TERMINAL_RED
from fwdgrad.explanation import Explanation
from fwdgrad.feature_table import FeatureTable
from fwdgrad.meaning import score_name, score_of, unit_of
from fwdgrad.methods import Coalitions
from fwdgrad.shown import OfExplanation, page, part_of_page
from fwdgrad.terminal import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_STYLE = {
    "": "background:#fff;color:#111;font:18px/1.7 sans-serif;max-width:45em;margin:2em auto",
    "span": "border-radius:3px",
    ".text": "white-space:pre-wrap",
    ".note": "color:#555;font-size:14px",
}


@dataclass(eq=False)
class TextExplanation(OfExplanation):
    """Which words of a text a score depends on.

    It has all attributes of ``explanation``, too: ``score``, ``target``, ``settings``, ...

    Attributes:
        text: what was explained.
        spans: where each word starts and stops in it.
        scores: (W,), float64: a word's share, see ``meaning``.
        standard_errors: (W,): of each; NaN where ``explanation`` has none.
        reduce: "input" (scores have a sign) or "norm", see ``explain_text``; "presence": how much
            the score rises where the word is there, see ``TextModel``.
        label: the class that was explained, in words.
        explanation: of the embeddings, or of which words are there.
        unit: what a word is called: it may be a sentence, say.
        mask: what a word that was not there was replaced by; None where it was left out.
    """

    text: str
    spans: tuple[tuple[int, int], ...]
    scores: Tensor
    standard_errors: Tensor
    reduce: str
    label: str
    explanation: Explanation
    unit: str = "word"
    mask: str | None = None

    _kind = "text"

    @classmethod
    def of_presence(
        cls, explanation: Explanation, text: str, spans: Spans, label: str, **parts: Any
    ) -> TextExplanation:
        """What words add that are in a text or out of it: one number of the map for each.

        Args:
            explanation: of which words are there, ones (W,).
            text, spans, label: see the class.
            **parts: unit and mask.
        """
        scores, errors = explanation.attribution, explanation.standard_error
        return cls(
            text=text,
            spans=spans,
            scores=scores.double().cpu(),
            standard_errors=errors.double().cpu(),
            reduce="presence",
            label=label,
            explanation=explanation,
            **parts,
        )

    @property
    def words(self) -> tuple[str, ...]:
        """The words as they stand in the text."""
        return tuple(self.text[start:stop] for start, stop in self.spans)

    @property
    def reliability(self) -> float:
        """Whether other noise would give the same scores: 1 - mean squared error / variance.

        Both are over the words; ``explanation.reliability``, of single numbers of embeddings, is
        far lower. Negative values come out as 0; NaN for a single word. Where all coalitions were
        called it is that of ``explanation``: exact ones have 1.
        """
        if isinstance(self.explanation.method, Coalitions):
            return self.explanation.reliability
        if len(self.scores) < 2:
            return math.nan
        share = self.standard_errors.square().mean() / self.scores.var()
        return (1 - share).clamp(min=0).item()

    def significant(self, level: float = 0.05, *, correction: str = "benjamini-hochberg") -> Tensor:
        """Which words differ from zero by more than chance, see ``Explanation.significant``.

        Returns:
            bool (W,).

        Raises:
            ValueError: the explanation is of embeddings, of which a word has many numbers.
        """
        if self.reduce != "presence":
            raise ValueError(
                "significant is of words that are in or out, as of a TextModel; of embeddings "
                "explanation.significant() tells which numbers are"
            )
        return self.explanation.significant(level, correction=correction)

    @property
    def meaning(self) -> str:
        """What a score and its colour mean, in words."""
        score = score_of(self.explanation, self.label)
        if self.reduce == "norm":
            return f"The redder a word, the more the {score} depends on it."
        if self.reduce == "input":
            return f"Red words increase the {score}, blue words decrease it."
        out = "left out" if self.mask is None else f"replaced by {plain(self.mask)}"
        return (
            f"How much the {score} rises where a {self.unit} is there and not {out}, averaged over "
            f"what the others are: red {self.unit}s increase it, blue ones decrease it."
        )

    @property
    def strengths(self) -> Tensor:
        """The scores as shares of the largest, in -1 .. 1."""
        top = self.scores.abs().max()
        return self.scores / top if top > 0 else torch.zeros_like(self.scores)

    def __repr__(self) -> str:
        """One line that says what it is."""
        return (
            f"TextExplanation({self._headline()}, {len(self.spans)} {self.unit}s, "
            f"{self.explanation.n_samples} samples, reliability {self.reliability:.2f})"
        )

    def __str__(self) -> str:
        """A headline and the marked text, coloured where a terminal reads it; what that means."""
        head = f"{self._headline()}; reliability {self.reliability:.2f}"
        meaning = f"\n{self.meaning}" if self.reduce == "presence" else ""
        return f"{head}\n{self.to_terminal()}{meaning}"

    def _headline(self) -> str:
        return f"{plain(self.label)}: {score_name(self.explanation)} {self.explanation.score:.4g}"

    def to_terminal(self, colour: bool | None = None) -> str:
        """The text with marked words: red ones increase the score, blue ones decrease it.

        Args:
            colour: True for colours of the 256-colour palette; False for one to three signs after
                a word, such as ``great(+++)``; None for colours where standard output is a terminal
                that has them and NO_COLOR is not set.

        Returns:
            The text, with control characters written out as escapes.
        """
        if colour is None:
            colour = (
                not os.environ.get("NO_COLOR")
                and os.environ.get("TERM") != "dumb"
                and sys.stdout is not None
                and sys.stdout.isatty()
            )
        return self._marked(_shown, _in_colour if colour else _with_signs)

    def to_html(self) -> str:
        """A page with coloured words: red ones increase the score, blue ones decrease it.

        Each word's score and standard error show under the pointer. Whatever the text and the
        labels contain is escaped.

        Returns:
            A complete HTML document that refers to nothing outside itself.
        """
        return page(self._body("h1"), _STYLE)

    def marked_html(self, underlined: Collection[int] = ()) -> str:
        """The text with coloured words, each with its score under the pointer.

        Args:
            underlined: numbers of words.
        """

        def safe(text: str) -> str:
            return html.escape(_shown(text))

        numbers = enumerate(zip(self.scores.tolist(), self.standard_errors.tolist(), strict=True))

        def mark(word: str, strength: float) -> str:
            i, (score, error) = next(numbers)
            line = ' class="enough"' if i in underlined else ""
            colour = ",".join(map(str, RED if strength > 0 else BLUE))
            return (
                f'<span{line} title="{score:+.3g} ± {error:.2g}" '
                f'style="background:rgba({colour},{0.7 * abs(strength):.2f})">{word}</span>'
            )

        return self._marked(safe, mark)

    def _body(self, heading: str) -> str:
        """The marked text as a page has it, below a heading."""
        return (
            f'<{heading} dir="auto">{html.escape(self._headline())}</{heading}>\n'
            f'<p class="text" dir="auto">{self.marked_html()}</p>\n'
            f'<p class="note">{html.escape(self.meaning)} '
            f"{self.explanation.n_samples} samples, reliability {self.reliability:.2f}.</p>"
        )

    def _html(self) -> str:
        return part_of_page(self._body("h4"), _STYLE, self._kind)

    def plot(self, ax: Axes | None = None, *, most: int = MOST) -> Axes:
        """Draws a bar for each word: red increases the score, blue decreases it.

        Args:
            ax: matplotlib axes; new ones where None.
            most: how many words are drawn, the largest first.

        Returns:
            The axes.

        Raises:
            ImportError: matplotlib is not installed.
        """
        order = self._features().order[:most]
        words, score = self.words, score_of(self.explanation, self.label)
        factor, unit = unit_of(self.explanation)
        return draw_bars(
            ax,
            [shortened(words[i], 32) for i in order],
            factor * self.scores[order],
            factor * self.standard_errors[order],
            self._headline(),
            f"how much the {score} depends on it"
            if self.reduce == "norm"
            else f"what it adds to the {score}{unit}",
        )

    def _features(self) -> FeatureTable:
        can_tell = self.reduce == "presence" and not bool(self.standard_errors.isnan().all())
        return FeatureTable(
            self.scores,
            self.standard_errors,
            ("character",),
            torch.tensor(self.spans)[:, None],
            self.words,
            told=self.significant if can_tell else None,
        )

    def _about(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("text", "unit", "mask", "reduce")}

    def _marked(self, safe: Callable[[str], str], mark: Callable[[str, float], str]) -> str:
        """The text with ``mark`` applied to its words and ``safe`` to everything."""
        parts, last = [], 0
        for (start, stop), strength in zip(self.spans, self.strengths.tolist(), strict=True):
            parts += [safe(self.text[last:start]), mark(safe(self.text[start:stop]), strength)]
            last = stop
        return "".join([*parts, safe(self.text[last:])])


def _in_colour(word: str, strength: float) -> str:
    level = round(5 * abs(strength))
    if not level:
        return word
    background = (TERMINAL_RED if strength > 0 else TERMINAL_BLUE)[level - 1]
    letters = 231 if strength < 0 and level > 3 else 16
    return f"\x1b[38;5;{letters};48;5;{background}m{word}\x1b[0m"


def _with_signs(word: str, strength: float) -> str:
    signs = ("+" if strength > 0 else "-") * round(3 * abs(strength))
    return f"{word}({signs})" if signs else word


def _shown(text: str) -> str:
    """The text, without what would drive a terminal or reverse a page's direction of writing."""
    return plain(text, lines=True)
