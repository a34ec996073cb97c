"""What a report says in plain English, every number in it the explanation's own."""

from __future__ import annotations

import dataclasses
import math
import re
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fwdgrad.advice import is_drawn, is_noise, unmoved
from fwdgrad.explanation import Explanation
from fwdgrad.meaning import has_sign
from fwdgrad.methods import Coalitions, IntegratedGradients, Regions
from fwdgrad.metrics.curves import Curve
from fwdgrad.objectives import AUTO
from fwdgrad.terminal import plain

CHECKED = 0.1  # the share of a picture that a sentence tells of
_SHARES = (AUTO["probabilities"][1], AUTO["labels"][1])


@dataclasses.dataclass(frozen=True)
class Scale:
    """How a score is told: a probability in per cent, any other as a number.

    Example:
        >>> Scale("probability", True).of(0.953), Scale("logit", False).of(0.953)
        ('95 %', '0.953')
        >>> Scale("probability", True).change(-0.0213)
        '2.1 percentage points'
    """

    name: str
    is_share: bool

    @classmethod
    def of_scores(cls, explanation: Explanation, objective: str | None = None) -> Scale:
        """That of an explanation's score, or of another objective's."""
        name = objective or explanation.objective
        is_share = name in ("probability", "sigmoid") or (
            name == "output" and explanation.provenance.get("objective") in _SHARES
        )
        return cls("probability" if is_share else "score", is_share)

    def of(self, value: float) -> str:
        """A score."""
        if not self.is_share:
            return f"{value + 0.0:.3g}".replace("-", "−")
        if 0 < value < 1e-5:
            return "less than 0.001 %"
        return "more than 99 %" if 0.995 < value < 1 else percent(value)

    def change(self, value: float) -> str:
        """The size of a change of it."""
        return f"{_number(100 * abs(value))} percentage points" if self.is_share else (
            _number(abs(value))
        )  # fmt: skip


class Region(NamedTuple):
    """A place of a picture that stands out.

    Attributes:
        x, y: where, as shares of the picture's sides.
        value: of the map.
        error: its standard error.
    """

    x: float
    y: float
    value: float
    error: float


def named(label: str) -> str:
    """A class by its name alone, in quotation marks.

    >>> named("tiger cat (class 282)"), named("class 3")
    ('“tiger cat”', '“class 3”')
    """
    return f"“{plain(re.sub(r' [(]class [0-9]+[)]$', '', label))}”"


def question(e: Explanation, label: str) -> str:
    """What the report answers: its title."""
    if e.target is None:
        return "What does the model’s answer depend on?"
    predicted = _known(e).get("of_class")
    return f"Why {named(label)}?" if predicted else f"What raises the score of {named(label)}?"


def answer(e: Explanation, label: str) -> str:
    """The answer in three sentences: what the model says, what is enough, and what is missed."""
    known, scale = _known(e), Scale.of_scores(e)
    score, of_class = scale.of(e.score), known.get("of_class")
    said = f"The {scale.name} of {named(label)} is {score}, says the model."
    if e.target is None:
        said = f"The model’s answer is {score}."
    elif of_class:
        said = f"The model calls this {named(label)} ({score})."
    if not known:
        return said
    if known["enough_share"] is None and known["missing_share"] is None:
        return f"{said} No part of the picture was found that is enough for that, or that it needs."
    return " ".join([said, _enough(known, scale), _missing(known, scale)])


def _known(e: Explanation) -> dict[str, Any]:
    return e.provenance.get("evidence") or {}


def _enough(known: dict[str, Any], scale: Scale) -> str:
    share, score = known["enough_share"], known["enough_score"]
    if share is None:
        return "No part of the picture was found that is enough for that by itself."
    if share > 0.995:
        return "Nothing less than the whole picture is enough for that."
    part = f"{percent(share)} of the picture"
    alone = f"enough, and gives {scale.of(score)} by itself."
    if known["of_class"]:
        return f"The part within the solid line decides it: {part} is {alone}"
    return f"{part} (within the solid line) is {alone}"


def _missing(known: dict[str, Any], scale: Scale) -> str:
    share = known["missing_share"]
    if share is None:
        return "It does not change without any part that was tried."
    if share > 0.995:
        part = "the whole picture"
    else:
        part = f"{percent(share)} of the picture (within the dashed line)"
    if known["of_class"]:
        sure = scale.of(known["instead_score"])
        return f"Without {part}, it would be {named(known['instead_label'])} ({sure})."
    return f"Without {part}, it would be {scale.of(known['missing_score'])}."


def region_in_words(region: Region, e: Explanation) -> str:
    """What a numbered region does to the score: as one line of a list.

    Args:
        region: of the map.
        e: whose map it is.
    """
    scale, value, where = Scale.of_scores(e), region.value, place(region.x, region.y).capitalize()
    if not has_sign(e):
        return f"{where}: matters."
    if not is_change(e):
        return f"{where}: {'raises it' if value > 0 else 'lowers it'}."
    by = scale.change(value)
    if math.isfinite(region.error) and region.error > 0:
        by += f", give or take {scale.change(float(f'{region.error:.1g}')).split()[0]}"
    return f"{where}: {'raises' if value > 0 else 'lowers'} the {scale.name} by {by}."


