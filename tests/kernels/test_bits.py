"""The same bits however the copies are split over calls and threads."""

import pytest
import torch

from fwdgrad_kernels import NoiseSpec, accumulate_, perturb

# More than two tiles of 2048 elements, so that two threads both have work.
SHAPE = (3, 40, 41)
OPTIONS = [
    {"law": "normal"},
    {"law": "cauchy", "block": (13, 29)},
    {"law": "logistic", "block": (13, 41)},
    {"law": "rademacher", "block": 30, "shared": True},
    {"law": "hyperbolic", "cell": 5},
    {"law": "normal", "cell": 4, "field": "bilinear", "block": 33},
    {"law": "hadamard"},
]
CASE = pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(map(str, o.values())))
BACKEND = pytest.mark.parametrize("backend", ["cpu", "reference"])
FIRST = 2**32 - 20
SPLITS = [(1, 1), (1, 7), (1, 64), (2, 7), (2, 64), (2, 100)]  # threads, micro-batch


def same(a, b):
    return torch.equal(a.view(torch.uint8), b.view(torch.uint8))


def sums(spec, weights, batch, dtype=torch.float32, backend="auto"):
    total, square = torch.zeros(2, *spec.shape, dtype=dtype)
    for i in range(0, len(weights), batch):
        accumulate_(total, weights[i : i + batch], spec, FIRST + i, square, backend=backend)
    return torch.stack((total, square))


def random(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@CASE
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sums(options, dtype):
    spec, weights = NoiseSpec(SHAPE, seed=1, **options), random(100)
    expected = sums(spec, weights, 100, dtype)
    assert bool((expected[1] > 0).all())
    for threads, batch in SPLITS:
        torch.set_num_threads(threads)
        assert same(sums(spec, weights, batch, dtype), expected)


@CASE
def test_sums_of_the_reference(options):
    spec, weights = NoiseSpec(SHAPE[-2:], seed=1, **options), random(20)
    expected = sums(spec, weights, 20, backend="reference")
    for batch in (1, 7):
        assert same(sums(spec, weights, batch, backend="reference"), expected)


def test_sums_of_very_many_copies():
    # The kernel holds the placements of 4096 copies at once.
    spec, weights = NoiseSpec((2, 9, 10), "normal", block=4, seed=1), random(9000)
    assert same(sums(spec, weights, 9000), sums(spec, weights, 1000))


@CASE
@BACKEND
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_copies(options, backend, dtype):
    count = 70 if backend == "cpu" else 8
    spec, x = NoiseSpec(SHAPE, scale=0.3, seed=1, **options), random(*SHAPE).to(dtype)
    expected = perturb(x, spec, FIRST, count, backend=backend)
    for threads, batch in SPLITS:
        torch.set_num_threads(threads)
        parts = [
            perturb(x, spec, FIRST + i, min(batch, count - i), backend=backend)
            for i in range(0, count, batch)
        ]
        assert same(torch.cat(parts), expected)


def test_a_row_does_not_depend_on_its_buffer():
    # Neither the alignment of memory nor what lies beside an input changes its copies.
    spec = NoiseSpec(SHAPE, "normal", scale=0.3, seed=1)
    x, expected = random(*SHAPE), None
    for offset in (0, 1, 3, 16):
        memory = torch.full((2, 5 * x.numel() + 64), 9.0)
        moved = memory[0, offset : offset + x.numel()].view(SHAPE).copy_(x)
        out = memory[1, 2 * offset : 2 * offset + 4 * x.numel()].view(4, *SHAPE)
        perturb(moved, spec, FIRST, 4, out=out)
        expected = out.clone() if expected is None else expected
        assert same(out.contiguous(), expected)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("options", [{}, {"block": 9}, {"cell": 3, "field": "bilinear"}], ids=str)
def test_pairs_are_the_copies_of_both_signs(backend, options):
    x = torch.linspace(-1, 1, 2 * 30 * 41).reshape(2, 30, 41)
    spec = NoiseSpec(x.shape, "normal", torch.rand(2, 30, 41), seed=3, **options)
    out = torch.full((10, *x.shape), torch.nan)
    perturb(x, spec, 7, 5, clip=(-0.9, 0.8), out=out, pairs=True, backend=backend)
    for sign, half in ((1, out[:5]), (-1, out[5:])):
        one = perturb(x, spec, 7, 5, sign, clip=(-0.9, 0.8), backend=backend)
        assert torch.equal(half, one)
    flipped = perturb(x, spec, 7, 5, -1, clip=(-0.9, 0.8), pairs=True, backend=backend)
    assert torch.equal(flipped, out.roll(5, 0))
