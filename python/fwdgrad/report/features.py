"""What a report shows of a text or a row of a table: its words marked, its columns as bars."""

from __future__ import annotations

import math
import warnings
from typing import Any

from torch import Tensor

from fwdgrad.adapters.table_explanation import word
from fwdgrad.bars import MOST, shortened
from fwdgrad.colours import BLUE, RED
from fwdgrad.meaning import is_change, score_of
from fwdgrad.report.text import escape, tied
from fwdgrad.report.words import (
    UNMISSED,
    Scale,
    Terms,
    named,
    otherwise,
    question,
    sureness,
    tells_errors,
)
from fwdgrad.terminal import plain

_MAIN, _OTHER = 5, 3  # features that are listed, at most: of the score's sign, of the other
_LEAST = 0.01  # of the largest score: what is less is not listed
_NAMED = 8  # of what is enough, in a sentence
_SHARE = 0.25  # of the features, of which a sentence on the check tells


class OfFeatures:
    """A text or a row, as a page of a report tells of it.

    Args:
        result: a ``TextExplanation`` or a ``TableExplanation``.
        label: what was explained, in words.
        below: whether the curves of the check begin below what is compared with, and so are in the
            order of what lowers the score; None where there are none.
    """

    def __init__(self, result: Any, label: str, below: bool | None = None) -> None:
        """What its features are called, and which stand out."""
        self.result, self.explanation, self.label = result, result.explanation, label
        self.question = question(self.explanation, label)
        self.is_text = hasattr(result, "words")
        self.unit: str = getattr(result, "unit", "column")
        self.scale = Scale.of_scores(self.explanation)
        self.scores: Tensor = result.scores.double()
        self.errors: Tensor = result.standard_errors.double()
        self.known: dict[str, Any] = self.explanation.provenance.get("evidence") or {}
        self.told = self._told()
        start = self.known.get("baseline_score", -math.inf)
        self.below: bool = start > self.explanation.score if below is None else below
        # Of features that are in or out, and of paths from zeros; of slopes the score is none.
        self.is_change = is_change(self.explanation)
        self.has_sign = getattr(result, "reduce", "") != "norm"
        self.terms = self._terms()
        self.again = "row"
        if self.is_text:
            has_text = "text" in self.explanation.provenance
            self.again = "e.provenance['text']" if has_text else ""

    def _told(self) -> Tensor:
        """Which features differ from zero by more than chance: bool (K,)."""
        if (test := self.result._features().told) is not None:
            with warnings.catch_warnings():  # of short runs, of which the run itself has warned
                warnings.simplefilter("ignore")
                found: Tensor = test()
                return found
        return (self.scores != 0) & ~(self.scores.abs() < 2 * self.errors)

    def _terms(self) -> Terms:
        """What a page calls it."""
        count, units = len(self.scores), f"{self.unit}s"
        some = max(1, round(_SHARE * count))
        many = f"{some} {self.unit}{'s' * (some > 1)}"
        most = f"the {many} that rank{'s' * (some == 1)} highest"
        first, early, late = "rank highest", "falls", "rises"
        if self.below:
            most = f"the {many} that lower{'s' * (some == 1)} the {self.scale.name} most"
            first, early, late = "lower the answer most", "rises", "falls"
        then = (
            f"those first that {first}, and the model answers anew each time. If the explanation "
            "is right, the answer"
        )
        other, share = f"{many} drawn by chance", some / count
        mask = getattr(self.result, "mask", None)
        if not self.is_text:
            return Terms(
                "row", "explanation", "columns filled from other rows", "replaced", "put back",
                "Filling {} from other rows", "Putting {} into other rows", share, most, other,
                f"Columns are filled from other rows one after another, {then} {early} early as "
                f"columns are replaced, and {late} early as they are put back.",
            )  # fmt: skip
        out = "left out" if mask is None else f"replaced by {plain(mask)}"
        zeros = self.result.reduce != "presence"
        tried = "noise added to the words" if zeros and not self.is_change else f"{units} {out}"
        if zeros:
            out = "blanked"
        doing = {"left out": "Leaving out {}", "blanked": "Blanking {}"}
        return Terms(
            "text", "explanation", tried, out, "put back",
            doing.get(out, f"Replacing {{}} by {plain(mask)}"), f"Putting {{}} into {self._into}",
            share, most, other,
            f"{units.capitalize()} are {out} one after another, {then} {early} early as {units} "
            f"are {out}, and {late} early as they are put back.",
        )  # fmt: skip

    @property
    def _into(self) -> str:
        """What is left of a text without its words."""
        is_empty = self.result.mask is None and self.result.reduce == "presence"
        return "an empty text" if is_empty else "a blank text"

    # ---- The answer ------------------------------------------------------------------------

    @property
    def answer(self) -> str:
        """What the model says, what is enough, and what is missed."""
        e, score = self.explanation, self.scale.of(self.explanation.score)
        score = score if self.scale.is_share else f"a score of {score}"
        said = f"The model gives this {self.terms.input} {score} for {named(self.label)}."
        if e.target is None:
            said = f"The model gives this {self.terms.input} {score}."
        if not self.known:
            return said
        if self.known["baseline_score"] > e.score:
            return " ".join([self._compared(said), *self._lowering(), *self._missing_class()])
        if self.known["enough_count"] is None and self.known["missing_count"] is None:
            return f"{said} No part of it was found that is enough for that, or that it needs."
        return " ".join([said, self._enough(), self._missing()])

    def _compared(self, said: str) -> str:
        """The first sentence, with how far the score is below that of what it is compared with."""
        start, score = float(self.known["baseline_score"]), self.explanation.score
        mean = "mean" if self.scale.is_share else "mean score"
        other = self._into if self.is_text else f"the other rows (their {mean})"
        if self.explanation.target is None:
            said = said.replace(" a score of", "")
        by = self.scale.change(start - score)
        return f"{said[:-1]}, {by} below the {self.scale.of(start)} of {other}."

    def _lowering(self) -> list[str]:
        """What lowers the score most."""
        told = [
            f"{self.name(i)} (−{self.scale.change(value)})"
            for i, value in self.known.get("lowers", ())
        ]
        return [f"{_joined(told)} {'lower' if len(told) > 1 else 'lowers'} it most."] * bool(told)

    def _missing_class(self) -> list[str]:
        return [self._missing()] * bool(self.known["of_class"])

    def parts(self, name: str) -> list[int]:
        """The features of what is enough, or missing; none where that was not found."""
        count = self.known.get(f"{name}_count") or 0
        order: list[int] = self.scores.argsort(descending=True, stable=True)[:count].tolist()
        return sorted(order)

    def _enough(self) -> str:
        count, score = self.known["enough_count"], self.known["enough_score"]
        if count is None:
            return "No part of it was found that is enough for that by itself."
        if count == len(self.scores):
            return f"Nothing less than the whole {self.terms.input} is enough for that."
        be, give = ("is", "gives") if count == 1 else ("are", "give")
        alone = f"{be} enough, and {give} {self.scale.of(score)} by {_self(count)}"
        lines = " (underlined)" * self.is_text
        some, listed = f"{count} of {len(self.scores)} {self.unit}s", self._listed("enough")
        told = f"{some}{lines} {alone}: {listed}."
        if not self.known["of_class"] or self.known["missing_count"] is None:
            return told
        told, units = f"{some} {alone}: {listed}.", f"The underlined {self.unit}{'s' * (count > 1)}"
        if not self.is_text:
            units = f"{self._listed('enough')}" if count <= _NAMED else f"{count} columns"
            told = f"{some} {alone}."
        return f"{units} {'decide' if count > 1 else 'decides'} it: {told}"

    def _missing(self) -> str:
        count = self.known["missing_count"]
        if count is None:
            return UNMISSED[self.known["of_class"]]
        if count == len(self.scores):
            part = f"all of its {self.unit}s"
        elif count <= _NAMED:
            part = self._listed("missing")
        else:
            part = f"{count} {self.unit}s"
        return otherwise(f"Without {part}", self.known, self.scale)

    def _listed(self, name: str) -> str:
        found = self.parts(name)
        few = [self.name(i) for i in found[:_NAMED]]
        return _joined(few) if len(found) <= _NAMED else f"{', '.join(few)}, ..."

    def name(self, i: int) -> str:
        """A word in quotation marks, or a column."""
        if not self.is_text:
            return f"“{shortened(self.result.names[i], 32)}”"
        return f"“{shortened(self.result.words[i], 40)}”"

    # ---- What is shown ---------------------------------------------------------------------

    def shown(self) -> str:
        """The marked text, or the bars, with what they mean, as HTML."""
        score = escape(score_of(self.explanation, self.label))
        if not self.is_text:
            unit = ", in percentage points" if self.scale.is_share else ""
            return (
                f'<h2>The row</h2>\n{self._bars()}<p class="note">{tied(self._means(unit))}</p>\n'
            )
        enough = self.parts("enough")
        enough = [] if len(enough) == len(self.scores) else enough
        text = self.result.marked_html(enough)
        colours = (
            f"Red {self.unit}s raise the {score}, blue ones lower it: the more colour, the more."
            if self.has_sign
            else f"The {score} depends on red {self.unit}s: the stronger the colour, the more."
        )
        if enough:
            colours += f" Underlined: the {self.unit}s that are enough."
        ends, unit = ("lowers it", "raises it"), ""
        top = float(self.scores.abs().max())
        if not self.has_sign:
            ends = ("little", "much")
        elif self.is_change and top:
            full = self.scale.change(top)
            ends = (f"−{full.split()[0]}", f"+{full.split()[0]}")
            unit = f'<span class="unit">Full colour is a change of {full}.</span>'
        one = "" if self.has_sign else " one"
        return (
            f'<section>\n<h2>The text</h2>\n<p class="text" dir="auto">{text}</p>\n'
            f'<p class="note">{colours}<span class="scale" aria-hidden="true"><span>{ends[0]}'
            f'</span><i class="ink{one}"></i><span>{ends[1]}</span></span>{unit}</p>\n</section>\n'
        )

    def _means(self, unit: str = "") -> str:
        """What a bar's length is, with the unit of the number beside it."""
        score = score_of(self.explanation, self.label)
        lines = " The thin lines are standard errors." if bool((self.errors > 0).any()) else ""
        return (
            f"How much the {score} rises with a column’s own value in place of those of "
            f"{self._others()}, averaged over which other columns have their own{unit}: red raises "
            f"it, blue lowers it.{lines}"
        )

    def _others(self) -> str:
        rows = self.result.background_rows
        return f"{rows} other row{'s' * (rows != 1)}"

    def _bars(self) -> str:
        """A bar for each of the largest features, from zero, with its standard error."""
        order = self.result.order[:MOST]
        errors = self.errors.nan_to_num(0.0)
        low = min(0.0, float((self.scores - errors).min()))
        high = max(0.0, float((self.scores + errors).max()))
        wide = (high - low) or 1.0

        def at(value: float) -> float:
            return 100 * (value - low) / wide

        rows = []
        for i in order:
            score, error = float(self.scores[i]), float(errors[i])
            left, right = sorted((at(0.0), at(score)))
            colour = ",".join(map(str, RED if score > 0 else BLUE))
            line = ""
            if error > 0:
                ends = at(score - error), 200 * error / wide
                line = f'<b style="left:{ends[0]:.2f}%;width:{ends[1]:.2f}%"></b>'
            rows.append(
                f'<li><span class="name">{escape(self.result.names[i])} <small>'
                f"{escape(shortened(word(self.result.values[i]), 48))}</small></span>"
                f'<span class="bar" aria-hidden="true"><i style="left:{left:.2f}%;'
                f'width:{right - left:.2f}%;background:rgb({colour})"></i>{line}'
                f'<u style="left:{at(0.0):.2f}%"></u></span>'
                f'<span class="value">{self._value(i)}</span></li>\n'
            )
        rest = len(self.result.names) - len(order)
        more = f'<p class="note">And {rest} smaller, under Details.</p>\n' if rest > 0 else ""
        return f'<ul class="bars">\n{"".join(rows)}</ul>\n{more}'

    def _value(self, i: int) -> str:
        """A score with its sign and error, to two digits of the error or three of the score."""
        factor = 100 if self.scale.is_share and self.is_change else 1
        score, error = factor * float(self.scores[i]), factor * float(self.errors[i])
        top = factor * float(self.scores.abs().max())
        digits = 2 - math.floor(math.log10(top)) if top > 0 else 0
        kind = f",.{max(0, digits)}f" if -6 < digits < 8 else ".2e"
        nothing, by = f"{0.0:{kind}}", f"{error:{kind}}"
        told = f"{score:+{kind}}".replace("-", "−")
        told = nothing if told[1:] == nothing else told
        return f"{told} ± {by}" if error > 0 and by != nothing else told

    # ---- The list, how sure, the details ---------------------------------------------------

    def listed(self) -> str:
        """What raises the score most, and what lowers it, as HTML."""
        least = _LEAST * float(self.scores.abs().max())
        is_told = self.told & (self.scores.abs() >= least)
        order = [i for i in self.result._features().order if bool(is_told[i])]
        most = (_OTHER, _MAIN) if self.below else (_MAIN, _OTHER)
        raising = [i for i in order if self.scores[i] > 0][: most[0]]
        lowering = [i for i in order if self.scores[i] < 0][: most[1]]
        if not (raising or lowering):
            return f"<p>No {self.unit} stands out from chance.</p>\n"
        listed = [*lowering, *raising] if self.below else [*raising, *lowering]
        errors = tells_errors([(float(self.scores[i]), float(self.errors[i])) for i in listed])
        lines = "".join(f"<li>{tied(self._in_words(i, errors))}</li>\n" for i in listed)
        found = f'<ul class="features">\n{lines}</ul>\n'
        if self.has_sign and len({*self.scores[self.told].sign().tolist()}) == 1:
            verb = "lowers" if raising else "raises"
            by_chance = " by more than chance would" * bool((self.errors > 0).any())
            found += f"<p>No {self.unit} {verb} it{by_chance}.</p>\n"
        return found

    def _in_words(self, i: int, errors: bool) -> str:
        name, value, error = self.name(i), float(self.scores[i]), float(self.errors[i])
        if self.is_text and self.result.words.count(self.result.words[i]) > 1:
            name += f" ({self.unit} {i + 1})"
        elif not self.is_text:
            value_there = shortened(word(self.result.values[i]), 32)
            name = f"{shortened(self.result.names[i], 32)} = {value_there}"
        if not self.has_sign:
            return f"{name}: matters ({value:.3g})."
        if not self.is_change:
            verb = "raises" if value > 0 else "lowers"
            return f"{name}: {verb} the {self.scale.name} ({self._value(i)})."
        return f"{name}: {self.scale.effect(value, error if errors else None)}."

    def sure(self) -> list[str]:
        """What another run would give, and which features count for more than chance."""
        found = [sureness(self.result, self.terms)]
        if bool((self.errors > 0).any()):
            count = int(self.told.sum())
            of = f"{count} of {len(self.told)} {self.unit}s"
            be = "counts" if count == 1 else "count"
            some = " (Expect about one in twenty of these to be there by chance all the same.)"
            found.append(f"{of} {be} for more than chance would give.{some * (count > 0)}")
        if not self.is_text:
            found.append(
                f"Values compare this row with {self._others()}; others would give other values."
            )
        return found

    def details(self) -> tuple[str, str]:
        """All features with their scores and errors, as HTML, below a title."""
        table = self.result._features()
        rows = []
        for one in table.rows(table.order):
            value = "" if one.value is None else f" <small>{escape(word(one.value))}</small>"
            error = f" ± {one.standard_error:.2g}" if one.standard_error > 0 else ""
            rows.append(
                f'<tr><th scope="row">{escape(one.name)}{value}</th>'
                f"<td>{f'{one.score + 0.0:+.4g}'.replace('-', '−')}{error}</td></tr>\n"
            )
        means = self.result.meaning if self.is_text else self._means()
        told = f'<p>{escape(means)}</p>\n<table class="all">\n{"".join(rows)}</table>\n'
        return f"Every {self.unit}, its value and its standard error", told

    def tried(self) -> str:
        """What was called to find what is enough, in a sentence; nothing where that is unknown."""
        if not self.known.get("calls") or (self.below and not self.known["of_class"]):
            return ""
        return (
            "What is enough and what is needed was tried on the model itself "
            f"({self.known['calls']} calls)."
        )


def _self(count: int) -> str:
    return "itself" if count == 1 else "themselves"


def _joined(names: list[str]) -> str:
    """Names in a sentence.

    >>> _joined(["a", "b", "c"]), _joined(["a"])
    ('a, b and c', 'a')
    """
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]])) if names else ""
