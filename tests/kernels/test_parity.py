"""The compiled kernels against the reference, which is their definition."""

import dataclasses
import math

import gpu
import pytest
import torch
from covering import covering

from fwdgrad_kernels import Grid, NoiseSpec, accumulate_, blocks, noise, perturb
from fwdgrad_kernels.testing import (
    CASES,
    EXACT,
    KINDS,
    SCORED,
    assert_samples,
    assert_sums,
    case_id,
    cells,
    linear,
    make_spec,
)

SEED = 2**63 + 11
FAR = 2**32 + 3
CASE = pytest.mark.parametrize("case", CASES, ids=case_id)
SOME_KINDS = ("normal", "cauchy", "hadamard")


def random(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def guarded(*shape, dtype=torch.float32, fill=math.nan):
    """A tensor of ``fill`` and a check that nothing beside it was written.

    It starts at an odd element, where no vector instruction is aligned.
    """
    size = math.prod(shape)
    memory = torch.full((size + 66,), -7.0, dtype=dtype)
    inside = memory[33 : 33 + size].view(shape).fill_(fill)
    return inside, lambda: bool((memory[:33] == -7).all() and (memory[33 + size :] == -7).all())


def first_of(spec):
    """A sample beyond 2^32 from which five samples straddle two Hadamard groups."""
    return (FAR // spec.group + 1) * spec.group - 2


def in_turn(kinds):
    """Each case with some kinds of noise, such that each kind has its cases."""
    values = [
        (case, kind)
        for number, case in enumerate(CASES)
        for kind in gpu.kinds_in_turn(number, kinds)
    ]
    return pytest.mark.parametrize(
        ("case", "kind"), values, ids=lambda v: v if isinstance(v, str) else case_id(v)
    )


@in_turn(KINDS)
def test_perturb(case, kind):
    shape, options = case
    spec = make_spec(shape, kind, 0.7, seed=SEED, **options)
    first, x = first_of(spec), random(*shape)
    out, untouched = guarded(5, *shape)
    assert perturb(x, spec, first, 5, out=out, backend="cpu") is out
    assert_samples(out, x, spec, first)
    assert untouched()


@CASE
@pytest.mark.parametrize("kind", EXACT)
def test_exact_distributions_agree_in_every_bit(case, kind):
    shape, options = case
    if isinstance(options.get("features"), Grid):
        features = options["features"]
        if features.interpolation == "linear":  # and has other lines
            features = dataclasses.replace(features, interpolation="nearest", order=None)
        options = {**options, "features": features}
    spec = make_spec(shape, kind, seed=SEED, **options)
    got, expected = (noise(spec, first_of(spec), 5, backend=b) for b in ("cpu", "reference"))
    assert torch.equal(got, expected)


@in_turn(SCORED)
def test_accumulate(case, kind):
    shape, options = case
    spec = make_spec(shape, kind, seed=SEED, **options)
    first, weights = first_of(spec), random(5, seed=1)
    total, beside_total = guarded(*shape, fill=0.25)
    square, beside_square = guarded(*shape, fill=0.25)
    assert accumulate_(total, weights, spec, first, square, backend="cpu") is total
    assert_sums(total, square, weights, spec, first, before=0.25)
    assert beside_total()
    assert beside_square()


@CASE
def test_blocks(case):
    shape, options = case
    for seed in (0, SEED):
        spec = NoiseSpec(shape, seed=seed, **options)
        for first in (0, FAR, 2**63 - 300):
            got, expected = (blocks(spec, first, 200, backend=b) for b in ("cpu", "reference"))
            assert torch.equal(got, expected)


@covering(
    kind=SOME_KINDS,
    sign=(1, -1),
    clip=(None, (-0.5, 0.8), (0, math.inf)),
    mapped=(False, True),
    options=({}, {"block": 7, **linear(3, 3)}),
)
def test_scale_sign_and_clip(kind, sign, clip, mapped, options):
    shape = (3, 21, 40)
    scale = 0.3 * random(*shape, seed=2) if mapped else 0.3
    if mapped:
        scale[0, 3:9] = 0.0
    spec = make_spec(shape, kind, scale, seed=SEED, **options)
    x = random(*shape)
    samples = perturb(x, spec, FAR, 4, sign, clip, backend="cpu")
    assert_samples(samples, x, spec, FAR, sign, clip or (-math.inf, math.inf))
    if mapped:  # an element of scale 0 is frozen, so exactly itself
        frozen = x[0, 3:9] if clip is None else x[0, 3:9].clamp(*clip)
        assert torch.equal(samples[:, 0, 3:9], frozen.expand(4, -1, -1))


@covering(
    kind=SOME_KINDS, dtype=(torch.float64, torch.float16, torch.bfloat16), mapped=(False, True)
)
def test_dtypes(kind, dtype, mapped):
    shape = (3, 21, 40)
    scale = random(*shape, dtype=torch.float64, seed=2) if mapped else 0.3
    spec = make_spec(shape, kind, scale, block=17, seed=SEED)
    x = random(*shape, dtype=dtype)
    out, untouched = guarded(4, *shape, dtype=dtype)
    assert_samples(perturb(x, spec, 9, 4, out=out, backend="cpu"), x, spec, 9)
    assert untouched()


@pytest.mark.parametrize("weight_dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_sums_in_float64(weight_dtype):
    # Terms are products of float64 weights; in float32 the last of these sums would be lost.
    spec = NoiseSpec((1100,), "rademacher", seed=SEED)
    weights = torch.tensor([1e12, 1.0, 0.25, -1e12]).to(weight_dtype)
    total, square = torch.zeros(2, 1100, dtype=torch.float64)
    accumulate_(total, weights, spec, FAR, square, backend="cpu")
    signs = noise(spec, FAR, 4, dtype=torch.float64, backend="reference")
    assert torch.equal(total, weights.double() @ signs)
    assert torch.equal(square, (weights.double() ** 2).sum().expand(1100))


@pytest.mark.parametrize("first", [0, 1, 2**32 - 2, 2**63 - 4])
@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1, 2**63, 2**64 - 1])
def test_ends_of_seeds_and_samples(first, seed):
    for kind in ("uniform", "hadamard"):
        spec = make_spec((2, 5, 9), kind, block=4, seed=seed, **cells(2, 2))
        got, expected = (noise(spec, first, 3, backend=b) for b in ("cpu", "reference"))
        assert torch.equal(got, expected)


HALVES = [(torch.float16, 0x7C00), (torch.bfloat16, 0x7F80)]


@pytest.mark.parametrize(("dtype", "infinity"), HALVES, ids=["float16", "bfloat16"])
@pytest.mark.parametrize("options", [{}, {"block": 1}], ids=["noisy", "clip only"])
def test_sixteen_bit_numbers_survive(dtype, infinity, options):
    # Every one of them goes to float32 and back, beside noise of scale 0.
    bits = torch.arange(2**16, dtype=torch.int32).to(torch.int16)
    x = bits.view(dtype)
    spec = NoiseSpec((2**16,), "rademacher", 0.0, **options)
    for clip in (None, (-math.inf, 1000.0)):
        out = perturb(x, spec, 0, 1, clip=clip, backend="cpu")[0]
        expected = x if clip is None else x.clamp(max=1000.0)
        torch.testing.assert_close(out, expected, rtol=0, atol=0, equal_nan=True)
        assert int(out.isnan().sum()) == 2 * (0x7FFF - infinity)


@pytest.mark.parametrize(("dtype", "infinity"), HALVES, ids=["float16", "bfloat16"])
def test_rounding_to_sixteen_bits(dtype, infinity):
    # x = 0 and signs times a map put any float32 number through the rounding, and only it.
    half = torch.arange(infinity, dtype=torch.int32).to(torch.int16).view(dtype).float()
    ties = (half[1:] + half[:-1]) / 2
    around = [v.nextafter(torch.tensor(to)) for v in (half, ties) for to in (0.0, math.inf)]
    ends = torch.tensor([65519.996, 65520.0, 1e6, 3.3895314e38, 3.3961776e38, 3.4028235e38, 1e-45])
    values = torch.cat([half, ties, *around, ends])
    values = values[values.isfinite()]
    spec = NoiseSpec(values.shape, "rademacher", values, seed=SEED)
    out = perturb(torch.zeros(len(values), dtype=dtype), spec, 0, 1, backend="cpu")[0]
    signs = noise(NoiseSpec(values.shape, "rademacher", seed=SEED), 0, 1, backend="reference")[0]
    expected = (values * signs).to(dtype)
    assert bool(expected.isinf().any())
    assert torch.equal(out, expected)
