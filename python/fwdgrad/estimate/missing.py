"""Samples that have no score, because their requests failed: the estimate without them.

Independent samples are left out, and the mean is over those that are there. Of a whole Hadamard
group the weights that are missing are filled in by what the others say: of what the features add,
along the directions that draws use, and of what is along none of them. Where that is nothing, as
of a linear score, it is the least-squares fit to the samples that are there, and exact; where it
is as much as along the draws, the others count for the missing ones.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fwdgrad.plan import Plan
from fwdgrad_kernels import NoiseSpec, hadamard_sums

_MOST = 1024  # missing samples of a group that are filled in: a matrix of as many rows
_SHARES = [-step / 2 for step in range(25)]  # powers of ten, of what is along no draw


def with_missing(
    plan: Plan, weights: Tensor, missing: Tensor, backend: str
) -> tuple[Tensor, float]:
    """The weights of all samples, so that their mean is right, and what its variance gains.

    Args:
        plan: of the run.
        weights: float64 (samples,); what stands where one is missing is not read.
        missing: bool (samples,).
        backend: of the kernels.

    Returns:
        float64 (samples,), and the variance that is added to a draw's mean: of independent samples
        0, whose spread has it.
    """
    spec, n = plan.spec, len(weights)
    assert spec is not None
    weights = weights.masked_fill(missing, 0)
    of_groups = spec.design == "hadamard" and spec.block is None and plan.unit == spec.group
    if not of_groups or spec.draws >= spec.group:
        return weights * (n / max(1, n - int(missing.sum()))), 0.0
    parts, variance = [], 0.0
    for first in range(0, n, spec.group):
        part, gone = (one[first : first + spec.group] for one in (weights, missing))
        lost = int(gone.sum())
        if lost and len(part) == spec.group and lost <= _MOST and lost < spec.group:
            part, added = _filled(spec, first, part, gone, backend)
        else:
            there = max(1, len(part) - lost)
            added = float(part.square().sum()) / there * (1 / there - 1 / len(part))
            part = part * (len(part) / there)
        parts.append(part)
        variance += (len(part) / n) ** 2 * added
    return torch.cat(parts), variance


def _filled(
    spec: NoiseSpec, first: int, weights: Tensor, gone: Tensor, backend: str
) -> tuple[Tensor, float]:
    """The weights of a whole group, those that are missing by the others: float64 (group,).

    Weights are sums of the group's orthogonal signs times b, whose variance is one value along
    directions that draws use and a share of it along the rest. The share is the likeliest one for
    the weights that are there, and what is missing has its mean given these. That draws what
    features add towards zero, by a factor that is known; it is taken out again. Second, the
    variance that a draw's mean has of what is not known of them.
    """
    draws, places = spec.draws, gone.nonzero()[:, 0].tolist()
    found = hadamard_sums(weights, spec, first, backend=backend).cpu().double()
    rows = torch.zeros((len(places), spec.group), dtype=torch.float64)  # signs of what is missing
    for row, place in zip(rows, places, strict=True):
        one = torch.zeros_like(weights)
        one[place] = 1
        row.copy_(hadamard_sums(one, spec, first, backend=backend))
    parts = rows[:, :draws], rows[:, draws:]
    grams = [part @ part.T for part in parts]
    pulls = [parts[0] @ found[:draws], parts[1] @ found[draws:]]
    best, filled, kept, variance = -math.inf, found[:0], 1.0, 0.0
    present = spec.group - len(places)
    for exponent in _SHARES:
        share = 10.0**exponent
        factor = torch.linalg.cholesky(grams[0] + grams[1] / share)
        guess = -torch.cholesky_solve((pulls[0] + pulls[1] / share)[:, None], factor)[:, 0]
        energy = (found + guess @ rows).square()
        misfit = float(energy[:draws].sum() + energy[draws:].sum() / share)
        likely = -present * math.log(max(misfit, 1e-300))
        likely -= (spec.group - draws) * math.log(share)
        likely -= 2 * float(factor.diagonal().log().sum())
        if likely > best:
            drawn = float(torch.cholesky_solve(grams[0], factor).trace()) / draws
            best, filled, kept = likely, guess, 1 - drawn
            variance = misfit / present * drawn / spec.group**2
    whole = weights.clone()
    whole[gone] = filled
    return whole / kept, variance / kept**2
