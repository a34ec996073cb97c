"""Copies between a baseline and x, and sums in the space of features, on every backend."""

import itertools

import pytest
import torch

from fwdgrad_kernels import (
    AdaptiveScale,
    NoiseSpec,
    accumulate_,
    accumulate_features_,
    expand,
    perturb,
    reference,
)
from fwdgrad_kernels.testing import assert_copies, case_id

SMOOTH = {"cell": 4, "field": "bilinear"}
CASES = (
    ((7,), {}),
    ((3, 5, 6), {}),
    ((3, 5, 6), {"shared": True}),
    ((3, 9, 11), {"cell": 4, "shared": True}),
    ((3, 9, 11), {**SMOOTH, "shared": True}),
    ((3, 9, 11), {**SMOOTH, "shared": True, "shift": False}),
    ((1, 40, 9), {"cell": 3, "field": "bilinear", "shift": False}),
    ((2, 9, 11), {"cell": 5, "field": "bilinear"}),
    ((9, 11), {"cell": 11, "field": "bilinear", "shift": False}),
    ((25,), {"cell": 2, "shift": False}),
    ((3, 9, 11), {"block": 5, **SMOOTH, "shared": True}),
    ((2, 9, 1), {**SMOOTH, "shared": True, "shift": False}),
)
"""Of these the kernels for whole grids serve some, and those for anything else the others."""
STILL = tuple(case for case in CASES if not case[1].get("block"))


def random(*shape, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape))).to(dtype)


def still(case, law="normal"):
    """A spec whose copies spread their draws alike."""
    shape, options = case
    return NoiseSpec(shape, law, 0.5, seed=3, **{**options, "shift": False})


# ---- between a baseline and x ----------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_copies_between_a_baseline_and_x(any_backend, case):
    shape, options = case
    law = ("normal", "hadamard")[CASES.index(case) % 2]
    spec = NoiseSpec(shape, law, 0.5, seed=2**63 + 5, **options)
    x, whole = random(*shape), random(2, *shape)[1]
    channels = [random(*shape[:-2], 1, 1)] if len(shape) > 2 else []
    for b, clip in ((0.25, (0.0, 0.5)), (whole, None), *((c, None) for c in channels)):
        out = torch.full((6, *shape), torch.nan)
        perturb(
            x, spec, 61, 3, 1, clip, out, pairs=True, baseline=b, position=0.5,
            backend=any_backend,
        )  # fmt: skip
        where = torch.as_tensor(b).expand(shape), 0.5
        limits = (-torch.inf, torch.inf) if clip is None else clip
        assert_copies(out[:3], x, spec, 61, 1, limits, *where)
        assert_copies(out[3:], x, spec, 61, -1, limits, *where)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("options", [{}, {**SMOOTH, "shared": True}])
def test_types_and_memory_formats(any_backend, dtype, options):
    x, b = random(3, 6, 8, dtype=dtype), random(2, 3, 6, 8, dtype=dtype)[1]
    spec = NoiseSpec(x.shape, "rademacher", 0.5, seed=1, **options)
    made = perturb(x, spec, 0, 2, baseline=b, position=0.5, backend=any_backend)
    assert_copies(made, x, spec, 0, 1, (-torch.inf, torch.inf), b, 0.5)
    last = x.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    other = perturb(last, spec, 0, 2, baseline=b, position=0.5, backend=any_backend)
    assert other.stride(1) == 1
    assert torch.equal(other, made)


def test_half_way_with_signs_a_cell_is_the_input_s_or_the_baseline_s(any_backend):
    x, b = torch.full((3, 8, 8), 0.75), torch.zeros(3, 8, 8)
    spec = NoiseSpec(x.shape, "hadamard", 0.5, cell=4, shared=True, shift=False)
    made = perturb(x, spec, 0, 4, baseline=b, position=0.5, backend=any_backend)
    cells = made[:, 0, ::4, ::4].flatten(1)
    signs = (cells - 0.375) / 0.375
    assert torch.equal(signs @ signs.T, 4 * torch.eye(4))  # orthogonal
    assert torch.equal(made, made[:, :1, :, :].expand_as(made))


def test_the_bits_do_not_depend_on_the_micro_batch_or_the_threads():
    x, b = random(3, 70, 33), random(2, 3, 70, 33)[1]
    spec = NoiseSpec(x.shape, "hadamard", 0.5, cell=5, field="bilinear", shared=True, seed=4)
    whole = perturb(x, spec, 0, 9, baseline=b, position=0.5)
    for threads, size in itertools.product((1, 3), (1, 4)):
        torch.set_num_threads(threads)
        parts = [
            perturb(x, spec, first, min(size, 9 - first), baseline=b, position=0.5)
            for first in range(0, 9, size)
        ]
        assert torch.equal(torch.cat(parts), whole)


