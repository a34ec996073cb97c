"""What a reader of a report must know before all else."""

from __future__ import annotations

from typing import Any

from fwdgrad.adapters.picture_explanation import cut_of
from fwdgrad.advice import is_noise, unmoved
from fwdgrad.explanation import Explanation
from fwdgrad.meaning import is_probability
from fwdgrad.report.checked import UNCLEAR
from fwdgrad.report.words import Scale, named

_LOW = 0.1  # a probability below which a model is unsure of a class
_ENLARGED = 2.0  # times that a photo was enlarged, from which on its details are none


def warning(result: Any, label: str, passed: int | None, found: str) -> str:
    """What a reader must know first; nothing where there is no such thing.

    Args:
        result: what was found.
        label: the class, in words.
        passed: see ``tests_passed``.
        found: what the result is called.
    """
    e = result if isinstance(result, Explanation) else result.explanation
    said = [*_unsure(e, label), *_enlarged(e)]
    if is_noise(result):
        said.append(f"most of this {found} is chance, and another run would give another one")
    elif passed == 0:
        said.append(f"when it was checked, this {found} was no better than chance")
    elif passed == UNCLEAR:
        said.append(f"when it was checked, this {found} was no clearer than chance")
    elif isinstance(result, Explanation) and (still := unmoved(e)):
        said.append(f"{still}. What this {found} shows is little")
    first, *rest = [*said, ""]
    return first and " ".join(
        [f"Careful: {first}.", *(f"{one[0].upper()}{one[1:]}." for one in rest if one)]
    )


def is_unsure(e: Explanation) -> bool:
    """Whether the explained class has a low probability."""
    return e.target is not None and is_probability(e) and e.score < _LOW


def _unsure(e: Explanation, label: str) -> list[str]:
    if not is_unsure(e):
        return []
    score = Scale.of_scores(e).of(e.score)
    if (e.provenance.get("evidence") or {}).get("of_class"):
        return [f"the model is unsure: it gives its first choice only {score}"]
    return [f"the model gives {named(label)} only {score}"]


def _enlarged(e: Explanation) -> list[str]:
    """That a photo has fewer pixels than a model takes, where it was enlarged more than twice."""
    if not e.provenance.get("picture"):
        return []
    cut = cut_of(e)
    left, top, right, bottom = cut.box
    wide, high = right - left, bottom - top
    times = max(cut.scaled[0] / wide, cut.scaled[1] / high)
    if times <= _ENLARGED:
        return []
    return [
        f"the picture is small: its {wide:.0f} x {high:.0f} pixels were enlarged {times:.0f} times"
    ]
