"""What every source of gradients shares: options, copies, calls, and the way to a result."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, overload

import numpy as np
import torch
from torch import Tensor

import fwdgrad_kernels
from fwdgrad.advice import is_noise, warn_of_noise
from fwdgrad.checkpoint import Checkpoint, State
from fwdgrad.errors import ModelError
from fwdgrad.explanation import Explanation
from fwdgrad.files import digest_of
from fwdgrad.fingerprint import Answer, parameters_digest, telling_copies
from fwdgrad.inputs import input_of, numbers_of
from fwdgrad.noise import PLAIN, noise_spec
from fwdgrad.objectives import Objective, check_objective, objective_name
from fwdgrad.outputs import told
from fwdgrad.parameters import NoisyParameters, ParameterNoise
from fwdgrad.powers import warn_unless_finite
from fwdgrad.saliency import Gradient, IntegratedGradients, Path
from fwdgrad.scorer import Scorer, check_mode, check_model
from fwdgrad.smoothing import check_alike, check_bounds, warn_of_resolution
from fwdgrad.state import TorchState
from fwdgrad.stream import (
    BatchSize,
    Progress,
    Results,
    check_finite,
    is_waited_for,
    kept,
    parse_memory,
    run,
)
from fwdgrad_kernels import CONTRACT, AdaptiveScale, NoiseSpec, Perturber
from fwdgrad_kernels.arguments import check_clip
from fwdgrad_kernels.checks import check_integer
from fwdgrad_kernels.features import Features, Grid
from fwdgrad_kernels.layout import empty_copies, is_channels_last
from fwdgrad_kernels.spec import first_outside

_MOST = 2**40  # queries; their scores alone would take terabytes
_SAMPLE = 2**20  # of a larger map, reliability takes a regular sample of about as many elements

Target = int | str | None
Result = tuple[Tensor, Tensor, float]  # attribution, standard error, reliability


@dataclasses.dataclass
class Plan:
    """One run, as it was resolved for an input."""

    x: Tensor
    spec: NoiseSpec | None  # the noise on the input, where there is any
    copies: int
    signs: int  # 2 for antithetic pairs
    path: Path | None  # where each copy lies between a baseline and the input
    per: int  # consecutive copies that share a draw of the parameters
    noisy: NoisyParameters | None = None
    weights: Tensor | None = None  # of each copy in the mean: float64 (copies,); None: all 1
    baseline: float | Tensor | None = None  # what the copies are blended with
    position: float = 1.0  # where they lie on the way from it to the input
    frozen: Tensor | None = None  # where the attribution is 0 by definition; broadcasts to x
    scorer: Scorer = dataclasses.field(init=False)  # asks the model
    perturber: Perturber | None = None  # fills micro-batches, checked once

    @property
    def queries(self) -> int:
        """Forward calls on copies."""
        return self.copies * self.signs

    @property
    def unit(self) -> int:
        """Consecutive copies that depend on one another."""
        group = self.spec.group if self.spec is not None else 1
        return math.lcm(group, self.per, self.path.period if self.path is not None else 1)

    @functools.cached_property
    def of_one_channel(self) -> NoiseSpec:
        """The same draws of a channel alone, where all channels share them."""
        assert self.spec is not None
        if not self.spec.view.shared:
            return self.spec
        assert isinstance(self.spec.features, Grid)
        sizes = self.spec.features.sizes(self.spec.shape)
        features = dataclasses.replace(self.spec.features, cell=sizes)
        shape = self.spec.shape[-len(sizes) :]
        return dataclasses.replace(self.spec, shape=shape, features=features)

    @property
    def half(self) -> int:
        """Copies in the first of two independent half-runs."""
        return self.copies // 2 // self.unit * self.unit


class Source:
    """Where a gradient comes from. Not for use itself: see ``LikelihoodRatio`` and ``Autograd``."""

    name: ClassVar[str]
    _blends: bool = False  # between a baseline and the input, instead of adding noise
    _takes_zero: ClassVar[bool] = False  # as sigma: no noise on the input
    own: frozenset[str] = frozenset()  # options that nobody else holds, such as a method's blur
    position: float = 1.0  # of copies, between a baseline and the input

    def __init__(
        self,
        forward: Callable[[Tensor], Any],
        *,
        objective: Objective,
        queries: int | None,
        sigma: float | Tensor | AdaptiveScale | None,
        law: str,
        block: tuple[int, ...] | int | None,
        cell: int,
        field: str,
        shared: bool,
        shift: bool,
        features: Features | None,
        antithetic: bool,
        saliency: Gradient | None,
        parameters: ParameterNoise | None,
        clip: tuple[float, float] | None,
        seed: int,
        batch_size: int | None,
        memory: int | str | None,
        backend: str,
    ) -> None:
        """Checks what can be checked without an input."""
        check_model(forward)
        check_objective(objective)
        alone = {
            "queries": queries, "law": law, "block": block, "cell": cell, "field": field,
            "shared": shared, "shift": shift, "features": features, "antithetic": antithetic,
            "saliency": saliency, "parameters": parameters, "clip": clip, "seed": seed,
            "batch_size": batch_size, "memory": memory, "backend": backend,
        }  # fmt: skip
        if isinstance(features, (Tensor, np.ndarray)):
            raise TypeError(f"features must be Labels(mask), got a {type(features).__name__}")
        for name, value in alone.items():
            check_no_array(name, value)
        if queries is not None:
            queries = check_integer("queries", queries, 1)
            if queries > _MOST:
                raise ValueError(f"queries must be at most 2^40, got {queries}")
        if not isinstance(antithetic, bool):
            raise TypeError(f"antithetic must be True or False, got {antithetic!r}")
        if antithetic and queries is not None and queries % 2:
            raise ValueError(
                f"queries must be even with antithetic pairs, got {queries}; ask for "
                f"{queries + 1}, or antithetic=False"
            )
        if batch_size is not None:
            batch_size = check_integer("batch_size", batch_size, 1)
        if batch_size is not None and memory is not None:
            raise ValueError("batch_size and memory both set the micro-batch; give one of them")
        saliency = Gradient() if saliency is None else saliency
        if not isinstance(saliency, Gradient):
            raise TypeError(
                "saliency must be one of Gradient(), GradientXInput(), IntegratedGradients(), "
                f"SquaredGrad() and VarGrad(), got {saliency!r}"
            )
        if parameters is not None and not isinstance(parameters, ParameterNoise):
            raise TypeError(f"parameters must be a ParameterNoise, got {parameters!r}")
        self.forward = forward
        self.objective = objective
        self.queries = queries
        self.sigma = self._check_sigma(numbers_of(sigma))
        noise = {
            "law": law,
            "block": block,
            "cell": cell,
            "field": field,
            "shared": shared,
            "shift": shift,
            "features": features,
            "seed": seed,
        }
        self.noise: dict[str, Any] = {
            name: int(value) if isinstance(value, np.integer) else value
            for name, value in noise.items()
        }
        self.antithetic = antithetic
        self.saliency = saliency
        self.parameters = parameters
        if parameters is not None:
            parameters.module_of(forward)
        self.clip = None if clip is None else check_clip(clip)
        self.batch_size = batch_size
        self.memory = None if memory is None else parse_memory(memory)
        self.backend = backend

    def _check_sigma(self, sigma: Any) -> Any:
        if sigma is None or isinstance(sigma, AdaptiveScale):
            return sigma
        if isinstance(sigma, Tensor):
            if not sigma.is_floating_point():
                raise TypeError(f"sigma must be a floating tensor, got {sigma.dtype}")
            bad = first_outside(sigma, torch.isfinite(sigma) & (sigma >= 0))
            if bad is not None:
                raise ValueError(f"sigma must be >= 0 and finite, got {bad[1]} at element {bad[0]}")
            return sigma
        value = check_number("sigma", sigma)
        if not (math.isfinite(value) and (value > 0 or (self._takes_zero and value == 0))):
            what = ">= 0" if self._takes_zero else "positive"
            raise ValueError(f"sigma must be {what} and finite, got {value}")
        return value

    def attribute(
        self,
        inputs: Tensor,
        target: int | str | Sequence[int] | Tensor | np.ndarray[Any, Any] | None = "auto",
    ) -> Tensor:
        """Attributions of a batch of inputs, in the manner of Captum.

        Args:
            inputs: (batch, ...).
            target: one class for all inputs; one for each, as a list or a tensor or an array (n,)
                or (n, 1); "auto" for the predicted ones; or None where the model returns one
                number.

        Returns:
            Attributions of the shape of inputs.
        """
        if not isinstance(inputs, Tensor):
            raise TypeError(f"inputs must be a tensor, got {type(inputs).__name__}")
        if inputs.dim() < 2:
            raise ValueError(f"inputs must have a batch axis, got shape {tuple(inputs.shape)}")
        if isinstance(target, (Tensor, np.ndarray)):
            if target.reshape(-1).shape[0] not in (*target.shape[:1], 1):
                raise ValueError(
                    f"target must be one class or {len(inputs)}, one for each input, got shape "
                    f"{tuple(target.shape)}"
                )
            values = target.reshape(-1).tolist()
            target = values[0] if len(values) == 1 else values
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
        low = []
        for row, x, wanted in zip(result, inputs, targets, strict=True):
            (found,) = self.explanations(x, [wanted])
            row.copy_(found.attribution)
            low += [found] * is_noise(found)
        warn_of_noise(low, len(inputs))
        if inputs.dtype not in (torch.float32, torch.float64):  # narrower than an explanation's
            warn_unless_finite(result)
        return result

    @overload
    def explain(
        self,
        x: Any,
        target: Target = "auto",
        *,
        checkpoint: str | os.PathLike[str] | None = None,
        progress: Progress = False,
        name: str | None = None,
    ) -> Explanation: ...

    @overload
    def explain(
        self,
        x: Any,
        target: list[Target] | list[int] | tuple[Target, ...],
        *,
        checkpoint: str | os.PathLike[str] | None = None,
        progress: Progress = False,
        name: str | None = None,
    ) -> list[Explanation]: ...

    def explain(
        self,
        x: Any,
        target: Any = "auto",
        *,
        checkpoint: str | os.PathLike[str] | None = None,
        progress: Progress = False,
        name: str | None = None,
    ) -> Explanation | list[Explanation]:
        """Explains the score of one input.

        Args:
            x: the input, without a batch axis: (C, H, W), (T, E), (N,), ...; a tensor, or what else
                ``fwdgrad.explain`` takes.
            target: a class, its name where the model knows names (an ``ImageClassifier``), "auto"
                for the predicted one, or None where the model returns one number. A list of
                classes gives a list of explanations, all from the same forward calls.
            checkpoint: a file that is written every second (less often where that takes more than
                a tenth of the time) and at Ctrl-C. Where it exists, the run goes on from it and
                ends with the same bits as an uninterrupted one. It is refused where the input, an
                option, the model's parameters or its output at the input are others; then a few
                copies are asked for again (4; 32 of a model that only tells labels), and their
                scores compared. That alone tells two functions apart that are both called
                ``<lambda>``; ``fwdgrad.fingerprint`` says how closely.
            progress: True for a bar on standard error, or a callable of (calls done, all).
            name: what you call the model, "v3" say: kept in the explanation, and a checkpoint of
                another name is refused.

        Returns:
            The explanation, or one for each target.

        Raises:
            ModelError: the model failed or returned something of no use.
            CheckpointError: the checkpoint is of another run, damaged, or in use by one.
        """
        several = isinstance(target, (list, tuple))
        targets = list(target) if several else [target]
        found = self.explanations(x, targets, checkpoint, progress, name)
        warn_of_noise(list(filter(is_noise, found)), len(found))
        return found if several else found[0]

    def explanations(
        self,
        x: Tensor,
        targets: list[Any],
        checkpoint: str | os.PathLike[str] | None = None,
        progress: Progress = False,
        name: str | None = None,
        at_input: Callable[[Any], None] | None = None,
    ) -> list[Explanation]:
        """What ``explain`` gives for each target, without a warning where it is mostly noise.

        ``at_input`` is given the model's output at x, before the samples are asked for.
        """
        started = time.perf_counter()
        x = self._check_input(x)
        plan = self._plan(x)
        if not (isinstance(progress, bool) or callable(progress)):
            raise TypeError(
                f"progress must be True, False or a callable, got {told(repr(progress), 80)}"
            )
        if not (checkpoint is None or isinstance(checkpoint, (str, os.PathLike))):
            raise TypeError(f"checkpoint must be a path, got {told(repr(checkpoint), 80)}")
        if not (name is None or isinstance(name, str)):
            raise TypeError(f"name must be a text or None, got {told(repr(name), 80)}")
        if not targets:
            raise ValueError("target must name at least one class, got an empty list")
        check_mode(self.forward)
        with TorchState(), self._run_mode():
            scorer = Scorer(self.forward, x, targets, self.objective)
            plan.scorer, chosen, clean = scorer, scorer.targets, scorer.clean
            for look in (at_input, getattr(scorer.objective, "check_at_input", None)):
                if look is not None:
                    look(scorer.outputs)
            answer = Answer.of(scorer.outputs) if checkpoint is not None else None
            self._find_parameters(plan)
            settings = self._settings(plan)
            file = None
            if checkpoint is not None and answer is not None:
                identity = self._identity(plan, settings, chosen, name)
                file = Checkpoint(checkpoint, identity, answer, clean)
            with file.locked() if file is not None else contextlib.nullcontext():
                results = self._run(plan, chosen, clean, file, progress)
            deltas = self._finish(plan, chosen, clean, results)
        for attribution, error, _ in results:
            warn_unless_finite(attribution, error)
        seconds = time.perf_counter() - started
        digest = digest_of(x)
        return [
            Explanation(
                attribution=attribution,
                standard_error=error,
                reliability=reliability,
                queries=plan.queries,
                target=one,
                score=score,
                objective=objective_name(scorer.objective),
                settings={
                    name: value.clone()
                    if isinstance(value, Tensor) and name not in self.own
                    else value
                    for name, value in settings.items()
                },
                input=x.clone(memory_format=torch.contiguous_format),  # the caller's may change
                seconds=seconds,
                delta=delta,
                provenance={
                    "fwdgrad": _version(),
                    "contract": CONTRACT,
                    "torch": torch.__version__,
                    "backend": fwdgrad_kernels.backend_for(x.device, self.backend),
                    "device": str(x.device),
                    "threads": torch.get_num_threads(),
                    "input_sha256": digest,
                    **({} if name is None else {"model": name}),
                    **({"objective": f"auto: {scorer.decision}"} if scorer.decision else {}),
                },
            )
            for one, score, delta, (attribution, error, reliability) in zip(
                chosen, clean, deltas, results, strict=True
            )
        ]

    def _run(
        self,
        plan: Plan,
        targets: list[int | None],
        clean: list[float],
        checkpoint: Checkpoint | None,
        progress: Progress,
    ) -> list[Result]:
        """What each target's map is, before the saliency rule's factor."""
        raise NotImplementedError

    # ---- what is asked ---------------------------------------------------------------------

    def _check_input(self, x: Any) -> Tensor:
        found = input_of(x)
        # Copies come in x's memory format.
        return found if found.dim() == 3 and is_channels_last(found) else found.contiguous()

    def _plan(self, x: Tensor) -> Plan:
        signs = 2 if self.antithetic else 1
        spec = self._spec(x)
        if spec is not None and not isinstance(spec.scale, AdaptiveScale) and not self._blends:
            warn_of_resolution(x, spec.scale)
        queries = self._resolve_queries(spec)
        copies = queries // signs
        path = None
        if isinstance(self.saliency, IntegratedGradients):
            path = self.saliency.path(x, copies, int(self.noise["seed"]))
        per = self.parameters.copies_per_draw(copies) if self.parameters is not None else 1
        return Plan(x, spec, copies, signs, path, per, weights=path.weights if path else None)

    def _resolve_queries(self, spec: NoiseSpec | None) -> int:
        assert self.queries is not None
        return self.queries

    def _spec(self, x: Tensor) -> NoiseSpec | None:
        scale = self._scale(x)
        if isinstance(scale, Tensor) and not bool(scale.any()):
            raise ValueError("sigma must not be zero everywhere: there would be no noise")
        return noise_spec(
            tuple(x.shape), scale=scale, paired=self.antithetic, device=x.device, **self.noise
        )

    def _scale(self, x: Tensor) -> float | Tensor | AdaptiveScale:
        """The scale of the noise: a number, one for each element, or the rule."""
        if self.sigma is None:
            low, high = x.aminmax()
            scale = 0.2 * (high.double() - low.double()).item()
            if scale == 0:
                raise ValueError("sigma must be given: x is constant, so it has no range")
            check_alike(x, scale)
            return scale
        if isinstance(self.sigma, AdaptiveScale):
            rule = self._rule(self.sigma)
            check_bounds(x, rule)
            if not (rule.floor or any(bool(s.any()) for _, s in rule.pieces(x, "normal"))):
                raise ValueError(
                    "sigma must leave noise somewhere: every element of x lies on a bound; give "
                    "the rule a floor"
                )
            return rule
        if isinstance(self.sigma, Tensor):
            if self.sigma.shape != x.shape:
                raise ValueError(
                    f"sigma must be a number or have x's shape {tuple(x.shape)}, got "
                    f"{tuple(self.sigma.shape)}"
                )
            return self.sigma.to(x.device, sum_dtype(x))
        check_alike(x, self.sigma)
        return float(self.sigma)

    def _rule(self, rule: AdaptiveScale) -> AdaptiveScale:
        return rule

    def _settings(self, plan: Plan) -> dict[str, Any]:
        """The arguments of ``explain`` that define the run, as they were resolved."""
        parameters = self.parameters
        idle = PLAIN if self.noise["features"] is not None else ("features",)
        if parameters is not None:
            parameters = dataclasses.replace(parameters, module=None)
        return {
            "method": self.name,
            "queries": plan.queries,
            "sigma": 0.0 if plan.spec is None else plan.spec.scale,
            **{name: value for name, value in self.noise.items() if name not in idle},
            "block": None if plan.spec is None else plan.spec.block,
            "antithetic": self.antithetic,
            "clip": self.clip,
            "saliency": self.saliency,
            "parameters": parameters,
        }

    def _identity(
        self,
        plan: Plan,
        settings: dict[str, Any],
        targets: list[int | None],
        name: str | None,
    ) -> dict[str, Any]:
        """What makes two runs the same, for checkpoints."""

        def plain(value: Any) -> Any:
            if dataclasses.is_dataclass(value) and not isinstance(value, type):
                pairs = {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
                return {"kind": type(value).__name__, **pairs}
            if isinstance(value, torch.nn.Module):
                return None
            return digest_of(value) if isinstance(value, Tensor) else value

        several = len(targets) > 1
        return {
            "name": name,
            "contract": CONTRACT,
            "model": parameters_digest(self.forward),
            "input": digest_of(plan.x),
            "shape": list(plan.x.shape),
            "dtype": str(plan.x.dtype),
            "target": targets if several else targets[0],
            "objective": objective_name(plan.scorer.objective),
            **{name: plain(value) for name, value in settings.items() if name != "control"},
        }

    # ---- calls of the model ----------------------------------------------------------------

    def _run_mode(self) -> contextlib.AbstractContextManager[Any]:
        """What holds for all calls of a run."""
        return contextlib.nullcontext()

    def _find_parameters(self, plan: Plan) -> None:
        """Where the model uses its parameters, where they get noise."""
        if self.parameters is None:
            return
        plan.noisy = NoisyParameters(
            self.parameters.module_of(self.forward),
            self.parameters,
            int(self.noise["seed"]),
            fwdgrad_kernels.backend_for(plan.x.device, self.backend),
            lambda: self.forward(plan.x[None].clone()),
        )

    def _batch_size(self, plan: Plan, state: State, sums: int) -> BatchSize:
        x, spec = plan.x, plan.spec
        fixed = x.nbytes + sum(tensor.nbytes for tensor in state.values())
        if spec is not None and isinstance(spec.scale, Tensor):
            fixed += spec.scale.nbytes
        if plan.path is not None:
            fixed += 2 * x.nbytes  # the baseline, and a point between
        if isinstance(plan.baseline, Tensor):
            fixed += plan.baseline.nbytes
        return BatchSize(self.batch_size, self.memory, x.nbytes, fixed, sums, x.device)

    def _fill(
        self, out: Tensor, plan: Plan, first: int, count: int, sign: int, pairs: bool
    ) -> None:
        """Writes copies first onwards: with pairs, all of one sign and then all of the other."""
        x, spec = plan.x, plan.spec
        if plan.path is None and spec is not None:
            self._perturber(plan, pairs)(out, first, sign=sign)
            return
        for i in range(count):
            point = x if plan.path is None else plan.path.point(x, first + i)
            run = None
            if spec is not None:
                run = Perturber(point, spec, clip=self.clip, backend=self.backend)
            for row, s in ((i, sign), (count + i, -sign)) if pairs else ((i, sign),):
                if run is None:
                    out[row] = point
                else:
                    run(out[row : row + 1], first + i, sign=s)
        if spec is None and self.clip is not None:
            out.clamp_(*self.clip)

    def _perturber(self, plan: Plan, pairs: bool) -> Perturber:
        """What fills micro-batches of a run, checked once."""
        if plan.perturber is None or plan.perturber.pairs != pairs:
            assert plan.spec is not None
            plan.perturber = Perturber(
                plan.x, plan.spec, clip=self.clip, pairs=pairs, baseline=plan.baseline,
                position=plan.position, backend=self.backend,
            )  # fmt: skip
        return plan.perturber

    def _stream(
        self,
        evaluate: Callable[[Tensor], list[Tensor]],
        judged: Callable[[list[Tensor]], Tensor],
        numbers: Tensor,
        enter: Callable[[Results, int, int], None] | None,
        what: str,
        state: State,
        plan: Plan,
        sums: int,
        checkpoint: Checkpoint | None,
        progress: Progress,
    ) -> None:
        """Calls the model for every copy.

        Args:
            evaluate: from a batch of copies to what is asked of each: (batch, ...) per target.
            judged: from that to the numbers of each copy that must be finite: (batch, m).
            numbers: where they are kept: (copies, signs, m).
            enter: see ``fwdgrad.stream.run``.
            what: a word for what is asked.
            state: see ``fwdgrad.stream.run``; "scores" in it, (copies, signs, targets), are of some
                first copies at least.
            plan: of the run.
            sums: bytes that follow the copies.
            checkpoint: where to go on from and to write to.
            progress: see ``explain``.
        """
        buffer: Tensor | None = None
        x, signs = plan.x, plan.signs

        def step(first: int, count: int, batch: int) -> Results:
            nonlocal buffer
            noisy = plan.noisy
            pairs = signs == 2 and 2 * count <= batch
            rows = 2 * count if pairs else count
            if buffer is None or len(buffer) < rows:
                buffer = None  # free the old one first
                buffer = empty_copies(x, rows, plan.spec)
            results = []
            for sign in (1,) if pairs or signs == 1 else (1, -1):
                self._fill(buffer[:rows], plan, first, count, sign, pairs)
                if noisy is not None:
                    noisy.begin(first // plan.per)
                try:
                    with noisy or contextlib.nullcontext():
                        found = evaluate(buffer[:rows])
                except ModelError as error:
                    last = first + count - 1
                    raise ModelError(
                        f"{error} (copies {first} .. {last}){kept(first, checkpoint)}"
                    ) from error.__cause__
                for start in range(0, rows, count):
                    results.append([one[start : start + count] for one in found])
            return results

        def record(results: Results, first: int, count: int) -> None:
            for sign, found in enumerate(results):
                numbers[first : first + count, sign] = judged(found)

        def look(first: int, stop: int, whole: int) -> None:
            plan.scorer.look()
            check_finite(
                numbers[first:stop], first, what, kept(whole, checkpoint), lambda: self._bounds(x)
            )

        def release() -> None:
            nonlocal buffer
            buffer = None

        def again(done: int, batch: int) -> None:
            assert checkpoint is not None
            scores = state["scores"][:done, 0].cpu()
            rows = telling_copies(scores[:, 0])
            found = self._scores_of_copies(plan, rows, batch)
            hint = " (a run of a model whose answers are random cannot go on)"
            for one, other in zip(scores[rows].unbind(1), found.unbind(1), strict=True):
                checkpoint.compare("score of some copies", one, other, hint)

        waits = is_waited_for(numbers.device)
        plan.scorer.looks = not waits
        run(
            step,
            record,
            enter,
            look,
            release,
            state,
            copies=plan.copies,
            signs=signs,
            together=plan.per if plan.noisy is not None else plan.copies,
            batch=self._batch_size(plan, state, sums),
            checkpoint=checkpoint,
            again=again,
            progress=progress,
            device=x.device,
            waits=waits,
        )

    def _scores_of_copies(self, plan: Plan, rows: list[int], batch: int) -> Tensor:
        """The scores of single copies, asked for anew: float64 (rows, targets)."""
        size = min(1 if plan.noisy is not None else batch, len(rows))  # a draw of parameters each
        buffer, found = empty_copies(plan.x, size, plan.spec), []
        for start in range(0, len(rows), size):
            some = rows[start : start + size]
            for place, row in enumerate(some):
                self._fill(buffer[place : place + 1], plan, row, 1, 1, False)
            if plan.noisy is not None:
                plan.noisy.begin(some[0] // plan.per)
            with torch.no_grad(), plan.noisy or contextlib.nullcontext():
                scores = plan.scorer(buffer[: len(some)])
            found.append(torch.stack([one.to("cpu", torch.float64) for one in scores], dim=1))
        return torch.cat(found).nan_to_num()  # as Autograd keeps them

    def _bounds(self, x: Tensor) -> str:
        """A hint that copies may leave the values that a model takes."""
        if self.clip is not None or self.position != 1:
            return ""
        low, high = (f"{float(value):g}" for value in x.aminmax())
        return (
            f"; copies leave the range of x, {low} to {high}: where the model takes a range alone, "
            f"clip= keeps them in it, e.g. clip=({low}, {high})"
        )

    # ---- to the result ---------------------------------------------------------------------

    def _finish(
        self, plan: Plan, targets: list[int | None], clean: list[float], results: list[Result]
    ) -> list[float | None]:
        """Applies the saliency rule's factor; what each map's sum is off by, along a path."""
        factor = self.saliency.factor(plan.x)
        if factor is not None:
            for attribution, error, _ in results:
                attribution.mul_(factor)
                error.mul_(factor.abs())
        if plan.path is None:
            return [None] * len(targets)
        with torch.no_grad():
            try:
                starts = [float(s[0]) for s in plan.scorer(plan.path.start[None].clone())]
            except ModelError as error:
                raise ModelError(f"{error} (at the path's baseline)") from error.__cause__
        return [
            float(attribution.double().sum()) - (score - start)
            for (attribution, _, _), score, start in zip(results, clean, starts, strict=True)
        ]


def check_no_array(name: str, value: Any) -> None:
    """Raises for a tensor or an array where an option has a single value.

    >>> check_no_array("seed", torch.zeros(2))
    Traceback (most recent call last):
    TypeError: seed must not be an array, got a Tensor of shape (2,)
    """
    if isinstance(value, (Tensor, np.ndarray)):
        raise TypeError(
            f"{name} must not be an array, got a {type(value).__name__} of shape "
            f"{tuple(value.shape)}"
        )


def check_number(name: str, value: Any) -> float:
    """A number of Python's or NumPy's kinds as a float."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.number)):
        raise TypeError(
            f"{name} must be a number or a tensor, got {type(value).__name__} "
            f"{' '.join(repr(value).split()):.60}"
        )
    return float(value)


