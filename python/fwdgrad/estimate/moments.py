"""Mean, variance and standard error of gradients, kept as they come.

Samples come in units of consecutive ones that depend on one another. Squared distances are
updated about the running mean (Welford, Technometrics 4(3), 1962): what they add up to is
sum_g (n_g (m_g - mean))^2, where only the last unit g may have fewer samples n_g.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fwdgrad.estimate.reliability import reliability, some
from fwdgrad.plan import Plan, sum_dtype
from fwdgrad.powers import exponent_of, times_power, unscale_

_UNSET = 2**15  # no power of two yet
_ROOM = 30  # powers of two that gradients may be larger than what they are divided by
_SCORES = 4  # that are kept beside the moments

Result = tuple[Tensor, Tensor, float]  # attribution, standard error, reliability


def enter_unit_(
    mean: Tensor, spread: Tensor, unit_mean: Tensor, first: int, length: int, unit: int
) -> None:
    """Enters the mean over samples first .. first + length - 1, a unit."""
    done, before = first + length, first // unit
    delta = unit_mean - mean
    spread.addcmul_(delta, delta, value=(unit * length / done) ** 2 * before * (before + 1))
    mean.add_(delta, alpha=length / done)


def standard_error_(spread: Tensor, samples: int, unit: int) -> Tensor:
    """The mean's standard error from the spread, in its place; NaN from a single unit."""
    units = -(-samples // unit)
    if units > 1:
        return spread.mul_(units / (units - 1)).sqrt_().div_(samples)
    return spread.fill_(torch.nan)


class Moments:
    """The running moments of gradients, for each target.

    Args:
        plan: of the run.
        targets: how many there are.
        weights: of each sample in the mean, float64 (samples,); None: all 1.

    Attributes:
        state: everything that is kept, by name; a checkpoint holds it.
    """

    def __init__(self, plan: Plan, targets: int, weights: Tensor | None) -> None:
        """Nothing has come yet."""
        x, dtype = plan.x, sum_dtype(plan.x)
        self._plan, self._targets, self._weights = plan, targets, weights
        self._is_variance = plan.statistic == "variance"
        # The variance is that of single gradients; a mean's error that of independent units.
        self._unit = 1 if self._is_variance else plan.unit
        names = ("mean", "spread", *(("part",) if self._unit > 1 or plan.signs > 1 else ()))
        shape = (targets, *x.shape)
        self.state = {name: torch.zeros(shape, dtype=dtype, device=x.device) for name in names}
        # Powers of two that gradients are divided by, so that their squares are in range: of each
        # target, from its first gradient that is not zero.
        self.state["power"] = torch.full((targets,), _UNSET, dtype=torch.int32)
        kept = len(some(x))
        self.state["half"] = torch.zeros((2, targets, kept), dtype=dtype, device=x.device)
        # Only of the first samples: by them a checkpoint tells another model.
        first = (min(_SCORES, plan.samples), 1, targets)
        self.state["scores"] = torch.zeros(first, dtype=torch.float64)

    def enter(self, results: list[list[Tensor]], first: int, count: int) -> None:
        """Enters samples first onwards: for each sign the targets' gradients, then their scores."""
        plan, state, targets = self._plan, self.state, self._targets
        mean, spread, unit = state["mean"], state["spread"], self._unit
        if first < len(state["scores"]):
            scores = torch.stack(results[0][targets:], dim=1)
            kept = state["scores"][first : first + count, 0]
            kept.copy_(scores[: len(kept)])
        for i in range(count):
            sample = first + i
            if sample == plan.half:
                for t in range(targets):
                    state["half"][0, t] = some(mean[t])
                    state["half"][1, t] = some(spread[t])
            terms = [self._term(found, i, sample) for found in results]
            if self._is_variance:
                for sign, term in enumerate(terms):
                    enter_unit_(mean, spread, term, sample * plan.signs + sign, 1, 1)
            elif "part" not in state:
                enter_unit_(mean, spread, terms[0], sample, 1, 1)
            else:
                for term in terms:
                    state["part"].add_(term, alpha=1 / plan.signs)
                length = sample % unit + 1
                if length == unit or sample + 1 == plan.samples:
                    part = state["part"].div_(length)
                    enter_unit_(mean, spread, part, sample + 1 - length, length, unit)
                    state["part"].zero_()

    def _term(self, found: list[Tensor], row: int, sample: int) -> Tensor:
        """What one sample adds, for each target: (targets, *x.shape)."""
        one = [gradients[row] for gradients in found[: self._targets]]
        term = one[0][None] if len(one) == 1 else torch.stack(one)
        term = self._in_range(term.to(self.state["mean"].dtype))
        if self._plan.statistic == "square":
            term = term.square()
        return term if self._weights is None else term * float(self._weights[sample])

    def _in_range(self, terms: Tensor) -> Tensor:
        """Gradients over their powers of two; nearly always these are 1."""
        powers = self.state["power"]
        scaled = []
        for t, (term, power) in enumerate(zip(terms, powers.tolist(), strict=True)):
            exponent = exponent_of(term)
            if power == _UNSET and bool(term.any()):
                power = exponent if abs(exponent) > _ROOM else 0
                powers[t] = power
            elif power != _UNSET and exponent - power > _ROOM:  # far larger than all before
                self._rescale(t, power - exponent)
                powers[t] = power = exponent
            scaled.append(term if power in (0, _UNSET) else times_power(term, -power))
        return scaled[0][None] if len(scaled) == 1 else torch.stack(scaled)

    def _rescale(self, t: int, exponent: int) -> None:
        """Multiplies what a target's gradients have made so far by a power of two."""
        first = 2 * exponent if self._plan.statistic == "square" else exponent
        for name, power in (("mean", first), ("part", first), ("spread", 2 * first)):
            if name in self.state:
                self.state[name][t] = times_power(self.state[name][t], power)
        for row, power in ((0, first), (1, 2 * first)):
            self.state["half"][row, t] = times_power(self.state["half"][row, t], power)

    def results(self) -> list[Result]:
        """The map of each target, before it is multiplied with anything."""
        return [self._result(t) for t in range(self._targets)]

    def _result(self, t: int) -> Result:
        plan, state = self._plan, self.state
        mean, spread = state["mean"][t], state["spread"][t]
        half, n = plan.half, plan.samples
        power = int(state["power"][t])
        power = 0 if power == _UNSET else power
        if plan.statistic != "mean":
            power *= 2  # of a square
        if not plan.is_random:
            error = torch.zeros_like(mean)
            unscale_(mean, error, power)
            return mean, error, 1.0
        agreement = math.nan
        if 0 < half < n:
            one, squares = (kept[t].double() for kept in state["half"])
            other = (some(mean).double() * n - one * half) / (n - half)
            if self._is_variance:
                # Chan et al., Am. Stat. 37(3), 1983: how spreads about two means add up.
                apart = (one - other).square() * half * (n - half) / n * plan.signs
                other = (some(spread).double() - squares - apart) / (n - half)
                one = squares / half
            factor = plan.factor
            scale = plan.spec.scale if plan.spec is not None else None
            for each in (scale if isinstance(scale, Tensor) else None, factor):  # per deviation
                if each is not None:
                    one, other = (part * some(each).to(one) for part in (one, other))
            agreement = reliability(one, other)
        if self._is_variance:
            error = torch.full_like(mean, torch.nan)
            mean = spread / (n * plan.signs)
        else:
            error = standard_error_(spread, n, self._unit)
        unscale_(mean, error, power)
        return mean, error, agreement
