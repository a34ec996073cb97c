"""Where a gradient comes from: the likelihood-ratio method, from forward calls alone."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

import fwdgrad_kernels
from fwdgrad.errors import ModelError
from fwdgrad.explanation import Explanation
from fwdgrad.objectives import (
    Objective,
    check_objective,
    objective_name,
    resolve_target,
    scores_of,
)
from fwdgrad.smoothing import check_bounds, with_floor
from fwdgrad.stream import (
    MODEL_SCORE,
    BatchSize,
    Checkpoint,
    Progress,
    collect_scores,
    parse_memory,
)
from fwdgrad_kernels import AdaptiveScale, NoiseSpec, accumulate_, perturb
from fwdgrad_kernels.layout import empty_copies, is_channels_last
from fwdgrad_kernels.ops import check_clip
from fwdgrad_kernels.spec import DTYPES, check_integer, first_outside

CONTROLS = (None, "clean", "leave-one-out")

_RELIABILITY_ELEMENTS = 2**20  # of a larger map, a regular sample of about as many
_SLICE = 2**20  # elements that a finishing step works on at once


class LikelihoodRatio:
    """Gradients of a model's score with respect to its input, from forward calls alone.

    The model is called on noisy copies x + J_i z_i and the scores w_i are averaged against the
    noise's own score function:

        g(x) = 1/(n q) sum_i w_i s(J_i z_i),    s(z) = -d/dz ln mu(z).

    Its expectation is the gradient of the model smoothed by the noise (theorems 1 and 2). With
    ``antithetic=False`` and ``control=None`` it is the paper's plain estimator to the letter.

    Args:
        forward: the model: takes a batch (batch, *x.shape) and returns (batch, classes) or
            (batch,). It is called under ``torch.no_grad()`` and may overwrite its argument.
        objective: what is explained: "logit" (the output itself), "probability" (softmax of the
            output), "log-probability", "cross-entropy", or a callable from the model's output to
            one score per copy: ``KeptLabel``, ``LabelDistance`` and ``TextAnswer`` for models
            that answer with a label or a sentence.
        queries: forward calls on noisy copies; one more is made at x itself.
        sigma: the noise's scale in the input's units: a positive number, a tensor of the input's
            shape, zero where an element is to be left alone, or an ``AdaptiveScale``: AdaptGrad's,
            each element's own, so that copies keep within bounds (see its floor). Default: a fifth
            of the input's range (SmoothGrad's rule); with a baseline, a number that multiplies
            x - baseline, default 0.5.
        baseline: a number or tensor; the noise then goes along x - baseline, and the attribution
            is the score's derivative along that direction, not per unit of the input: how much
            the score rises as an element, or the cell that it shares, moves away from the
            baseline.
        law, block, cell, field, shared: the noise, see ``fwdgrad_kernels.NoiseSpec``. The Cauchy
            law's heavy tails need a bounded score, such as a probability. With cells
            or shared draws, an element's attribution is the weighted sum of the gradient over the
            elements that move with it.
        antithetic: ask each copy with both signs of its noise: half the variance or less where
            the score is nearly linear, since everything even cancels.
        control: a control variate: None, "clean" (subtracts the score at x) or "leave-one-out"
            (subtracts the mean score of the other copies). Both leave the expectation as it is;
            antithetic pairs cancel them.
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

    Source: *Is forward gradient an effective tool for explaining black-box models?*, equations 2
    and 6, algorithm 1.
    """

    def __init__(
        self,
        forward: Callable[[Tensor], Any],
        *,
        objective: Objective = "logit",
        queries: int = 1024,
        sigma: float | Tensor | AdaptiveScale | None = None,
        baseline: float | Tensor | None = None,
        law: str = "normal",
        block: tuple[int, ...] | int | None = None,
        cell: int = 1,
        field: str = "nearest",
        shared: bool = False,
        antithetic: bool = True,
        control: str | None = None,
        clip: tuple[float, float] | None = None,
        seed: int = 0,
        batch_size: int | None = None,
        memory: int | str | None = None,
        backend: str = "auto",
    ) -> None:
        """Checks what can be checked without an input."""
        if not callable(forward):
            raise TypeError(f"model must be callable on a batch, got {type(forward).__name__}")
        check_objective(objective)
        queries = check_integer("queries", queries, 1)
        if not isinstance(antithetic, bool):
            raise TypeError(f"antithetic must be True or False, got {antithetic!r}")
        if antithetic and queries % 2:
            raise ValueError(
                f"queries must be even with antithetic pairs, got {queries}; ask for "
                f"{queries + 1}, or antithetic=False"
            )
        if control not in CONTROLS:
            raise ValueError(f"control must be None, 'clean' or 'leave-one-out', got {control!r}")
        if batch_size is not None:
            batch_size = check_integer("batch_size", batch_size, 1)
        if batch_size is not None and memory is not None:
            raise ValueError("batch_size and memory both set the micro-batch; give one of them")
        if law == "uniform":
            raise ValueError(
                "law must have a score, and 'uniform' has none: its density has no slope inside "
                "its support; use normal, cauchy, hyperbolic, logistic, rademacher or hadamard"
            )
        if isinstance(sigma, AdaptiveScale):
            if baseline is not None:
                raise TypeError("sigma must be a number where a baseline is given, got a rule")
        elif isinstance(sigma, Tensor):
            if baseline is not None:
                raise TypeError("sigma must be a number where a baseline is given, got a tensor")
            if not sigma.is_floating_point():
                raise TypeError(f"sigma must be a floating tensor, got {sigma.dtype}")
            bad = first_outside(sigma, torch.isfinite(sigma) & (sigma >= 0))
            if bad is not None:
                raise ValueError(f"sigma must be >= 0 and finite, got {bad[1]} at element {bad[0]}")
        elif sigma is not None:
            sigma = _number("sigma", sigma)
            if not (math.isfinite(sigma) and sigma > 0):
                raise ValueError(f"sigma must be positive and finite, got {sigma}")
        if baseline is not None and not isinstance(baseline, Tensor):
            baseline = _number("baseline", baseline)
        if baseline is not None:
            values = torch.as_tensor(baseline)
            bad = first_outside(values, torch.isfinite(values))
            if bad is not None:
                raise ValueError(f"baseline must be finite, got {bad[1]}")
        self.forward = forward
        self.objective = objective
        self.queries = queries
        self.sigma = sigma
        self.baseline = baseline
        self.noise: dict[str, Any] = {
            "law": law,
            "block": block,
            "cell": cell,
            "field": field,
            "shared": shared,
            "seed": seed,
        }
        self.antithetic = antithetic
        self.control = control
        self.clip = None if clip is None else check_clip(clip)
        self.batch_size = batch_size
        self.memory = None if memory is None else parse_memory(memory)
        self.backend = backend

    def attribute(
        self, inputs: Tensor, target: int | str | Sequence[int] | Tensor | None = "auto"
    ) -> Tensor:
        """Attributions of a batch of inputs, in the manner of Captum.

        Args:
            inputs: (batch, ...).
            target: one class for all inputs, one for each, "auto" for the predicted ones, or None
                where the model returns one number.

        Returns:
            Attributions of the shape of inputs.
        """
        if not isinstance(inputs, Tensor):
            raise TypeError(f"inputs must be a tensor, got {type(inputs).__name__}")
        if inputs.dim() < 2:
            raise ValueError(f"inputs must have a batch axis, got shape {tuple(inputs.shape)}")
        if isinstance(target, Tensor):
            values: Any = target.tolist()
            target = values[0] if isinstance(values, list) and len(values) == 1 else values
        if isinstance(target, (list, tuple)):
            targets: list[Any] = list(target)
            if len(targets) != len(inputs):
                raise ValueError(
                    f"target must be one class or {len(inputs)}, one for each input, "
                    f"got {len(targets)}"
                )
        else:
            targets = [target] * len(inputs)
        result = torch.empty_like(inputs, memory_format=torch.contiguous_format)
        for row, x, wanted in zip(result, inputs, targets, strict=True):
            row.copy_(self.explain(x, wanted).attribution)
        return result

    def explain(
        self,
        x: Tensor,
        target: int | str | None = "auto",
        *,
        checkpoint: str | os.PathLike[str] | None = None,
        progress: Progress = False,
    ) -> Explanation:
        """Explains the score of one input.

        Args:
            x: the input, without a batch axis: (C, H, W), (T, E), (N,), ...
            target: a class, "auto" for the predicted one, or None where the model returns one
                number.
            checkpoint: a file that is written every few seconds and at Ctrl-C. Where it exists,
                the run goes on from it and ends with the same bits as an uninterrupted one.
            progress: True for a bar on standard error, or a callable of (calls done, all).

        Returns:
            The explanation.

        Raises:
            ModelError: the model failed or returned something of no use.
            CheckpointError: the checkpoint is of another run, or damaged.
        """
        started = time.perf_counter()
        x = self._check_input(x)
        spec = self._spec(x)
        signs = 2 if self.antithetic else 1
        copies = self.queries // signs
        if self.control == "leave-one-out" and copies <= spec.group:
            raise ValueError(
                f"queries must give leave-one-out at least two independent groups, that is more "
                f"than {signs * spec.group}, got {self.queries}; or use control='clean'"
            )
        if not (isinstance(progress, bool) or callable(progress)):
            raise TypeError(f"progress must be True, False or a callable, got {progress!r}")
        self._check_mode()
        chosen, clean = self._ask_at_input(x, target)
        settings = self._settings(spec)
        identity = self._identity(x, spec, settings, chosen, clean)
        scores = collect_scores(
            *self._scorer(x, spec, chosen, signs),
            copies=copies,
            signs=signs,
            batch=self._batch_size(x, spec),
            checkpoint=Checkpoint(checkpoint, identity) if checkpoint is not None else None,
            progress=progress,
            device=x.device,
        )
        attribution, error, reliability = self._sum(x, spec, scores, clean)
        return Explanation(
            attribution=attribution,
            standard_error=error,
            reliability=reliability,
            queries=self.queries,
            target=chosen,
            score=clean,
            objective=objective_name(self.objective),
            settings={
                name: value.clone() if isinstance(value, Tensor) else value
                for name, value in settings.items()
            },
            input=x.clone(memory_format=torch.contiguous_format),  # the caller's may change
            seconds=time.perf_counter() - started,
            provenance={
                "fwdgrad": _version(),
                "torch": torch.__version__,
                "backend": fwdgrad_kernels.backend_for(x.device, self.backend),
                "device": str(x.device),
                "threads": torch.get_num_threads(),
                "input_sha256": identity["input"],
            },
        )

    # ---- what is asked ---------------------------------------------------------------------

    def _check_input(self, x: Tensor) -> Tensor:
        if not isinstance(x, Tensor):
            raise TypeError(
                f"x must be a tensor, got {type(x).__name__}; make one with torch.as_tensor"
            )
        if x.dtype not in DTYPES:
            raise TypeError(
                f"x must be float32, float64, float16 or bfloat16, got {x.dtype}; convert it, "
                "e.g. x.float(), or where it is token numbers give their embeddings (T, E)"
            )
        if x.dim() == 0 or not x.numel():
            raise ValueError(f"x must have elements, got shape {tuple(x.shape)}")
        x = x.detach()
        if not (x.dim() == 3 and is_channels_last(x)):  # copies come in x's memory format
            x = x.contiguous()
        bad = first_outside(x, torch.isfinite(x))
        if bad is not None:
            raise ValueError(f"x must be finite, got {bad[1]} at element {bad[0]}")
        return x

    def _spec(self, x: Tensor) -> NoiseSpec:
        scale: float | Tensor | AdaptiveScale
        if self.baseline is not None:
            scale = self._direction(x) * self._strength()
        elif self.sigma is None:
            low, high = x.aminmax()
            scale = 0.2 * (high.double() - low.double()).item()
            if scale == 0:
                raise ValueError("sigma must be given: x is constant, so it has no range")
        elif isinstance(self.sigma, AdaptiveScale):
            scale = with_floor(self.sigma)
            check_bounds(x, scale)
            if not (scale.floor or any(bool(s.any()) for _, s in scale.pieces(x, "normal"))):
                raise ValueError(
                    "sigma must leave noise somewhere: every element of x lies on a bound; give "
                    "the rule a floor"
                )
        elif isinstance(self.sigma, Tensor):
            if self.sigma.shape != x.shape:
                raise ValueError(
                    f"sigma must be a number or have x's shape {tuple(x.shape)}, got "
                    f"{tuple(self.sigma.shape)}"
                )
            scale = self.sigma.to(x.device, _sum_dtype(x))
        else:
            scale = self.sigma
        if isinstance(scale, Tensor) and not bool(scale.any()):
            name = "sigma" if self.baseline is None else "x - baseline"
            raise ValueError(f"{name} must not be zero everywhere: there would be no noise")
        return NoiseSpec(tuple(x.shape), scale=scale, **self.noise)

    def _direction(self, x: Tensor) -> Tensor:
        wide = x.to(_sum_dtype(x))
        baseline = torch.as_tensor(self.baseline, dtype=wide.dtype, device=x.device)
        if baseline.dim() and baseline.shape != x.shape:
            raise ValueError(
                f"baseline must be a number or have x's shape {tuple(x.shape)}, got "
                f"{tuple(baseline.shape)}"
            )
        return wide - baseline

    def _strength(self) -> float:
        assert not isinstance(self.sigma, (Tensor, AdaptiveScale))
        return 0.5 if self.sigma is None else float(self.sigma)

    def _settings(self, spec: NoiseSpec) -> dict[str, Any]:
        """The arguments of ``explain`` that define the run, as they were resolved."""
        sigma: Any = self._strength() if self.baseline is not None else spec.scale
        return {
            "queries": self.queries,
            "sigma": sigma,
            "baseline": self.baseline,
            **{name: getattr(spec, name) for name in self.noise},
            "antithetic": self.antithetic,
            "control": self.control,
            "clip": self.clip,
        }

    def _identity(
        self, x: Tensor, spec: NoiseSpec, settings: dict[str, Any], target: int | None, clean: float
    ) -> dict[str, Any]:
        """What makes two runs the same, for checkpoints. The control variate is no part of it."""

        def plain(value: Any) -> Any:
            if isinstance(value, AdaptiveScale):
                return dataclasses.asdict(value)
            return _digest(value) if isinstance(value, Tensor) else value

        return {
            "format": 1,
            "input": _digest(x),
            "shape": list(x.shape),
            "dtype": str(x.dtype),
            "target": target,
            "objective": objective_name(self.objective),
            MODEL_SCORE: clean,
            **{name: plain(value) for name, value in settings.items() if name != "control"},
        }

    # ---- forward calls ---------------------------------------------------------------------

    def _check_mode(self) -> None:
        model = self.forward
        if not isinstance(model, torch.nn.Module):
            return
        if _has_running_statistics(model):
            raise ValueError(
                "model must be in evaluation mode: it is in training mode and every call would "
                "change its batch normalisation; call model.eval() first"
            )
        if model.training:
            warnings.warn(
                "the model is in training mode: its scores may be random or change it; call "
                "model.eval() first",
                stacklevel=3,
            )

    def _ask_at_input(self, x: Tensor, target: Any) -> tuple[int | None, float]:
        """The class that is meant, and the score at the input itself."""
        with torch.no_grad():
            try:
                outputs = self.forward(x[None].clone())
            except Exception as error:
                raise ModelError(
                    f"the model failed on a batch of shape {(1, *x.shape)}: "
                    f"{type(error).__name__}: {error} (x is one input, without a batch axis, and "
                    f"the batch has its dtype, {x.dtype})"
                ) from error
            try:
                chosen = resolve_target(target, outputs, self.objective, batch=1)
                clean = float(scores_of(outputs, self.objective, chosen, 1)[0])
            except ModelError as reason:
                if x.dim() > 1 and x.shape[0] == 1:
                    raise ModelError(
                        f"{reason}. x has shape {tuple(x.shape)}: if its first axis is a batch "
                        "axis, give x[0]"
                    ) from None
                raise
        if self.objective in ("probability", "log-probability", "cross-entropy"):
            _warn_of_probabilities(outputs, self.objective)
        if not math.isfinite(clean):
            raise ModelError(f"the score at the input itself is {clean}")
        return chosen, clean

    def _batch_size(self, x: Tensor, spec: NoiseSpec) -> BatchSize:
        fixed = x.nbytes + (spec.scale.nbytes if isinstance(spec.scale, Tensor) else 0)
        # Two sums, or three, and the copy of the input that the explanation keeps.
        sums = (2 if spec.group == 1 else 3) * x.numel() * _sum_dtype(x).itemsize + x.nbytes
        return BatchSize(self.batch_size, self.memory, x.nbytes, fixed, sums, x.device)

    def _scorer(
        self, x: Tensor, spec: NoiseSpec, target: int | None, signs: int
    ) -> tuple[Callable[[int, int, int], Tensor], Callable[[], None]]:
        """What ``collect_scores`` calls: scores of copies, and how to free their buffer."""
        buffer: Tensor | None = None

        def copies(first: int, count: int, sign: int, pairs: bool) -> Tensor:
            nonlocal buffer
            rows = 2 * count if pairs else count
            if buffer is None or len(buffer) < rows:
                buffer = None  # free the old one first
                buffer = empty_copies(x, rows)
            return perturb(
                x, spec, first, count, sign, self.clip, buffer[:rows], pairs=pairs,
                backend=self.backend,
            )  # fmt: skip

        def call(batch: Tensor) -> Tensor:
            with torch.no_grad():
                scores = scores_of(self.forward(batch), self.objective, target, len(batch))
            # Copied: a model may return a view of its argument, or of a buffer of its own.
            return scores.to("cpu", torch.float64, copy=True)

        def score(first: int, count: int, batch: int) -> Tensor:
            if signs == 1:
                return call(copies(first, count, 1, False))[:, None]
            if 2 * count <= batch:
                return call(copies(first, count, 1, True)).view(2, count).T
            both = [call(copies(first, count, sign, False)) for sign in (1, -1)]
            return torch.stack(both, dim=1)

        def release() -> None:
            nonlocal buffer
            buffer = None

        return score, release

    # ---- from scores to the map ------------------------------------------------------------

    def _weights(self, scores: Tensor, spec: NoiseSpec, clean: float) -> Tensor:
        """The weight of each copy: its score less the control variate, or half a difference."""
        if self.antithetic:
            return (scores[:, 0] - scores[:, 1]) / 2
        weights = scores[:, 0]
        if self.control == "clean":
            return weights - clean
        if self.control == "leave-one-out":
            # The others are the copies of other groups: within a Hadamard group they depend on
            # one another, and leaving out a single one would bias the estimate.
            group = torch.arange(len(weights)) // spec.group
            sums = torch.zeros(int(group[-1]) + 1, dtype=weights.dtype)
            sums.index_add_(0, group, weights)
            sizes = torch.bincount(group)
            others = (sums.sum() - sums) / (len(weights) - sizes)
            return weights - others[group]
        return weights

    def _sum(
        self, x: Tensor, spec: NoiseSpec, scores: Tensor, clean: float
    ) -> tuple[Tensor, Tensor, float]:
        """Attribution, its standard error and its reliability."""
        dtype = _sum_dtype(x)
        mean = torch.zeros(spec.shape, dtype=dtype, device=x.device)
        spread = torch.zeros_like(mean)
        weights = self._weights(scores, spec, clean).to(x.device, dtype)
        n = len(weights)
        half = n // 2 // spec.group * spec.group
        if spec.group == 1:
            first_half = self._sum_copies_(mean, spread, weights, spec, half)
        else:
            first_half = self._sum_groups_(mean, spread, weights, spec, half)
        # The half-runs are compared in the units of the attribution.
        unit = spec
        if self.baseline is not None:
            unit = NoiseSpec(spec.shape, scale=self._strength(), **self.noise)
        frozen = self._frozen(spec)
        reliability = _reliability(first_half, mean, half, n, unit, frozen, x)
        attribution = unit.gradient(mean, 1, out=mean, x=x)
        error = unit.gradient(spread, 1, out=spread, x=x).abs_()
        if frozen is not None:
            attribution.masked_fill_(frozen, 0)
            error.masked_fill_(frozen, 0)
        return attribution, error, reliability

    def _sum_copies_(
        self, mean: Tensor, spread: Tensor, weights: Tensor, spec: NoiseSpec, half: int
    ) -> Tensor:
        """Mean and its standard error over independent copies; returns a sample at half-time."""
        n, first = len(weights), 0
        first_half = mean.flatten()[:0]
        size = max(1, 2**26 // mean.numel())  # copies between which Ctrl-C comes through
        while first < n:
            if first == half:
                first_half = _sample(mean) / max(half, 1)
            stop = min(first + size, half if first < half else n)
            accumulate_(mean, weights[first:stop], spec, first, square=spread, backend=self.backend)
            first = stop
        mean.div_(n)
        # sum (t - mean)^2 / (n (n - 1)), a slice at a time: a whole map of squares is too much.
        for at in range(0, mean.numel(), _SLICE):
            m, s = (a.view(-1)[at : at + _SLICE] for a in (mean, spread))
            s.div_(n).addcmul_(m, m, value=-1).clamp_(min=0)
        spread.div_(n - 1).sqrt_() if n > 1 else spread.fill_(torch.nan)
        return first_half

    def _sum_groups_(
        self, mean: Tensor, spread: Tensor, weights: Tensor, spec: NoiseSpec, half: int
    ) -> Tensor:
        """The same over groups of Hadamard copies, which depend on one another within a group.

        Groups differ by little, so their squared distances are updated about the running mean
        (Welford, Technometrics 4(3), 1962): sum_g (n_g (m_g - mean))^2, where only the last group
        may have fewer copies than the others. A single group leaves no way to tell: NaN.
        """
        n = len(weights)
        first_half = mean.flatten()[:0]
        group = torch.empty_like(mean)
        for first in range(0, n, spec.group):
            if first == half:
                first_half = _sample(mean)
            some = weights[first : first + spec.group]
            accumulate_(group.zero_(), some, spec, first, backend=self.backend)
            group.div_(len(some)).sub_(mean)
            done = first + len(some)
            before = first // spec.group
            value = (spec.group * len(some) / done) ** 2 * before * (before + 1)
            spread.addcmul_(group, group, value=value)
            mean.add_(group, alpha=len(some) / done)
        groups = -(-n // spec.group)
        if groups > 1:
            spread.mul_(groups / (groups - 1)).sqrt_().div_(n)
        else:
            spread.fill_(torch.nan)
        return first_half

    def _frozen(self, spec: NoiseSpec) -> Tensor | None:
        """Where the attribution is 0 by definition: no noise, and no neighbour that moves too."""
        if not isinstance(spec.scale, Tensor):
            return None
        if self.baseline is not None and spec.grid != spec.planes:
            return None
        return spec.scale == 0


def _has_running_statistics(model: torch.nn.Module) -> bool:
    kind = torch.nn.modules.batchnorm._NormBase
    return any(isinstance(m, kind) and m.training for m in model.modules())


def _warn_of_probabilities(outputs: Any, objective: Objective) -> None:
    values = torch.as_tensor(outputs).double()
    if values.min() >= 0 and bool((values.sum(1) - 1).abs().max() < 1e-3):
        warnings.warn(
            f"the model's output looks like probabilities already, and objective {objective!r} "
            "takes the softmax of it; objective='logit' explains the output as it is",
            stacklevel=3,
        )


def _number(name: str, value: Any) -> float:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.number)):
        raise TypeError(
            f"{name} must be a number or a tensor, got {type(value).__name__} "
            f"{' '.join(repr(value).split()):.60}"
        )
    return float(value)


def _sum_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _version() -> str:
    from fwdgrad import __version__

    return __version__


def _digest(x: Tensor) -> str:
    """SHA-256 of a tensor's bytes."""
    raw = x.detach().contiguous().cpu().flatten().view(torch.uint8)
    return hashlib.sha256(raw.numpy().data).hexdigest()


