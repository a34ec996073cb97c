"""Which features of a map chance alone does not explain: tests with a correction for many."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fwdgrad.checks import check_choice, check_number
from fwdgrad.directions import Directions, order_of
from fwdgrad.errors import ArgumentError, Message, Option, ReliabilityWarning, warn
from fwdgrad.estimate.hadamard import is_told_by_spare, lent_by_spare
from fwdgrad.estimate.student import two_sided
from fwdgrad.methods import plan_again
from fwdgrad.methods.coalitions import MOST
from fwdgrad.methods.in_or_out import is_chosen
from fwdgrad.parts import Parts, parts_of
from fwdgrad.plan import Plan
from fwdgrad_kernels import Grid

CORRECTIONS = ("benjamini-hochberg", "holm", "none")
_FEW = 200  # units of samples, below which features lend one another their errors
_GROUPS = 8  # of Hadamard samples, from which on the rates hold for any score that was tried


def significant(explanation: Any, level: float, correction: str) -> Tensor:
    """See ``Explanation.significant``."""
    parts, found = told_parts(explanation, level, correction)
    values = explanation.per_deviation(explanation.attribution.detach())
    is_told: Tensor = (parts.mask(found.to(values.device)) > 0.5) & (values != 0)
    return is_told


def told_parts(
    explanation: Any, level: float = 0.05, correction: str = CORRECTIONS[0]
) -> tuple[Parts, Tensor]:
    """The features, and which of them differ from zero by more than chance: bool (K,)."""
    level = check_number("level", level)
    if not 0 < level < 1:
        raise ArgumentError("level", f"must be between 0 and 1, got {level}")
    check_choice("correction", correction, CORRECTIONS)
    e = explanation
    values, errors = map(e.per_deviation, (e.attribution.detach(), e.standard_error.detach()))
    top = float(values.abs().max())
    if top and bool(errors.isnan().all()):
        raise ValueError(
            f"the map has no standard error, by which it is tested: {e.method.name} of "
            f"{e.n_samples} samples tells none"
        )
    plan = plan_again(e)
    _warn_of_groups(e, plan)
    parts = parts_of(plan)
    degrees = degrees_of_freedom(plan, e.provenance.get("missing_samples", 0))
    own, error, weight = parts.own(values, errors)
    lent = 0.0
    if _lends(plan) and degrees < _FEW:
        lent, common = _prior(error[error.isfinite() & ((error != 0) | (own != 0))] ** 2, degrees)
        share = lent / (degrees + lent) if math.isfinite(lent) else 1.0
        error = (error.square() * (1 - share) + share * common).sqrt()
    # What is smaller than the rounding of the score and of the largest value is zero.
    size = top if plan.baseline is None else max(top, abs(e.score))
    rounding = torch.finfo(values.dtype).eps * size / weight
    ratios = (own.abs() / error.maximum(rounding)).nan_to_num_(0.0, torch.inf)
    return parts, _rejected(two_sided(ratios, degrees + lent), level, correction)


def degrees_of_freedom(plan: Plan, missing: int = 0) -> float:
    """Those of the standard errors: of independent samples, of groups, of unused directions.

    Example:
        >>> from fwdgrad.methods import Regions, plan_of
        >>> plans = [plan_of(torch.ones(12), Regions(0.0), n_samples=n) for n in (16, 64)]
        >>> [degrees_of_freedom(plan) for plan in plans]
        [2.0, 8.0]
    """
    spec, there = plan.spec, 1 - missing / plan.samples
    if not plan.is_random:
        return math.inf
    if spec is not None and is_told_by_spare(plan):
        groups = plan.samples / spec.group
        return Directions.of(spec).tellings * min(groups, max(1, int(groups))) * there
    units = -(-plan.samples // plan.unit) if plan.unit > 1 else plan.samples * there
    if spec is not None and spec.block is not None:  # the other samples leave an element alone
        units *= spec.coverage
    return max(1.0, units - 1.0) + lent_by_spare(plan)


def _lends(plan: Plan) -> bool:
    """Whether features have their errors from few groups of the same samples, and no others."""
    spec = plan.spec
    if spec is None or spec.design != "hadamard":
        return False
    return not (is_told_by_spare(plan) or lent_by_spare(plan))


def _warn_of_groups(e: Any, plan: Plan) -> None:
    """Warns where what few features do together may be taken for another feature's own.

    The number that it advises is enough, whatever else a run of more samples would choose: cells
    stay as large, and where an adapter's method may take pairs, as many pairs are enough.
    """
    spec = plan.spec
    if spec is None or spec.design != "hadamard" or plan.samples >= _GROUPS * spec.group:
        return
    if isinstance(spec.features, Grid) and spec.view.linear:  # many cells act together
        return
    cell = getattr(e.method, "cell", None) if e.features is None else None
    order = order_of(spec)
    is_double = order is None or 2 * int(order.min()) >= spec.group  # see hadamard_spec
    enough = _GROUPS * spec.group * plan.signs * (1 if is_double else 2)
    if is_chosen(e):  # with more samples it may be pairs, or all coalitions
        enough = min(_GROUPS * spec.group * 2, 1 << min(MOST, parts_of(plan).count))
    said = (
        f"{plan.samples / spec.group:.3g} groups of samples: what few features do together may be "
        "told as another one's; ",
        Option("n_samples", enough),
        *((" with ", Option("cell", cell)) if isinstance(cell, int) else ()),
        " tells them apart",
    )
    warn(Message(*said), ReliabilityWarning)


def _prior(variances: Tensor, degrees: float) -> tuple[float, float]:
    """The degrees of freedom and the variance that all features lend each of them.

    Variances of normal errors are s0^2 F(d, d0) where the true ones are spread as an inverse
    chi-squared of d0 degrees about s0^2: by the mean and the variance of their logarithms.

    Source: Smyth, *Linear models and empirical Bayes methods for assessing differential expression
    in microarray experiments*, 2004, section 6.2.
    """
    middle = float(variances.median()) if len(variances) > 2 else 0.0
    if not middle:
        return 0.0, 0.0
    half = torch.tensor(degrees / 2, dtype=torch.float64)
    logs = variances.double().clamp(min=1e-5 * middle).log() - torch.digamma(half) + half.log()
    spread = float(logs.var() - torch.polygamma(1, half))
    if spread <= 0:  # as alike as chance leaves equal ones
        return math.inf, math.exp(float(logs.mean()))
    y = torch.tensor(0.5 + 1 / spread, dtype=torch.float64)
    for _ in range(50):  # by Newton: the trigamma function of y is the spread
        value = torch.polygamma(1, y)
        step = value * (1 - value / spread) / torch.polygamma(2, y)
        y = y + step
        if float(-step / y) < 1e-8:
            break
    common = logs.mean() + torch.digamma(y) - y.log()
    return 2 * float(y), math.exp(float(common))


def _rejected(chances: Tensor, level: float, correction: str) -> Tensor:
    """Which of so many tests reject at a level: bool, of the chances' shape (K,)."""
    count = len(chances)
    order = chances.argsort()
    rank = torch.arange(1, count + 1, dtype=torch.float64)
    if correction == "none":
        return chances <= level
    if correction == "holm":
        passed = (chances[order] > level / (count + 1 - rank)).cumsum(0) == 0
        last = int(passed.sum())
    else:
        below = (chances[order] <= level * rank / count).nonzero()
        last = int(below[-1]) + 1 if len(below) else 0
    found = torch.zeros(count, dtype=torch.bool)
    found[order[:last]] = True
    return found
