"""One explanation in a process of its own; prints what it took, as JSON.

Peak memory is what the process used above what it used once everything was imported.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from pathlib import Path

import torch

import fwdgrad


def status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {field} in /proc/self/status")


SAMPLING: list[int] = []  # what was used when the model was called: at x, then while sampling


def cheap(batch: torch.Tensor) -> torch.Tensor:
    """Two linear scores of the picture's halves: no weights, hardly any memory of its own."""
    SAMPLING.append(status("VmRSS"))
    half, axes = batch.shape[-1] // 2, tuple(range(1, batch.dim()))
    left, right = batch[..., :half].mean(axes), batch[..., half:].mean(axes)
    return torch.stack((left - right, right), dim=1)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", required=True, help="such as 3x224x224")
    parser.add_argument("--regions", action="store_true")
    parser.add_argument("--n-samples", type=int, required=True)
    parser.add_argument("--memory")
    parser.add_argument("--batch-size", type=int)
    arguments = parser.parse_args()
    sizes = {"memory": arguments.memory, "batch_size": arguments.batch_size}
    shape = tuple(map(int, arguments.shape.split("x")))
    small = torch.rand(*(3, 32, 32, 32)[: len(shape)])
    method = fwdgrad.Regions() if arguments.regions else fwdgrad.ForwardGradient(scale=0.1)
    run = functools.partial(fwdgrad.explain, cheap, target=0, method=method, objective="output")
    # What a first call loads for good (thread pools, code pages) is not the run's.
    run(small, n_samples=16)
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    SAMPLING.clear()
    x = torch.rand(shape)
    making = status("VmHWM")  # a memory budget resets the kernel's mark when the run starts
    start = time.perf_counter()
    result = run(x, n_samples=arguments.n_samples, **sizes)
    seconds = time.perf_counter() - start
    highest = max(making, status("VmHWM"))
    half = shape[-1] // 2
    scale = x.numel() / 2  # the true gradient is +-1 over it
    signal = (result.attribution[..., :half].mean() - result.attribution[..., half:].mean()) / 2
    print(
        json.dumps(
            {
                "peak": highest - before,
                "sampling": max(SAMPLING[1:]) - before,
                "input": x.nbytes,
                "seconds": seconds,
                "gradient": float(signal) * scale,
            }
        )
    )


if __name__ == "__main__":
    main()