def is_change(e: Explanation) -> bool:
    """Whether a map's values are changes of the score, not slopes."""
    return isinstance(e.method, (Regions, Coalitions, IntegratedGradients))


def place(x: float, y: float) -> str:
    """Where on a picture a point lies.

    >>> place(0.1, 0.9), place(0.5, 0.5), place(0.5, 0.1)
    ('bottom left', 'middle', 'top middle')
    """
    across = "left" if x < 1 / 3 else "right" if x > 2 / 3 else ""
    down = "top" if y < 1 / 3 else "bottom" if y > 2 / 3 else ""
    return " ".join(filter(None, [down or "middle", across or ("middle" if down else "")]))


def warning(e: Explanation, better: int | None) -> str:
    """What a reader must know before all else; nothing where there is no such thing.

    Args:
        e: the explanation.
        better: see ``tests_passed``.
    """
    if is_noise(e):
        return "Careful: most of this map is chance, and another run would give another one."
    if better == 0:
        return "Careful: when it was checked, this map was no better than chance."
    if _known(e) and (said := unmoved(e)):
        return f"Careful: {said}. What this map shows is little."
    return ""


def sureness(e: Explanation) -> list[str]:
    """What another run would give, and how much of the map is more than chance."""
    if not is_drawn(e):
        return ["Nothing here was left to chance: another run would give the same map."]
    r = e.reliability
    if math.isnan(r):
        found = "How much of the map another run would give again is not known: this one had too "
        return [f"{found}few samples to tell, or the same value everywhere."]
    likeness = (
        "much the same map" if r >= 0.8
        else "a similar map: its strong parts would stay, its details would not" if r >= 0.5
        else "a map that is like this one roughly at best" if r >= 0.3
        else "another map: most of this one is chance"
    )  # fmt: skip
    tried = "parts of the picture hidden" if is_change(e) else "noise added to the picture"
    told = (
        f"The map was found by trial, with {tried} by chance. A second run with other draws would "
        f"give {likeness}. (The two would agree to {max(r, 0.0):.2f}, where 1 is the same map and "
        "0 is no likeness at all. This is estimated from this run alone.)"
    )
    return [told, *_significant(e)]


def _significant(e: Explanation) -> list[str]:
    """How much of the picture counts for more than chance; nothing where that is not known."""
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            told = e.significant()
    except ValueError:  # there are no standard errors
        return []
    share = float(told.flatten(0, -3).any(0).double().mean())
    if not share:
        return ["No single part of the picture counts for more than chance would give."]
    unsure = " This figure is rough: the run was short." if warned else ""
    return [
        f"{percent(share)} of the picture counts for more than chance would give. (Expect about "
        f"one part in twenty of these to be there by chance all the same.){unsure}"
    ]


def at(curve: Curve, share: float = CHECKED) -> float:
    """The score where so much of a picture has changed.

    >>> import torch
    >>> at(Curve(torch.tensor([1.0, 0.5, 0.0])), 0.25)
    0.75
    """
    return float(np.interp(share, curve.fractions.numpy(), curve.scores.double().numpy()))


def checked(
    deletion: Curve, insertion: Curve, chance: Sequence[Curve] | None, scale: Scale
) -> list[str]:
    """What deletion and insertion say, beside an order drawn by chance."""
    most = f"the {percent(CHECKED)} that the map ranks highest"
    other = f"{percent(CHECKED)} in an order drawn by chance"
    there = [f", {other} to {scale.of(at(curve))}" for curve in chance or ()] or ["", ""]
    said = [
        f"Deleting {most} takes the {scale.name} from {scale.of(float(deletion.scores[0]))} to "
        f"{scale.of(at(deletion))}{there[0]}.",
        f"Showing {most} in a blurred picture takes it from "
        f"{scale.of(float(insertion.scores[0]))} to {scale.of(at(insertion))}{there[1]}.",
    ]
    passed = tests_passed(deletion, insertion, chance)
    return said if passed is None else [*said, _PASSED[passed]]


def tests_passed(
    deletion: Curve | None, insertion: Curve | None, chance: Sequence[Curve] | None
) -> int | None:
    """In how many of the two tests a map is better than chance; None where that is not known."""
    if deletion is None or insertion is None or chance is None:
        return None
    return (deletion.auc < chance[0].auc) + (insertion.auc > chance[1].auc)


_PASSED = (
    "In neither test is the map better than chance: do not rely on it.",
    "In one of the two tests the map is better than chance, in the other it is not: take it with "
    "care.",
    "Over the whole of both tests, the map finds what counts sooner than chance does.",
)


def percent(share: float) -> str:
    """A share.

    >>> percent(0.094), percent(0.0123), percent(0.5)
    ('9.4 %', '1.2 %', '50 %')
    """
    value = 100 * share
    return f"{value:.0f} %" if value >= 9.95 else f"{value:.2g} %"


def _number(value: float) -> str:
    """A number to two digits, without an exponent where it has a usual size.

    >>> _number(123.4), _number(2.13), _number(0.0456)
    ('123', '2.1', '0.046')
    """
    return f"{value:.0f}" if 99.5 <= value < 1e6 else f"{value:.2g}"
