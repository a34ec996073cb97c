"""The explanation of a row of a table, and how it is shown: text, chart, page, frame."""

from __future__ import annotations

import html
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fwdgrad.bars import MOST, draw_bars, shortened
from fwdgrad.colours import BLUE, RED, hexadecimal
from fwdgrad.explanation import Explanation
from fwdgrad.feature_table import FeatureTable
from fwdgrad.meaning import score_name, score_of, unit_of
from fwdgrad.methods import Coalitions
from fwdgrad.shown import OfExplanation, page, part_of_page
from fwdgrad.terminal import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDE = 30  # characters of a bar
_STYLE = {
    "": "background:#fff;color:#111;font:16px/1.5 sans-serif;max-width:60em;margin:2em auto",
    "th": "padding:0 .6em;text-align:left;font-weight:normal",
    "td": "padding:0 .6em",
    "td:nth-child(2)": "color:#555",
    "td:nth-child(3)": "font-family:monospace",
}


def word(value: Any) -> str:
    """A value in words.

    >>> word(4.0), word(123456.75), word("Ulm")
    ('4', '1.2346e+05', 'Ulm')
    """
    return f"{value:.5g}" if isinstance(value, (float, np.floating)) else str(value)


@dataclass(eq=False)
class TableExplanation(OfExplanation):
    """What each column of a row adds to a score.

    It has all attributes of ``explanation``, too: ``score``, ``target``, ``settings``, ...

    Attributes:
        names: of the features: columns, or groups of them.
        values: those of the row, as the background has them: numbers, else words; of a group all
            its columns', in words.
        scores: (K,), float64: what each adds, its Banzhaf value (or Shapley's, where that was
            asked for), in units of the score.
        standard_errors: (K,): of each; 0 where all coalitions were asked.
        label: the class that was explained; None where the model returns one number.
        background_rows: how many rows of the background were used ...
        background_of: ... of how many.
        explanation: of the features as numbers, each in (1) or out (0).
        row: as it was given to ``explain``; None of one that was loaded.
    """

    names: tuple[str, ...]
    values: tuple[float | str, ...]
    scores: Tensor
    standard_errors: Tensor
    label: str | None
    background_rows: int
    background_of: int
    explanation: Explanation
    row: Any = None

    _kind = "table"

    def significant(self, level: float = 0.05, *, correction: str = "benjamini-hochberg") -> Tensor:
        """Which features differ from zero by more than chance: bool (K,); see ``Explanation``."""
        return self.explanation.significant(level, correction=correction)

    @property
    def order(self) -> list[int]:
        """The features from the largest share to the smallest."""
        return self._features().order

    def _features(self) -> FeatureTable:
        is_known = not bool(self.standard_errors.isnan().all())
        return FeatureTable(
            self.scores,
            self.standard_errors,
            (),
            torch.zeros(len(self.names), 0, 2, dtype=torch.int64),
            self.names,
            self.values,
            told=self.significant if is_known else None,
        )

    def _saved(self) -> dict[str, Any]:
        return {**super()._saved(), "row": None}  # which may be of any type

    def _about(self) -> dict[str, Any]:
        return {"background_rows": self.background_rows, "background_of": self.background_of}

    def __repr__(self) -> str:
        """One line that says what it is."""
        return f"TableExplanation({self._headline()})"

    def __str__(self) -> str:
        """A headline and a bar for each of the 20 largest features.

        Bars to the left decrease the score. The lighter end of a bar lies within a standard
        error, and so does the line beyond it.
        """
        shown = self.order[:MOST]
        names = [shortened(self.names[i], 32) for i in shown]
        values = [shortened(word(self.values[i]), 20) for i in shown]
        numbers = self._numbers(shown)
        widths = [max(map(len, texts)) for texts in (names, values, numbers)]
        lines = [self._headline()]
        for i, *texts in zip(shown, names, values, numbers, strict=True):
            cells = [f"{text:{width}}" for text, width in zip(texts, widths, strict=True)]
            lines.append("  ".join([*cells, self._bar(i)]).rstrip())
        if rest := len(self.names) - len(shown):
            lines.append(f"... and {rest} smaller")
        return "\n".join(lines)

    def _headline(self) -> str:
        e, of = self.explanation, ""
        if self.background_rows < self.background_of:
            of = f" of {self.background_of:,}"
        label = "" if self.label is None else f"{plain(self.label)}: "
        rows = f"{self.background_rows}{of} background rows"
        return f"{label}{score_name(e)} {e.score:.4g}; {self._how()}, {rows}"

    def _how(self) -> str:
        e = self.explanation
        if isinstance(e.method, Coalitions):
            shapley = "Shapley values, " * (e.method.value == "shapley")
            missing = bool(self.standard_errors.any())  # scores of some coalitions
            known = f"reliability {e.reliability:.2f}" if missing else "exact"
            return f"{shapley}{known}, from {e.n_samples:,} coalitions"
        return f"{e.n_samples:,} samples, reliability {e.reliability:.2f}"

    def _numbers(self, which: list[int]) -> list[str]:
        """Scores and their errors, to the digits of four of the largest."""
        top = float(self.scores.abs().max())
        kind = "f" if not top or 1e-3 <= top < 1e6 else "e"
        digits = max(0, 3 - math.floor(math.log10(top))) if top and kind == "f" else 3
        exact = not bool(self.standard_errors.any())
        found = []
        for i in which:
            text = f"{float(self.scores[i]) + 0.0:+.{digits}{kind}}"
            error = f" ± {float(self.standard_errors[i]):.{digits}{kind}}"
            found.append(text if exact else text + error)
        return found

    def _bar(self, i: int) -> str:
        """A bar of the score's size, with its error at its end."""
        score, error, top = self._sizes(i)
        if not top > 0:
            return ""
        wide = _WIDE // 2 if bool((self.scores < 0).any()) else _WIDE
        low, at, high = (
            round(wide * max(part, 0.0) / top) for part in (score - error, score, score + error)
        )
        bar = "█" * low + "▒" * (at - low) + "─" * (high - at)
        if self.scores[i] < 0:
            return f"{bar[::-1]:>{wide}}│"
        return (" " * wide + "│" if wide < _WIDE else "") + bar

    def _sizes(self, i: int) -> tuple[float, float, float]:
        """The size of a score, its error, and the largest sum of the two."""
        errors = self.standard_errors.nan_to_num(0.0)
        top = float((self.scores.abs() + errors).max())
        return abs(float(self.scores[i])), float(errors[i]), top

    def plot(self, ax: Axes | None = None, *, most: int = MOST) -> Axes:
        """Draws a bar for each feature: red increases the score, blue decreases it.

        Args:
            ax: matplotlib axes; new ones where None.
            most: how many features are drawn.

        Returns:
            The axes.

        Raises:
            ImportError: matplotlib is not installed.
        """
        order = self.order[:most]
        pairs = [(self.names[i], word(self.values[i])) for i in order]
        texts = [f"{shortened(name, 32)} = {shortened(value, 20)}" for name, value in pairs]
        factor, unit = unit_of(self.explanation)
        return draw_bars(
            ax, texts, factor * self.scores[order], factor * self.standard_errors[order],
            self._headline(), f"what it adds to the {score_of(self.explanation, self.label)}{unit}",
        )  # fmt: skip

    def to_html(self) -> str:
        """A page with a bar for each feature: red increases the score, blue decreases it.

        Returns:
            A complete HTML document that refers to nothing outside itself. What the names, values
            and labels contain is escaped.
        """
        return page(self._body("h1"), _STYLE)

    def _html(self) -> str:
        return part_of_page(self._body("h4"), _STYLE, self._kind)

    def _body(self, heading: str) -> str:
        """The bars as a page has them, below a heading."""
        rows = []
        for i, number in zip(self.order, self._numbers(self.order), strict=True):
            size, _, top = self._sizes(i)
            colour = hexadecimal(RED if self.scores[i] > 0 else BLUE)
            wide = 20 * size / top if top > 0 else 0.0
            name, value = (
                html.escape(plain(text)) for text in (self.names[i], word(self.values[i]))
            )
            rows.append(
                f"<tr><th>{name}</th><td>{value}</td><td>{number}</td>"
                f'<td><div style="background:{colour};width:{wide:.2f}em">&nbsp;</div></td></tr>'
            )
        table, score = "\n".join(rows), html.escape(score_of(self.explanation, self.label))
        return (
            f"<{heading}>{html.escape(self._headline())}</{heading}>\n<table>\n{table}\n</table>\n"
            f"<p>Red increases the {score}, blue decreases it.</p>"
        )
