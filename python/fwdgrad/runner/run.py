"""A plan and a model give scores, or moments of gradients."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

import torch
from torch import Tensor

from fwdgrad.errors import ArgumentError, Message, ModelError, Option, warn
from fwdgrad.estimate.missing import is_missing
from fwdgrad.estimate.moments import Moments, Result
from fwdgrad.estimate.scores import attributions, bytes_of_sums, why_still
from fwdgrad.objectives import Objective, objective_name
from fwdgrad.outputs import told
from fwdgrad.parameters import NoisyParameters
from fwdgrad.plan import Plan
from fwdgrad.runner.checkpoint import Checkpoint, State
from fwdgrad.runner.fingerprint import Answer, telling_samples
from fwdgrad.runner.gradients import Gradients, weights_of_samples
from fwdgrad.runner.identity import identity_of
from fwdgrad.runner.in_flight import loop_in_flight
from fwdgrad.runner.looks import AutoSamples, Goal, Looks, Watched
from fwdgrad.runner.loop import check_finite, is_waited_for, kept, loop, others_kept
from fwdgrad.runner.outcome import OnLook, Outcome
from fwdgrad.runner.samples import Results, Samples
from fwdgrad.runner.settings import Settings
from fwdgrad.runner.work import Found, Work, score
from fwdgrad.runner.workers import Threads, result_of, workers_of
from fwdgrad.scorer import Scorer, check_mode, device_of_numbers
from fwdgrad.torch_state import TorchState
from fwdgrad_kernels import backend_for

_FEW = 16  # samples of a request, where nothing is asked for


def run(
    plan: Plan,
    model: Callable[[Tensor], Any],
    objective: Objective,
    targets: list[Any],
    settings: Settings,
    at_input: Callable[[Any], None] | None = None,
    about: Mapping[str, Any] | None = None,
    auto: AutoSamples | None = None,
    on_look: OnLook | None = None,
) -> Outcome:
    """Calls a model on every sample of a plan.

    Args:
        plan: of the run; with ``auto``, of its first look.
        model: takes a batch (batch, *x.shape).
        objective: what is explained, see ``fwdgrad.explain``.
        targets: of which classes.
        settings: how the run is made.
        at_input: is given the model's output at x, before any sample is made.
        about: what else makes two runs the same, as JSON has it.
        auto: when the map is sure enough to stop; None: after the plan's samples.
        on_look: is given what is found, and the maps of it, at each look but the last.

    Raises:
        ModelError: the model failed or returned something of no use.
        CheckpointError: the checkpoint is of another run, damaged, or in use by one.
    """
    if plan.parameters is not None:
        plan.parameters.module_of(model)
    check_mode(model)
    backend = backend_for(plan.x.device, settings.backend)
    forward = plan.gradient == "forward"
    if auto is not None:
        auto.check_plan(plan)
    known = {} if auto is None else {"n_samples": "auto"}  # a surer run goes on from its file
    # No tensor made in inference mode may have a gradient.
    mode: Any = contextlib.nullcontext() if forward else torch._C._InferenceMode(False)
    ranks = settings.ranks
    if ranks is not None:  # before any call of the model
        given = identity_of(plan, model, targets, objective, settings.name)
        asked = {"batch_size": settings.batch_size, **({} if auto is None else vars(auto))}
        ranks.agree({**(about or {}), **given, **asked, **known})
    with TorchState(), mode:
        scorer = Scorer(model, plan.x, targets, objective)
        for look in (at_input, getattr(scorer.objective, "check_at_input", None)):
            if look is not None:
                look(scorer.outputs)
        noisy = None
        if plan.parameters is not None:
            noisy = NoisyParameters(
                plan.parameters.module_of(model), plan.parameters, plan.seed, backend,
                lambda: model(plan.x[None].clone()),
            )  # fmt: skip
        samples = Samples(plan, backend, noisy)
        file = None
        is_told = settings.checkpoint is not None or ranks is not None
        answer = Answer.of(scorer.outputs if is_told else None)
        if ranks is not None:
            found = {"target": scorer.targets, "objective": objective_name(scorer.objective)}
            scorer.clean = ranks.agree({**found, "output": answer.rest}, answer, scorer.clean)
        if settings.checkpoint is not None and (ranks is None or ranks.rank == 0):
            own = identity_of(plan, model, scorer.targets, scorer.objective, settings.name)
            identity = {**(about or {}), **own, **known}
            file = Checkpoint(settings.checkpoint, identity, answer, scorer.clean)
        if ranks is not None:
            ranks.kept = others_kept(file)
        outcome = Outcome(scorer, backend, plan)
        with file.locked() if file is not None else contextlib.nullcontext():
            if forward:
                _scores(outcome, samples, settings, file, auto, on_look)
            else:
                outcome.moments = _moments(samples, scorer, settings, file, model)
        if plan.path is not None:
            with torch.no_grad():
                try:
                    starts = scorer(plan.path.start[None].clone())
                except ModelError as error:
                    raise ModelError(
                        Message(error, " (at the path's baseline)")
                    ) from error.__cause__
            outcome.starts = [float(score[0]) for score in starts]
    return outcome


# ---- from forward calls, and from gradients --------------------------------------------------


def _scores(
    outcome: Outcome,
    samples: Samples,
    settings: Settings,
    file: Checkpoint | None,
    auto: AutoSamples | None,
    on_look: OnLook | None,
) -> None:
    """Finds the score of every sample and target."""
    plan, scorer = samples.plan, outcome.scorer
    most = plan.samples
    if auto is not None:  # a run that was to be surer may have kept more
        most = max(auto.most(plan), file.held() if file is not None else 0)
    # Where the model's output is: a copy to the host would wait for each micro-batch.
    shape, device = (most, plan.signs, len(scorer.targets)), scorer.device
    scores = torch.full(shape, torch.nan, dtype=torch.float64, device=device)

    def evaluate(batch: Tensor) -> list[Tensor]:
        with torch.no_grad():
            found = scorer(batch)
        # Copied: a model may return a view of its argument, or of a buffer of its own.
        return [one.to(device, torch.float64, copy=True) for one in found]

    def judged(found: list[Tensor]) -> Tensor:
        return torch.stack(found, dim=1)

    def judge(first: int) -> list[Result]:
        own = dataclasses.replace(plan, samples=first)
        return attributions(own, scores[:first].cpu(), scorer.clean, samples.backend)

    def show(first: int, maps: list[Result]) -> None:
        if on_look is not None:
            own = dataclasses.replace(plan, samples=first)
            on_look(dataclasses.replace(outcome, plan=own, scores=scores[:first].cpu()), maps)

    goal = Goal(most)
    if auto is not None:
        goal = Looks(auto, plan, judge, show)
    elif on_look is not None:
        goal = Watched(plan, lambda first: show(first, judge(first)))
    _stream(
        samples, scorer, settings, file, evaluate, judged, scores, None, "score",
        {"scores": scores}, bytes_of_sums(plan), goal,
    )  # fmt: skip
    outcome.scores = scores = scores[: goal.samples].cpu()
    outcome.plan = plan = dataclasses.replace(plan, samples=goal.samples)
    outcome.maps = goal.results
    lost = int(is_missing(scores).sum())
    if lost:
        why = getattr(scorer.model, "failures", {})
        reasons = "; ".join(f"{told(reason)} ({count} samples)" for reason, count in why.items())
        warn(
            f"{lost} of {plan.samples} samples have no score, since the model gave none; the map "
            f"is estimated without them{reasons and f': {reasons}'}"
        )
    for target, found, at_x in zip(scorer.targets, scores.unbind(2), scorer.clean, strict=True):
        if len(found) > 1 and bool((found == found[0, 0]).all()):
            which = "" if target is None else f" of class {target}"
            zero = plan.antithetic or plan.control_variate or not found[0, 0]
            value = float(found[0, 0])
            own = getattr(scorer.objective, "why_still", None)
            text = own(scorer.outputs, value) if own is not None else ""
            warn(
                f"the score{which} is {value:.6g} for every sample, so the map is "
                f"{'zero' if zero else 'noise alone'}: {text}{why_still(plan, value, at_x)} may "
                "change it"
            )


def _moments(
    samples: Samples,
    scorer: Scorer,
    settings: Settings,
    file: Checkpoint | None,
    model: Callable[[Tensor], Any],
) -> Moments:
    """The moments of the gradients of all samples."""
    plan, count = samples.plan, len(scorer.targets)
    weights = weights_of_samples(plan, samples.noisy, samples.backend)
    moments = Moments(plan, count, weights)
    ends = torch.empty(
        (plan.samples, plan.signs, 2 * count),
        dtype=torch.float64,
        device=device_of_numbers(plan.x),
    )

    def judged(found: list[Tensor]) -> Tensor:
        parts = []
        for one in found[:count]:
            axes = tuple(range(1, one.dim()))
            parts += [one.amin(axes), one.amax(axes)]  # NaN where there is one
        return torch.stack(parts, dim=1)

    _stream(
        samples, scorer, settings, file, Gradients(model, scorer, samples.noisy), judged, ends,
        moments.enter, "gradient", moments.state, plan.x.nbytes, Goal(plan.samples),
    )  # fmt: skip
    return moments


def _stream(
    samples: Samples,
    scorer: Scorer,
    settings: Settings,
    file: Checkpoint | None,
    evaluate: Callable[[Tensor], list[Tensor]],
    judged: Callable[[list[Tensor]], Tensor],
    numbers: Tensor,
    enter: Callable[[Results, int, int], None] | None,
    what: str,
    state: State,
    sums: int,
    goal: Goal,
) -> None:
    """Calls the model for every sample.

    Args:
        samples: which.
        scorer: the model's scores.
        settings: how the run is made.
        file: where to go on from and to write to.
        evaluate: from a batch of samples to what is asked of each: (batch, ...) per target.
        judged: from that to the numbers of each sample that must be finite: (batch, m).
        numbers: where they are kept: (samples, signs, m).
        enter: see ``fwdgrad.runner.loop.loop``.
        what: a word for what is asked.
        state: see there; "scores" in it, (samples, signs, targets), are of some first samples at
            least.
        sums: bytes that follow the samples.
        goal: how many samples are called for.
    """
    plan, signs = samples.plan, samples.plan.signs
    may_miss = float(getattr(scorer.model, "max_missing", 0))
    workers = workers_of(settings.workers)
    concurrency = int(getattr(scorer.model, "concurrency", 1))
    if enter is None and samples.noisy is None:
        has_gaps = file is not None and file.has_gaps()
        if workers is None and (concurrency > 1 or may_miss or has_gaps):
            workers = Threads(concurrency)
    elif workers is not None:
        raise ArgumentError(
            *(("workers", "are ") if settings.ranks is None else ("group", "is ")),
            f"for methods from forward calls of one model; {plan.method.name} "
            f"{'changes its parameters' if samples.noisy is not None else 'takes its gradient'}",
        )

    def failed(error: ModelError, first: int, count: int, left: str) -> ModelError:
        return ModelError(Message(error, f" (samples {first} .. {first + count - 1})", left))

    def step(first: int, count: int, batch: int) -> Results:
        try:
            return samples.results(evaluate, first, count, batch)
        except ModelError as error:
            raise failed(error, first, count, kept(first, file)) from error.__cause__

    def record(results: Results, first: int, count: int) -> None:
        for sign, found in enumerate(results):
            numbers[first : first + count, sign] = judged(found)

    missing = 0

    def look(first: int, stop: int, whole: int) -> None:
        nonlocal missing
        scorer.look()
        rows = numbers[first:stop]
        left = others_kept(file) if workers is not None else kept(whole, file)
        if may_miss and enter is None:
            gone = is_missing(rows)
            rows, missing = rows[~gone], missing + int(gone.sum())
            if missing > may_miss * goal.samples:
                raise ModelError(
                    f"{missing} of {goal.samples} samples have no score, more than "
                    f"max_missing={may_miss:g} of the model{left}"
                )
        check_finite(rows, first, what, left, lambda: _hint(plan))

    def again(done: int, batch: int) -> None:
        assert file is not None
        scores = state["scores"][:done, 0].cpu()
        there = (~is_missing(scores)).nonzero()[:, 0]
        which = there[telling_samples(scores[there, 0])].tolist()
        found = samples.scores_again(scorer, which, batch)
        hint = " (a run of a model whose answers are random cannot go on)"
        for one, other in zip(scores[which].unbind(1), found.unbind(1), strict=True):
            file.compare("score of some samples", one, other, hint)

    ranks = settings.ranks
    if ranks is not None and ranks.rank:
        work_of_own = Work(samples, scorer)
        found = ranks.serve(functools.partial(work_of_own.scores, scorer.model))
        goal.samples = len(found)
        numbers[: len(found)] = found
        return
    if workers is not None:
        size = settings.batch_size or getattr(scorer.model, "batch_size", None)
        if size is None:
            size = _FEW
            if concurrency == 1 and not may_miss:  # several for each: none waits long for the last
                size = settings.batch_of(plan, {}, 0).size
                shares = 4 * getattr(workers, "count", 1)
                size = max(signs, min(size, plan.n_samples // shares))
        announce = getattr(scorer.model, "announce", None)
        if announce is not None:
            announce(len(numbers) * signs, size, *((True,) if goal.may_end else ()))

        def keep(future: Future[Found], first: int, count: int) -> None:
            try:
                found, inside = result_of(future)
            except ModelError as error:
                raise failed(error, first, count, others_kept(file)) from error.__cause__
            numbers[first : first + count] = found
            scorer.saw(inside, count * signs)

        with workers.open(scorer.model) as pool:
            work = pool.share(Work(samples, scorer))
            loop_in_flight(
                lambda first, count: pool.submit(score, work, first, count, size), keep, look,
                numbers, goal=goal, signs=signs, batch=size, in_flight=pool.count, checkpoint=file,
                again=again, progress=settings.progress,
            )  # fmt: skip
        if ranks is not None:
            ranks.spread(numbers[: goal.samples])
        return
    waits = is_waited_for(numbers.device)
    scorer.looks = not waits
    loop(
        step,
        record,
        enter,
        look,
        samples.release,
        state,
        samples=len(numbers),
        goal=goal,
        signs=signs,
        together=plan.per_draw if samples.noisy is not None else len(numbers),
        batch=settings.batch_of(plan, state, sums),
        checkpoint=file,
        again=again,
        progress=settings.progress,
        device=plan.x.device,
        waits=waits,
    )


def _hint(plan: Plan) -> str:
    """That samples may leave the values that a model takes."""
    if plan.clip is not None or plan.position != 1:
        return ""
    low, high = (float(f"{float(value):g}") for value in plan.x.aminmax())
    return Message(
        f"; samples leave the range of x, {low:g} to {high:g}: where the model takes no "
        "other values, give the method ",
        Option("clip", (low, high)),
    )
