"""What a report says in plain English, every number in it the explanation's own."""

from __future__ import annotations

import dataclasses
import math
import re
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

from fwdgrad.advice import is_drawn
from fwdgrad.explanation import Explanation
from fwdgrad.inputs import is_of_pixels
from fwdgrad.meaning import has_sign, is_change, is_probability, rounded
from fwdgrad.meaning import named as baseline_named
from fwdgrad.terminal import plain

# By whether it is about a class or the score alone.
UNMISSED = (
    "No part was found whose loss takes most of that away.",
    "No part was found whose loss would change the class.",
)
CHECKED = 0.1  # the share of a picture that a sentence tells of


@dataclasses.dataclass(frozen=True)
class Scale:
    """How a score is told: a probability in per cent, any other as a number.

    Example:
        >>> Scale("probability", True).of(0.953), Scale("logit", False).of(0.953)
        ('95 %', '0.953')
        >>> Scale("score", False).of(-190250.7)
        '−190,251'
        >>> Scale("probability", True).change(-0.0213)
        '2.1 percentage points'
    """

    name: str
    is_share: bool

    @classmethod
    def of_scores(cls, explanation: Explanation, objective: str | None = None) -> Scale:
        """That of an explanation's score, or of another objective's."""
        is_share = is_probability(explanation)
        if objective not in (None, explanation.objective):
            is_share = objective in ("probability", "sigmoid")
        return cls("probability" if is_share else "score", is_share)

    def of(self, value: float) -> str:
        """A score."""
        if not self.is_share:
            told = f"{value:,.0f}" if 999.5 <= abs(value) < 1e6 else f"{value + 0.0:.3g}"
            return told.replace("-", "−")
        if 0 < value < 1e-5:
            return "less than 0.001 %"
        return "more than 99 %" if 0.995 < value < 1 else percent(value)

    def change(self, value: float) -> str:
        """The size of a change of it."""
        return f"{rounded(100 * abs(value))} percentage points" if self.is_share else (
            rounded(abs(value))
        )  # fmt: skip

    def effect(self, value: float, error: float | None) -> str:
        """What a part does to the score, as a sentence ends with it; no error is told where None.

        >>> Scale("score", False).effect(-2.0, 0.25)
        'lowers the score by 2, give or take 0.2'
        """
        by = self.change(value)
        if error is not None:
            by += f", give or take {self.change(float(f'{error:.1g}')).split()[0]}"
        return f"{'raises' if value > 0 else 'lowers'} the {self.name} by {by}"


@dataclasses.dataclass(frozen=True)
class Terms:
    """What a page calls an input and what was found of it, and how it tells of the check.

    Attributes:
        input: what was explained.
        found: what was found of it.
        tried: what was done to the input to find that, by chance.
        deleted, shown: what the check has done to a part.
        deleting, showing: the same, as a sentence begins with it.
        share: of the input, of which these sentences tell.
        most: so much of what ranks highest.
        other: as much by chance.
        check: what the check does, and what it shows.
    """

    input: str
    found: str
    tried: str
    deleted: str
    shown: str
    deleting: str
    showing: str
    share: float
    most: str
    other: str
    check: str


PICTURE = Terms(
    input="picture",
    found="map",
    tried="parts of the picture hidden",
    deleted="deleted",
    shown="shown",
    deleting="Deleting {}",
    showing="Showing {} in a blurred picture",
    share=CHECKED,
    most=f"the {100 * CHECKED:g} % that the map ranks highest",
    other=f"{100 * CHECKED:g} % in an order drawn by chance",
    check="The picture is changed bit by bit, the parts first that the map ranks highest, and the "
    "model answers anew each time. If the map is right, the answer falls early as parts are "
    "deleted (painted over), and rises early as they are shown in a blurred picture.",
)


class Region(NamedTuple):
    """A place of a picture that stands out.

    Attributes:
        x, y: where, as shares of the picture's sides.
        value: of the map.
        error: its standard error.
        size: its width and height, in the photo's pixels; None where it is no square.
    """

    x: float
    y: float
    value: float
    error: float
    size: tuple[float, float] | None = None


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
    if known["enough_share"] is None and known.get("baseline_score", e.score) > e.score:
        start = scale.of(known["baseline_score"])
        said += f" With all of the picture {rest_of(e)} it would be {start}, which is more."
        return " ".join([said, *([_missing(known, scale, rest_of(e))] * bool(of_class))])
    if known["enough_share"] is None and known["missing_share"] is None:
        return f"{said} No part of the picture was found that is enough for that, or that it needs."
    rest = rest_of(e)
    return " ".join([said, _enough(known, scale, rest), _missing(known, scale, rest)])


def rest_of(e: Explanation) -> str:
    """What of a picture is in no part of it: its baseline, which a score of a part is told with.

    >>> import fwdgrad, torch
    >>> of = lambda method: fwdgrad.explain(lambda b: b.mean((1, 2, 3)), torch.rand(1, 8, 8),
    ...     method=method)
    >>> [rest_of(of(method)) for method in ("regions", fwdgrad.Regions(0.5), "gradient")]
    ['blurred', 'at 0.5', 'blurred']
    """
    base: Any = getattr(e.method, "baseline", None)
    if base is None:  # see ``evidence``
        base = "blur" if is_of_pixels(e.input) else 0.0
    return baseline_named(base) if isinstance(base, str) else f"at {baseline_named(base)}"


