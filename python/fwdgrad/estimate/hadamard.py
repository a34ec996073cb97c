"""Maps of Hadamard groups, and their error from the directions that no draw uses.

A group has M directions for fewer draws. A linear score has nothing along the others, so what is
found there is what higher orders (and noise) put into any direction. Two draws i and j that act
together put it into direction i xor j, and not all are met as often. Of a group that is not whole,
a draw also leaks into others: by how much, is known. Groups have signs of their own, so they err
independently: by the mean of what their directions tell, over their number. Samples of another
group that was begun err as much again, and by the leaks of any score there.

Of cells with chosen directions (``fwdgrad.directions``), many of which act together, that
is the error of any number of groups. Of other features it is that of less than four, or of less
than two where their directions were not chosen: from then on the groups differ for each feature by
its own error. Few groups tell that too roughly, so what chosen directions tell counts, too, as if
four groups more had told it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fwdgrad.directions import Directions, order_of
from fwdgrad.estimate.reliability import some
from fwdgrad.plan import Plan
from fwdgrad_kernels import Grid, NoiseSpec, expand, hadamard_sums, walsh_hadamard

_FEW = 4.0  # groups, below which they do not tell a feature's own error at all
_LENT = (
    4.0  # degrees of freedom, as many as the directions that no draw uses count for from then on
)


def is_told_by_spare(plan: Plan) -> bool:
    """Whether directions that no draw uses tell the error, or two halves of the run do."""
    spec = plan.spec
    if spec is None or spec.design != "hadamard" or spec.block is not None:
        return False
    most = 2.0
    if order_of(spec) is not None:
        most = math.inf if isinstance(spec.features, Grid) else _FEW
    return plan.samples < most * plan.unit and _has_telling(plan, spec)


def lent_by_spare(plan: Plan) -> float:
    """Degrees of freedom that directions which no draw uses lend each feature's own; 0: none.

    >>> from fwdgrad.methods import Regions, plan_of
    >>> [lent_by_spare(plan_of(torch.ones(12), Regions(0.0), n_samples=n)) for n in (64, 256)]
    [0.0, 4.0]
    """
    spec = plan.spec
    if spec is None or spec.design != "hadamard" or spec.block is not None:
        return 0.0
    lends = order_of(spec) is not None and not is_told_by_spare(plan) and _has_telling(plan, spec)
    return _LENT if lends else 0.0


def _has_telling(plan: Plan, spec: NoiseSpec) -> bool:
    return plan.unit == spec.group and spec.draws > 1 and Directions.of(spec).tellings > 0


def lend_(spread: Tensor, weights: Tensor, plan: Plan, backend: str) -> None:
    """Puts what unused directions tell into standard errors of groups that differ, where they do.

    The mean of both variances by their degrees of freedom, as empirical Bayes has it.
    """
    if not (lent := lent_by_spare(plan)):
        return
    assert plan.spec is not None
    own = -(-len(weights) // plan.unit) - 1.0
    _, told = sum_features(weights, plan.spec, backend)
    share = lent / (own + lent)
    told.square_().mul_(_met_by_three(plan.spec))
    spread.square_().mul_(1 - share).add_(told, alpha=share).sqrt_()


def sum_features(
    weights: Tensor, spec: NoiseSpec, backend: str, added: float = 0.0
) -> tuple[Tensor, Tensor]:
    """The map of all groups, and its error: summed for features, and expanded once a group.

    Each draw's estimate errs alike, and its directions are orthogonal: the errors of draws that an
    element lies between add up as those of independent ones.

    Args:
        weights: (samples,), of each sample.
        spec: of the noise.
        backend: of the kernels.
        added: to the variance of a draw's mean, by samples that are missing.

    Returns:
        The sums over n, and their standard error, of the input's shape.
    """
    n, dtype = len(weights), weights.dtype
    groups = weights.split(spec.group)  # the last may be begun
    sums = [
        hadamard_sums(part, spec, g * spec.group, backend=backend) for g, part in enumerate(groups)
    ]
    variance = _variance(sums, groups, spec) + added

    def on_input(values: list[Tensor], squared: bool) -> Tensor:
        maps = (
            expand(one.to(dtype), spec, g * spec.group, squared=squared, backend=backend)
            for g, one in enumerate(values)
        )
        return functools.reduce(torch.add, maps)

    mean = on_input([found[: spec.draws] / n for found in sums], False)
    shares = [variance * len(part) / n for part in groups]
    spread = on_input([torch.full_like(sums[0][: spec.draws], s) for s in shares], True)
    return mean.contiguous(), spread.contiguous().sqrt_()


def _variance(sums: list[Tensor], groups: Sequence[Tensor], spec: NoiseSpec) -> float:
    """Of a draw's estimate, from what no draw uses: all groups count by their samples."""
    n, whole = sum(map(len, groups)), max(1, len(groups) - (len(groups[-1]) < spec.group))
    pairs, directions = zip(sums[:whole], groups[:whole], strict=True), Directions.of(spec)
    met = _met_more(spec, directions)
    variance = sum(_of_group(f, len(part), spec, directions, met) for f, part in pairs) / whole
    more = n - sum(map(len, groups[:whole]))
    found = (n - more) ** 2 * variance / whole
    if more:
        leaks = (1 / more - 1 / spec.group) * float(groups[-1].var(correction=0))
        found += more**2 * (variance + leaks)
    return found / n**2


