"""The Triton twins against the reference: in the interpreter, or on a GPU where there is one.

What no machine without a GPU shows is how fast they are, and what a compiler makes of them; that
they compile for every target, and without spills, is shown here.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fwdgrad_kernels import LAWS, NoiseSpec, accumulate_, backend_for, blocks, gpu, noise, perturb
from fwdgrad_kernels.testing import (
    CASES,
    EXACT_LAWS,
    SCORED_LAWS,
    assert_copies,
    assert_sums,
    case_id,
)

pytest.importorskip("triton")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SEED = 2**63 + 11
# The interpreter takes about 10 ms a program: one case of each kind.
SOME = [case for case in CASES if case_id(case).split("-")[0] in ("7", "1025", "2500", "3x17x19",
        "2x3x5x33", "37x60", "2x9x1")]  # fmt: skip
CASE = pytest.mark.parametrize("case", SOME, ids=case_id)


def random(*shape, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(DEVICE, dtype)


def first_of(spec):
    """A copy beyond 2^32 from which three copies straddle two Hadamard groups."""
    return (2**32 // spec.group + 1) * spec.group - 1


@CASE
@pytest.mark.parametrize("law", LAWS)
def test_perturb(case, law):
    shape, options = case
    spec = NoiseSpec(shape, law, 0.7, seed=SEED, **options)
    first, x = first_of(spec), random(*shape)
    out = torch.full((6, *shape), torch.nan, device=DEVICE)
    perturb(x, spec, first, 3, out=out, pairs=True, backend="triton")
    assert_copies(out[:3], x, spec, first)
    assert_copies(out[3:], x, spec, first, sign=-1)
    if law in EXACT_LAWS and not spec.is_bilinear:
        unit = NoiseSpec(shape, law, 1.0, seed=SEED, **options)
        drawn, expected = (
            noise(unit, first, 3, device=DEVICE, backend=backend)
            for backend in ("triton", "reference")
        )
        assert torch.equal(drawn, expected)


@CASE
@pytest.mark.parametrize("law", SCORED_LAWS)
def test_accumulate(case, law):
    shape, options = case
    spec = NoiseSpec(shape, law, 0.7, seed=SEED, **options)
    first, weights = first_of(spec), random(3)
    sums = torch.zeros(2, *shape, device=DEVICE)
    accumulate_(sums[0], weights, spec, first, sums[1], backend="triton")
    assert_sums(*sums, weights, spec, first)


@CASE
def test_blocks(case):
    shape, options = case
    spec = NoiseSpec(shape, seed=SEED, **options)
    for first in (0, 2**32 - 2, 2**62):
        placed = blocks(spec, first, 130, device=DEVICE, backend="triton").cpu()
        assert torch.equal(placed, blocks(spec, first, 130, backend="reference"))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("clip", [None, (-0.5, 0.625)])
def test_dtypes_maps_and_clips(dtype, clip):
    scale = random(3, 9, 11).abs().to(torch.float64 if dtype == torch.float64 else torch.float32)
    scale[0, 1] = 0.0
    spec = NoiseSpec((3, 9, 11), "normal", scale, block=5, seed=SEED)
    x = random(3, 9, 11, dtype=dtype)
    out = torch.full((4, 3, 9, 11), torch.nan, dtype=dtype, device=DEVICE)
    perturb(x, spec, 5, 4, clip=clip, out=out, backend="triton")
    assert_copies(out, x, spec, 5, clip=clip or (-torch.inf, torch.inf))
    if clip is None:
        assert torch.equal(out[:, 0, 1], x[0, 1].expand(4, -1))  # frozen


def test_float64_sums():
    spec = NoiseSpec((3, 9, 11), "logistic", 0.7, block=5, seed=SEED)
    sums = torch.zeros(2, 3, 9, 11, dtype=torch.float64, device=DEVICE)
    weights = random(5, dtype=torch.float64)
    accumulate_(sums[0], weights, spec, 3, sums[1], backend="triton")
    assert_sums(*sums, weights, spec, 3)


@pytest.mark.parametrize("law", ["normal", "hadamard"])
def test_same_bits_for_any_split(law):
    spec = NoiseSpec((3, 20, 31), law, 0.7, block=(9, 20), seed=SEED)
    weights = random(14)
    sums = []
    for size in (1, 5, 14):
        total, square = torch.zeros(2, *spec.shape, device=DEVICE)
        for at in range(0, 14, size):
            part = weights[at : at + size]
            accumulate_(total, part, spec, 2**32 - 6 + at, square, backend="triton")
        sums.append(torch.stack((total, square)))
    assert torch.equal(sums[0], sums[1])
    assert torch.equal(sums[0], sums[2])


def test_nothing_to_do():
    spec = NoiseSpec((3, 9, 11), block=5)
    assert perturb(random(3, 9, 11), spec, 0, 0, backend="triton").shape == (0, 3, 9, 11)
    assert blocks(spec, 0, 0, device=DEVICE, backend="triton").shape == (0, 2, 2)


def test_what_is_missing_is_said(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(RuntimeError, match="backend 'triton' is not available: no GPU"):
        backend_for(torch.device("cuda"), "triton")
    monkeypatch.setitem(sys.modules, "triton", None)
    assert "pip install triton" in gpu.missing()


COMPILE = Path(__file__).with_name("compile_triton.py")


@pytest.mark.parametrize("target", ["cuda:80", "cuda:90", "cuda:100", "hip:gfx942"])
def test_compiles_without_spills(target):
    """Ahead of time, in a process where Triton is not the interpreter."""
    done = subprocess.run(
        [sys.executable, str(COMPILE), target],
        env={**os.environ, "TRITON_INTERPRET": "0"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    kernels = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(kernels) >= 20
    for kernel in kernels:
        if target.startswith("cuda"):  # stack and local memory are where spills go
            assert kernel["spills"] == 0, kernel
            assert kernel["registers"] <= 255, kernel
