"""How much of an explanation's time is not the model's?"""

from __future__ import annotations

import time

import pytest
import torch

import fwdgrad
from fwdgrad.boxes.images import efficientnet_lite0

QUERIES = 256


@pytest.mark.parametrize("block", [103, None])
def test_share_of_time_that_is_not_the_models(block, benchmark, table):
    pytest.importorskip("efficientnet_lite_pytorch")
    box = efficientnet_lite0()
    x = torch.rand(3, 224, 224, generator=torch.Generator().manual_seed(0))
    model_seconds = 0.0

    def timed(batch: torch.Tensor) -> torch.Tensor:
        nonlocal model_seconds
        start = time.perf_counter()
        scores: torch.Tensor = box.forward(batch)
        model_seconds += time.perf_counter() - start
        return scores

    timed(x[None].clone())  # warm

    def run() -> float:
        nonlocal model_seconds
        model_seconds = 0.0
        start = time.perf_counter()
        fwdgrad.explain(
            timed, x, method="likelihood-ratio", target=0, queries=QUERIES, sigma=0.1, block=block
        )
        return time.perf_counter() - start

    shares, seconds = [], []
    for _ in range(3):
        seconds.append(run())
        shares.append(1 - model_seconds / seconds[-1])
    benchmark.pedantic(run, rounds=1, iterations=1)
    table.add(
        f"`explain` on EfficientNet-Lite0, {QUERIES} queries in pairs, micro-batch of 6",
        "noise|seconds|ms per query|share of time that is not the model's|goal",
        "no blocks" if block is None else "blocks, q = 0.1",
        f"{sorted(seconds)[1]:.1f}",
        f"{sorted(seconds)[1] / QUERIES * 1e3:.1f}",
        f"{sorted(shares)[1]:.2%}",
        "" if block is None else "at most 1 %",
    )