def _of_group(
    found: Tensor, asked: int, spec: NoiseSpec, directions: Directions, met: float
) -> float:
    """The variance of a draw's estimate from the first group, or from a whole one."""
    group, (used, _, telling, _) = spec.group, directions
    found = (found / asked).square_().cpu()
    leaks = torch.zeros_like(found)
    if asked < group:
        ones = torch.ones(asked)
        even = (hadamard_sums(ones, spec, 0) / asked).square_()
        even[0] = 0  # what draw i leaks into j is even[i xor j] of it
        known = found.clone()
        known[telling] = 0
        leaks = walsh_hadamard(walsh_hadamard(known) * walsh_hadamard(even)) / group
    variance = float((found - leaks)[telling].mean().clamp(min=0)) * met
    return variance + float(leaks[used][1:].mean())


def _met_more(spec: NoiseSpec, directions: Directions) -> float:
    """How much more often two draws' directions meet in a used direction than in a telling one."""
    is_used = torch.zeros(spec.group, dtype=torch.float64)
    order = order_of(spec)
    is_used[directions.used if order is None else order] = 1
    met = walsh_hadamard(walsh_hadamard(is_used).square())
    apart = float(met[directions.telling].mean())
    return float(met[directions.used][1:].mean()) / apart if apart else 1.0


def _met_by_three(spec: NoiseSpec) -> float:
    """The same of three draws, where no two meet in a telling direction; else 1.

    Of two draws and a third one the direction is never that of one of the three.
    """
    directions, order = Directions.of(spec), order_of(spec)
    assert order is not None
    is_used = torch.zeros(spec.group, dtype=torch.float64)
    is_used[order] = 1
    along = walsh_hadamard(is_used)
    if bool(walsh_hadamard(along.square())[directions.telling].any()):
        return 1.0
    met = walsh_hadamard(along**3) / spec.group
    met[order] -= 3 * len(order) - 2  # i, i and j
    apart = float(met[directions.telling].mean())
    return float(met[order].mean()) / apart if apart else 1.0


def spare_reliability(plan: Plan, attribution: Tensor, error: Tensor) -> float:
    """The share of a map's variance that is not its error's: of two runs, the correlation."""
    one, wrong = some(attribution).double(), some(error).double()
    scale = plan.method.noise_scale
    for each in (scale if isinstance(scale, Tensor) else None, plan.factor):  # per deviation
        if each is not None:
            part = some(each).to(one)
            one, wrong = one * part, wrong * part
    total = float((one - one.mean()).square_().mean()) if len(one) > 1 else 0.0
    share = 1 - float(wrong.square().mean()) / total if total else math.nan
    return 0.0 if share < 0 else share  # NaN stays
