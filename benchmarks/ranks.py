"""Ranks of torch.distributed: how much faster a slow model is explained, and what that costs.

``python benchmarks/ranks.py`` starts eight processes with gloo between them. The model sleeps, so
that any machine has processors enough for them; each rank measures from a barrier to the end of its
``explain``. First, all maps must have the same bits.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from typing import Any

import torch
import torch.distributed as dist

import fwdgrad

X = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))


class Sleeper:
    """A model that sleeps for every sample, and knows how long it took."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.inside, self.samples = seconds, 0.0, 0

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        started = time.perf_counter()
        time.sleep(self.seconds * len(batch))
        found = batch[:, :, ::8, ::8].sum((1, 2, 3), dtype=torch.float64)
        self.samples += len(batch)
        self.inside += time.perf_counter() - started
        return found


def measured(group: Any, given: argparse.Namespace) -> tuple[fwdgrad.Explanation, list[float]]:
    """A run, its seconds, those of them in this rank's model, and its samples."""

    def run(model: Sleeper, count: int) -> fwdgrad.Explanation:
        return fwdgrad.explain(
            model, X, None, method=fwdgrad.Regions("grey", cell=2), objective="output",
            n_samples=count, batch_size=given.batch, group=group,
        )  # fmt: skip

    run(Sleeper(0), 4 * group.size() * given.batch)  # what is imported and made once
    model = Sleeper(given.milliseconds / 1000)
    dist.barrier(group)
    started = time.perf_counter()
    found = run(model, given.samples)
    return found, [time.perf_counter() - started, model.inside, model.samples]


def work(given: argparse.Namespace) -> None:
    """What each rank does."""
    torch.set_num_threads(1)
    rank, size = int(os.environ["RANK"]), given.ranks[-1]
    dist.init_process_group("gloo", init_method=f"file://{given.file}", rank=rank, world_size=size)
    maps, rows = [], []
    for count in given.ranks:
        group = dist.new_group(list(range(count)))
        if rank < count:
            found, numbers = measured(group, given)
            maps.append(found.attribution)
            all_numbers: list[Any] = [None] * count
            dist.all_gather_object(all_numbers, numbers, group)
            rows.append(all_numbers)
        dist.barrier()
    assert all(torch.equal(one, maps[0]) for one in maps)
    digests: list[Any] = [None] * size
    dist.all_gather_object(digests, maps[-1].numpy().tobytes())
    assert len(set(digests)) == 1
    if rank == 0:
        print(json.dumps(rows))


def main() -> None:
    """Starts the ranks, or is one; prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 8])
    parser.add_argument("--samples", type=int, default=4096)
    parser.add_argument("--milliseconds", type=float, default=20)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--file", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.file is not None:
        return work(given)
    with tempfile.TemporaryDirectory() as folder:
        line = [sys.executable, __file__, *sys.argv[1:], "--file", os.path.join(folder, "init")]
        runs = [
            subprocess.Popen(line, env={**os.environ, "RANK": str(rank)}, stdout=subprocess.PIPE)
            for rank in range(given.ranks[-1])
        ]
        out = [run.communicate()[0] for run in runs]
        if any(run.returncode for run in runs):
            sys.exit("a rank has failed")
    rows = json.loads(out[0])
    alone = rows[0][0][0]
    print(
        "| ranks | seconds | speed-up | outside: rank 0 | the others, at most | samples of a rank |"
    )
    print("|---|---|---|---|---|---|")
    for row in rows:
        seconds = max(numbers[0] for numbers in row)
        outside = [f"{1 - inside / took:.2%}" for took, inside, _ in row]
        others = max(outside[1:], key=lambda text: float(text[:-1]), default="")
        samples = [numbers[2] for numbers in row]
        print(
            f"| {len(row)} | {seconds:.2f} | {alone / seconds:.2f} | {outside[0]} | {others} | "
            f"{min(samples)} .. {max(samples)} |"
        )


if __name__ == "__main__":
    main()
