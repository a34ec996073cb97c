"""Runs that are killed at a random moment, and go on from what is left of them.

Children are forked from a process that has imported everything, sixteen at a time: they sleep most
of the time, as a run does that waits for its model. What they finished is known from shared memory.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import random
import signal
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import fwdgrad
from fwdgrad.interrupts import ended_by_signals

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
AT_ONCE = 16
ROWS, CALLS, SECONDS = 8, 256, 0.008  # of a micro-batch, micro-batches, of one
SHAPE = (2, 4, 6)
OPTIONS: dict[str, Any] = {
    "method": fwdgrad.ForwardGradient(scale=0.3),
    "n_samples": ROWS * CALLS,
    "seed": 5,
    "target": 0,
}


def run(count: int, seed: int) -> dict[str, object]:
    """Kills so many runs.

    Returns:
        tried: how many; unfinished: that hit a run before its end; wrong: runs whose result has
        other bits, or that failed; lost: runs that had to repeat more than a second of calls, or
        after SIGTERM, SIGINT or SIGHUP any but the micro-batch under way; most_lost: seconds of
        calls, the most that one had to repeat; left_over: files that were still there after the run
        that went on; seconds.
    """
    # A process of its own: nothing can be forked safely from one that has threads.
    code = "import runpy, sys; runpy.run_path(sys.argv[1])['kill_and_tell'](*sys.argv[2:])"
    line = [sys.executable, "-c", code, __file__, str(count), str(seed)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(line, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, object] = json.loads(done.stdout)
    return found


def kill_and_tell(count: str, seed: str) -> None:
    """What ``run`` starts; prints the figures."""
    torch.set_num_threads(1)
    started, draws = time.perf_counter(), random.Random(int(seed))
    x = torch.linspace(-1, 1, 48).reshape(SHAPE)
    whole = fwdgrad.explain(model, x, **OPTIONS)
    found: dict[str, Any] = {"tried": 0, "unfinished": 0, "wrong": 0, "lost": 0}
    found |= {"left_over": 0, "most_lost": 0.0}
    running: list[Child] = []
    with tempfile.TemporaryDirectory() as place:
        while running or found["tried"] < int(count):
            if len(running) < AT_ONCE and found["tried"] < int(count):
                folder = Path(place, str(found["tried"]))
                folder.mkdir()
                running.append(Child(folder, x, SIGNALS[found["tried"] % 4], draws))
                found["tried"] += 1
            for child in [child for child in running if child.is_dead()]:
                running.remove(child)
                judge(child, x, whole, found)
            time.sleep(0.001)
    found["most_lost"] = round(found["most_lost"], 3)
    print(json.dumps({**found, "seconds": round(time.perf_counter() - started, 1)}))


def model(batch: torch.Tensor) -> torch.Tensor:
    """The same for any batch size."""
    flat = batch.flatten(1).double()
    return torch.stack([flat[:, 0] * flat[:, 1], flat[:, 2], -flat[:, 3]], 1)


class Child:
    """A run in a process of its own, and when it is to be killed."""

    def __init__(
        self, folder: Path, x: torch.Tensor, number: signal.Signals, draws: random.Random
    ) -> None:
        self.path, self.number = folder / "run.safetensors", number
        self.log = mmap.mmap(-1, 16 * (CALLS + 1))  # of each micro-batch its beginning and end
        at = time.monotonic() + draws.uniform(0, 1.1 * CALLS * SECONDS)
        # Who is impatient presses again.
        self.times = [at] if number == signal.SIGKILL else [at, at + draws.uniform(0, 0.01)]
        self.pid = os.fork()
        if self.pid == 0:
            status = 128 + signal.SIGINT
            try:
                status = self.live(x)
            finally:  # a second Ctrl-C may come anywhere
                os._exit(status)

    def live(self, x: torch.Tensor) -> int:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        calls = 0

        def slow(batch: torch.Tensor) -> torch.Tensor:
            nonlocal calls
            if len(batch) == 1:  # the input
                return model(batch)
            began = time.monotonic()
            time.sleep(SECONDS)
            result = model(batch)
            struct.pack_into("dd", self.log, 16 * calls, began, time.monotonic())
            calls += 1
            return result

        try:
            with ended_by_signals():
                fwdgrad.explain(slow, x, checkpoint=self.path, batch_size=ROWS, **OPTIONS)
        except KeyboardInterrupt as error:
            return 128 + getattr(error, "number", signal.SIGINT)
        except BaseException:
            return 1
        return 0

    def is_dead(self) -> bool:
        if self.times and time.monotonic() >= self.times[0]:
            del self.times[0]
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, self.number)
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid:
            self.status = os.waitstatus_to_exitcode(status)
        return bool(pid)

    def finished(self) -> list[float]:
        """The seconds that each micro-batch took whose scores came."""
        pairs = list(struct.iter_unpack("dd", self.log[:]))
        return [end - began for began, end in pairs if end]


def judge(child: Child, x: torch.Tensor, whole: fwdgrad.Explanation, found: dict[str, Any]) -> None:
    """Lets the run go on, and counts what it had lost."""
    finished, rows = child.finished(), []

    def counted(batch: torch.Tensor) -> torch.Tensor:
        rows.append(len(batch))
        return model(batch)

    found["unfinished"] += len(finished) < CALLS
    again = 4 if child.path.exists() else 0  # samples by which the model is known
    try:
        result = fwdgrad.explain(counted, x, checkpoint=child.path, **OPTIONS, batch_size=64)
        same = torch.equal(result.attribution, whole.attribution)
        same = same and torch.equal(result.standard_error, whole.standard_error)
        same = same and result.reliability == whole.reliability
    except Exception:
        same = False
    # A handler ends it so; before there is one, the signal itself.
    right = child.status in (0, 128 + child.number, -child.number)
    found["wrong"] += not (same and right)
    kept = CALLS - (sum(rows) - 1 - again) // ROWS
    lost = sum(finished[kept:])
    # The last one may have been on its way from the model.
    others = len(finished) - kept > 1 and child.number != signal.SIGKILL
    found["lost"] += lost > 1 or others
    found["most_lost"] = max(found["most_lost"], lost)
    found["left_over"] += sum(path != child.path for path in child.path.parent.iterdir())
