"""The explanation of a row of a table, and how it is shown: text, chart, page, frame."""

from __future__ import annotations

import html
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from fwdgrad.colours import BLUE, RED, hexadecimal
from fwdgrad.explanation import Explanation
from fwdgrad.methods import Coalitions
from fwdgrad.terminal import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST = 20  # features that are shown
_WIDE = 30  # characters of a bar


@dataclass(eq=False)
class TableExplanation:
    """What each column of a row adds to a score.

    Attributes:
        names: of the features: columns, or groups of them.
        values: those of the row, in words.
        scores: (K,), float64: what each adds, its Banzhaf value (or Shapley's, where that was
            asked for), in units of the score.
        standard_errors: (K,): of each; 0 where all coalitions were asked.
        label: the class that was explained; None where the model returns one number.
        background_rows: how many rows of the background were used ...
        background_of: ... of how many.
        explanation: of the features as numbers, each in (1) or out (0).
        row: as it was given to ``explain``.
    """

    names: tuple[str, ...]
    values: tuple[str, ...]
    scores: Tensor
    standard_errors: Tensor
    label: str | None
    background_rows: int
    background_of: int
    explanation: Explanation
    row: Any = None

    @property
    def reliability(self) -> float:
        """Whether other samples would give the same scores, see ``Explanation``; exact ones: 1."""
        return self.explanation.reliability

    def significant(self, level: float = 0.05, *, correction: str = "benjamini-hochberg") -> Tensor:
        """Which features differ from zero by more than chance: bool (K,); see ``Explanation``."""
        return self.explanation.significant(level, correction=correction)

    @property
    def order(self) -> list[int]:
        """The features from the largest share to the smallest."""
        found: list[int] = self.scores.abs().argsort(descending=True, stable=True).tolist()
        return found

    def __repr__(self) -> str:
        """One line that says what it is."""
        return f"TableExplanation({self._headline()})"

    def __str__(self) -> str:
        """A headline and a bar for each of the 20 largest features.

        Bars to the left decrease the score. The lighter end of a bar lies within a standard
        error, and so does the line beyond it.
        """
        shown = self.order[:_MOST]
        names = [_cut(self.names[i], 32) for i in shown]
        values = [_cut(self.values[i], 20) for i in shown]
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
        return f"{label}{e.objective} {e.score:.4g}; {self._how()}, {rows}"

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

    def to_frame(self) -> Any:
        """A pandas DataFrame of feature, value, score and standard_error, the largest first.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            import pandas  # type: ignore[import-untyped]
        except ImportError:
            raise ImportError("to_frame needs pandas: pip install pandas") from None
        order = self.order
        return pandas.DataFrame(
            {
                "feature": [self.names[i] for i in order],
                "value": [self.values[i] for i in order],
                "score": self.scores[order].numpy(),
                "standard_error": self.standard_errors[order].numpy(),
            }
        )

    def plot(self, ax: Axes | None = None, *, most: int = _MOST) -> Axes:
        """Draws a bar for each feature: red increases the score, blue decreases it.

        Args:
            ax: matplotlib axes; new ones where None.
            most: how many features are drawn.

        Returns:
            The axes.

        Raises:
            ImportError: matplotlib is not installed.
        """
        try:
            import matplotlib.pyplot as plt
        except ImportError:
            raise ImportError(
                "plot needs matplotlib: pip install 'fwdgrad-kernels[image]'"
            ) from None
        order = self.order[:most]
        if ax is None:
            _, ax = plt.subplots(figsize=(7, 1 + 0.3 * len(order)), layout="constrained")
        scores = self.scores[order].numpy()
        exact = not bool(self.standard_errors.any())
        ax.barh(
            range(len(order)),
            scores,
            xerr=None if exact else self.standard_errors[order].numpy(),
            color=[hexadecimal(RED if score > 0 else BLUE) for score in scores],
            error_kw={"capsize": 2},
        )
        texts = [f"{_cut(self.names[i], 32)} = {_cut(self.values[i], 20)}" for i in order]
        ax.set_yticks(range(len(order)), texts, parse_math=False)
        ax.invert_yaxis()
        ax.axvline(0, color="black", linewidth=0.8)
        ax.set_xlabel("what it adds to the score")
        ax.set_title(self._headline(), fontsize="small", parse_math=False)
        return ax

    def to_html(self) -> str:
        """A page with a bar for each feature: red increases the score, blue decreases it.

        Returns:
            A complete HTML document that refers to nothing outside itself. What the names, values
            and labels contain is escaped.
        """
        rows = []
        for i, number in zip(self.order, self._numbers(self.order), strict=True):
            size, _, top = self._sizes(i)
            colour = hexadecimal(RED if self.scores[i] > 0 else BLUE)
            wide = 20 * size / top if top > 0 else 0.0
            name, value = (html.escape(plain(text)) for text in (self.names[i], self.values[i]))
            rows.append(
                f"<tr><th>{name}</th><td>{value}</td><td>{number}</td>"
                f'<td><div style="background:{colour};width:{wide:.2f}em">&nbsp;</div></td></tr>'
            )
        return (
            '<!DOCTYPE html>\n<html><head><meta charset="utf-8"><title>Explanation</title>\n'
            "<style>body{background:#fff;color:#111;font:16px/1.5 sans-serif;max-width:60em;"
            "margin:2em auto}th{text-align:left;font-weight:normal}td,th{padding:0 .6em}"
            "td:nth-child(2){color:#555}td:nth-child(3){font-family:monospace}</style></head>\n"
            f"<body><h1>{html.escape(self._headline())}</h1>\n<table>\n"
            + "\n".join(rows)
            + "\n</table>\n<p>Red increases the score, blue decreases it.</p></body></html>\n"
        )


def _cut(text: str, most: int) -> str:
    text = plain(text)
    return text if len(text) <= most else text[: most - 1] + "…"
