"""What a run on a GPU waits for, and that models and inputs go to the device that is asked for."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SAMPLES, BATCHES = 256, (64, 4)  # 4 micro-batches, and 64

MODEL = """
import torch

class Halves(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("weights", torch.tensor([1.0, -1.0]))

    def forward(self, batch):
        half = batch.shape[-1] // 2
        sides = torch.stack([batch[..., :half].mean((1, 2, 3)), batch[..., half:].mean((1, 2, 3))])
        return sides.T * self.weights

module = Halves()
"""


def halves() -> torch.nn.Module:
    """What ``MODEL`` has: class 0 is how bright the left half is."""
    space: dict[str, Any] = {}
    exec(MODEL, space)
    module: torch.nn.Module = space["module"].eval()
    return module


def synchronisations(run: Callable[[], object]) -> int:
    """How often a run waits for the GPU."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            run()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(one.message) for one in caught)


def reads_of_far(run: Callable[[], object]) -> int:
    """In a rehearsal: how often a run reads a device that is not there."""
    from far import FarDevice

    with FarDevice() as device:
        run()
    return len(device.reads)


def waits(device: str) -> list[list[str]]:
    """Rows: how often runs of 4 and of 64 micro-batches wait; an error where that is not the same.

    Raises:
        RuntimeError: a run waits more often where its micro-batches are more.
    """
    import fwdgrad
    from fwdgrad.runner import loop

    rehearse, rows, every = device == "cpu", [], loop.LOOK_EVERY_SECONDS
    x = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0)).to(device)
    module = halves().to(device)
    methods: dict[str, Any] = {
        "regions": fwdgrad.Regions(),
        "forward-gradient": fwdgrad.ForwardGradient(scale=0.1),
    }
    model: Callable[[Tensor], Tensor] = module
    if rehearse:
        from far import FarTensor

        model = lambda batch: FarTensor(module(batch))  # noqa: E731
    else:  # no gradient comes from a device that is not there
        methods["smoothgrad"] = fwdgrad.SmoothGrad(scale=0.1)

    def run(method: str, size: int) -> Callable[[], object]:
        options = {"method": methods[method], "n_samples": SAMPLES, "batch_size": size}
        return lambda: fwdgrad.explain(model, x, 0, **options)

    loop.LOOK_EVERY_SECONDS = math.inf
    counted = reads_of_far if rehearse else synchronisations
    few, many = (SAMPLES // size for size in BATCHES)
    try:
        for method in methods:
            counted(run(method, BATCHES[0]))  # compiles, allocates, ...
            counts = [counted(run(method, size)) for size in BATCHES]
            what = f"{method}: waits for the device in runs of {few} and of {many} micro-batches"
            rows.append([what, f"{counts[0]} and {counts[1]}", "the same"])
            if counts[0] != counts[1]:
                raise RuntimeError(f"{what}: {counts[0]} and {counts[1]}")
    finally:
        loop.LOOK_EVERY_SECONDS = every
    return rows


def placed(device: str) -> list[str]:
    """A row: a model and an input on the CPU are explained on the device."""
    import fwdgrad

    model, x = halves(), torch.rand(3, 16, 16)
    found = fwdgrad.explain(model, x, target=0, n_samples=64, device=device)
    where = {found.attribution.device.type, found.input.device.type}
    where |= {part.device.type for part in model.buffers()}
    if where != {device}:
        raise RuntimeError(f"explain(device={device!r}) left something on {sorted(where)}")
    if not bool(found.attribution[..., :8].any()):
        raise RuntimeError("the half that the model looks at has no attribution")
    return [f"`explain(device={device!r})` of a model and an input on the CPU", "done", "done"]


def commands(device: str) -> list[str]:
    """A row: the command line explains a picture on the device, and evaluates the map there."""
    what = f"`fwdgrad explain --device {device}`, and `evaluate`"
    try:
        import matplotlib  # noqa: F401
        from PIL import Image
    except ImportError as error:
        return [f"{what}: {error.name} is not installed", "not measured", "done"]
    from fwdgrad import Explanation

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "own.py").write_text(MODEL)
        Image.effect_noise((64, 64), 90).convert("RGB").save(folder / "photo.png")
        line = ["--model", "own:module", "--device", device]
        explain = ["explain", "photo.png", "--size", "32", "--samples", "64", "--no-progress"]
        saved = "photo-explanation/explanation.safetensors"
        for one in ([*explain, *line], ["evaluate", saved, "--steps", "4", *line]):
            done = subprocess.run(
                [sys.executable, "-m", "fwdgrad", *one],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                capture_output=True,
                text=True,
            )
            if done.returncode:
                raise RuntimeError(f"fwdgrad {' '.join(one)}: {done.stderr.strip()}")
        found = Explanation.load(folder / saved)
    if found.provenance["device"].split(":")[0] != device:
        raise RuntimeError(f"--device {device} was explained on {found.provenance['device']}")
    return [what, "done", "done"]


def calls(bench: Any, report: Any, rehearse: bool) -> None:
    """What runs wait for, ``explain(device=)`` and ``--device``."""
    rows = [*waits(bench.device), placed(bench.device), commands(bench.device)]
    report.table("Calls of models", ["what", "measured", "goal"], rows)
