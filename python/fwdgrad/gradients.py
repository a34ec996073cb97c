"""Where a gradient comes from: forward calls alone, or the model's own derivative."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fwdgrad.checkpoint import Checkpoint
from fwdgrad.errors import ModelError, warn
from fwdgrad.inputs import numbers_of
from fwdgrad.noise import noise_spec
from fwdgrad.objectives import Objective
from fwdgrad.outputs import told
from fwdgrad.parameters import ParameterNoise, Swapped
from fwdgrad.powers import exponent_of, times_power, unscale_
from fwdgrad.saliency import Gradient, IntegratedGradients
from fwdgrad.sampling import Sampling, weights_of
from fwdgrad.scorer import Scorer, device_of_numbers
from fwdgrad.smoothing import with_floor
from fwdgrad.source import (
    Plan,
    Result,
    Source,
    check_no_array,
    check_number,
    enter_unit_,
    reliability,
    sample,
    sample_stride,
    standard_error_,
    sum_dtype,
)
from fwdgrad.stream import Progress, Results, is_out_of_memory
from fwdgrad_kernels import AdaptiveScale, NoiseSpec, accumulate_, blocks, expand, hadamard_sums
from fwdgrad_kernels.features import Features, Grid, Labels
from fwdgrad_kernels.hadamard import walsh_hadamard
from fwdgrad_kernels.spec import first_outside

CONTROLS = (None, "clean", "leave-one-out", "mean")

_SLICE = 2**20  # elements that a finishing step works on at once
_UNSET = 2**15  # no power of two yet
_SCORES = 4  # that are kept beside the moments of gradients
_COPIES = 50  # of a smoothed gradient, where nothing is asked for


class LikelihoodRatio(Source):
    """Gradients of a model's score with respect to its input, from forward calls alone.

    The model is called on noisy copies x + J_i z_i and the scores w_i are averaged against the
    noise's own score function:

        g(x) = 1/(n q) sum_i w_i s(J_i z_i),    s(z) = -d/dz ln mu(z).

    Its expectation is the gradient of the model smoothed by the noise (theorems 1 and 2). With
    ``antithetic=False`` and ``control=None`` it is the paper's plain estimator to the letter.

    Args:
        forward: the model: takes a batch (batch, *x.shape) and returns (batch, classes) or
            (batch,). It is called under ``torch.no_grad()`` and may overwrite its argument, which
            is overwritten after the call: a model that keeps its batch must clone it.
        objective: what is explained: "output", as it is, also called "logit"; of logits
            "probability" (their softmax), "log-probability", "cross-entropy" or "sigmoid" (of the
            class's own); or a callable from the model's output to one score per copy:
            ``KeptLabel``, ``LabelDistance`` and ``TextAnswer`` for models that answer with a label
            or a sentence. "auto" looks at the output at x: one number a copy, rows that are
            probabilities, and rows in [0, 1] that do not sum to 1, of labels each of its own, are
            "output"; all else is "probability". The explanation has what was decided as its
            ``objective``, and the reason in its ``provenance``.
        queries: forward calls on noisy copies; one more is made at x itself.
        sigma: the noise's scale in the input's units: a positive number, a tensor of the input's
            shape, zero where an element is to be left alone, or an ``AdaptiveScale``: AdaptGrad's,
            each element's own, so that copies mostly keep within bounds (see its floor); how far
            the others leave them is up to the law: Cauchy's tails go anywhere. Default: a fifth of
            the input's range (SmoothGrad's rule); with a baseline, a number that multiplies
            x - baseline, default 0.5. A row of a table whose columns are of unlike scale needs a
            tensor: their standard deviations, or a share of them.
        baseline: a number or tensor; the noise then goes along x - baseline, and the attribution
            is the score's derivative along that direction, not per unit of the input: how much
            the score rises as an element, or the cell that it shares, moves away from the
            baseline. An element on the baseline has none (with shared draws, one that is there in
            all planes): nothing moves it.
        law, block: the noise, see ``fwdgrad_kernels.NoiseSpec``; or law "hadamard", orthogonal
            random signs. The Cauchy law's heavy tails need a bounded score, such as a probability.
        features: what moves together: ``Elements()``, ``Grid(cell)`` over one to three axes (series
            (C, T), pictures, volumes (C, D, H, W)) or ``Labels(mask)``. An element's attribution is
            then the weighted sum of the gradient over the elements that move with it.
        cell, field, shared, shift: a ``Grid`` in other words: cells over the trailing two axes (of
            a volume three), between whose centres the field "bilinear" interpolates; draws that
            channels share; a grid that every sample shifts at random.
        antithetic: ask each copy with both signs of its noise: half the variance or less where
            the score is nearly linear, since everything even cancels.
        position: where copies lie on the way from the baseline (0) to x (1): they are centred
            there. Half-way with sigma 0.5 and random signs, each cell of a copy is the input's or
            the baseline's, and the attribution is the cells' Banzhaf value.
        control: a control variate: None, "clean" (subtracts the score at x), "leave-one-out"
            (subtracts the mean score of the other copies) or "mean" (of all copies). The first two
            leave the expectation as it is; "mean" takes off 1/n of independent copies' estimate,
            and nothing of whole Hadamard groups'. Antithetic pairs cancel them all.
        saliency: what is made of the gradient: ``Gradient()``, ``GradientXInput()`` or
            ``IntegratedGradients()``.
        parameters: noise on the model's parameters too (FusionGrad), where they can be reached.
        clip: clamp copies to (low, high); the noise then smooths the model of clamped inputs.
        seed: 0 .. 2^64 - 1.
        batch_size: copies per forward call. The result does not depend on it, as far as the
            model's own output for a copy does not.
        memory: instead, a budget such as "1GiB" for the input, copies, sums and what the model
            is seen to need; picks the micro-batch.
        backend: see ``fwdgrad_kernels.backend_for``.

    Raises:
        TypeError, ValueError: naming the argument, what was given and what would do.

    Example:
        >>> weights = torch.tensor([1.0, -2.0, 0.0])
        >>> explainer = LikelihoodRatio(lambda batch: batch @ weights, queries=4096, sigma=0.1)
        >>> explainer.attribute(torch.zeros(1, 3)).round(decimals=1) + 0.0
        tensor([[ 1., -2.,  0.]])

        What each cube of 4 x 4 x 4 of a volume adds, to a model that looks at the first one:

        >>> from fwdgrad_kernels import Grid
        >>> model = lambda batch: batch[:, 0, :4, :4, :4].sum((1, 2, 3))
        >>> options = {"baseline": 0.0, "position": 0.5, "sigma": 0.5, "law": "hadamard"}
        >>> cubes = Grid((4, 4, 4), "nearest")
        >>> explainer = LikelihoodRatio(model, queries=16, features=cubes, **options)
        >>> found = explainer.explain(torch.ones(1, 8, 8, 8), None).attribution
        >>> found[0, ::4, 0, ::4].round() + 0.0
        tensor([[64.,  0.],
                [ 0.,  0.]])

    Source: *Is forward gradient an effective tool for explaining black-box models?*, equations 2
    and 6, algorithm 1.
    """

    name = "likelihood-ratio"

    def __init__(
        self,
        forward: Callable[[Tensor], Any],
        *,
        objective: Objective = "output",
        queries: int = 1024,
        sigma: float | Tensor | AdaptiveScale | None = None,
        baseline: float | Tensor | None = None,
        law: str = "normal",
        block: tuple[int, ...] | int | None = None,
        cell: int = 1,
        field: str = "nearest",
        shared: bool = False,
        shift: bool = True,
        features: Features | None = None,
        antithetic: bool = True,
        control: str | None = None,
        position: float = 1.0,
        saliency: Gradient | None = None,
        parameters: ParameterNoise | None = None,
        clip: tuple[float, float] | None = None,
        seed: int = 0,
        batch_size: int | None = None,
        memory: int | str | None = None,
        backend: str = "auto",
    ) -> None:
        """Checks what can be checked without an input."""
        super().__init__(
            forward,
            objective=objective,
            queries=queries,
            sigma=sigma,
            law=law,
            block=block,
            cell=cell,
            field=field,
            shared=shared,
            shift=shift,
            features=features,
            antithetic=antithetic,
            saliency=saliency,
            parameters=parameters,
            clip=clip,
            seed=seed,
            batch_size=batch_size,
            memory=memory,
            backend=backend,
        )
        if queries is None:
            raise TypeError("queries must be an integer, got None")
        check_no_array("control", control)
        if control not in CONTROLS:
            raise ValueError(
                f"control must be None, 'clean', 'leave-one-out' or 'mean', got {control!r}"
            )
        if control is not None and antithetic:
            raise ValueError(
                f"control must be None with antithetic pairs, which cancel it, got {control!r}; "
                "or give antithetic=False"
            )
        if law == "uniform":
            raise ValueError(
                "law must have a score, and 'uniform' has none: its density has no slope inside "
                "its support; use normal, cauchy, hyperbolic, logistic, rademacher or hadamard"
            )
        if self.saliency.statistic != "mean":
            raise ValueError(
                f"saliency {self.saliency!r} needs each copy's own gradient, and a forward call "
                "gives none; use method='autograd', where the model has a gradient"
            )
        baseline = numbers_of(baseline)
        if baseline is not None:
            if isinstance(self.sigma, (Tensor, AdaptiveScale)):
                kind = "a tensor" if isinstance(self.sigma, Tensor) else "a rule"
                raise TypeError(f"sigma must be a number where a baseline is given, got {kind}")
            if type(self.saliency) is not Gradient:
                raise ValueError(
                    f"saliency must be Gradient() with a baseline, along which the attribution is "
                    f"the derivative already, got {self.saliency!r}"
                )
            if isinstance(baseline, str):
                raise TypeError(
                    f"baseline must be a number or a tensor, got {baseline!r}; 0.5 is grey"
                )
            if not isinstance(baseline, Tensor):
                baseline = check_number("baseline", baseline)
            values = torch.as_tensor(baseline)
            bad = first_outside(values, torch.isfinite(values))
            if bad is not None:
                raise ValueError(f"baseline must be finite, got {bad[1]}")
        self.position = check_number("position", position)
        if not 0 <= self.position <= 1:
            raise ValueError(f"position must be from 0 (the baseline) to 1 (x), got {position}")
        if self.position != 1 and baseline is None:
            raise ValueError(f"position must be 1 without a baseline to start from, got {position}")
        self.baseline = baseline
        self._blends = baseline is not None
        self.control = control

    # ---- what is asked ---------------------------------------------------------------------

    def _plan(self, x: Tensor) -> Plan:
        plan = super()._plan(x)
        assert plan.spec is not None
        if self.noise["features"] is None:
            _check_cells(plan.spec.shape, self.noise["cell"])
        if plan.spec.design == "hadamard":
            self._warn_of_design(plan)
        if plan.path is not None and isinstance(self.sigma, AdaptiveScale):
            raise ValueError(
                "sigma must be a number or a tensor on a path with the likelihood ratio, which "
                "divides by one scale for all copies, got an AdaptiveScale"
            )
        if self.control == "leave-one-out" and plan.copies <= plan.unit:
            raise ValueError(
                f"queries must give leave-one-out at least two independent groups, that is more "
                f"than {plan.signs * plan.unit}, got {self.queries}; or use control='clean'"
            )
        if self.baseline is not None:
            plan.baseline, plan.position = self._baseline_of(x), self.position
            self._perturber(plan, self.antithetic)  # checks its shape
            if bool(self._still(plan).all()):
                raise ValueError(
                    "x - baseline must not be zero everywhere: there would be no noise"
                )
        return plan

    def _warn_of_design(self, plan: Plan) -> None:
        """Warns where a group of orthogonal samples does not tell all features."""
        spec = plan.spec
        assert spec is not None
        if self.noise["features"] is not None and plan.copies < spec.draws:
            count = spec.draws - (isinstance(spec.features, Labels) and not self.antithetic)
            warn(
                f"queries must be at least {spec.draws * plan.signs} to tell {count} features "
                f"apart, got {self.queries}; whole groups, of {spec.group * plan.signs}, do it best"
            )
        grid = spec.features
        if self.antithetic or plan.copies >= 2 * spec.group or not isinstance(grid, Grid):
            return
        if spec.jitters if not spec.view.linear else max(spec.view.cells[:2]) == 1:
            warn(
                "the first cell of the grid has one sign in all samples, so that what it adds is "
                "not told from the score's mean; give antithetic=True, or a grid that is 'nearest' "
                "and does not jitter"
            )

    def _rule(self, rule: AdaptiveScale) -> AdaptiveScale:
        return with_floor(rule)

    def _scale(self, x: Tensor) -> float | Tensor | AdaptiveScale:
        if self.baseline is None:
            return super()._scale(x)
        assert not isinstance(self.sigma, (Tensor, AdaptiveScale))
        return 0.5 if self.sigma is None else float(self.sigma)  # of x - baseline

    def _baseline_of(self, x: Tensor) -> float | Tensor:
        if not isinstance(self.baseline, Tensor):
            assert self.baseline is not None
            return self.baseline
        if not self.baseline.dim():
            return float(self.baseline)
        return self.baseline.to(x.device, x.dtype)

    def _settings(self, plan: Plan) -> dict[str, Any]:
        settings = super()._settings(plan)
        own = {"baseline": self.baseline, "position": self.position, "control": self.control}
        return {**settings, **own}

    # ---- scores, and the map from them -----------------------------------------------------

    def _run(
        self,
        plan: Plan,
        targets: list[int | None],
        clean: list[float],
        checkpoint: Checkpoint | None,
        progress: Progress,
    ) -> list[Result]:
        # Where the model's output is: a copy to the host would wait for each micro-batch.
        shape, device = (plan.copies, plan.signs, len(targets)), plan.scorer.device
        scores = torch.full(shape, torch.nan, dtype=torch.float64, device=device)

        def evaluate(batch: Tensor) -> list[Tensor]:
            with torch.no_grad():
                found = plan.scorer(batch)
            # Copied: a model may return a view of its argument, or of a buffer of its own.
            return [one.to(device, torch.float64, copy=True) for one in found]

        def judged(found: list[Tensor]) -> Tensor:
            return torch.stack(found, dim=1)

        # Two sums, or three, and the copy of the input that the explanation keeps.
        x, spec = plan.x, plan.spec
        assert spec is not None
        maps, alone = (2 if plan.unit == 1 or _is_alone(plan) else 3), _is_alone(plan)
        size = plan.of_one_channel.numel if alone and self.baseline is not None else x.numel()
        sums = maps * size * sum_dtype(x).itemsize + size + x.nbytes  # and what is frozen
        if isinstance(plan.baseline, Tensor) and "baseline" not in self.own:
            sums += plan.baseline.nbytes  # kept as well
        state = {"scores": scores}
        self._stream(
            evaluate, judged, scores, None, "score", state, plan, sums, checkpoint, progress
        )
        scores = scores.cpu()
        for target, found, at_x in zip(targets, scores.unbind(2), clean, strict=True):
            if len(found) > 1 and bool((found == found[0, 0]).all()):
                which = "" if target is None else f" of class {target}"
                zero = self.antithetic or self.control or not found[0, 0]
                warn(
                    f"the score{which} is {float(found[0, 0]):.6g} for every copy, so the map is "
                    f"{'zero' if zero else 'noise alone'}: {_why_still(plan, found, at_x)} may "
                    "change it"
                )
        return [self._sum(plan, scores[:, :, t], clean[t]) for t in range(len(targets))]

    def _weights(self, scores: Tensor, plan: Plan, clean: float) -> Tensor:
        """The weight of each copy: its score less the control variate, or half a difference."""
        if self.antithetic:
            return (scores[:, 0] - scores[:, 1]) / 2  # scaled: no difference is out of range
        weights = scores[:, 0]
        if self.control == "clean":
            return weights - clean
        if self.control == "mean":
            return weights - weights.mean()
        if self.control == "leave-one-out":
            # The others are the copies of other units: within a Hadamard group, say, they depend on
            # one another, and leaving out a single one would bias the estimate.
            group = torch.arange(len(weights)) // plan.unit
            sums = torch.zeros(int(group[-1]) + 1, dtype=weights.dtype)
            sums.index_add_(0, group, weights)
            sizes = torch.bincount(group)
            others = (sums.sum() - sums) / (len(weights) - sizes)
            return weights - others[group]
        return weights

    def _sum(self, plan: Plan, scores: Tensor, clean: float) -> Result:
        """Attribution, its standard error and its reliability."""
        x, spec = plan.x, plan.spec
        assert spec is not None
        dtype = sum_dtype(x)
        # Scaled, for whatever the score's unit is, differences and sums of squares must hold it:
        # first so that all scores are below 1, then for the weights, which may be far smaller.
        unit = max(exponent_of(scores), math.frexp(clean)[1])
        weights = self._weights(times_power(scores, -unit), plan, math.ldexp(clean, -unit))
        if plan.weights is not None:
            weights = weights * plan.weights
        nothing = not bool(weights.any())
        small = exponent_of(weights)
        weights = times_power(weights, -small).to(x.device, dtype)
        frozen, agreement = self._frozen(plan), math.nan
        if _is_alone(plan):
            if plan.baseline is not None:
                spec = plan.of_one_channel
            mean, spread = self._sum_features(weights, spec)
        else:
            mean = torch.zeros(spec.shape, dtype=dtype, device=x.device)
            spread = torch.zeros_like(mean)
            if plan.unit == 1:
                first_half = self._sum_copies_(mean, spread, weights, spec, plan.half)
            else:
                first_half = self._sum_units_(mean, spread, weights, spec, plan)
            # The half-runs are compared in the units of the attribution.
            agreement = self._reliability(first_half, mean, plan, spec, frozen)
        attribution = spec.gradient(mean, 1, out=mean, x=x)
        error = spec.gradient(spread, 1, out=spread, x=x).abs_()
        if nothing:  # of what never changed the score it is not known how often it would
            error.fill_(torch.nan)
        elif spec.block is not None and bool((error == 0).any()):
            error.masked_fill_(self._uncovered(spec, plan.copies, x.device), torch.nan)
        if frozen is not None:
            attribution.masked_fill_(frozen, 0)
            error.masked_fill_(frozen, 0)
        if _is_alone(plan):
            agreement = self._spare_reliability(attribution, error, x)
        unscale_(attribution, error, unit + small)
        # One map that all channels share stays one, seen from each.
        return attribution.expand(x.shape), error.expand(x.shape), agreement

    def _sum_features(self, weights: Tensor, spec: NoiseSpec) -> tuple[Tensor, Tensor]:
        """The map of less than two Hadamard groups, and its error: summed before Phi, once.

        Each draw's estimate errs alike, and its directions are orthogonal: the errors of draws that
        an element lies between add up as those of independent ones.
        """
        n, dtype = len(weights), weights.dtype
        groups = weights.split(spec.group)  # the second was begun at most
        sums = [
            hadamard_sums(some, spec, g * spec.group, backend=self.backend)
            for g, some in enumerate(groups)
        ]
        variance = self._spare_variance(sums[0], weights, spec)

        def on_input(values: list[Tensor], squared: bool) -> Tensor:
            maps = (
                expand(one.to(dtype), spec, g * spec.group, squared=squared, backend=self.backend)
                for g, one in enumerate(values)
            )
            return functools.reduce(torch.add, maps)

        mean = on_input([found[: spec.draws] / n for found in sums], False)
        shares = [variance * len(some) / n for some in groups]
        spread = on_input([torch.full_like(sums[0][: spec.draws], s) for s in shares], True)
        return mean.contiguous(), spread.contiguous().sqrt_()

    def _sum_copies_(
        self, mean: Tensor, spread: Tensor, weights: Tensor, spec: NoiseSpec, half: int
    ) -> Tensor:
        """Mean and its standard error over independent copies; returns a sample at half-time."""
        n, first = len(weights), 0
        first_half = mean.flatten()[:0]
        size = max(1, 2**26 // mean.numel())  # copies between which Ctrl-C comes through
        while first < n:
            if first == half:
                first_half = sample(mean) / max(half, 1)
            stop = min(first + size, half if first < half else n)
            accumulate_(mean, weights[first:stop], spec, first, square=spread, backend=self.backend)
            first = stop
        mean.div_(n)
        # sum (t - mean)^2 / (n (n - 1)), a slice at a time: a whole map of squares is too much. Of
        # a difference no more is known than the rounding of its sums leaves.
        rounding = torch.finfo(mean.dtype).eps * math.sqrt(n)
        for at in range(0, mean.numel(), _SLICE):
            m, s = (a.view(-1)[at : at + _SLICE] for a in (mean, spread))
            s.div_(n).addcmul_(m, m, value=-1)
            torch.maximum(s, m.square().mul_(rounding), out=s)
        spread.div_(n - 1).sqrt_() if n > 1 else spread.fill_(torch.nan)
        return first_half

    def _sum_units_(
        self, mean: Tensor, spread: Tensor, weights: Tensor, spec: NoiseSpec, plan: Plan
    ) -> Tensor:
        """The same over units of copies that depend on one another, such as Hadamard groups."""
        first_half = mean.flatten()[:0]
        part = torch.empty_like(mean)
        of_groups = spec.design == "hadamard" and spec.block is None and plan.unit == spec.group
        for first in range(0, len(weights), plan.unit):
            if first == plan.half:
                first_half = sample(mean)
            some = weights[first : first + plan.unit]
            if of_groups:  # whose samples lie alike
                found = hadamard_sums(some, spec, first, backend=self.backend)[: spec.draws]
                part = expand(found.to(part), spec, first, backend=self.backend).contiguous()
            else:
                accumulate_(part.zero_(), some, spec, first, backend=self.backend)
            enter_unit_(mean, spread, part.div_(len(some)), first, len(some), plan.unit)
        standard_error_(spread, len(weights), plan.unit)
        return first_half

    def _spare_variance(self, found: Tensor, weights: Tensor, spec: NoiseSpec) -> float:
        """Of a draw's estimate by less than two Hadamard groups, from what no draw uses.

        A group has M directions for fewer draws. A linear score has nothing along the others, so
        what is found there is what higher orders (and noise) put into any direction. Two draws i
        and j that act together put it into direction i xor j, and not all are met as often. Of a
        group that is not whole, a draw also leaks into others: by how much, is known. Copies of a
        second group that was begun err as much again, and by the leaks of any score there.
        """
        n, draws, group = len(weights), spec.draws, spec.group
        more, asked = max(0, n - group), min(n, group)
        found = (found / asked).square_().cpu()
        leaks = torch.zeros_like(found)
        if asked < group:
            ones = torch.ones(asked)
            even = (hadamard_sums(ones, spec, 0) / asked).square_()
            even[0] = 0  # what draw i leaks into j is even[i xor j] of it
            used = (torch.arange(group) < draws).double()
            leaks = walsh_hadamard(walsh_hadamard(found * used) * walsh_hadamard(even)) / group
        variance = float((found - leaks)[draws:].mean().clamp(min=0)) * _met_more(draws, group)
        variance += float(leaks[1:draws].mean())
        if more:
            begun = variance + (1 / more - 1 / group) * float(weights[group:].var(correction=0))
            variance = ((n - more) / n) ** 2 * variance + (more / n) ** 2 * begun
        return variance

    def _spare_reliability(self, attribution: Tensor, error: Tensor, x: Tensor) -> float:
        """The share of a map's variance that is not its error's: of two runs, the correlation."""
        factor = self.saliency.factor(x)
        one, wrong = sample(attribution).double(), sample(error).double()
        if isinstance(self.sigma, Tensor):  # per deviation, as the halves of a run
            scale = sample(self.sigma).to(one)
            one, wrong = one * scale, wrong * scale
        if factor is not None:
            part = sample(factor).double()
            one, wrong = one * part, wrong * part
        total = float((one - one.mean()).square_().mean()) if len(one) > 1 else 0.0
        share = 1 - float(wrong.square().mean()) / total if total else math.nan
        return 0.0 if share < 0 else share  # NaN stays

    def _uncovered(self, spec: NoiseSpec, copies: int, device: torch.device) -> Tensor:
        """Where no copy's block was."""
        _, height, width = spec.planes
        edges = torch.zeros(height + 1, width + 1, dtype=torch.int64)
        for first in range(0, copies, 2**16):
            count = min(2**16, copies - first)
            bounds = blocks(spec, first, count, device=device, backend=self.backend).cpu()
            if len(spec.shape) == 1:
                bounds = torch.cat([torch.tensor([[[0, 1]]]).expand(count, 1, 2), bounds], 1)
            for i, j, sign in ((0, 0, 1), (0, 1, -1), (1, 0, -1), (1, 1, 1)):
                at = (bounds[:, 0, i], bounds[:, 1, j])
                edges.index_put_(at, torch.tensor(sign), accumulate=True)
        covers = edges.cumsum(0).cumsum(1)[:-1, :-1]
        return (covers == 0).to(device).expand(spec.planes).reshape(spec.shape)

    def _frozen(self, plan: Plan) -> Tensor | None:
        """Where the attribution is 0 by definition, for all targets; not there while sampling."""
        if plan.frozen is None and plan.baseline is not None:
            plan.frozen = self._still(plan)
        elif plan.frozen is None and plan.spec is not None and isinstance(plan.spec.scale, Tensor):
            plan.frozen = plan.spec.scale == 0
        return plan.frozen

    def _still(self, plan: Plan) -> Tensor:
        """Where x is on the baseline, so that no noise moves it: there nothing can matter.

        Of the input's shape, or what broadcasts to it.
        """
        spec = plan.spec
        assert spec is not None
        x, view = plan.x, spec.view
        # The attribution is to the draw: of what moves together all must be at the baseline.
        baseline = torch.as_tensor(plan.baseline, device=x.device, dtype=x.dtype)
        if view.shared:
            planes = (
                one.reshape(view.leading, *plan.of_one_channel.shape)
                for one in (x, baseline.expand(x.shape))
            )
            return functools.reduce(torch.Tensor.logical_and_, map(torch.eq, *planes))
        still, labels = torch.eq(x, baseline), spec.labels_on(x.device)
        if labels is not None:
            moves = (~still).view(-1, view.period, view.inner).any(2).any(0).to(torch.int32)
            moved = moves.new_zeros(spec.draws).index_add_(0, labels, moves)
            still = (moved[labels] == 0)[:, None].expand(-1, view.inner)
            still = still.expand(spec.numel // still.numel(), *still.shape).reshape(spec.shape)
        return still

    def _reliability(
        self, first: Tensor, both: Tensor, plan: Plan, spec: NoiseSpec, frozen: Tensor | None
    ) -> float:
        half, n, x = plan.half, plan.copies, plan.x
        if not 0 < half < n:
            return math.nan
        # Where each element has its own scale they are compared per deviation, as they are: in
        # units of x the element of the smallest would decide alone.
        one = first.double()
        other = (sample(both).double() * n - one * half) / (n - half)
        factor = self.saliency.factor(x)
        if factor is not None:
            one, other = (half * sample(factor).to(one) for half in (one, other))
        if isinstance(spec.scale, AdaptiveScale):
            stride = sample_stride(both)
            pieces = spec.scale.pieces(x, spec.law)
            scale = torch.cat([part[-start % stride :: stride] for start, part in pieces])
            one, other = (one / scale)[scale > 0], (other / scale)[scale > 0]
        if frozen is not None:
            kept = ~sample(frozen.expand(x.shape))
            one, other = one[kept], other[kept]
        return reliability(one, other)


def _why_still(plan: Plan, found: Tensor, clean: float) -> str:
    """What may help where every copy has one score, with what an objective has to say to it."""
    own = getattr(plan.scorer.objective, "why_still", None)
    text = own(plan.scorer.outputs, float(found[0, 0])) if own is not None else ""
    if plan.position != 1:  # with regions the noise has no scale of its own
        return f"{text}a larger cell, another baseline or another objective"
    if not math.isclose(float(found[0, 0]), clean, rel_tol=1e-4):  # lost in any of the noise
        return f"{text}at x it is {clean:.6g}: less noise (sigma) or another objective"
    return f"{text}more noise (sigma), larger blocks or cells, or another objective"


def _is_alone(plan: Plan) -> bool:
    """Whether a run is less than two Hadamard groups, with directions that no draw uses."""
    spec = plan.spec
    if spec is None or spec.design != "hadamard" or spec.block is not None:
        return False
    one = plan.unit == spec.group and plan.copies < 2 * plan.unit
    return one and 1 < spec.draws < spec.group


def _check_cells(shape: tuple[int, ...], cell: int) -> None:
    """Raises where cells would join what is not alike: the channels of a series."""
    if len(shape) == 2 and min(cell, *shape) > 1:
        raise ValueError(
            f"cell must be 1 for x of shape {shape}, got {cell}: cells are squares "
            "over the trailing two axes, and channels of a series (T, C) would share them; give "
            "features=Grid((cell, 1)), or Grid((cell,)) where x is (C, T), or a picture (H, W) as "
            "x[None], with lambda batch: model(batch[:, 0])"
        )


@functools.lru_cache(maxsize=16)
def _met_more(draws: int, group: int) -> float:
    """How much more often two draws' directions meet in a used direction than in an unused one."""
    used = (torch.arange(group) < draws).double()
    met = walsh_hadamard(walsh_hadamard(used).square())
    return float(met[1:draws].mean() / met[draws:].mean())


class Autograd(Source):
    """Gradients by automatic differentiation, where the model is open: plain or smoothed.

    Copies stream through the model a micro-batch at a time, and each copy's gradient enters a
    running mean and spread: memory is two micro-batches, the model's own and a few maps, whatever
    the number of copies, and the result does not depend on the micro-batch.

    Args:
        forward: the model: takes a batch (batch, *x.shape) of tensors and returns (batch, classes)
            or (batch,), differentiably.
        objective: what is explained, see ``LikelihoodRatio``; differentiable.
        queries: calls on copies, each with its gradient. Default: 1 for the gradient itself, the
            steps of a quadrature, else 50.
        sigma: the noise's scale: a number, 0 for none, a tensor of the input's shape, an
            ``AdaptiveScale`` (AdaptGrad), or None for a fifth of the input's range (SmoothGrad).
        law: any, also uniform; see ``fwdgrad.MOLLIFIERS`` for the papers' names.
        block, features, cell, field, shared, shift: what noise elements share, see
            ``LikelihoodRatio``; each has its own gradient all the same.
        antithetic: ask each copy with both signs of its noise.
        saliency: what is made of the gradients: ``Gradient()``, ``GradientXInput()``,
            ``IntegratedGradients()``, ``SquaredGrad()`` or ``VarGrad()``.
        parameters: noise on the model's parameters: NoiseGrad, and with sigma FusionGrad.
        sampling: draw the input's noise from another law, see ``Sampling``.
        clip, seed, batch_size, memory, backend: see ``LikelihoodRatio``.

    Raises:
        TypeError, ValueError: naming the argument, what was given and what would do.

    Example:
        >>> square = lambda batch: (batch**2).sum(1)
        >>> Autograd(square).explain(torch.tensor([1.0, -2.0]), target=None).attribution
        tensor([ 2., -4.])

    Source: *Rethinking the principle of gradient smooth methods in model explanation*, equations
    1, 2 and 6; *Axiomatization of gradient smoothing in neural networks*, theorem 3.11.
    """

    name = "autograd"
    _takes_zero = True

    def __init__(
        self,
        forward: Callable[[Tensor], Any],
        *,
        objective: Objective = "output",
        queries: int | None = None,
        sigma: float | Tensor | AdaptiveScale | None = 0.0,
        law: str = "normal",
        block: tuple[int, ...] | int | None = None,
        cell: int = 1,
        field: str = "nearest",
        shared: bool = False,
        shift: bool = True,
        features: Features | None = None,
        antithetic: bool = False,
        saliency: Gradient | None = None,
        parameters: ParameterNoise | None = None,
        sampling: Sampling | None = None,
        clip: tuple[float, float] | None = None,
        seed: int = 0,
        batch_size: int | None = None,
        memory: int | str | None = None,
        backend: str = "auto",
    ) -> None:
        """Checks what can be checked without an input."""
        super().__init__(
            forward,
            objective=objective,
            queries=queries,
            sigma=sigma,
            law=law,
            block=block,
            cell=cell,
            field=field,
            shared=shared,
            shift=shift,
            features=features,
            antithetic=antithetic,
            saliency=saliency,
            parameters=parameters,
            clip=clip,
            seed=seed,
            batch_size=batch_size,
            memory=memory,
            backend=backend,
        )
        self.sampling = sampling
        check_no_array("sampling", sampling)
        without = isinstance(self.sigma, float) and self.sigma == 0
        if sampling is not None:
            if not isinstance(sampling, Sampling):
                raise TypeError(f"sampling must be a Sampling, got {sampling!r}")
            if without or isinstance(sigma, AdaptiveScale):
                raise ValueError(
                    "sampling needs noise whose scale is a number or a tensor, got "
                    f"sigma={self.sigma!r}"
                )
            if block is not None or cell != 1 or shared:
                raise ValueError(
                    "sampling needs a draw for every element: no block, cell or shared"
                )
            sampling.check(law)
        ratio = sampling or (parameters.sampling if parameters is not None else None)
        if ratio is not None and self.saliency.statistic == "variance":
            raise ValueError("VarGrad is the variance under the law that is drawn: no sampling")
        if antithetic and without:
            raise ValueError("antithetic needs noise on the input, got sigma=0")
        if features is not None and without:
            raise ValueError(
                f"features need noise on the input that they share, got sigma=0 and {features!r}"
            )
        self._without = without
        if self.saliency.statistic == "variance":
            if without and parameters is None:
                raise ValueError(
                    "VarGrad needs noise, on the input (sigma) or the parameters: a single "
                    "gradient has no variance"
                )
            if queries == 1:
                raise ValueError("queries must be at least 2 for VarGrad, a variance, got 1")

    # ---- what is asked ---------------------------------------------------------------------

    def _resolve_queries(self, spec: NoiseSpec | None) -> int:
        path = self.saliency if isinstance(self.saliency, IntegratedGradients) else None
        steps = (path.steps if path is not None else None) or 1
        random = self._is_random(spec)
        if self.queries is None:
            if not random:
                return steps
            draws = (self.parameters.draws if self.parameters is not None else None) or 1
            signs = 2 if self.antithetic else 1
            multiple = signs * math.lcm(steps, draws)
            return -(-_COPIES // multiple) * multiple
        if not random and self.queries != steps:
            hint = ""
            if path is not None:
                hint = (
                    "; for as many points on the path give "
                    f"saliency=IntegratedGradients(steps={self.queries})"
                )
            raise ValueError(
                f"queries must be {steps} without noise, or left out: there is nothing to "
                f"average over, got {self.queries}{hint}"
            )
        return self.queries

    def _is_random(self, spec: NoiseSpec | None) -> bool:
        """Whether anything is drawn: noise, or places on a path."""
        drawn = isinstance(self.saliency, IntegratedGradients) and self.saliency.steps is None
        return spec is not None or self.parameters is not None or drawn

    def _spec(self, x: Tensor) -> NoiseSpec | None:
        if self._without:
            noise_spec(tuple(x.shape), **self.noise)  # checks the rest
            return None
        spec = super()._spec(x)
        if self.sampling is None or spec is None:
            return spec
        scale = self.sampling.factor * spec.scale  # type: ignore[operator]
        return noise_spec(spec.shape, scale=scale, **{**self.noise, "law": self.sampling.law})

    def _settings(self, plan: Plan) -> dict[str, Any]:
        settings = super()._settings(plan)
        if self.sampling is not None:  # the mollifier's, not those of what is drawn
            settings["law"] = self.noise["law"]
            settings["sigma"] = self._scale(plan.x)
        return {**settings, "sampling": self.sampling}

    def _run_mode(self) -> contextlib.AbstractContextManager[Any]:
        return torch._C._InferenceMode(False)  # no tensor made in it may have a gradient

    # ---- gradients, and their moments ------------------------------------------------------

    def _run(
        self,
        plan: Plan,
        targets: list[int | None],
        clean: list[float],
        checkpoint: Checkpoint | None,
        progress: Progress,
    ) -> list[Result]:
        x, dtype = plan.x, sum_dtype(plan.x)
        weights = self._ratios(plan)
        variance = self.saliency.statistic == "variance"
        # The variance is that of single gradients; a mean's error that of independent units.
        unit = 1 if variance else plan.unit
        shape = (len(targets), *x.shape)
        state = {
            name: torch.zeros(shape, dtype=dtype, device=x.device)
            for name in ("mean", "spread", *(("part",) if unit > 1 or plan.signs > 1 else ()))
        }
        # Powers of two that gradients are divided by, so that their squares are in range: of each
        # target, from its first gradient that is not zero.
        state["power"] = torch.full((len(targets),), _UNSET, dtype=torch.int32)
        kept = len(sample(x))
        state["half"] = torch.zeros((2, len(targets), kept), dtype=dtype, device=x.device)
        # Only of the first copies: by them a checkpoint tells another model.
        state["scores"] = torch.zeros(
            (min(_SCORES, plan.copies), 1, len(targets)), dtype=torch.float64
        )
        mean, spread = state["mean"], state["spread"]
        least_and_most = torch.empty(
            (plan.copies, plan.signs, 2 * len(targets)),
            dtype=torch.float64,
            device=device_of_numbers(x),
        )

        def judged(found: list[Tensor]) -> Tensor:
            ends = []
            for one in found[: len(targets)]:
                axes = tuple(range(1, one.dim()))
                ends += [one.amin(axes), one.amax(axes)]  # NaN where there is one
            return torch.stack(ends, dim=1)

        def enter(results: Results, first: int, count: int) -> None:
            if first < len(state["scores"]):
                scores = torch.stack(results[0][len(targets) :], dim=1)
                some = state["scores"][first : first + count, 0]
                some.copy_(scores[: len(some)])
            for i in range(count):
                copy = first + i
                if copy == plan.half:
                    for t in range(len(targets)):
                        state["half"][0, t] = sample(mean[t])
                        state["half"][1, t] = sample(spread[t])
                terms = []
                for found in results:
                    one = [gradients[i] for gradients in found[: len(targets)]]
                    term = (one[0][None] if len(one) == 1 else torch.stack(one)).to(dtype)
                    term = self._in_range(term, state["power"])
                    if self.saliency.statistic == "square":
                        term = term.square()
                    if weights is not None:
                        term = term * float(weights[copy])
                    terms.append(term)
                if variance:
                    for sign, term in enumerate(terms):
                        enter_unit_(mean, spread, term, copy * plan.signs + sign, 1, 1)
                    continue
                if "part" not in state:
                    enter_unit_(mean, spread, terms[0], copy, 1, 1)
                    continue
                for term in terms:
                    state["part"].add_(term, alpha=1 / plan.signs)
                length = copy % unit + 1
                if length == unit or copy + 1 == plan.copies:
                    part = state["part"].div_(length)
                    enter_unit_(mean, spread, part, copy + 1 - length, length, unit)
                    state["part"].zero_()

        module, noisy = self.forward, plan.noisy
        parameters = module.parameters() if isinstance(module, torch.nn.Module) else ()
        # Detached, those that ask for a gradient: the graph then keeps less.
        asking = [p for p in parameters if p.requires_grad and (noisy is None or p not in noisy)]
        detached: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
        if asking:
            detached = Swapped(asking)

        def evaluate(batch: Tensor) -> list[Tensor]:
            with detached:
                return self._gradients(batch, plan.scorer)

        self._stream(
            evaluate, judged, least_and_most, enter, "gradient", state, plan, x.nbytes, checkpoint,
            progress,
        )  # fmt: skip
        return [self._result(plan, state, t, unit) for t in range(len(targets))]

    def _in_range(self, terms: Tensor, powers: Tensor) -> Tensor:
        """Gradients (targets, ...) over their powers of two; nearly always these are 1."""
        for t, power in enumerate(powers.tolist()):
            if power == _UNSET and bool(terms[t].any()):
                power = exponent_of(terms[t])
                power = power if abs(power) > 30 else 0
                powers[t] = power
            if power not in (0, _UNSET):
                terms[t] = times_power(terms[t], -power)
        return terms

    def _ratios(self, plan: Plan) -> Tensor | None:
        """Each copy's weight: of the path's quadrature, and of the densities of theorem 3.11."""
        logs = torch.zeros(plan.copies, dtype=torch.float64)
        if self.sampling is not None:
            assert plan.spec is not None
            logs += self.sampling.log_weights(
                plan.spec, self.noise["law"], plan.copies, plan.x.device, self.backend
            )
        if plan.noisy is not None:
            logs += plan.noisy.log_weights(plan.copies // plan.per).repeat_interleave(plan.per)
        if not bool((logs != 0).any()):
            return plan.weights
        weights = weights_of(logs)
        return weights if plan.weights is None else weights * plan.weights

    def _gradients(self, batch: Tensor, scorer: Scorer) -> list[Tensor]:
        """Of each target's score by each copy: (batch, *x.shape); then the scores: (batch,)."""
        with torch.enable_grad():
            leaf = batch.detach().requires_grad_()
            try:
                scores = scorer(leaf, differentiable=True)
                gradients: list[Tensor] = []
                for i, score in enumerate(scores):
                    last = i + 1 == len(scores)
                    if not score.requires_grad:
                        raise ModelError(_NO_GRADIENT)
                    # As torch.autograd.grad does it, in which no function of torch is seen: a
                    # backward of the model's own may read parameters, too.
                    total = score.sum()
                    (gradient,) = torch.autograd.Variable._execution_engine.run_backward(
                        (total,), (torch.ones_like(total),), not last, False, (leaf,),
                        allow_unreachable=True, accumulate_grad=False,
                    )  # fmt: skip
                    if gradient is None:
                        raise ModelError(_NO_GRADIENT)
                    gradients.append(gradient)
            except Exception as error:
                text = told(error)
                if "in-place operation" in text:
                    raise ModelError(
                        "the model changes its input in place, which has no gradient; wrap it, "
                        f"e.g. lambda batch: model(batch.clone()) ({text})"
                    ) from error
                if "requires grad" in text and "numpy" in text:
                    raise ModelError(_NO_GRADIENT) from error
                if isinstance(error, ModelError) or is_out_of_memory(error):
                    raise
                raise ModelError(
                    f"the model's gradient failed: {type(error).__name__}: {text}"
                ) from error
        # A score that is not finite may have a gradient that is.
        return gradients + [score.detach().nan_to_num() for score in scores]

    def _result(self, plan: Plan, state: dict[str, Tensor], t: int, unit: int) -> Result:
        mean, spread = state["mean"][t], state["spread"][t]
        variance = self.saliency.statistic == "variance"
        half, n = plan.half, plan.copies
        power = int(state["power"][t])
        power = 0 if power == _UNSET else power
        if self.saliency.statistic != "mean":
            power *= 2  # of a square
        if not self._is_random(plan.spec):
            error = torch.zeros_like(mean)
            unscale_(mean, error, power)
            return mean, error, 1.0
        agreement = math.nan
        if 0 < half < n:
            one, squares = (kept[t].double() for kept in state["half"])
            other = (sample(mean).double() * n - one * half) / (n - half)
            if variance:
                # Chan et al., Am. Stat. 37(3), 1983: how spreads about two means add up.
                apart = (one - other).square() * half * (n - half) / n * plan.signs
                other = (sample(spread).double() - squares - apart) / (n - half)
                one = squares / half
            if plan.spec is not None and isinstance(plan.spec.scale, Tensor):  # per deviation
                scale = sample(plan.spec.scale).to(one)
                one, other = one * scale, other * scale
            factor = self.saliency.factor(plan.x)
            if factor is not None:
                one, other = (half_map * sample(factor).to(one) for half_map in (one, other))
            agreement = reliability(one, other)
        error = torch.full_like(mean, torch.nan) if variance else standard_error_(spread, n, unit)
        found = spread / (n * plan.signs) if variance else mean
        unscale_(found, error, power)
        return found, error, agreement


_NO_GRADIENT = (
    "the model gives no gradient: its score does not depend on the input through operations of "
    "torch that have one; use method='likelihood-ratio' (LikelihoodRatio), which needs forward "
    "calls alone"
)
