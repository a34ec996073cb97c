"""Changed bytes: flips, cuts and files that take another's place, in maps, checkpoints and models.

A damaged file must be refused by its own kind of error, or give the very values that were saved.
What is loaded already must not change with its file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import random
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import fwdgrad
from fwdgrad import AdaptiveScale, ForwardGradient, SmoothGrad, VarGrad
from fwdgrad.adapters.lstm import LSTMClassifier
from fwdgrad.errors import ReliabilityWarning

OPTIONS: dict[str, Any] = {
    "method": ForwardGradient(scale=0.3),
    "n_samples": 64,
    "seed": 5,
    "target": 0,
}
SHAPE = (2, 4, 6)


@dataclasses.dataclass
class File:
    """One that is damaged again and again."""

    path: Path
    load: Callable[[Path], Any]
    promised: type[Exception]  # where it is refused

    def __post_init__(self) -> None:
        """Keeps what is right."""
        self.content = self.path.read_bytes()
        self.right = self.load(self.path)


def run(count: int, seed: int) -> dict[str, object]:
    """Damages files ``count`` times.

    Returns:
        tried: how many, of which flips, cuts, and copies onto a file that was loaded; refused: as
        it is promised; wrong: refused by another error, or given other values without a word, or
        written over when refused, or changed after they were loaded; seconds.
    """
    started, draws = time.perf_counter(), random.Random(seed)
    found = dict.fromkeys(("tried", "flips", "cuts", "copies", "refused", "wrong"), 0)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", ReliabilityWarning)
        files = [file for kind in (maps, checkpoints, models) for file in kind(Path(folder))]
        for i in range(count):
            file = files[i % len(files)]
            kind, damaged = damage(file.content, draws, i)
            found[kind] += 1
            file.path.write_bytes(damaged)
            try:
                found["wrong"] += file.load(file.path) != file.right
            except file.promised:
                found["refused"] += 1
                found["wrong"] += file.path.read_bytes() != damaged
            except Exception:
                found["wrong"] += 1
        for i in range(max(1, count // 20)):
            found["copies"] += 1
            found["wrong"] += changes_when_loaded(Path(folder), draws, i)
    found["tried"] = found["flips"] + found["cuts"] + found["copies"]
    return {**found, "seconds": round(time.perf_counter() - started, 1)}


def damage(content: bytes, draws: random.Random, i: int) -> tuple[str, bytes]:
    """One bit of it, in every tenth case a cut or bytes too many."""
    if i % 10 == 9:
        more = draws.randbytes(draws.randrange(1, 64)) if draws.random() < 0.3 else b""
        return "cuts", content + more if more else content[: draws.randrange(len(content))]
    changed = bytearray(content)
    changed[draws.randrange(len(content))] ^= 1 << draws.randrange(8)
    return "flips", bytes(changed)


def model(batch: torch.Tensor) -> torch.Tensor:
    """The same for any batch size; of several classes."""
    flat = batch.flatten(1).double()
    return torch.stack([flat[:, 0] * flat[:, 1], flat[:, 2], -flat[:, 3]], 1)


def x() -> torch.Tensor:
    return torch.linspace(-1, 1, 48).reshape(SHAPE)


def values(explanation: fwdgrad.Explanation) -> Any:
    """All that is in a map, to be compared."""
    parts = vars(explanation)
    tensors = [part.numpy().tobytes() for part in parts.values() if isinstance(part, torch.Tensor)]
    return tensors, repr({k: v for k, v in parts.items() if not isinstance(v, torch.Tensor)})


def maps(folder: Path) -> list[File]:
    """Of several methods, with tensors and dataclasses among their fields."""
    found: list[File] = []
    settings: list[dict[str, Any]] = [
        {"method": ForwardGradient(scale=torch.full(SHAPE, 0.3))},
        {"method": ForwardGradient(scale=AdaptiveScale(-1.5, 1.5)), "name": "a model"},
        {"method": VarGrad(scale=0.3), "n_samples": 8},
    ]
    for i, more in enumerate(settings):
        path = folder / f"map{i}"
        fwdgrad.explain(model, x(), **{**OPTIONS, **more}).save(path)
        found.append(File(path, lambda path: values(fwdgrad.Explanation.load(path)), ValueError))
    return found


def checkpoints(folder: Path) -> list[File]:
    """Of scores and of moments, each of a run that was stopped half-way."""

    def stop(done: int, of: int) -> None:
        if 2 * done >= of:
            raise KeyboardInterrupt

    found: list[File] = []
    for i, more in enumerate(({}, {"method": SmoothGrad(scale=0.3), "n_samples": 32})):
        path = folder / f"checkpoint{i}"
        options = {**OPTIONS, **more, "batch_size": 8}
        explain = functools.partial(fwdgrad.explain, model, x(), **options)
        with contextlib.suppress(KeyboardInterrupt):
            explain(checkpoint=path, progress=stop)
        load = functools.partial(go_on, explain)
        found.append(File(path, load, fwdgrad.CheckpointError))
    return found


def go_on(explain: Callable[..., fwdgrad.Explanation], path: Path) -> Any:
    """The map of a run that goes on from a checkpoint."""
    result = explain(checkpoint=path)
    return result.attribution.numpy().tobytes(), result.standard_error.numpy().tobytes()


def models(folder: Path) -> list[File]:
    """A text classifier."""
    path = folder / "model"
    torch.manual_seed(0)
    LSTMClassifier(["a", "fine", "film"], ["bad", "good"], width=4, hidden=4).save(path)

    def load(path: Path) -> Any:
        model = LSTMClassifier.load(path)
        weights = [value.numpy().tobytes() for value in model.state_dict().values()]
        return weights, model.vocabulary, model.labels, model.settings

    return [File(path, load, ValueError)]


def changes_when_loaded(folder: Path, draws: random.Random, i: int) -> bool:
    """Whether a loaded map changes as another is copied onto its file, or the file is cut."""
    one, other = folder / "one", folder / "other"
    for path in (one, other):
        fwdgrad.explain(model, x(), **{**OPTIONS, "seed": draws.randrange(2**32)}).save(path)
    loaded = fwdgrad.Explanation.load(one)
    before = values(loaded)
    if i % 2:
        with open(one, "r+b") as file:  # as cp does, into the same file
            file.write(other.read_bytes())
    else:
        with open(one, "r+b") as file:
            file.truncate(draws.randrange(one.stat().st_size))
    return values(loaded) != before
