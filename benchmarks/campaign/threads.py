"""Eight threads that explain with one module at once: the maps of one, and nothing changes."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor

import torch
from interrupts import OPTIONS, Model, X, state_of

import fwdgrad

THREADS = 8


def run(count: int, seed: int) -> dict[str, object]:
    """Makes ``count`` maps in threads; how many differ from those of one thread."""
    started, draw, model = time.perf_counter(), random.Random(seed), Model()
    before = state_of(model)
    clean = model(X[None])

    def explain(job: tuple[str, int]) -> tuple[torch.Tensor, int]:
        name, number = job
        seen = []

        def progress(*_: int) -> None:
            seen.append(torch.equal(model(X[None]), clean))

        options = {**OPTIONS[name], "seed": number, "batch_size": 2, "progress": progress}
        return fwdgrad.explain(model, X, 1, **options).attribution, seen.count(False)

    kinds = [(name, number) for name in OPTIONS for number in range(4)]
    alone = {job: explain(job)[0] for job in kinds}
    jobs = draw.choices(kinds, k=count)
    with ThreadPoolExecutor(THREADS) as threads:
        found = list(threads.map(explain, jobs))
    return {
        "tried": count,
        "threads": THREADS,
        "wrong": sum(
            not torch.equal(a, alone[job]) for job, (a, _) in zip(jobs, found, strict=True)
        ),
        "noisy calls seen by a callback": sum(noisy for _, noisy in found),
        "left_over": int(state_of(model) != before),
        "seconds": round(time.perf_counter() - started, 1),
    }
