"""Gradients through our loop beside Captum's NoiseTunnel; what noise on parameters costs."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import fwdgrad
from fwdgrad import ForwardGradient, NoiseGrad, ParameterNoise, SmoothGrad, VarGrad
from fwdgrad.adapters.images import efficientnet_lite0

SCRIPT = Path(__file__).with_name("white_box_memory.py")
SAMPLES = 48
SCALE = 0.1
X = torch.rand(3, 224, 224, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    pytest.importorskip("efficientnet_lite_pytorch")
    forward = efficientnet_lite0().forward
    assert isinstance(forward, torch.nn.Module)
    return forward


@pytest.mark.parametrize("method", [SmoothGrad(SCALE), VarGrad(SCALE)])
@pytest.mark.parametrize("batch", [1, 4, 16])
def test_noise_tunnel(method, batch, model, compare, table):
    attr = pytest.importorskip("captum.attr")
    tunnel, kind = attr.NoiseTunnel(attr.Saliency(model)), type(method).__name__.lower()
    options = {"objective": "output", "n_samples": SAMPLES, "batch_size": batch}

    def ours() -> torch.Tensor:
        return fwdgrad.explain(model, X, 0, method=method, **options).attribution

    def captum() -> torch.Tensor:
        return tunnel.attribute(
            X[None].clone(), nt_type=kind, nt_samples=SAMPLES, nt_samples_batch_size=batch,
            stdevs=SCALE, target=0, abs=False,
        )[0]  # fmt: skip

    seconds, theirs = compare(ours, captum, rounds=5)
    both = [ours().flatten(), captum().flatten().detach()]
    agreement = float(torch.corrcoef(torch.stack(both))[0, 1])
    table.add(
        f"White-box, EfficientNet-Lite0, {SAMPLES} samples, beside Captum's NoiseTunnel",
        "method|micro-batch|ours, s|Captum, s|ratio|correlation of the maps|goal",
        kind,
        batch,
        f"{seconds:.2f}",
        f"{theirs:.2f}",
        f"{seconds / theirs:.2f}",
        f"{agreement:.2f}",
        "at most 1",
    )


def test_white_box_memory(model, benchmark, table):
    pytest.importorskip("captum")

    def peak(*arguments: object) -> float:
        done = subprocess.run(
            [sys.executable, str(SCRIPT), *map(str, arguments)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return float(json.loads(done.stdout)["peak"]) / 2**20

    rows = {
        "ours, micro-batch 4": ("ours", 4),
        "NoiseTunnel, micro-batch 4": ("captum", 4),
        "NoiseTunnel, with default settings": ("captum", 0),
    }
    benchmark.pedantic(lambda: peak("ours", 4, 8), rounds=1, iterations=1)
    for name, (which, batch) in rows.items():
        few, many = (peak(which, batch, samples) for samples in (16, 128))
        table.add(
            "White-box SmoothGrad: peak memory above the model's own gradient, MiB",
            "run|16 samples|128 samples|ratio|goal",
            name,
            f"{few:.0f}",
            f"{many:.0f}",
            f"{many / few:.2f}",
            "about 1" if which == "ours" else "",
        )


@pytest.mark.parametrize(
    ("method", "distribution", "per"),
    [
        (ForwardGradient(SCALE, antithetic=False), "normal", 1),
        (ForwardGradient(SCALE, antithetic=False), "rademacher", 1),
        (ForwardGradient(SCALE, antithetic=False), "normal", 4),
        (SmoothGrad(SCALE), "normal", 1),
        (SmoothGrad(SCALE), "normal", 4),
    ],
)
def test_noise_on_parameters(method, distribution, per, model, compare, table):
    """Beside the same calls without, and beside reading the parameters once."""
    samples = 96
    options = {"objective": "output", "n_samples": samples, "batch_size": per}
    noise = ParameterNoise(distribution=distribution, draws=samples // per)
    noisy, plain = compare(
        lambda: fwdgrad.explain(model, X, 0, method=NoiseGrad(noise, method), **options),
        lambda: fwdgrad.explain(model, X, 0, method=method, **options),
        rounds=5,
    )
    parameters = torch.cat([p.detach().flatten() for p in model.parameters()])
    elsewhere = torch.empty(2**26)  # 256 MiB: what is read after it comes from memory

    def read() -> float:
        elsewhere.fill_(1.0)
        start = time.perf_counter()
        parameters.sum()
        return time.perf_counter() - start

    reading = sorted(read() for _ in range(9))[4]
    overhead = (noisy - plain) / samples
    table.add(
        f"Noise on EfficientNet-Lite0's {len(parameters) / 1e6:.1f} million parameters, "
        f"{samples} samples",
        "gradient|distribution|samples a draw and a call|ms a sample|without|overhead, ms|"
        "goal: parameters read once, ms",
        type(method).__name__,
        distribution,
        per,
        f"{noisy / samples * 1e3:.1f}",
        f"{plain / samples * 1e3:.1f}",
        f"{overhead * 1e3:.2f}",
        f"{reading * 1e3:.2f}",
    )
