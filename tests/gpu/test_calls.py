"""Calls on a GPU: a run does not wait for it, and what is moved there."""

import math
import sys
from pathlib import Path

import pytest
import torch

import fwdgrad
from fwdgrad.runner import loop

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
]


@pytest.fixture
def gpu_calls(monkeypatch):
    """The same checks in ``make gpu-check``."""
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parents[2] / "benchmarks"), *sys.path])
    import gpu_calls

    return gpu_calls


@pytest.mark.parametrize(
    "method",
    [fwdgrad.Regions(), fwdgrad.ForwardGradient(scale=0.1), fwdgrad.SmoothGrad(scale=0.1)],
    ids=lambda method: type(method).__name__,
)
@pytest.mark.parametrize("backend", ["cuda", "triton"])
def test_nothing_in_the_loop_waits(gpu_calls, monkeypatch, method, backend):
    """From the first micro-batch, which is looked at, until the last: what waits is an error."""
    monkeypatch.setattr(loop, "LOOK_EVERY_SECONDS", math.inf)
    model, x = gpu_calls.halves().cuda(), torch.rand(3, 16, 16, device="cuda")
    steps = []

    def progress(done, count):
        steps.append(done)
        torch.cuda.set_sync_debug_mode("default" if done == count else "error")

    options = {"target": 0, "n_samples": 64, "batch_size": 8, "backend": backend}
    fwdgrad.explain(model, x, method=method, **options)  # compiles
    try:
        found = fwdgrad.explain(model, x, method=method, progress=progress, **options)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert steps == list(range(8, 65, 8))
    assert bool(found.attribution[..., :8].any())


def test_a_run_waits_no_more_often_in_smaller_micro_batches(gpu_calls):
    assert len(gpu_calls.waits("cuda")) == 3


def test_a_score_that_is_not_finite_is_named(gpu_calls):
    def model(batch):
        found = batch.flatten(1)[:, :2].clone()
        found[(batch[:, 0, 0, 0] == first) & (len(batch) > 1)] = math.nan
        return found

    seen = []
    method = fwdgrad.ForwardGradient(scale=0.1, antithetic=False)
    options = {"target": 0, "method": method, "n_samples": 64, "batch_size": 8}
    x, first = torch.rand(1, 4, 4, device="cuda"), math.inf
    fwdgrad.explain(lambda batch: (seen.append(batch.clone()), model(batch))[1], x, **options)
    first = float(seen[3][5, 0, 0, 0])  # of sample 21: the first call is on x itself
    with pytest.raises(fwdgrad.ModelError, match=r"the score is nan for 1 of .* \(samples 21\)"):
        fwdgrad.explain(model, x, **options)


def test_what_is_on_the_cpu_is_moved(gpu_calls):
    gpu_calls.placed("cuda")
    model, x = gpu_calls.halves(), torch.rand(3, 16, 16)
    here = fwdgrad.explain(model, x, target=0, n_samples=64)
    there = fwdgrad.explain(model, x, target=0, n_samples=64, device="cuda")
    torch.testing.assert_close(there.attribution.cpu(), here.attribution, rtol=1e-4, atol=1e-5)


def test_the_command_line(gpu_calls):
    pytest.importorskip("PIL.Image")
    pytest.importorskip("matplotlib")
    assert gpu_calls.commands("cuda")[1] == "done"


def test_a_gpu_that_is_not_there():
    count = torch.cuda.device_count()
    with pytest.raises(ValueError, match=f"got 'cuda:{count}'"):
        fwdgrad.explain(torch.sin, torch.rand(4), target=0, device=f"cuda:{count}")
