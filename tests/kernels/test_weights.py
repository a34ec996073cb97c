"""What sums and samples do not depend on: whether squares are asked, what is beside a block."""

import math

import gpu
import torch
from covering import covering

from fwdgrad_kernels import AdaptiveScale, NoiseSpec, accumulate_, blocks, perturb
from fwdgrad_kernels.testing import cells, linear, make_spec

SHAPE = (2, 9, 35)
FIRST = 2**32 - 3
OPTIONS = (
    {"kind": "normal"},
    {"kind": "cauchy", "block": (4, 11)},
    {"kind": "rademacher"},
    {"kind": "hadamard", "block": (9, 20)},
    {"kind": "logistic", **cells(3, 3)},
    {"kind": "normal", "block": 5, **linear(4, 4, share_channels=True)},
)
BLOCKED = tuple(options for options in OPTIONS if "block" in options)


def same(a, b):
    return torch.equal(a.view(torch.uint8), b.view(torch.uint8))


def random(*shape, dtype=torch.float32):
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    return drawn.to(gpu.DEVICE, dtype)


def covered(spec, samples):
    """J_i, from the blocks: bool (samples, *shape)."""
    (rows, columns) = (torch.arange(length, device=gpu.DEVICE) for length in spec.shape[1:])
    y, x = blocks(spec, FIRST, samples, device=gpu.DEVICE, backend="reference").unbind(1)
    down = (rows >= y[:, :1]) & (rows < y[:, 1:])
    across = (columns >= x[:, :1]) & (columns < x[:, 1:])
    return (down[:, None, :, None] & across[:, None, None, :]).expand(samples, *spec.shape)


@covering(any_backend=gpu.EVERY, options=OPTIONS, dtype=(torch.float32, torch.float64))
def test_squares_leave_the_total_alone(any_backend, options, dtype):
    spec, weights = make_spec(SHAPE, seed=1, **options), random(12, dtype=dtype)
    totals = [random(*SHAPE, dtype=dtype) for _ in range(2)]
    square = torch.zeros_like(totals[0])
    accumulate_(totals[0], weights, spec, FIRST, backend=any_backend)
    accumulate_(totals[1], weights, spec, FIRST, square, backend=any_backend)
    assert bool((square > 0).any())
    assert same(*totals)


@covering(any_backend=gpu.EVERY, options=BLOCKED, bad=(math.nan, math.inf, -math.inf))
def test_weights_that_are_not_finite_stay_in_their_blocks(any_backend, options, bad):
    spec, weights = make_spec(SHAPE, seed=1, **options), random(6)
    weights[[1, 4]] = bad
    hit = covered(spec, 6)[[1, 4]].any(0)
    assert bool(hit.any())
    assert not bool(hit.all())
    start = -torch.zeros(2, *SHAPE, device=gpu.DEVICE)  # of which not even the sign changes
    sums, expected = start.clone(), start.clone()
    accumulate_(sums[0], weights, spec, FIRST, sums[1], backend=any_backend)
    for i in (0, 2, 3, 5):
        some = weights[i : i + 1]
        accumulate_(expected[0], some, spec, FIRST + i, expected[1], backend=any_backend)
    assert same(sums[:, ~hit], expected[:, ~hit])
    assert not bool(sums[:, hit].isfinite().any())


def test_weights_that_are_not_finite_agree_with_the_reference(any_backend):
    spec = NoiseSpec(SHAPE, "normal", block=(5, 20), seed=2)
    weights = torch.tensor([1.0, math.inf, 2.0, -math.inf, math.nan], device=gpu.DEVICE)
    sums = []
    for backend in (any_backend, "reference"):
        pair = torch.zeros(2, *SHAPE, device=gpu.DEVICE)
        accumulate_(pair[0], weights, spec, FIRST, pair[1], backend=backend)
        sums.append(pair)
    for kind in (torch.isnan, torch.isposinf, torch.isneginf):
        assert torch.equal(kind(sums[0]), kind(sums[1]))
        assert bool(kind(sums[1][0]).any())


@covering(any_backend=gpu.EVERY, options=BLOCKED, scale=("relative", "adaptive"))
def test_x_that_is_not_finite_stays_beside_blocks(any_backend, options, scale):
    """Where the noise's scale follows from x, it is infinite where x is."""
    given = 0.5 if scale == "relative" else AdaptiveScale(0.0, 1.0)
    spec = make_spec(SHAPE, scale=given, seed=1, **options)
    x = random(*SHAPE)
    x[:, ::2, ::3] = math.inf
    x[:, ::2, 1::3] = -math.inf
    samples = perturb(
        x, spec, FIRST, 3, pairs=True, relative=scale == "relative", backend=any_backend
    )
    beside = ~covered(spec, 3)
    for half in (samples[:3], samples[3:]):
        assert torch.equal(half[beside], x.expand(3, *SHAPE)[beside])
        assert not torch.equal(half[~beside], x.expand(3, *SHAPE)[~beside])
