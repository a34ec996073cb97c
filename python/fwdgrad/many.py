"""explain_many: one input after another, each as ``explain`` has it."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future
from functools import partial
from typing import Any

from typing_extensions import Unpack

from fwdgrad.adapters.prepared import Adapter
from fwdgrad.checks import check_integer
from fwdgrad.devices import device_of
from fwdgrad.errors import (
    ArgumentError,
    ArgumentTypeError,
    Kept,
    kept_warnings,
    said_first,
)
from fwdgrad.explaining import RunOptions, explain, unexpected
from fwdgrad.methods import method_of
from fwdgrad.methods.base import Request
from fwdgrad.objectives import check_objective
from fwdgrad.outputs import told
from fwdgrad.runner.looks import AutoSamples
from fwdgrad.runner.loop import Progress
from fwdgrad.runner.settings import Settings
from fwdgrad.runner.workers import Workers, result_of, workers_of
from fwdgrad.scorer import check_model
from fwdgrad.telling import InputsBar, Warnings

ManyProgress = bool | Callable[[int, int | None], None]
_NONE = object()


def explain_many(
    model: Any,
    inputs: Iterable[Any],
    target: Any = "auto",
    *,
    targets: Iterable[Any] | None = None,
    return_exceptions: bool = False,
    workers: int | Workers | None = None,
    progress: ManyProgress = False,
    **options: Unpack[RunOptions],
) -> Iterator[Any]:
    """Explains one input after another; each comes as soon as it is done, in their order.

    Nothing is kept of an input that was handed over, so memory does not grow with their number.

    Args:
        model: see ``explain``; a model adapter (``TextModel``, ``TableModel``, ...), too.
        inputs: what ``explain`` takes, one after another: any iterable, a generator too, which is
            asked for an input when its turn has come. A tensor or an array is taken along its
            first axis, a DataFrame row by row.
        target: of all inputs, see ``explain``; a list gives a list of explanations for each.
        targets: instead, an iterable of one for each input.
        return_exceptions: yield the error of an input that fails in its place, and go on; else it
            is raised, and the iterator ends.
        workers: where whole inputs are explained, several at once: a number of local processes
            (extra ``workers``), or a value of ``fwdgrad.runner.workers``. Twice as many inputs
            are asked for ahead. None: here, one by one.
        progress: True for one bar on standard error, with the time that is left and the calls of
            the model a second, or a callable of (inputs done, all); all is None where it is
            not known, as of a generator.
        **options: method, objective, n_samples, reliability, max_samples, features, seed,
            batch_size, memory, name, backend and device of ``explain``. Every input has the same
            seed.

    Returns:
        An iterator of what ``explain`` returns for each input. An error says first which input it
        is of: its number, from 0, and its path where it is one. So do warnings; that a map is
        mostly noise is told of the first such input, and at the end of how many.

    Raises:
        TypeError, ValueError: at once, where the arguments cannot do for any input.
        TypeError, ValueError, ModelError: as ``explain`` does, when the input's turn has come.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(4, 2).eval()
        >>> found = explain_many(model, torch.eye(4), 0, method="gradient", objective="output")
        >>> [one.attribution.shape for one in found]
        [torch.Size([4]), torch.Size([4]), torch.Size([4]), torch.Size([4])]
    """
    _check(model, options)
    for name, value in (("return_exceptions", return_exceptions), ("progress", progress)):
        if not (isinstance(value, bool) or (name == "progress" and callable(value))):
            kinds = "True, False or a callable" if name == "progress" else "True or False"
            raise ArgumentTypeError(name, f"must be {kinds}, got {told(repr(value), 80)}")
    if targets is not None and target != "auto":
        raise ArgumentError("targets", "and target both name classes; give one of them")
    one_by_one, count = _inputs_of(inputs)
    if isinstance(targets, str) or not (targets is None or isinstance(targets, Iterable)):
        raise ArgumentTypeError(
            "targets", f"must be an iterable of one for each input, got {told(repr(targets), 80)}"
        )
    pairs = _with_targets(one_by_one, target, None if targets is None else iter(targets))
    calls = _calls(model, pairs, dict(options), workers_of(workers))
    return _explained(calls, return_exceptions, progress, count)


def explain_one(
    model: Any, x: Any, target: Any, options: Mapping[str, Any], progress: Progress = False
) -> tuple[Any, Kept]:
    """What ``explain`` returns for an input, and what it warned of.

    It is all that another thread, process or machine needs to do of several inputs.
    """
    with kept_warnings() as kept:
        return explain(model, x, target, progress=progress, **options), kept


_Call = tuple[str, Callable[[Progress], tuple[Any, Kept]]]  # an input, and what explains it


def _calls(
    model: Any,
    pairs: Iterator[tuple[Any, Any]],
    options: dict[str, Any],
    workers: Workers | None,
) -> Generator[_Call, None, None]:
    """The inputs, each with a call that explains it or waits for the worker that does."""
    if workers is None:
        for number, (x, target) in enumerate(pairs):
            yield which_input(number, x), partial(explain_one, model, x, target, options)
        return
    with workers.open(model) as pool:
        yield from in_flight(
            (
                (which_input(number, x), pool.submit(explain_one, x, target, options))
                for number, (x, target) in enumerate(pairs)
            ),
            2 * pool.count,
        )


def in_flight(
    submitted: Iterator[tuple[str, Future[Any]]], most: int
) -> Iterator[tuple[str, Callable[[Progress], Any]]]:
    """Hands out results in order while at most so many calls are in flight.

    Args:
        submitted: calls, which run from the time that they are taken from it.
        most: how many are taken ahead.
    """
    waiting: deque[tuple[str, Future[Any]]] = deque()
    broken: Exception | None = None  # what the inputs' own iterator raised: later than its results
    while broken is None or waiting:
        while broken is None and len(waiting) < most:
            try:
                waiting.append(next(submitted))
            except Exception as error:
                broken = error
        if waiting:
            which, future = waiting.popleft()
            yield which, partial(waited_for, future)
            del future
    if not isinstance(broken, StopIteration):
        raise broken


def waited_for(future: Future[Any], progress: Progress = False) -> Any:
    """What a worker found, whose progress is not known."""
    return result_of(future)


def _explained(
    calls: Generator[_Call, None, None],
    return_exceptions: bool,
    progress: ManyProgress,
    count: int | None,
) -> Iterator[Any]:
    warnings = Warnings()
    done = 0
    bar = InputsBar(progress is True, count)
    with contextlib.closing(calls), contextlib.closing(bar):
        for which, call in calls:
            try:
                result, kept = call(bar.within if progress is True else False)
            except Exception as error:
                failed = said_first(which, error)
                if not return_exceptions:
                    raise failed from (error.__cause__ if failed is error else error)
                without_locals(failed)
                result, kept = failed, []
            del call
            warnings.tell(which, kept)
            done += 1
            bar.step(_calls_of(result))
            if callable(progress):
                progress(done, count)
            yield result
            del result
    warnings.end(done)


def _calls_of(result: Any) -> int:
    first = result[0] if isinstance(result, list) and result else result
    return int(getattr(getattr(first, "explanation", first), "n_samples", 0))


def which_input(number: int, x: Any) -> str:
    """An input as messages have it.

    >>> which_input(3, "photos/cat.jpg"), which_input(4, [1.0])
    ('input 3 (photos/cat.jpg)', 'input 4')
    """
    if not isinstance(x, (str, os.PathLike)):
        return f"input {number}"
    return f"input {number} ({told(os.fspath(x), 80)})"


def without_locals(error: BaseException) -> None:
    """Lets go of what the frames of an error hold: whoever keeps it would keep the input, too."""
    known, one = set(), error
    while one is not None and id(one) not in known:
        known.add(id(one))
        traceback.clear_frames(one.__traceback__)
        one = one.__cause__ or one.__context__  # type: ignore[assignment]


# ---- what is given -------------------------------------------------------------------------


def _check(model: Any, options: Mapping[str, Any]) -> None:
    """Raises where what is of all inputs is wrong, before the first is asked for."""
    for name in options:
        if name == "checkpoint":
            raise TypeError(
                "explain_many() has no checkpoint: save each explanation when it comes, or explain "
                "the inputs by fwdgrad explain, which goes on where it was"
            )
        if name not in RunOptions.__annotations__:
            raise TypeError(unexpected(name, "explain_many"))
    if not isinstance(model, Adapter):
        check_model(model)
    check_options(options)


def check_options(options: Mapping[str, Any]) -> None:
    """Raises where an option of ``explain`` will not do for any input.

    >>> check_options({"n_samples": 0})
    Traceback (most recent call last):
    fwdgrad.errors.ArgumentError: n_samples must be at least 1, got 0
    """
    method = method_of(options.get("method", "auto"))
    check_objective(options.get("objective", "auto"))
    seed = check_integer("seed", options.get("seed", 0), 0, 2**64 - 1)
    asked = options.get("n_samples")
    auto = AutoSamples.of(asked, options.get("reliability"), options.get("max_samples"))
    if auto is not None and method is not None:
        auto.check_method(method)
    if auto is None:
        is_paired = getattr(method, "antithetic", False) is True
        Request(asked, seed=seed).count(1, is_paired)
    if options.get("device") is not None:
        device_of(options["device"])
    own = ("batch_size", "memory", "name", "backend")
    Settings(**{name: options[name] for name in own if name in options})


def _inputs_of(inputs: Any) -> tuple[Iterator[Any], int | None]:
    """The inputs one by one, and how many there are, where that is known."""
    if isinstance(inputs, (str, bytes, os.PathLike)):
        raise ArgumentTypeError("inputs", f"must be several inputs, {_got_one(inputs)}")
    if isinstance(inputs, Mapping) or not hasattr(inputs, "__iter__"):
        kind = type(inputs).__name__
        raise ArgumentTypeError("inputs", f"must be an iterable of inputs, got {kind}; give [it]")
    if getattr(inputs, "ndim", 1) == 0:
        raise ArgumentError("inputs", "must be several inputs, got a single number")
    count = len(inputs) if hasattr(inputs, "__len__") else None
    pandas = sys.modules.get("pandas")
    if pandas is not None and isinstance(inputs, pandas.DataFrame):
        return (inputs.iloc[[i]] for i in range(len(inputs))), count
    return iter(inputs), count


def _got_one(given: str | bytes | os.PathLike[str]) -> str:
    """What was given in place of several inputs, and what to give.

    >>> _got_one("cat.jpg"), _got_one("*.jpg")
    ("got 'cat.jpg'; give ['cat.jpg']", "got '*.jpg'; give sorted(glob.glob('*.jpg'))")
    """
    path = os.fspath(given)
    shown = told(repr(path), 80)
    if isinstance(path, str) and os.path.isdir(path):
        files = f"sorted(pathlib.Path({shown}).glob('*.jpg'))"
        return f"got the folder {shown}; give its files, {files} say"
    if isinstance(path, str) and os.path.basename(path).startswith("*."):
        return f"got {shown}; give sorted(glob.glob({shown}))"
    return f"got {shown}; give [{shown}]"


def _with_targets(
    inputs: Iterator[Any], target: Any, targets: Iterator[Any] | None
) -> Iterator[tuple[Any, Any]]:
    number = 0
    for x in inputs:
        wanted = target if targets is None else next(targets, _NONE)
        if wanted is _NONE:
            raise ArgumentError("targets", f"must be one for each input, got {number} only")
        yield x, wanted
        del x, wanted
        number += 1
    if targets is not None and next(targets, _NONE) is not _NONE:
        raise ArgumentError("targets", f"must be one for each input, got more than {number}")
