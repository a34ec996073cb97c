"""Ctrl-C at random moments of short runs: nothing of the user's changes, and the next run is right.

Three of four come by Python's profiler, at a numbered one of the moments at which Python lets a
signal in: where a function starts, and where a call into C has ended. The others are signals of a
timer. After each: the module's bits, flags, hooks and modes; torch's modes and random numbers; the
warnings' filters; and the bits of the following run, which goes on from the checkpoint if there is
one.
"""

from __future__ import annotations

import random
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import fwdgrad
from fwdgrad import ForwardGradient, FusionGrad, NoiseGrad, ParameterNoise, SmoothGrad

Run = Callable[[Path], torch.Tensor]

OPTIONS: dict[str, dict[str, Any]] = {
    "noisegrad": {"method": "noisegrad", "n_samples": 4},
    "fusiongrad": {"method": FusionGrad(scale=0.1), "n_samples": 4},
    "smoothgrad": {"method": SmoothGrad(scale=0.1), "n_samples": 4},
    "gradient": {"method": "gradient"},
    "forward-gradient": {"method": ForwardGradient(scale=0.1), "n_samples": 8},
    "forward-gradient, noise": {
        "method": NoiseGrad(ParameterNoise(0.1), ForwardGradient(scale=0.1)),
        "n_samples": 8,
    },
}


class Model(torch.nn.Module):
    """A few layers that keep and use parameters in different ways."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lstm = torch.nn.LSTM(4, 4, batch_first=True)
        self.norm = torch.nn.BatchNorm1d(4)
        self.head = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(4, 3))
        self.scale = torch.nn.Parameter(torch.full((3,), 1.5))
        self.eval()

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.head(self.norm(self.lstm(batch)[0].mean(1))) * self.scale
        return result


X = torch.linspace(0, 1, 20).reshape(5, 4)


def state_of(model: torch.nn.Module) -> dict[str, Any]:
    """What a run must leave as it was, of the module, of torch and of Python."""
    parts = list(model.modules())
    return {
        "values": [bytes(value.numpy().tobytes()) for value in model.state_dict().values()],
        "parameters": [(id(p), p.requires_grad, p.grad) for p in model.parameters()],
        "hooks": [len(v) for part in parts for n, v in vars(part).items() if n.endswith("_hooks")],
        "attributes": [sorted(vars(part)) for part in parts],
        "training": [part.training for part in parts],
        "modes": (
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch._C._len_torch_function_stack(),
            torch.are_deterministic_algorithms_enabled(),
            torch.get_num_threads(),
        ),
        "random": torch.get_rng_state().numpy().tobytes(),
        "warnings": list(warnings.filters),
    }


def at_moment(function: Callable[[], object], moment: int) -> tuple[bool, int]:
    """Calls it with Ctrl-C at a numbered moment; whether it came out, and how many there were."""
    count = 0

    def watch(_: object, kind: str, __: object) -> None:
        nonlocal count
        if kind in ("call", "c_return"):
            count += 1
            if count == moment:
                raise KeyboardInterrupt

    try:
        sys.setprofile(watch)
        function()
    except KeyboardInterrupt:
        return True, count
    finally:
        sys.setprofile(None)
    return False, count


def after_delay(function: Callable[[], object], seconds: float) -> bool:
    """Calls it with a signal of a timer; whether the interrupt came out."""

    def ring(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, ring)
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-5))
            function()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        return True
    finally:
        signal.signal(signal.SIGALRM, before)
    return False


def run(count: int, seed: int) -> dict[str, object]:
    """Interrupts ``count`` runs; how many were followed by wrong maps, or left something.

    Some end before their signal: they are tried, too, and others are begun instead.
    """
    started, draw, model = time.perf_counter(), random.Random(seed), Model()
    before = state_of(model)
    unraisable, sys.unraisablehook = sys.unraisablehook, lambda _: None  # Ctrl-C in a __del__
    tried = interrupted = wrong = changed = files = 0
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "run.safetensors")

            def explain(name: str) -> torch.Tensor:
                kept = {"checkpoint": path} if name == "forward-gradient" else {}
                return fwdgrad.explain(
                    model, X, 1, seed=3, batch_size=2, **OPTIONS[name], **kept
                ).attribution

            want, moments, lasts = {}, {}, {}
            for name in OPTIONS:
                want[name] = explain(name)
                path.unlink(missing_ok=True)
                begun = time.perf_counter()
                _, moments[name] = at_moment(lambda name=name: explain(name), 0)
                lasts[name] = time.perf_counter() - begun
                path.unlink(missing_ok=True)
            while interrupted < count and tried < 2 * count:
                tried += 1
                name = draw.choice(list(OPTIONS))
                if tried % 4:
                    out, _ = at_moment(
                        lambda name=name: explain(name), draw.randint(1, moments[name])
                    )
                else:
                    out = after_delay(
                        lambda name=name: explain(name), draw.uniform(0, lasts[name] / 2)
                    )
                interrupted += out
                changed += state_of(model) != before
                try:
                    wrong += not torch.equal(explain(name), want[name])
                except Exception:
                    wrong += 1
                changed += state_of(model) != before
                path.unlink(missing_ok=True)
                for left in Path(folder).iterdir():
                    files += 1
                    left.unlink()
    finally:
        sys.unraisablehook = unraisable
    return {
        "tried": tried,
        "interrupted": interrupted,
        "wrong": wrong,
        "left_over": changed + files,
        "seconds": round(time.perf_counter() - started, 1),
    }
