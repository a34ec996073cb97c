"""What a report says of deletion and insertion, beside an order drawn by chance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from fwdgrad.metrics.curves import Curve
from fwdgrad.report.words import CHECKED, PICTURE, Scale, Terms


def at(curve: Curve, share: float = CHECKED) -> float:
    """The score where so much of a picture has changed.

    >>> import torch
    >>> at(Curve(torch.tensor([1.0, 0.5, 0.0])), 0.25)
    0.75
    """
    return float(np.interp(share, curve.fractions.numpy(), curve.scores.double().numpy()))


def checked(
    deletion: Curve,
    insertion: Curve,
    chance: Sequence[Curve] | None,
    scale: Scale,
    terms: Terms = PICTURE,
    below: bool = False,
) -> list[str]:
    """What deletion and insertion say, beside an order drawn by chance."""
    share, most = terms.share, terms.most
    there = [f", {terms.other} to {scale.of(at(curve, share))}" for curve in chance or ()]
    there = there or ["", ""]
    said = [
        f"{terms.deleting.replace('{}', most, 1)} takes the {scale.name} from "
        f"{scale.of(float(deletion.scores[0]))} to {scale.of(at(deletion, share))}{there[0]}.",
        f"{terms.showing.replace('{}', most, 1)} takes it from "
        f"{scale.of(float(insertion.scores[0]))} to {scale.of(at(insertion, share))}{there[1]}.",
    ]
    passed = tests_passed(deletion, insertion, chance, below)
    return said if passed is None else [*said, _PASSED[passed].format(terms.found)]


def tests_passed(
    deletion: Curve | None,
    insertion: Curve | None,
    chance: Sequence[Curve] | None,
    below: bool,
) -> int | None:
    """In how many of the two tests a map is better than chance; None where that is not known.

    ``UNCLEAR`` where it is better in both, but by so little that chance may do as well.

    Args:
        deletion, insertion, chance: see ``report``.
        below: whether they are in the order of what lowers the score.
    """
    if deletion is None or insertion is None or chance is None:
        return None
    sign = -1 if below else 1
    gains = chance[0].auc - deletion.auc, insertion.auc - chance[1].auc
    passed = sum(sign * gain > 0 for gain in gains)
    scores = torch.cat([curve.scores for curve in (deletion, insertion, *chance)])
    is_clear = sign * sum(gains) / 2 > _CLEAR * float(scores.max() - scores.min())
    return passed if passed < 2 or is_clear else UNCLEAR


UNCLEAR = 3
# Of the range of scores: by so much a map's curves are better than those of chance, on average. Ten
# orders drawn by chance differed by up to 0.07 among themselves, of two photos, whose maps were
# better by 0.20 and 0.27.
_CLEAR = 0.05
_PASSED = (
    "In neither test is the {} better than chance: do not rely on it.",
    "In one of the two tests the {} is better than chance, in the other it is not: take it with "
    "care.",
    "Over the whole of both tests, the {} finds what counts sooner than chance does.",
    "Over the whole of both tests, the {} is better than chance by next to nothing: take it with "
    "care.",
)
