"""The same bits however samples are split over calls and threads, and which bits those are."""

import itertools

import contract
import gpu
import pytest
import torch

from fwdgrad_kernels import CONTRACT, Labels, NoiseSpec, accumulate_, perturb
from fwdgrad_kernels.spec import CHUNK
from fwdgrad_kernels.testing import assert_sums, case_id, cells, linear, make_spec

# More than two tiles of 2048 elements, so that two threads both have work.
SHAPE = (3, 40, 41)
OPTIONS = [
    {"kind": "normal"},
    {"kind": "cauchy", "block": (13, 29)},
    {"kind": "logistic", "block": (13, 41)},
    {"kind": "rademacher", "block": 30, **cells(1, 1, share_channels=True)},
    {"kind": "hyperbolic", **cells(5, 5)},
    {"kind": "normal", "block": 33, **linear(4, 4)},
    {"kind": "hadamard"},
    {"kind": "normal", **linear(2, 5, 4, share_channels=True)},
    {"kind": "cauchy", "features": Labels(torch.arange(40)[:, None] // 3)},
]
CASE = pytest.mark.parametrize("options", OPTIONS, ids=lambda o: case_id((SHAPE, o)))
BACKEND = pytest.mark.parametrize("backend", ["cpu", "reference"])
FIRST = 2**32 - 20  # 20 samples before a multiple of 256
COUNT = 20 + 256 + 60
THREADS = (1, 2, 3)
CUTS = ((), (20,), (276,), (20, 276))  # where calls end: multiples of 256 of a sample's number
SPLITS = [(1, 1), (2, 7), (3, 64)]  # threads, micro-batch


def same(a, b):
    return torch.equal(a.view(torch.uint8), b.view(torch.uint8))


def sums(spec, weights, cuts=(), backend="auto", first=FIRST, squares=True):
    total, square = torch.zeros(2, *spec.shape, dtype=weights.dtype, device=weights.device)
    for start, stop in itertools.pairwise((0, *cuts, len(weights))):
        some = weights[start:stop], spec, first + start, square if squares else None
        accumulate_(total, *some, backend=backend)
    return torch.stack((total, square)) if squares else total


def random(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@CASE
def test_sums(options):
    dtype = (torch.float32, torch.float64)[OPTIONS.index(options) % 2]
    spec, weights = make_spec(SHAPE, seed=1, **options), random(COUNT).to(dtype)
    expected = sums(spec, weights)
    assert bool((expected[1] > 0).all())
    for threads, cuts in itertools.product(THREADS, CUTS):
        torch.set_num_threads(threads)
        assert same(sums(spec, weights, cuts), expected)
    assert same(sums(spec, weights, squares=False), expected[0])


@pytest.mark.parametrize("options", OPTIONS[1::3], ids=lambda o: case_id((SHAPE, o)))
def test_sums_of_the_reference(options):
    spec, weights = make_spec(SHAPE, seed=1, **options), random(290)
    expected = sums(spec, weights, backend="reference")
    assert same(sums(spec, weights, (20, 276), backend="reference"), expected)
    assert same(sums(spec, weights, backend="reference", squares=False), expected[0])


def test_sums_of_very_many_samples():
    # The kernel holds the placements of 4096 samples at once.
    spec, weights = NoiseSpec((2, 9, 10), "normal", block=4, seed=1), random(9000)
    expected = sums(spec, weights)
    assert same(sums(spec, weights, range(20, 9000, 1024)), expected)
    assert same(sums(spec, weights, range(20 + 256, 9000, 4096)), expected)


# ---- what the sum is -----------------------------------------------------------------------


def test_the_contract_s_version():
    assert CONTRACT == 2
    assert CHUNK == 256


def signs_of(first, count, seed):
    """Draw 0 of each sample of random signs, by the contract's integers."""
    words = (contract.words(0, 0, first + i, seed)[0] for i in range(count))
    return torch.tensor([2.0 * (word & 1) - 1 for word in words])


@pytest.mark.parametrize(
    ("first", "terms", "expected"),
    [
        (254, [2**24, 1, 1, 1], 2**24 + 2),  # (2^24 + 1) + (1 + 1): chunks are cut at 256
        (253, [2**24, 1, 1, 1], 2**24),  # (2^24 + 1 + 1) + 1
        (255, [2**24, 1, 1, 1], 2**24 + 4),  # 2^24 + 3, which rounds to even
        (2**32 + 256 - 2, [1, 2**24, 1, -(2**24)], 1),  # (1 + 2^24) + (1 - 2^24)
        (2**63 - 256 - 1, [2**24, 1, 1], 2**24 + 2),
    ],
)
def test_chunks_are_summed_apart(any_backend, first, terms, expected):
    seed = 2**63 + 5
    spec = NoiseSpec((1,), "rademacher", seed=seed)
    weights = signs_of(first, len(terms), seed) * torch.tensor(terms, dtype=torch.float32)
    total, weights = torch.zeros(1, device=gpu.DEVICE), weights.to(gpu.DEVICE)
    assert accumulate_(total, weights, spec, first, backend=any_backend).tolist() == [expected]


def test_a_sum_takes_whole_chunks(any_backend):
    # 2^25 + 1 is 2^25 in float32, so of single terms nothing would stay.
    spec, before = NoiseSpec((1,), "rademacher", seed=3), torch.full((1,), 2.0**25)
    before, weights = before.to(gpu.DEVICE), signs_of(256, 256, 3).to(gpu.DEVICE)
    accumulate_(before, weights, spec, 256, backend=any_backend)
    assert before.tolist() == [2.0**25 + 256]


def test_known_answers_of_sums(any_backend):
    """Computed in Python's fractions, rounded to float32 after each step."""
    spec = NoiseSpec((1,), "rademacher", seed=2**63 + 5)
    i = torch.arange(700)
    weights = ((i * i % 17 - 8).float() / 3).to(gpu.DEVICE)
    total, square = sums(spec, weights, backend=any_backend)
    assert total.item() == float.fromhex("0x1.8aaabcp+3")  # term by term it is 0x1.8aaa96p+3
    assert square.item() == float.fromhex("0x1.3791bep+11")


@pytest.mark.parametrize("options", OPTIONS[1::3], ids=lambda o: case_id((SHAPE, o)))
def test_sums_are_those_of_float64_to_rounding(options):
    spec, weights = make_spec(SHAPE, seed=1, **options), random(COUNT)
    assert_sums(*sums(spec, weights), weights, spec, FIRST)


@CASE
@BACKEND
def test_samples(options, backend):
    dtype = (torch.float32, torch.bfloat16)[OPTIONS.index(options) % 2]
    count = 70 if backend == "cpu" else 8
    spec, x = make_spec(SHAPE, scale=0.3, seed=1, **options), random(*SHAPE).to(dtype)
    expected = perturb(x, spec, FIRST, count, backend=backend)
    for threads, batch in SPLITS:
        torch.set_num_threads(threads)
        parts = [
            perturb(x, spec, FIRST + i, min(batch, count - i), backend=backend)
            for i in range(0, count, batch)
        ]
        assert same(torch.cat(parts), expected)


def test_a_row_does_not_depend_on_its_buffer():
    # Neither the alignment of memory nor what lies beside an input changes its samples.
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
@pytest.mark.parametrize("options", [{}, {"block": 9}, linear(3, 3)], ids=["", "block", "linear"])
def test_pairs_are_the_samples_of_both_signs(backend, options):
    x = torch.linspace(-1, 1, 2 * 30 * 41).reshape(2, 30, 41)
    spec = NoiseSpec(x.shape, "normal", torch.rand(2, 30, 41), seed=3, **options)
    out = torch.full((10, *x.shape), torch.nan)
    perturb(x, spec, 7, 5, clip=(-0.9, 0.8), out=out, pairs=True, backend=backend)
    for sign, half in ((1, out[:5]), (-1, out[5:])):
        one = perturb(x, spec, 7, 5, sign, clip=(-0.9, 0.8), backend=backend)
        assert torch.equal(half, one)
    flipped = perturb(x, spec, 7, 5, -1, clip=(-0.9, 0.8), pairs=True, backend=backend)
    assert torch.equal(flipped, out.roll(5, 0))
