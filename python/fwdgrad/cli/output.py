"""What several commands say and check."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from fwdgrad.adapters.images import ImageClassifier
from fwdgrad.checks import check_integer
from fwdgrad.errors import ArgumentError, Option
from fwdgrad.explanation import Explanation
from fwdgrad.report.text import shown
from fwdgrad.runner.memory import process_memory


def check_drawing(what: str) -> None:
    """Raises where a package that draws pictures is not there, or does not load.

    Args:
        what: needs it.
    """
    packages = {"PIL.Image": "Pillow", "matplotlib.backends.backend_agg": "matplotlib"}
    for module, name in packages.items():
        try:
            importlib.import_module(module)
        except ImportError:
            raise ImportError(
                f"{what} needs {name}: pip install 'fwdgrad-kernels[image]'"
            ) from None


def peak_memory() -> str:
    """The most memory that this process had."""
    peak = process_memory("VmHWM")  # on Linux; its getrusage has the parent's peak in it
    if not peak:
        try:
            import resource
        except ImportError:  # Windows
            return "unknown"
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        peak *= 1 if sys.platform == "darwin" else 1024
    return f"{peak / 2**20:.0f} MiB"


def check_labels(arguments: argparse.Namespace, adapter: ImageClassifier, outputs: Any) -> None:
    """Raises where --labels names another number of classes than the model's output has."""
    shape = tuple(getattr(outputs, "shape", ()))
    if len(shape) == 2 and adapter.labels is not None and shape[1] != len(adapter.labels):
        raise ArgumentError(
            "labels",
            f"{arguments.labels} must name {shape[1]} classes, as many as the model has, got "
            f"{len(adapter.labels)}",
        )


def method_told(result: Explanation) -> tuple[str, str]:
    """A map's method by name, and its options with why it was chosen, where it was not named."""
    options = {f.name: getattr(result.method, f.name) for f in fields(result.method)}
    options["features"] = result.features
    short = {n: f"{v:.4g}" if isinstance(v, float) else v for n, v in options.items()}
    told = [f"{name} {shown(value)}" for name, value in short.items() if value is not None]
    why = result.provenance.get("method", "")
    return result.method.name, "; ".join(filter(None, [", ".join(told), why]))


def decision(result: Explanation) -> str:
    """How the objective came about, where that was left to the model's output."""
    found: str = result.provenance.get("objective", "")
    return found


def say_how(result: Explanation, what: str, say: Callable[..., None]) -> None:
    """Says by which method a photo or a text was explained, which score, and in how many calls."""
    name, note = method_told(result)
    say(f"method       {name}" + (f" ({note})" if note else ""))
    if decided := decision(result):
        say(f"objective    {result.objective} ({decided})")
    how = samples_told(result)
    say(f"samples      {result.n_samples}{how}, and 1 forward call on the {what} itself")


def samples_told(result: Explanation) -> str:
    """Why a run of --samples auto stopped after so many; nothing of another."""
    known: str = result.provenance.get("n_samples", "")
    known = known.removeprefix("auto: ").partition(" after ")[0]
    known = known.replace(">=", "reached").replace("<", "did not reach")
    return known and f", {known}"


def set_threads(arguments: argparse.Namespace) -> None:
    """Takes over --threads."""
    if arguments.threads is not None:
        # Where there are no more threads to be had, OpenMP crashes.
        most = 8 * (os.cpu_count() or 1)
        if not 1 <= arguments.threads <= most:
            raise ArgumentError("threads", f"must be from 1 to {most}, got {arguments.threads}")
        torch.set_num_threads(arguments.threads)


def set_workers(arguments: argparse.Namespace) -> None:
    """Takes over --ray: --workers are then actors of a cluster."""
    if arguments.ray is None:
        return
    if arguments.workers is None:
        raise ArgumentError("ray", "needs ", Option("workers"), ", how many actors to start")
    from fwdgrad.integrations.ray import RayWorkers

    count = check_integer("workers", arguments.workers, 1)
    arguments.workers = RayWorkers(count, arguments.ray)


@contextlib.contextmanager
def made_folder(output: Path | None) -> Iterator[None]:
    """The output folder, seen to be written to before a run; gone again where that fails.

    None: nothing is written.
    """
    if output is None:
        yield
        return
    is_new = not output.exists()
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output):
            pass
    except OSError as error:
        why = "it must be a folder" if output.is_file() else error.strerror
        raise ValueError(f"--output {output} cannot be written to: {why}") from None
    try:
        yield
    except BaseException:
        if is_new:
            with contextlib.suppress(OSError):  # which it is where there is a checkpoint in it
                output.rmdir()
        raise


def say_seconds(
    arguments: argparse.Namespace, say: Callable[..., None], result: Explanation | None = None
) -> None:
    """Says how long a person has waited, and how much of that one map took."""
    waited = time.perf_counter() - arguments.began
    of_map = "" if result is None else f", of which the map took {result.seconds:.1f}"
    say(f"seconds      {waited:.1f} in all{of_map}")


_HOW = (  # what a run comes out the same with, whatever it is
    "batch_size", "began", "checkpoint", "command", "debug", "device", "engine", "group", "inputs",
    "leads", "line", "max_pixels", "memory", "no_evidence", "no_progress", "number", "output",
    "overwrite", "ray", "report", "spoken", "threads", "watch", "workers",
)  # fmt: skip


def request_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """What a run was asked for: the options that its map depends on, as JSON has them.

    Of a line of a file the file is named, as of a photo: what is in it may change.
    """
    given = {name: value for name, value in vars(arguments).items() if name not in _HOW}
    if given.get("texts") is not None:
        del given["text"]
    return {
        name: str(value) if isinstance(value, Path) else value
        for name, value in given.items()
        if value is not None and value is not False
    }


def check_not_of_another(
    files: dict[Path, list[Path]], differs: Callable[[Mapping[str, Any]], str]
) -> None:
    """Raises where a run would replace files that a run with the same request has not written.

    Args:
        files: of each map's file the other files that are written with it.
        differs: from a map's provenance to what of another request it is, in words; "": of none.
    """
    for saved, others in files.items():
        there = [path for path in (saved, *others) if path.exists()]
        try:
            other = differs(Explanation.load(saved).provenance)
        except (OSError, ValueError):
            other = "of another run"
        if there and other:
            raise ValueError(
                f"--output {saved.parent} has {there[0].name} {other}, which would be lost; "
                "give another --output, or --overwrite"
            )


def check_of_one_photo(output: Path, files: Iterable[Path], request: dict[str, Any]) -> None:
    """Raises where a folder has a map of another photo, whose files would stand beside this one's.

    Args:
        output: the folder.
        files: the maps that will be written.
        request: see ``request_of``.
    """
    for path in sorted({*output.glob("explanation*.safetensors")} - {*files}):
        try:
            photo = Explanation.load(path).provenance["request"]["photo"]
        except (OSError, ValueError, KeyError):
            continue
        if photo != request.get("photo"):
            raise ValueError(
                f"--output {output} has {path.name} of another photo, {photo}; give another "
                "--output, or --overwrite"
            )


def check_no_input(given: str, outputs: Iterable[Path], inputs: Mapping[str, Path | None]) -> None:
    """Raises where what is written would take the place of what is read.

    Args:
        given: the option that the outputs follow from, as it was given.
        outputs: the files to be written.
        inputs: the files that are read, by what they are.
    """
    for output in outputs:
        for name, path in inputs.items():
            if path is not None and os.path.realpath(output) == os.path.realpath(path):
                raise ValueError(f"{given} would overwrite {name} {path}; give another place")
