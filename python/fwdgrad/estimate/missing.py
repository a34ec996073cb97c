"""Samples that have no score, because their requests failed: the estimate without them.

Independent samples are left out, and the mean is over those that are there. Of a whole Hadamard
group the weights that are missing are filled in by what the others say: of what the features add,
along the directions that draws use, and of what is along none of them. Where that is nothing, as
of a linear score, it is the least-squares fit to the samples that are there, and exact; where it
is as much as along the draws, the others count for the missing ones. How much it is, is what makes
the samples that are there likeliest.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fwdgrad.directions import Directions
from fwdgrad.plan import Plan
from fwdgrad_kernels import NoiseSpec, hadamard_sums

_MOST = 1024  # missing samples of a group that are filled in: a matrix of as many rows
_SHARES = [10 ** (step / 2 - 12) for step in range(25)]  # of what is along no draw; rising


def is_missing(scores: Tensor) -> Tensor:
    """Which samples lack a score: bool (samples,), of scores (samples, ...).

    >>> is_missing(torch.tensor([[1.0, 2.0], [torch.nan, 3.0]]))
    tensor([False,  True])
    """
    return scores.isnan().flatten(1).any(1)


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
    if not of_groups or not Directions.of(spec).tellings:
        return weights * (n / max(1, n - int(missing.sum()))), 0.0
    groups = [
        _Group(spec, first, part, gone, backend)
        for first, part, gone in zip(
            range(0, n, spec.group),
            weights.split(spec.group),
            missing.split(spec.group),
            strict=True,
        )
    ]
    share = max(_SHARES, key=lambda share: _likelihood([g for g in groups if g.whole], share))
    filled = [group.filled(share) for group in groups]
    variance = sum((len(w) / n) ** 2 * added for w, added in filled)
    return torch.cat([w for w, _ in filled]), variance


def _likelihood(groups: list[_Group], share: float) -> float:
    """How likely the weights that are there are, at the best scale: its logarithm."""
    if not groups:
        return 0.0
    fits = [group.fit(share) for group in groups]
    there = sum(group.there for group in groups)
    spare = sum(len(group.found[group.directions.spare]) for group in groups)
    scale = max(sum(fit.misfit for fit in fits), 1e-300)
    return -there * math.log(scale) - spare * math.log(share) - sum(fit.width for fit in fits)


class _Fit(NamedTuple):
    """The likeliest missing weights at a share."""

    guess: Tensor  # float64 (missing,)
    misfit: float  # of all weights, with these
    width: float  # the logarithm of the determinant of their precision
    drawn: float  # by how much they draw what features add towards zero


class _Group:
    """A Hadamard group some of whose weights are missing.

    Weights are sums of the group's orthogonal signs times b, whose variance is one value along
    directions that draws use and a share of it along the rest; what is missing has its mean given
    what is there. That draws what features add towards zero, by a factor that is known.

    Args:
        spec: of the noise.
        first: the group's first sample.
        weights: float64 (group,) or fewer, 0 where one is missing.
        gone: bool, which are missing.
        backend: of the kernels.
    """

    def __init__(
        self, spec: NoiseSpec, first: int, weights: Tensor, gone: Tensor, backend: str
    ) -> None:
        """Transforms the weights that are there."""
        self.weights, self.gone, self.directions = weights, gone, Directions.of(spec)
        places = gone.nonzero()[:, 0].tolist()
        self.there = len(weights) - len(places)
        self.whole = len(weights) == spec.group and self.there > 0 and len(places) <= _MOST
        if not self.whole:
            return
        self.found = hadamard_sums(weights, spec, first, backend=backend).cpu().double()
        self.rows = torch.zeros((len(places), spec.group), dtype=torch.float64)
        for row, place in zip(self.rows, places, strict=True):  # signs of what is missing
            one = torch.zeros_like(weights)
            one[place] = 1
            row.copy_(hadamard_sums(one, spec, first, backend=backend))
        parts = [(self.rows[:, at], self.found[at]) for at in self.directions[:2]]
        self.grams = tuple(rows @ rows.T for rows, _ in parts)
        self.pulls = tuple(rows @ found for rows, found in parts)

    def fit(self, share: float) -> _Fit:
        """What is missing, where the variance along no draw is a share of that along the draws."""
        factor = torch.linalg.cholesky(self.grams[0] + self.grams[1] / share)
        pull = (self.pulls[0] + self.pulls[1] / share)[:, None]
        guess = -torch.cholesky_solve(pull, factor)[:, 0]
        energy = (self.found + guess @ self.rows).square()
        used, spare = self.directions[:2]
        misfit = float(energy[used].sum() + energy[spare].sum() / share)
        drawn = float(torch.cholesky_solve(self.grams[0], factor).trace())
        drawn /= len(energy[used])
        return _Fit(guess, misfit, 2 * float(factor.diagonal().log().sum()), drawn)

    def filled(self, share: float) -> tuple[Tensor, float]:
        """All weights, and the variance that a draw's mean has of what is not known of them."""
        size = len(self.weights)
        if not bool(self.gone.any()):
            return self.weights, 0.0
        if not self.whole:  # the others count for the missing ones
            there = max(1, self.there)
            added = float(self.weights.square().sum()) / there * (1 / there - 1 / size)
            return self.weights * (size / there), added
        fit = self.fit(share)
        whole = self.weights.clone()
        whole[self.gone] = fit.guess
        kept = 1 - fit.drawn
        return whole / kept, fit.misfit / self.there * fit.drawn / (size * kept) ** 2
