"""The rows of ``test_kernels`` once more, in a process of its own; prints milliseconds as JSON.

``test_level.py`` runs it on a module that was built for one SIMD level.
"""

from __future__ import annotations

import json
import time
from statistics import median

import torch
from test_kernels import SAMPLES, SHAPE, SIDE, Fused, Naive

from fwdgrad_kernels import native

ROWS = {"normal, no blocks": ("normal", None), "normal, blocks, q = 0.100": ("normal", SIDE)}


def seconds(side: Naive | Fused, total: torch.Tensor, weights: torch.Tensor) -> float:
    start = time.perf_counter()
    side.perturb()
    side.accumulate(total, weights)
    return time.perf_counter() - start


def main() -> None:
    assert native.module is not None
    assert native.module.simd_level() == "compiler default"  # built without clones
    total, weights = torch.zeros(SHAPE), torch.randn(SAMPLES)
    found = {}
    for name, noise in ROWS.items():
        sides = Naive(*noise), Fused(*noise)
        times = [[seconds(side, total, weights) for side in sides] for _ in range(16)][1:]
        found[name] = [median(one) * 1e3 for one in zip(*times, strict=True)]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
