"""Explanations in Ray's actors: how much faster two are than one, and what travels.

    python benchmarks/ray_actors.py data       # pictures a second of one actor and of two, in turn
    python benchmarks/ray_actors.py workers    # one input's run over four actors: what a call costs
    python benchmarks/ray_actors.py bytes      # of the model, the run, a call and its answer
    python benchmarks/ray_actors.py picture    # what one takes at 500 samples, its checkpoint

``data`` and ``workers`` need Ray. What else the machine does is in the times: the load is told.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import pickle
import statistics
import sys
import tempfile
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import torch

import fwdgrad
from fwdgrad import Regions
from fwdgrad.integrations.ray import Explainer, RayWorkers
from fwdgrad.runner.workers import Threads

PICTURES, SAMPLES, BATCH, BLOCKS = 1000, 128, 8, 40
TURN, MARGIN = 2.0, 0.4  # seconds


def network() -> torch.nn.Module:
    """A small network that a thread of its own keeps busy; the same in every process."""
    torch.manual_seed(0)
    layers = torch.nn
    return layers.Sequential(
        layers.Conv2d(3, 16, 3, padding=1), layers.ReLU(), layers.Conv2d(16, 32, 3, stride=2),
        layers.ReLU(), layers.AdaptiveAvgPool2d(1), layers.Flatten(), layers.Linear(32, 10),
    )  # fmt: skip


class Timed(Explainer):
    """Says when each batch began and ended; all actors but one work in every other turn alone.

    So one actor and two are compared within seconds, on a machine whose other work changes.
    """

    def __init__(self, folder: str, **options: Any) -> None:
        # Linux gives each session the same share of a busy machine (autogroups): actors of one
        # would share what one actor has by itself.
        os.setpgid(0, os.getpgid(os.getppid()))  # the leader of a group has no session of its own
        os.setsid()
        super().__init__(network, **options)
        try:
            Path(folder, "first").touch(exist_ok=False)
            self.always = True
        except FileExistsError:
            self.always = False
        self.start = time.process_time()

    def __call__(self, batch: Any) -> Any:
        while not self.always and time.time() // TURN % 2:
            time.sleep(0.002)
        began = time.time()
        found = super().__call__(batch)
        told = (began, time.time(), time.process_time() - self.start, os.getpid())
        rows = len(found["error"])
        return {"error": found["error"], "times": np.tile(np.array(told), (rows, 1))}


def data(runs: int, n_samples: int) -> None:
    start_ray(2)
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    pictures = torch.rand(PICTURES, 3, 32, 32, generator=torch.Generator().manual_seed(0)).numpy()
    rows = [{"image": picture} for picture in pictures]
    alone: list[float] = []
    both: list[float] = []
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            options = {"folder": folder, "method": Regions(), "n_samples": n_samples, "target": 0}
            spent = of_others()
            found = (
                ray.data.from_items(rows, override_num_blocks=BLOCKS)
                .map_batches(
                    Timed,
                    fn_constructor_kwargs=options,
                    batch_size=BATCH,
                    num_cpus=1,
                    compute=ray.data.ActorPoolStrategy(size=2),
                )
                .take_all()
            )
            spent = of_others() - spent
        assert len(found) == PICTURES
        assert not any(row["error"] for row in found)
        times = np.stack([row["times"] for row in found])
        actors = [times[times[:, 3] == process] for process in np.unique(times[:, 3])]
        # While all have work, in whole turns; a batch that outlasts its turn ends in the margin.
        first, last = (max(a[:, 0].min() for a in actors), min(a[:, 1].max() for a in actors))
        for turn in range(math.ceil(first / TURN), int(last / TURN)):
            start, stop = turn * TURN + MARGIN, (turn + 1) * TURN
            inside = np.minimum(times[:, 1], stop) - np.maximum(times[:, 0], start)
            share = inside.clip(0) / (times[:, 1] - times[:, 0])
            (alone if turn % 2 else both).append(float(share.sum() / (stop - start)))
        own = sum(a[:, 2].max() for a in actors)
        print(
            f"one: {statistics.median(alone):.1f} pictures/s in {len(alone)} turns so far, two: "
            f"{statistics.median(both):.1f} in {len(both)}, "
            f"{statistics.mean(both) / statistics.mean(alone):.2f} times by their means, "
            f"{statistics.median(both) / statistics.median(alone):.2f} by their medians; "
            f"processor: actors {own:.1f} s, all else {spent:.1f} s; load {os.getloadavg()[0]:.1f}",
            flush=True,
        )


def of_others() -> float:
    """The processor's seconds of this process and of Ray's, but for its actors."""
    parents, spent = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            name, _, rest = path.read_text().rpartition(")")
            fields = rest.split()
            parents[int(path.parent.name)] = int(fields[1])
            spent[int(path.parent.name)] = 0 if "(ray::" in name else sum(map(int, fields[11:13]))
    total, own = 0, {os.getpid()}
    while own:
        total += sum(spent[process] for process in own)
        own = {process for process, parent in parents.items() if parent in own}
    return total / os.sysconf("SC_CLK_TCK")


def start_ray(cpus: int) -> None:
    import ray

    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": os.pathsep.join(sys.path)}
    ray.init(
        "local", num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level="ERROR"
    )


def nothing(model: Any) -> None:
    """A call that does nothing."""


def workers() -> None:
    start_ray(4)
    started = time.perf_counter()
    with RayWorkers(4).open(network()) as pool:
        print(f"first actor there after {time.perf_counter() - started:.1f} s")
        while len(set(pid(pool))) < 4:
            pass
        print(f"all four after {time.perf_counter() - started:.1f} s")
        times, spent = [], time.process_time()
        for _ in range(200):
            started = time.perf_counter()
            pool.submit(nothing).result()
            times.append(time.perf_counter() - started)
        spent = (time.process_time() - spent) / len(times)
        print(
            f"a call there and back: {statistics.median(times) * 1e3:.2f} ms (median of 200), "
            f"{spent * 1e3:.2f} ms of the driver's processor; load {os.getloadavg()[0]:.1f}"
        )


def pid(pool: Any) -> list[int]:
    return [future.result() for future in [pool.submit(whose) for _ in range(16)]]


def whose(model: Any) -> int:
    time.sleep(0.01)
    return os.getpid()


class Counted:
    """Workers that count what is sent to them and back."""

    def __init__(self) -> None:
        self.bytes: dict[str, list[int]] = {"run": [], "call": [], "answer": []}

    def open(self, model: Any) -> Any:
        self.bytes["model"] = [size(model)]
        self.threads = Threads(1).open(model)
        return self

    def __enter__(self) -> Counted:
        self.pool, self.count = self.threads.__enter__(), 1
        return self

    def __exit__(self, *error: Any) -> None:
        self.threads.__exit__(*error)

    def share(self, value: Any) -> Any:
        self.bytes["run"].append(size(value))
        return self.pool.share(value)

    def submit(self, call: Any, work: Any, *arguments: int) -> Future[Any]:
        self.bytes["call"].append(len(pickle.dumps((call, arguments))))
        future = self.pool.submit(call, work, *arguments)
        self.bytes["answer"].append(size(future.result()))
        return future


def size(value: Any) -> int:
    import cloudpickle

    return len(cloudpickle.dumps(value))


def count_bytes() -> None:
    from fwdgrad.adapters.images import efficientnet_lite0

    x = torch.rand(3, 224, 224, generator=torch.Generator().manual_seed(0))
    model = efficientnet_lite0()
    for targets in (1, 5):
        counted = Counted()
        fwdgrad.explain(
            model, x, list(range(targets)), n_samples=256, batch_size=16, workers=counted
        )
        parts = [f"{name} {statistics.median(found):,.0f}" for name, found in counted.bytes.items()]
        print(f"{targets} targets, 16 samples a call, bytes: {', '.join(parts)}")
    found = fwdgrad.explain(model, x, 0, n_samples=16)
    print(f"picture {x.nbytes:,}, map and standard error {2 * found.attribution.nbytes:,}")


def one_picture() -> None:
    from fwdgrad.adapters.images import efficientnet_lite0

    x = torch.rand(3, 224, 224, generator=torch.Generator().manual_seed(0))
    model = efficientnet_lite0()
    fwdgrad.explain(model, x, 0, n_samples=32)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "run.safetensors")
        for what in ("500 samples", "again from its checkpoint"):
            started, spent = time.perf_counter(), time.process_time()
            fwdgrad.explain(model, x, 0, n_samples=500, checkpoint=file)
            took, spent = time.perf_counter() - started, time.process_time() - spent
            print(
                f"{what}: {took:.2f} s, {spent:.2f} s of a processor; load {os.getloadavg()[0]:.1f}"
            )
        print(f"checkpoint: {file.stat().st_size:,} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["data", "workers", "bytes", "picture"])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--n-samples", type=int, default=SAMPLES)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.what == "data":
        data(arguments.runs, arguments.n_samples)
    elif arguments.what == "workers":
        workers()
    elif arguments.what == "bytes":
        count_bytes()
    else:
        one_picture()


if __name__ == "__main__":
    main()