def sum_dtype(x: Tensor) -> torch.dtype:
    """What sums over an input's elements' copies are kept in."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _version() -> str:
    from fwdgrad import __version__

    return __version__


def sample(mean: Tensor) -> Tensor:
    """All elements of a map, or a regular sample of a large one."""
    return mean.flatten()[:: sample_stride(mean)].clone()


def sample_stride(mean: Tensor) -> int:
    """Every how manieth element is in the sample."""
    return -(-mean.numel() // _SAMPLE)


def reliability(one: Tensor, other: Tensor) -> float:
    """Correlation of the maps of two half-runs, stepped up to the full run (Spearman-Brown)."""
    # By NumPy, whose sums do not depend on the number of threads.
    a, b = one.double().cpu().numpy(), other.double().cpu().numpy()
    a, b = a - a.mean(), b - b.mean()
    size = math.sqrt((a * a).sum() * (b * b).sum())
    correlation = float((a * b).sum()) / size if size else math.nan
    # Stepping up is meant for correlations >= 0; a negative one is reported as it is.
    return 2 * correlation / (1 + correlation) if correlation > 0 else correlation


# ---- moments -------------------------------------------------------------------------------
#
# Copies come in units of `unit` consecutive ones that depend on one another. Squared distances
# are updated about the running mean (Welford, Technometrics 4(3), 1962): what they add up to is
# sum_g (n_g (m_g - mean))^2, where only the last unit g may have fewer copies n_g.


def enter_unit_(
    mean: Tensor, spread: Tensor, unit_mean: Tensor, first: int, length: int, unit: int
) -> None:
    """Enters the mean over copies first .. first + length - 1, a unit."""
    done, before = first + length, first // unit
    delta = unit_mean - mean
    spread.addcmul_(delta, delta, value=(unit * length / done) ** 2 * before * (before + 1))
    mean.add_(delta, alpha=length / done)


def standard_error_(spread: Tensor, copies: int, unit: int) -> Tensor:
    """The mean's standard error from the spread, in its place; NaN from a single unit."""
    units = -(-copies // unit)
    if units > 1:
        return spread.mul_(units / (units - 1)).sqrt_().div_(copies)
    return spread.fill_(torch.nan)
