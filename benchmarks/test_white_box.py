"""Gradients through our stream beside Captum's NoiseTunnel; what noise on parameters costs."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import fwdgrad
from fwdgrad import ParameterNoise
from fwdgrad.adapters.images import efficientnet_lite0

SCRIPT = Path(__file__).with_name("white_box_memory.py")
COPIES = 48
SIGMA = 0.1
X = torch.rand(3, 224, 224, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    pytest.importorskip("efficientnet_lite_pytorch")
    forward = efficientnet_lite0().forward
    assert isinstance(forward, torch.nn.Module)
    return forward


@pytest.mark.parametrize("kind", ["smoothgrad", "vargrad"])
@pytest.mark.parametrize("batch", [1, 4, 16])
def test_noise_tunnel(kind, batch, model, compare, table):
    attr = pytest.importorskip("captum.attr")
    tunnel = attr.NoiseTunnel(attr.Saliency(model))

    def ours() -> torch.Tensor:
        return fwdgrad.explain(
            model, X, method=kind, target=0, sigma=SIGMA, queries=COPIES, batch_size=batch
        ).attribution

    def captum() -> torch.Tensor:
        return tunnel.attribute(
            X[None].clone(), nt_type=kind, nt_samples=COPIES, nt_samples_batch_size=batch,
            stdevs=SIGMA, target=0, abs=False,
        )[0]  # fmt: skip

    seconds, theirs = compare(ours, captum, rounds=5)
    both = [ours().flatten(), captum().flatten().detach()]
    agreement = float(torch.corrcoef(torch.stack(both))[0, 1])
    table.add(
        f"White-box, EfficientNet-Lite0, {COPIES} copies, beside Captum's NoiseTunnel",
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
        "NoiseTunnel, as it comes": ("captum", 0),
    }
    benchmark.pedantic(lambda: peak("ours", 4, 8), rounds=1, iterations=1)
    for name, (which, batch) in rows.items():
        few, many = (peak(which, batch, copies) for copies in (16, 128))
        table.add(
            "White-box SmoothGrad: peak memory above the model's own gradient, MiB",
            "run|16 copies|128 copies|ratio|goal",
            name,
            f"{few:.0f}",
            f"{many:.0f}",
            f"{many / few:.2f}",
            "about 1" if which == "ours" else "",
        )


@pytest.mark.parametrize(
    ("source", "law", "per"),
    [
        ("likelihood-ratio", "normal", 1),
        ("likelihood-ratio", "rademacher", 1),
        ("likelihood-ratio", "normal", 4),
        ("autograd", "normal", 1),
        ("autograd", "normal", 4),
    ],
)
def test_noise_on_parameters(source, law, per, model, compare, table):
    """Beside the same calls without, and beside reading the parameters once."""
    copies = 96
    options = {"method": source, "target": 0, "sigma": SIGMA, "antithetic": False}
    options |= {"queries": copies, "batch_size": per}
    noise = ParameterNoise(law=law, draws=copies // per)
    noisy, plain = compare(
        lambda: fwdgrad.explain(model, X, parameters=noise, **options),
        lambda: fwdgrad.explain(model, X, **options),
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
    overhead = (noisy - plain) / copies
    table.add(
        f"Noise on EfficientNet-Lite0's {len(parameters) / 1e6:.1f} million parameters, "
        f"{copies} copies",
        "source|law|copies a draw and a call|ms a copy|without|overhead, ms|"
        "goal: parameters read once, ms",
        source,
        law,
        per,
        f"{noisy / copies * 1e3:.1f}",
        f"{plain / copies * 1e3:.1f}",
        f"{overhead * 1e3:.2f}",
        f"{reading * 1e3:.2f}",
    )
