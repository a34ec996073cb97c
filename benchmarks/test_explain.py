"""How much of an explanation's time is not the model's?"""

from __future__ import annotations

import statistics
import time

import pytest
import torch

import fwdgrad
from fwdgrad import ForwardGradient
from fwdgrad.adapters.images import efficientnet_lite0

PIXELS = {"objective": "output", "n_samples": 256}
RUNS = {
    "the default path: regions, 500 samples": {"n_samples": 500},
    "blocks, q = 0.1, 256 samples in pairs": {
        **PIXELS,
        "method": ForwardGradient(scale=0.1, block=103),
    },
    "no blocks, 256 samples in pairs": {**PIXELS, "method": ForwardGradient(scale=0.1)},
}


@pytest.mark.parametrize("name", RUNS)
def test_share_of_time_that_is_not_the_models(name, benchmark, table):
    pytest.importorskip("efficientnet_lite_pytorch")
    forward = efficientnet_lite0().forward
    x = torch.rand(3, 224, 224, generator=torch.Generator().manual_seed(0))
    model_seconds = 0.0

    def timed(batch: torch.Tensor) -> torch.Tensor:
        nonlocal model_seconds
        start = time.process_time()  # which other processes' turns do not count in
        scores: torch.Tensor = forward(batch)
        model_seconds += time.process_time() - start
        return scores

    timed(x[None].clone())  # warm
    shares, seconds = [], []

    def run() -> None:
        nonlocal model_seconds
        model_seconds, start, begin = 0.0, time.perf_counter(), time.process_time()
        fwdgrad.explain(timed, x, target=0, **RUNS[name])
        seconds.append(time.perf_counter() - start)
        shares.append(1 - model_seconds / (time.process_time() - begin))

    benchmark.pedantic(run, rounds=3, iterations=1)
    samples = RUNS[name]["n_samples"]
    table.add(
        "`explain` on EfficientNet-Lite0, micro-batch of 6",
        "noise|seconds|ms per sample|share of processor time that is not the model's|goal",
        name,
        f"{statistics.median(seconds):.1f}",
        f"{statistics.median(seconds) / samples * 1e3:.1f}",
        f"{statistics.median(shares):.2%}",
        "" if name.startswith("no blocks") else "at most 1 %",
    )
