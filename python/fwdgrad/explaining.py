"""explain: from a model and an input to an explanation."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Mapping
from typing import Any, TypedDict, cast, overload

import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from typing_extensions import Unpack

from fwdgrad.adapters.prepared import Adapter, Prepared
from fwdgrad.advice import warn_of_noise, warn_of_stillness
from fwdgrad.checks import check_integer, check_no_array
from fwdgrad.devices import placed
from fwdgrad.errors import ArgumentError, ArgumentTypeError, warn
from fwdgrad.estimate.moments import Result
from fwdgrad.estimate.scores import attributions
from fwdgrad.explained import explanations_of
from fwdgrad.explanation import Explanation
from fwdgrad.inputs import input_of
from fwdgrad.methods import METHODS, choose, method_of
from fwdgrad.methods.base import RENAMED, Method, Request, hint_of
from fwdgrad.methods.noise import features_of
from fwdgrad.objectives import Objective, check_objective
from fwdgrad.outputs import told
from fwdgrad.powers import warn_unless_finite
from fwdgrad.runner.looks import AutoSamples
from fwdgrad.runner.loop import Progress
from fwdgrad.runner.outcome import Outcome
from fwdgrad.runner.run import run
from fwdgrad.runner.settings import Settings
from fwdgrad.runner.workers import Workers
from fwdgrad.scorer import check_model
from fwdgrad_kernels import Features, is_channels_last

Target = int | str | None


class RunOptions(TypedDict, total=False):
    """What ``explain`` and ``explain_many`` take beside the model, inputs and targets."""

    method: str | Method
    objective: Objective
    n_samples: int | str | None
    reliability: float | None
    max_samples: int | None
    features: Features | Tensor | None
    seed: int
    batch_size: int | None
    memory: int | str | None
    name: str | None
    backend: str
    device: str | torch.device | None


class Options(RunOptions, total=False):
    """What ``explain`` takes beside the model, the input and the target."""

    checkpoint: str | os.PathLike[str] | None
    progress: Progress
    workers: int | Workers | None
    group: ProcessGroup | None


@overload
def explain(
    model: Adapter,
    x: Any,
    target: Any = "auto",
    *,
    on_look: Callable[[Any], object] | None = None,
    **options: Unpack[Options],
) -> Any: ...


@overload
def explain(
    model: Callable[[Tensor], Any],
    x: Any,
    target: Target = "auto",
    *,
    on_look: Callable[[Explanation], object] | None = None,
    **options: Unpack[Options],
) -> Explanation: ...


@overload
def explain(
    model: Callable[[Tensor], Any],
    x: Any,
    target: list[Target] | list[int] | tuple[Target, ...],
    *,
    on_look: Callable[[list[Explanation]], object] | None = None,
    **options: Unpack[Options],
) -> list[Explanation]: ...


def explain(
    model: Callable[[Tensor], Any] | Adapter,
    x: Any,
    target: Any = "auto",
    *,
    method: str | Method = "auto",
    objective: Objective = "auto",
    n_samples: int | str | None = None,
    reliability: float | None = None,
    max_samples: int | None = None,
    features: Features | Tensor | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    memory: int | str | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: Progress = False,
    on_look: Callable[[Any], object] | None = None,
    name: str | None = None,
    workers: int | Workers | None = None,
    group: ProcessGroup | None = None,
    backend: str = "auto",
    device: str | torch.device | None = None,
    **unknown: Any,
) -> Any:
    """Which elements of an input a model's score depends on; by default from forward calls alone.

    Args:
        model: takes a batch (batch, *x.shape) of x's type and returns (batch, classes) or
            (batch,). Methods that take its own gradient need operations of torch. A module in
            training mode is warned of or refused; of one within a function nothing is seen: call
            ``eval()`` first. The batch is overwritten after the call: a model that keeps it must
            clone it.
        x: one input, without a batch axis: an image (C, H, W), text embeddings (T, E), a vector
            (N,); float32, float64, float16 or bfloat16. A NumPy array of floating numbers is taken
            as the tensor that it is; a picture of Pillow, or a path to one, as all of it,
            (3, H, W) in [0, 1], or as the middle of it that an ``ImageClassifier`` takes. Of a
            model adapter what it says: a text, a row of a table.
        target: the class to explain, its name where the model knows names (an
            ``ImageClassifier``), "auto" for the predicted one, None where the model returns one
            number. A list of classes gives a list of explanations from the same calls.
        method: what is estimated: a value such as ``Regions(cell=16)``, or a name in
            ``fwdgrad.methods.METHODS`` for the one with its defaults. "auto" is ``Regions()`` for
            pictures, (1 or 3, H, W) of values in [0, 1], 16 pixels a side at least, and
            ``ForwardGradient()`` for all else; what looks like a picture and is not taken for one
            gets a warning.
        objective: what is explained of a class: "output" (also called "logit"), as it is;
            of logits "probability" (their softmax), "log-probability", "cross-entropy" or
            "sigmoid" (of the class's own); or a callable from the model's output to one score a
            sample: ``Difference``, ``KeptLabel``, ``LabelDistance``, ``TextAnswer``, ``Segment``,
            ``Similarity``, ``NextToken`` (``fwdgrad.tasks``), ``Detections``
            (``fwdgrad.adapters.detection``), whose targets are numbers of boxes. "auto" looks
            at the output at x: one number a sample, rows that are probabilities, and rows in
            [0, 1] that do not sum to 1, of several labels, are taken as they are; else softmax.
        n_samples: perturbed inputs that the model is called on; one more call is made at x itself.
            None: as many as the method takes by default. "auto": as many as make the map sure,
            by a method from forward calls alone. It plans as for 128, and looks at the map of the
            first 128 samples, or of one Hadamard group where that is more; then of about half as
            many again each time, always of whole groups and pairs. No sample is asked twice. At
            the first look at which every target's map is sure it stops. The result does not depend
            on how the run was made, and the explanation's ``settings`` repeat it as a number.
        reliability: with "auto", from which reliability on the map is sure, between 0 and 1; None:
            0.9. One that cannot be told is not.
        max_samples: with "auto", after how many samples it stops at the latest; None: 4,096.
        features: what moves together, for ``Regions`` and ``ForwardGradient``: ``Elements()``,
            ``Grid(cell)`` over one to three axes (series (C, T), pictures, volumes (C, D, H, W)),
            ``Labels(mask)``, or a mask of integers. An element's attribution is that of the
            feature that it is in.
        seed: of all that is drawn, 0 .. 2^64 - 1.
        batch_size: samples per forward call. The result does not depend on it, as far as the
            model's own output for a sample does not.
        memory: instead, a budget such as "1GiB" for the input, samples, sums and what the model is
            seen to need; picks the micro-batch.
        checkpoint: a file that is written every second (less often where that takes more than a
            tenth of the time) and at Ctrl-C. Where it exists, the run goes on from it and ends with
            the same bits as an uninterrupted one. It is refused where the input, an option, the
            model's parameters or its output at the input are others; then a few samples are
            evaluated again (4; 32 of a model that only tells labels), and their scores compared.
            That alone tells two functions apart that are both called ``<lambda>``;
            ``fwdgrad.runner.fingerprint`` says how closely.
        progress: True for a bar on standard error, or a callable of (calls done, all).
        on_look: a function that is called with the explanation of the samples so far (a list of
            them where ``target`` is one), and at the end with what is returned. With "auto" that is
            at each look. With a number, ``Regions`` and ``ForwardGradient`` are looked at after 16
            samples, or after as many whole Hadamard groups as have 16, and then at twice as many
            each time. Part of a group would mix up features, so of a picture's cells, one group of
            nearly all samples unless ``Regions`` is given ``directions``, there is no early map;
            nor is there of other methods. Looks make no forward call and change no bit; together
            they take about as long as the last sum. It is called by the thread that called
            ``explain``, of ranks in rank 0. An error in it ends the run as Ctrl-C does. A run that
            goes on from a checkpoint begins with the looks at what is there.
        name: what you call the model, "v3" say: kept in the explanation; a checkpoint of another
            name is refused.
        workers: where the model is called, for methods from forward calls alone: a number of local
            processes (extra ``workers``), to which the model is sent; or a value of
            ``fwdgrad.runner.workers``. The result does not depend on it. None: in this process,
            and in threads for a model that has a ``concurrency``.
        group: instead, ranks of ``torch.distributed`` that all call ``explain`` with the same
            arguments, ``group.WORLD`` say: they share the calls of the model, and each returns the
            explanation. Rank 0 alone shows progress and has the checkpoint, from which any number
            of ranks goes on. None: this process alone.
        backend: of the kernels, see ``fwdgrad_kernels.backend_for``.
        device: "cpu", "cuda", "cuda:1", ...: where to put x, and so its samples and its maps. A
            module, or one whose method the model is, is moved there as by ``model.to(device)``,
            and stays there; a function is called with a batch on that device, and what it does
            with it is its own matter. None: x and the model stay where they are.

    Returns:
        The explanation: attribution, standard error, reliability and what repeats the run.

    Raises:
        TypeError, ValueError: naming the argument, what was given and what would do.
        ModelError: the model failed or returned something of no use.
        CheckpointError: the checkpoint is of another run, damaged, or in use by one.

    Example:
        >>> import torch
        >>> from fwdgrad import ForwardGradient
        >>> model = torch.nn.Linear(4, 2).eval()
        >>> method = ForwardGradient(scale=0.5, design="hadamard")
        >>> explain(model, torch.ones(4), 0, method=method, objective="output", n_samples=64)
        Explanation(output of class 0 = ..., shape (4,), 64 samples, reliability 1.00)

    Source: *Is forward gradient an effective tool for explaining black-box models?*, and for each
    method what its class says.
    """
    for given in unknown:
        raise TypeError(unexpected(given))
    check_on_look(on_look)
    several = isinstance(target, (list, tuple))
    started = time.perf_counter()
    prepared, forward = None, cast(Callable[[Tensor], Any], model)
    if isinstance(model, Adapter):
        prepared = model.prepare(x)
        forward, x = prepared.forward, prepared.x

    def shown(found: list[Explanation]) -> list[Any]:
        return found if prepared is None else [prepared.show(one) for one in found]

    def look(shown: list[Any]) -> None:
        if on_look is not None:
            on_look(shown if several else shown[0])

    found = explanations(
        forward, x, list(target) if several else [target], prepared=prepared, started=started,
        method=method, objective=objective, n_samples=n_samples, reliability=reliability,
        max_samples=max_samples, features=features, seed=seed, batch_size=batch_size,
        memory=memory, checkpoint=checkpoint, progress=progress, name=name,
        workers=workers, group=group, backend=backend, device=device,
        on_look=None if on_look is None else lambda found: look(shown(found)),
    )  # fmt: skip
    last = shown(found)
    if group is None or group.rank() == 0:
        look(last)
    warn_of_noise(last)
    warn_of_stillness(last)
    return last if several else last[0]


def explanations(
    model: Callable[[Tensor], Any],
    x: Any,
    targets: list[Any],
    *,
    method: str | Method = "auto",
    objective: Objective = "auto",
    n_samples: int | str | None = None,
    reliability: float | None = None,
    max_samples: int | None = None,
    features: Features | Tensor | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    at_input: Callable[[Any], None] | None = None,
    prepared: Prepared | None = None,
    about: Mapping[str, Any] | None = None,
    on_look: Callable[[list[Explanation]], object] | None = None,
    started: float | None = None,
    **settings: Any,
) -> list[Explanation]:
    """What ``explain`` gives for each target, without a warning where it is mostly noise.

    Args:
        model, x, targets, method, objective, n_samples, reliability, max_samples, features, seed,
            device: see ``explain``.
        at_input: is given the model's output at x, before the samples are made.
        prepared: what an adapter made the input of.
        about: what else makes two runs the same, as JSON has it; see ``Prepared``.
        started: of ``time.perf_counter``, where something was done before.
        on_look: is given those of the samples so far at each look but the last.
        **settings: batch_size, memory, checkpoint, progress, name, workers, group and backend of
            ``explain``.
    """
    started = time.perf_counter() if started is None else started
    how = Settings(**settings)
    with how.together():
        check_model(model)
        check_objective(objective)
        auto = AutoSamples.of(n_samples, reliability, max_samples)
        for name, value in (("seed", seed), ("method", method)):
            check_no_array(name, value)
        seed = check_integer("seed", seed, 0, 2**64 - 1)
        wanted = method_of(method)
        if not targets:
            raise ArgumentError("target", "must name at least one class, got an empty list")
        # A classifier of photos of one size gets them cut as on the command line.
        size = getattr(model, "size", None)
        x = placed(model, input_of(x, size if isinstance(size, int) else None), device)
        # Samples come in x's memory format.
        x = x if x.dim() == 3 and is_channels_last(x) else x.contiguous()
        about = about or {}
        chosen, why = wanted, None
        if prepared is not None:
            about = {**about, **prepared.about}
            features = prepared.features if features is None else features
            if chosen is None:
                chosen, why = prepared.method, prepared.why
        if chosen is None:
            chosen, why = choose(x)
        number: Any = None if auto else n_samples
        most = auto.max_samples if auto else None
        if auto is not None:
            auto.check_method(chosen)
        request = Request(number, features_of(features), seed, most=most)
        plan = chosen.plan(x, request)
        known = {} if how.name is None else {"model": how.name}
        known |= {"method": f"auto: {why}"} if why is not None else {}

        def found(outcome: Outcome, maps: list[Result]) -> list[Explanation]:
            of = [reliability for _, _, reliability in maps]
            told = {} if auto is None else {"n_samples": auto.told(outcome.plan, of)}
            seconds = time.perf_counter() - started
            return explanations_of(outcome, maps, seconds, {**about, **known, **told})

        def look(outcome: Outcome, maps: list[Result]) -> None:
            if on_look is not None:
                on_look(found(outcome, maps))

        shows = None if on_look is None else look
        outcome = run(plan, model, objective, targets, how, at_input, about, auto, shows)
    return found(outcome, _maps(outcome))


def check_on_look(on_look: Any) -> None:
    """Raises where it cannot be called."""
    if not (on_look is None or callable(on_look)):
        shown = told(repr(on_look), 80)
        raise ArgumentTypeError("on_look", f"must be a function or None, got {shown}")


_NAMES = ["target", *Options.__annotations__]


def unexpected(name: str, of: str = "explain") -> str:
    """Why a function has no such argument, and what may have been meant."""
    kinds = METHODS.values()
    fields = {f.name for kind in kinds for f in dataclasses.fields(kind)}
    hint = hint_of(name, sorted(fields))
    option = hint.removeprefix("did you mean ").removesuffix("?")
    names = [*_NAMES, *["on_look"] * (of == "explain")]
    own = hint_of(name, names)
    if own.startswith("did you mean") and RENAMED.get(name) not in fields:
        hint = own
    elif option in fields:
        owners = [k.__name__ for k in kinds if option in k.__dataclass_fields__]
        others = f", or of {', '.join(owners[1:])}" if owners[1:] else ""
        hint = f"{option} is an option of methods: give method={owners[0]}({option}=...){others}"
    else:
        hint = f"it has {', '.join(names)}"
    return f"{of}() got an unexpected keyword argument {name!r}; {hint}"


def _maps(outcome: Outcome) -> list[Result]:
    """The map of each target, its standard error and its reliability."""
    plan = outcome.plan
    if outcome.maps is not None:
        results = outcome.maps
    elif outcome.scores is not None:
        results = attributions(plan, outcome.scores, outcome.scorer.clean, outcome.backend)
    else:
        assert outcome.moments is not None
        results = outcome.moments.results()
        for target, (attribution, _, _) in zip(outcome.scorer.targets, results, strict=True):
            if not bool(attribution.any()):
                which = "" if target is None else f" of class {target}"
                warn(
                    f"the gradient of the score{which} is zero everywhere, and so is the map: the "
                    "score is flat or saturated there; another objective, such as 'output' or "
                    "'log-probability', or more noise may change it"
                )
    factor = plan.factor
    for attribution, error, _ in results:
        if factor is not None:
            attribution.mul_(factor)
            error.mul_(factor.abs())
        warn_unless_finite(attribution, error)
    return results