def test_what_held_holds_with_a_baseline(any_backend):
    x, b = random(2, 9, 8), random(2, 2, 9, 8)[1]
    spec = NoiseSpec(x.shape, "rademacher", 0.5, block=3, seed=4)
    options = {"baseline": b, "position": 0.5, "backend": any_backend}
    out = perturb(x, spec, 0, 3, **options)
    perturb(x, spec, 3, 3, out=out, held=0, **options)
    assert torch.equal(out, perturb(x, spec, 3, 3, **options))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"baseline": "grey"}, TypeError, "baseline must be a number or a tensor, got str"),
        ({"baseline": torch.nan}, ValueError, "baseline must be finite, got nan"),
        ({"baseline": torch.zeros(3, 4, 4).double()}, TypeError, "must have x's dtype"),
        ({"baseline": torch.zeros(3, 4, 4).long()}, TypeError, "must be a floating tensor"),
        (
            {"baseline": torch.zeros(4, 4)},
            ValueError,
            r"each channel \(3, 1, 1\) or have x's shape",
        ),
        ({"baseline": 0.5, "position": 1.5}, ValueError, "position must be from 0"),
        ({"baseline": 0.5, "position": "half"}, TypeError, "position must be a number"),
        ({"position": 0.5}, ValueError, "position must be 1 without a baseline"),
        ({"baseline": 0.5, "relative": True}, ValueError, "a number, got relative=True"),
    ],
)
def test_baselines_that_are_refused(options, error, message):
    x, out = torch.zeros(3, 4, 4), torch.full((1, 3, 4, 4), 7.0)
    with pytest.raises(error, match=message):
        perturb(x, NoiseSpec(x.shape), 0, 1, out=out, **options)
    assert bool((out == 7).all())


@pytest.mark.parametrize("scale", [torch.ones(4), AdaptiveScale(0.0, 1.0)])
def test_a_baseline_wants_a_plain_scale(scale):
    with pytest.raises(ValueError, match="baseline needs a scale that is a number"):
        perturb(torch.zeros(4), NoiseSpec((4,), scale=scale), 0, 1, baseline=0.5)


def test_memory_that_is_not_there():
    freed = torch.zeros(4)
    freed.untyped_storage().resize_(0)
    with pytest.raises(ValueError, match="baseline must have its memory"):
        perturb(torch.zeros(4), NoiseSpec((4,)), 0, 1, baseline=freed)
    with pytest.raises(ValueError, match="values must have its memory"):
        expand(freed, NoiseSpec((4,)))


def test_a_baseline_must_not_be_written_to():
    out = torch.zeros(1, 4)
    with pytest.raises(ValueError, match="must not share memory with the baseline"):
        perturb(torch.zeros(4), NoiseSpec((4,)), 0, 1, out=out, baseline=out[0])


# ---- sums of features ------------------------------------------------------------------------


@pytest.mark.parametrize("case", STILL, ids=case_id)
def test_expand_is_phi(any_backend, case):
    spec = still(case)
    values = random(spec.draws, dtype=torch.float64)
    phi = reference.spread(spec, torch.eye(spec.draws, dtype=torch.float64), 0)  # (K, *shape)
    for dtype, error in ((torch.float32, 1e-6), (torch.float64, 1e-7)):  # of weights in float32
        given = values.to(dtype)
        found = expand(given, spec, backend=any_backend)
        assert (found.shape, found.dtype) == (spec.shape, dtype)
        expected = torch.tensordot(values, phi, 1)
        assert torch.allclose(found.double(), expected, rtol=error, atol=error)
        found = expand(given, spec, squared=True, backend=any_backend)
        expected = torch.tensordot(values, phi.square(), 1)
        assert torch.allclose(found.double(), expected, rtol=error, atol=error)


@pytest.mark.parametrize("case", STILL, ids=case_id)
def test_sums_of_features_expand_to_sums_of_elements(any_backend, case):
    law = ("normal", "hadamard", "cauchy")[STILL.index(case) % 3]
    spec, weights = still(case, law), random(9)
    total = accumulate_features_(torch.zeros(spec.draws), weights, spec, 5, backend=any_backend)
    expected = accumulate_(torch.zeros(spec.shape), weights, spec, 5, backend="reference")
    found = expand(total, spec, backend=any_backend)
    assert torch.allclose(found, expected, atol=2e-5 * float(weights.abs().sum()))


def test_a_value_that_is_not_finite_stays_with_its_feature(any_backend):
    spec = NoiseSpec((6,), cell=2, shift=False)
    found = expand(torch.tensor([1.0, torch.inf, torch.nan]), spec, backend=any_backend)
    assert found.nan_to_num(nan=-1, posinf=-2).tolist() == [1, 1, -2, -2, -1, -1]
    smooth = NoiseSpec((6,), cell=3, field="bilinear", shift=False)  # pixels 1 and 4 are centres
    found = expand(torch.tensor([1.0, 2.0, torch.nan, 4.0]), smooth, backend=any_backend)
    assert found[1] == 2
    assert bool(found[2:].isnan().all())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block": 2}, "block must be None: each copy's block leaves other elements out"),
        ({"cell": 2}, "shift must be False: each copy lays its grid elsewhere"),
    ],
)
def test_copies_that_spread_their_draws_differently_have_no_features(options, message):
    spec = NoiseSpec((8,), **options)
    with pytest.raises(ValueError, match=message):
        accumulate_features_(torch.zeros(spec.draws), torch.ones(1), spec, 0)
    with pytest.raises(ValueError, match=message):
        expand(torch.zeros(spec.draws), spec)


def test_values_that_expand_refuses():
    spec = NoiseSpec((8,), cell=2, shift=False)
    with pytest.raises(ValueError, match=r"one for each of 4 draws, got \(5,\)"):
        expand(torch.zeros(5), spec)
    with pytest.raises(TypeError, match=r"float32 or float64 tensor, got torch\.int64"):
        expand(torch.zeros(4).long(), spec)


def test_an_empty_input_has_an_empty_map(any_backend):
    spec = NoiseSpec((0, 4, 4), cell=2, shift=False)
    assert expand(torch.zeros(spec.draws), spec, backend=any_backend).shape == (0, 4, 4)
