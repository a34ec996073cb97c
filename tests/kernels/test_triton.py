"""What Triton's compiler makes of the kernels, for GPUs that need not be there; their launches."""

import json
import os
import subprocess
import sys
from pathlib import Path

import gpu
import pytest
import torch
from covering import covering

from fwdgrad_kernels import (
    Grid,
    Labels,
    NoiseSpec,
    accumulate_,
    backend_for,
    expand,
    perturb,
    reference,
    triton,
)
from fwdgrad_kernels.testing import assert_samples, assert_sums, cells, make_spec

pytest.importorskip("triton")

FOLDER = Path(__file__).parent
TARGETS = ("cuda:80", "cuda:90", "cuda:100", "hip:gfx942")
KERNELS = {"cuda": 164, "hip": 76}


def started(script, *arguments):
    """A process of its own, where Triton is a compiler."""
    return subprocess.Popen(
        [sys.executable, str(FOLDER / script), *arguments],
        env={**os.environ, "TRITON_INTERPRET": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def lines_of(process):
    """What it printed."""
    output, errors = process.communicate()
    assert process.returncode == 0, errors[-2000:]
    return [json.loads(line) for line in output.splitlines()]


@pytest.fixture(scope="module")
def compiled():
    """A process for each target; two at a time."""
    done = {}
    for pair in (TARGETS[:2], TARGETS[2:]):
        running = {target: started("compile_triton.py", target) for target in pair}
        done |= {target: lines_of(process) for target, process in running.items()}
    return done


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_compiles_without_spills(target, compiled):
    kernels = compiled[target]
    assert len(kernels) == KERNELS[target.split(":")[0]]
    for kernel in kernels if target.startswith("cuda") else ():
        assert kernel["spills"] == 0, kernel  # stack and local memory
        assert kernel["registers"] <= 255, kernel
        layout, kind = kernel["case"][0], kernel["case"][-1]
        vectors = layout in ("elements", "tiles of rows") and "channels last" not in kind
        if vectors and kernel["kernel"] != "placements_kernel":
            assert kernel["wide"] >= 1, kernel  # four elements at once, or 16 bytes


@pytest.mark.slow
@pytest.mark.parametrize("target", [target for target in TARGETS if target.startswith("cuda")])
def test_draws_of_features_are_made_once(target, compiled):
    """Into a table: what goes over the elements has no generator in it."""
    over = "perturb_kernel", "accumulate_kernel"
    makes = {True: 0, False: 0}  # by whether each element has draws of its own
    for kernel in compiled[target]:
        own = kernel["case"][0].startswith(("elements", "tiles", "rows"))
        if kernel["kernel"] in over:
            assert (kernel["philox"] > 0) == own, kernel
            makes[own] += 1
    assert min(makes.values()) > 20


@pytest.mark.slow
def test_nothing_is_compiled_anew_for_other_numbers():
    """Another seed, first or count, scale, bound or position."""
    kernels, *anew = lines_of(started("recompile_triton.py"))
    assert kernels == 30
    assert anew == []


@pytest.fixture
def launch(request):
    """The launches, for one test."""
    gpu.use("triton", request)
    from fwdgrad_kernels.triton import launch

    return launch


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "features"),
    [
        ((3, 5, 7), Grid((5, 7), "nearest")),  # one feature
        ((2,), Grid(2, jitter=True)),  # more than there are elements
        ((2, 3, 2, 3), Grid((3, 2, 3), jitter=True, share_channels=False)),
        ((2, 4, 5, 6), Grid((1, 3, 4))),
        ((4, 5, 6), Grid((3, 1, 4), "nearest", share_channels=False)),
        ((3, 4, 5), Labels(torch.arange(20).reshape(4, 5) // 3)),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["hadamard", "logistic"])
def test_features(launch, monkeypatch, shape, features, kind):
    """One, or more than elements; over three axes; draws held of a few samples at once; 64 bits."""
    if isinstance(features, Labels):
        features = Labels(features.mask.to(gpu.DEVICE))
    spec = make_spec(shape, kind, 0.5, features=features, seed=9)
    monkeypatch.setattr(launch, "_DRAWS", 2 * spec.draws)
    if kind == "logistic":
        monkeypatch.setattr(launch, "_LARGE", 1)
    x, b = (torch.rand(shape, generator=torch.Generator().manual_seed(i)) for i in range(2))
    x, b = x.to(gpu.DEVICE), b.to(gpu.DEVICE)
    made = perturb(x, spec, 6, 5, baseline=b, position=0.5, backend="triton")
    assert_samples(made, x, spec, 6, baseline=b, position=0.5)
    weights, sums = torch.arange(5.0, device=gpu.DEVICE), torch.zeros(2, *shape, device=gpu.DEVICE)
    accumulate_(sums[0], weights, spec, 6, sums[1], backend="triton")
    assert_sums(*sums, weights, spec, 6)
    values = torch.arange(spec.draws, device=gpu.DEVICE) / 7 - 1
    for squared in (False, True):
        spread, expected = (
            expand(values, spec, 6, squared=squared, backend=name)
            for name in ("triton", "reference")
        )
        assert torch.allclose(spread, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
@covering(options=({}, cells(2), {"block": 3}), held=(1 << 22, 8), programs=(1, 2, 1024))
def test_chunks_are_summed_alike_however_shared_out(launch, monkeypatch, options, held, programs):
    """By one program, two or all; draws held of whole chunks, or of parts: the same bits."""
    for module in (launch, reference):
        monkeypatch.setattr(module, "CHUNK", 4)
    monkeypatch.setattr(launch, "_DRAWS", held)
    monkeypatch.setattr(launch, "_PROGRAMS", programs)
    spec, first = NoiseSpec((6,), "rademacher", seed=3, **options), 2**32 - 6
    # One by one, ones are lost beside 2^25; the sums of chunks are not.
    weights = reference.unit(spec, first, 14, score=True)[:, 2].float().to(gpu.DEVICE)
    sums = torch.full((2, 2, 6), 2.0**25, device=gpu.DEVICE)
    accumulate_(sums[0, 0], weights, spec, first, sums[0, 1], backend="triton")
    accumulate_(sums[1, 0], weights, spec, first, sums[1, 1], backend="reference")
    assert torch.equal(sums[0], sums[1])
    assert sums[0].max() > 2.0**25 + 4


def test_what_is_missing_is_said(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(RuntimeError, match="backend 'triton' is not available: no GPU"):
        backend_for(torch.device("cuda"), "triton")
    with pytest.raises(RuntimeError, match="backend 'triton' is not available: no GPU"):
        backend_for(torch.device("cpu"), "triton")
    monkeypatch.setitem(sys.modules, "triton", None)
    assert "pip install triton" in triton.missing()
