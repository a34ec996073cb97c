"""One explanation in a process of its own; prints what it took, as JSON.

Peak memory is what the process used above what it used once everything was imported.
"""

from __future__ import annotations

import argparse
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


def cheap(batch: torch.Tensor) -> torch.Tensor:
    """Two linear scores of the picture's quarters: no weights, hardly any memory of its own."""
    half = batch.shape[-1] // 2
    left, right = batch[..., :half].mean((1, 2, 3)), batch[..., half:].mean((1, 2, 3))
    return torch.stack((left - right, right), dim=1)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", type=int, required=True)
    parser.add_argument("--queries", type=int, required=True)
    parser.add_argument("--memory")
    parser.add_argument("--batch-size", type=int)
    arguments = parser.parse_args()
    sizes = {"memory": arguments.memory, "batch_size": arguments.batch_size}
    noise = {"method": "likelihood-ratio", "sigma": 0.1}
    # What a first call loads for good (thread pools, code pages) is not the run's.
    fwdgrad.explain(cheap, torch.rand(3, 8, 8), target=0, queries=2, **noise)
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    x = torch.rand(3, arguments.side, arguments.side)
    making = status("VmHWM")  # a memory budget resets the kernel's mark when the run starts
    start = time.perf_counter()
    result = fwdgrad.explain(cheap, x, target=0, queries=arguments.queries, **noise, **sizes)
    seconds = time.perf_counter() - start
    highest = max(making, status("VmHWM"))
    half = arguments.side // 2
    scale = x.numel() / 2  # the true gradient is +-1 over it
    signal = (result.attribution[..., :half].mean() - result.attribution[..., half:].mean()) / 2
    print(
        json.dumps(
            {
                "peak": highest - before,
                "input": x.nbytes,
                "seconds": seconds,
                "gradient": float(signal) * scale,
            }
        )
    )


if __name__ == "__main__":
    main()
