"""The map from the scores of forward calls."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fwdgrad.estimate.coalitions import of_coalitions
from fwdgrad.estimate.hadamard import (
    is_told_by_spare,
    lend_,
    lent_by_spare,
    spare_reliability,
    sum_features,
)
from fwdgrad.estimate.missing import is_missing, with_missing
from fwdgrad.estimate.moments import Result, enter_unit_, standard_error_
from fwdgrad.estimate.reliability import reliability, some, stride_of
from fwdgrad.plan import Plan, sum_dtype
from fwdgrad.powers import exponent_of, times_power, unscale_
from fwdgrad_kernels import (
    AdaptiveScale,
    Grid,
    NoiseSpec,
    accumulate_,
    blocks,
    expand,
    hadamard_sums,
)

_SLICE = 2**20  # elements that a finishing step works on at once


def attributions(plan: Plan, scores: Tensor, clean: list[float], backend: str) -> list[Result]:
    """The map of each target, before it is multiplied with anything.

    Args:
        plan: of the run.
        scores: float64 (samples, signs, targets), on the CPU; NaN where one is missing.
        clean: the targets' scores at the input.
        backend: of the kernels.

    Returns:
        Attribution, standard error and reliability of each.
    """
    if plan.labels is not None:
        return of_coalitions(plan, scores, clean)
    frozen = _frozen(plan)
    return [
        _attribution(plan, found, at_x, frozen, backend)
        for found, at_x in zip(scores.unbind(2), clean, strict=True)
    ]


def bytes_of_sums(plan: Plan) -> int:
    """Memory that ``attributions`` takes, beside the scores."""
    x, alone = plan.x, is_told_by_spare(plan)
    one_group = alone and plan.samples <= plan.unit
    maps = 2 if plan.unit == 1 or one_group else 3  # sums, and that of a unit
    maps += 2 * bool(lent_by_spare(plan))
    size = plan.of_one_channel.numel if alone and plan.baseline is not None else x.numel()
    total = maps * size * sum_dtype(x).itemsize + size + x.nbytes  # what is frozen, the input kept
    given = getattr(plan.method, "baseline", None)
    if isinstance(given, Tensor):
        total += given.nbytes  # kept as well
    return total


def why_still(plan: Plan, score: float, clean: float) -> str:
    """What may help where every sample has one score."""
    if plan.position != 1:  # with regions the noise has no scale of its own
        cell = "a larger cell, " if isinstance(plan.spec and plan.spec.features, Grid) else ""
        return f"{cell}another baseline or another objective"
    if not math.isclose(score, clean, rel_tol=1e-4):  # lost in any of the noise
        return f"at x it is {clean:.6g}: less noise (scale) or another objective"
    return "more noise (scale), larger blocks or cells, or another objective"


def _weights(scores: Tensor, plan: Plan, clean: float, missing: Tensor) -> Tensor:
    """The weight of each sample: its score less the control variate, or half a difference."""
    if plan.antithetic:
        return (scores[:, 0] - scores[:, 1]) / 2  # scaled: no difference is out of range
    weights = scores[:, 0]
    if plan.control_variate == "clean":
        return weights - clean
    if plan.control_variate == "mean":
        return weights - weights[~missing].mean()
    if plan.control_variate == "leave-one-out":
        # The others are the samples of other units: within a Hadamard group, say, they depend on
        # one another, and leaving out a single one would bias the estimate.
        group = torch.arange(len(weights)) // plan.unit
        sums = torch.zeros(int(group[-1]) + 1, dtype=weights.dtype)
        sums.index_add_(0, group, weights.masked_fill(missing, 0))
        sizes = torch.bincount(group[~missing], minlength=len(sums))
        others = (sums.sum() - sums) / (sizes.sum() - sizes)
        return weights - others[group]
    return weights


def _attribution(
    plan: Plan, scores: Tensor, clean: float, frozen: Tensor | None, backend: str
) -> Result:
    """Of one target, whose scores are (samples, signs)."""
    x, spec = plan.x, plan.spec
    assert spec is not None
    dtype, alone = sum_dtype(x), is_told_by_spare(plan)
    # Scaled, for whatever the score's unit is, differences and sums of squares must hold it: first
    # so that all scores are below 1, then for the weights, which may be far smaller.
    missing = is_missing(scores)
    scores = scores.masked_fill(scores.isnan(), 0)
    unit = max(exponent_of(scores), math.frexp(clean)[1])
    weights = _weights(times_power(scores, -unit), plan, math.ldexp(clean, -unit), missing)
    added = 0.0  # to the variance of a draw's mean, by samples that are missing
    if bool(missing.any()):
        weights, added = with_missing(plan, weights, missing, backend)
    if plan.path is not None:
        weights = weights * plan.path.weights
    nothing = not bool(weights.any())
    small = exponent_of(weights)
    added = math.ldexp(added, -2 * small)
    weights = times_power(weights, -small).to(x.device, dtype)
    agreement = math.nan
    if alone:
        if plan.baseline is not None:
            spec = plan.of_one_channel
        mean, spread = sum_features(weights, spec, backend, added)
    else:
        mean = torch.zeros(spec.shape, dtype=dtype, device=x.device)
        spread = torch.zeros_like(mean)
        if plan.unit == 1:
            first_half = _sum_samples_(mean, spread, weights, spec, plan.half, backend)
        else:
            first_half = _sum_units_(mean, spread, weights, plan, backend)
            lend_(spread, weights, plan, backend)
        # The half-runs are compared in the units of the attribution.
        agreement = _reliability(first_half, mean, plan, spec, frozen)
    attribution = spec.gradient(mean, 1, out=mean, x=x)
    error = spec.gradient(spread, 1, out=spread, x=x).abs_()
    if nothing:  # of what never changed the score it is not known how often it would
        error.fill_(torch.nan)
    elif spec.block is not None and bool((error == 0).any()):
        error.masked_fill_(_uncovered(spec, plan.samples, x.device, backend), torch.nan)
    if frozen is not None:
        attribution.masked_fill_(frozen, 0)
        error.masked_fill_(frozen, 0)
    if alone:
        agreement = spare_reliability(plan, attribution, error)
    unscale_(attribution, error, unit + small)
    # One map that all channels share stays one, seen from each.
    return attribution.expand(x.shape), error.expand(x.shape), agreement


def _sum_samples_(
    mean: Tensor, spread: Tensor, weights: Tensor, spec: NoiseSpec, half: int, backend: str
) -> Tensor:
    """Mean and its standard error over independent samples; returns some of it at half-time."""
    n, first = len(weights), 0
    first_half = mean.flatten()[:0]
    size = max(1, 2**26 // mean.numel())  # samples between which Ctrl-C comes through
    while first < n:
        if first == half:
            first_half = some(mean) / max(half, 1)
        stop = min(first + size, half if first < half else n)
        accumulate_(mean, weights[first:stop], spec, first, square=spread, backend=backend)
        first = stop
    mean.div_(n)
    # sum (t - mean)^2 / (n (n - 1)), a slice at a time: a whole map of squares is too much. Of a
    # difference no more is known than the rounding of its sums leaves.
    rounding = torch.finfo(mean.dtype).eps * math.sqrt(n)
    for at in range(0, mean.numel(), _SLICE):
        m, s = (a.view(-1)[at : at + _SLICE] for a in (mean, spread))
        s.div_(n).addcmul_(m, m, value=-1)
        torch.maximum(s, m.square().mul_(rounding), out=s)
    spread.div_(n - 1).sqrt_() if n > 1 else spread.fill_(torch.nan)
    return first_half


def _sum_units_(mean: Tensor, spread: Tensor, weights: Tensor, plan: Plan, backend: str) -> Tensor:
    """The same over units of samples that depend on one another, such as Hadamard groups."""
    spec, unit = plan.spec, plan.unit
    assert spec is not None
    first_half = mean.flatten()[:0]
    part = torch.empty_like(mean)
    of_groups = spec.design == "hadamard" and spec.block is None and unit == spec.group
    for first in range(0, len(weights), unit):
        if first == plan.half:
            first_half = some(mean)
        own = weights[first : first + unit]
        if of_groups:  # whose samples lie alike
            found = hadamard_sums(own, spec, first, backend=backend)[: spec.draws]
            part = expand(found.to(part), spec, first, backend=backend).contiguous()
        else:
            accumulate_(part.zero_(), own, spec, first, backend=backend)
        enter_unit_(mean, spread, part.div_(len(own)), first, len(own), unit)
    standard_error_(spread, len(weights), unit)
    return first_half


def _uncovered(spec: NoiseSpec, samples: int, device: torch.device, backend: str) -> Tensor:
    """Where no sample's block was."""
    _, height, width = spec.planes
    edges = torch.zeros(height + 1, width + 1, dtype=torch.int64)
    for first in range(0, samples, 2**16):
        count = min(2**16, samples - first)
        bounds = blocks(spec, first, count, device=device, backend=backend).cpu()
        if len(spec.shape) == 1:
            bounds = torch.cat([torch.tensor([[[0, 1]]]).expand(count, 1, 2), bounds], 1)
        for i, j, sign in ((0, 0, 1), (0, 1, -1), (1, 0, -1), (1, 1, 1)):
            at = (bounds[:, 0, i], bounds[:, 1, j])
            edges.index_put_(at, torch.tensor(sign), accumulate=True)
    covers = edges.cumsum(0).cumsum(1)[:-1, :-1]
    return (covers == 0).to(device).expand(spec.planes).reshape(spec.shape)