def _known(e: Explanation) -> dict[str, Any]:
    return e.provenance.get("evidence") or {}


def _enough(known: dict[str, Any], scale: Scale, rest: str) -> str:
    share, score = known["enough_share"], known["enough_score"]
    if share is None:
        return "No part of the picture was found that is enough for that by itself."
    if share > 0.995:
        return "Nothing less than the whole picture is enough for that."
    part = f"{percent(share)} of the picture"
    alone = f"enough, and gives {scale.of(score)} with the rest {rest}."
    if known["of_class"] and known["missing_share"] is not None:
        return f"The part within the solid line decides it: {part} is {alone}"
    return f"{part} (within the solid line) is {alone}"


def _missing(known: dict[str, Any], scale: Scale, rest: str) -> str:
    share = known["missing_share"]
    if share is None:
        return UNMISSED[known["of_class"]]
    if share > 0.995:
        part = f"the whole picture {rest}"
    else:
        part = f"{percent(share)} of the picture {rest} (within the dashed line)"
    return otherwise(f"With {part}", known, scale)


def otherwise(changed: str, known: dict[str, Any], scale: Scale) -> str:
    """What the model says of an input that is changed.

    Args:
        changed: how, as the sentence begins.
        known: the evidence.
        scale: of the score.
    """
    if known["of_class"]:
        sure = scale.of(known["instead_score"])
        return f"{changed}, it would be {named(known['instead_label'])} ({sure})."
    return f"{changed}, it would be {scale.of(known['missing_score'])}."


def region_in_words(number: int, region: Region, e: Explanation, errors: bool) -> str:
    """What a numbered region does to the score: as one line of a list.

    Args:
        number: of the region, on the map.
        region: of the map.
        e: whose map it is.
        errors: whether its standard error is told.
    """
    scale, value = Scale.of_scores(e), region.value
    where = f"Region {number}, {place(region.x, region.y)}"
    if region.size is not None:
        small = max(region.size) < 1
        sides = " x ".join(f"{max(1.0, side):.0f}" for side in region.size)
        where += ", less than a pixel" if small else f", {sides} pixels"
    if not has_sign(e):
        return f"{where}: matters."
    if not is_change(e):
        return f"{where}: {'raises it' if value > 0 else 'lowers it'}."
    return f"{where}: {scale.effect(value, region.error if errors else None)}."


def tells_errors(pairs: Sequence[tuple[float, float]]) -> bool:
    """Whether a list tells its values' standard errors, of all or of none.

    >>> [tells_errors([(2.0, 0.1), (1.0, other)]) for other in (0.2, 0.0, math.nan)]
    [True, False, False]
    >>> tells_errors([(2.0, 1e-9), (1.0, 1e-9)])
    False
    """
    known = all(math.isfinite(error) and error > 0 for _, error in pairs)
    return known and any(error > 0.01 * abs(value) for value, error in pairs)


def place(x: float, y: float) -> str:
    """Where on a picture a point lies.

    >>> place(0.1, 0.9), place(0.5, 0.5), place(0.5, 0.1)
    ('bottom left', 'middle', 'top middle')
    """
    across = "left" if x < 1 / 3 else "right" if x > 2 / 3 else ""
    down = "top" if y < 1 / 3 else "bottom" if y > 2 / 3 else ""
    return " ".join(filter(None, [down or "middle", across or ("middle" if down else "")]))


def sureness(result: Any, terms: Terms) -> str:
    """What another run would give.

    Args:
        result: an explanation, or one of a text or a row.
        terms: for it.
    """
    e = result if isinstance(result, Explanation) else result.explanation
    found = terms.found
    if not is_drawn(e):
        return f"Nothing here was left to chance: another run would give the same {found}."
    r = result.reliability
    if math.isnan(r):
        return (
            f"How much of the {found} another run would give again is not known: this one had too "
            "few samples to tell, or the same value everywhere."
        )
    likeness = (
        f"much the same {found}" if r >= 0.8
        else f"a similar {found}: its strong parts would stay, its details would not" if r >= 0.5
        else f"{_a(found)} that is like this one roughly at best" if r >= 0.3
        else f"another {found}: most of this one is chance"
    )  # fmt: skip
    return (
        f"The {found} was found by trial, with {terms.tried} by chance. A second run with other "
        f"draws would give {likeness}. (The two would agree to {max(r, 0.0):.2f}, where 1 is the "
        f"same {found} and 0 is no likeness at all. This is estimated from this run alone.)"
    )


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def significant_share(e: Explanation) -> list[str]:
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


def percent(share: float) -> str:
    """A share.

    >>> percent(0.094), percent(0.0123), percent(0.5)
    ('9.4 %', '1.2 %', '50 %')
    """
    value = 100 * share
    return f"{value:.0f} %" if value >= 9.95 else f"{value:.2g} %"