def _sample(mean: Tensor) -> Tensor:
    """All elements of a map, or a regular sample of a large one."""
    return mean.flatten()[:: _sample_stride(mean)].clone()


def _sample_stride(mean: Tensor) -> int:
    return -(-mean.numel() // _RELIABILITY_ELEMENTS)


def _reliability(
    first: Tensor,
    both: Tensor,
    half: int,
    n: int,
    spec: NoiseSpec,
    frozen: Tensor | None,
    x: Tensor,
) -> float:
    """Correlation of the maps of two half-runs, stepped up to the full run (Spearman-Brown)."""
    if not 0 < half < n:
        return math.nan
    one = first.double()
    other = (_sample(both).double() * n - one * half) / (n - half)
    if isinstance(spec.scale, Tensor):
        scale = _sample(spec.scale).to(one)
        one, other = one / scale, other / scale
    if isinstance(spec.scale, AdaptiveScale):
        stride = _sample_stride(both)
        parts = (part[-start % stride :: stride] for start, part in spec.scale.pieces(x, spec.law))
        scale = torch.cat(list(parts))
        one, other = (one / scale)[scale > 0], (other / scale)[scale > 0]
    if frozen is not None:
        kept = ~_sample(frozen)
        one, other = one[kept], other[kept]
    # By NumPy, whose sums do not depend on the number of threads.
    a, b = one.cpu().numpy(), other.cpu().numpy()
    a, b = a - a.mean(), b - b.mean()
    size = math.sqrt((a * a).sum() * (b * b).sum())
    correlation = float((a * b).sum()) / size if size else math.nan
    # Stepping up is meant for correlations >= 0; a negative one is reported as it is.
    return 2 * correlation / (1 + correlation) if correlation > 0 else correlation