def _frozen(plan: Plan) -> Tensor | None:
    """Where the attribution is 0 by definition."""
    if plan.baseline is not None:
        return plan.unmoved()
    scale = plan.spec.scale if plan.spec is not None else None
    return scale == 0 if isinstance(scale, Tensor) else None


def _reliability(
    first: Tensor, both: Tensor, plan: Plan, spec: NoiseSpec, frozen: Tensor | None
) -> float:
    half, n, x = plan.half, plan.samples, plan.x
    if not 0 < half < n:
        return math.nan
    # Where each element has its own scale they are compared per deviation, as they are: in units
    # of x the element of the smallest would decide alone.
    one = first.double()
    other = (some(both).double() * n - one * half) / (n - half)
    factor = plan.factor
    if factor is not None:
        one, other = (part * some(factor).to(one) for part in (one, other))
    if isinstance(spec.scale, AdaptiveScale):
        stride = stride_of(both)
        pieces = spec.scale.pieces(x, spec.distribution)
        scale = torch.cat([part[-start % stride :: stride] for start, part in pieces])
        one, other = (one / scale)[scale > 0], (other / scale)[scale > 0]
    if frozen is not None:
        kept = ~some(frozen.expand(x.shape))
        one, other = one[kept], other[kept]
    return reliability(one, other)
