"""Samples between a baseline and x, and sums in the space of features, on every backend."""

import dataclasses
import itertools

import gpu
import pytest
import torch
from covering import covering

from fwdgrad_kernels import (
    AdaptiveScale,
    Grid,
    Labels,
    NoiseSpec,
    accumulate_,
    accumulate_features_,
    expand,
    hadamard_sums,
    noise,
    perturb,
    reference,
)
from fwdgrad_kernels.testing import (
    SHARED,
    assert_samples,
    assert_sums,
    case_id,
    cells,
    linear,
    make_spec,
    ordered,
)

SMOOTH = linear(4, 4, share_channels=True)
SHARE, FIXED = {"share_channels": True}, {"jitter": False}
BOTH = {**SHARE, **FIXED}
CASES = (
    ((7,), {}),
    ((3, 5, 6), {}),
    ((3, 5, 6), SHARED),
    ((3, 9, 11), cells(4, 4, **SHARE)),
    ((3, 9, 11), SMOOTH),
    ((3, 9, 11), linear(4, 4, **BOTH)),
    ((1, 40, 9), linear(3, 3, **FIXED)),
    ((2, 9, 11), linear(5, 3)),
    ((9, 11), linear(9, 11, **FIXED)),
    ((25,), cells(2, **FIXED)),
    ((3, 9, 11), {"block": 5, **SMOOTH}),
    ((2, 9, 1), linear(4, 1, **BOTH)),
    # Series and volumes, whose cells do not divide the axes.
    ((3, 20), linear(7, **BOTH)),
    ((3, 20), cells(7)),
    ((20,), linear(6)),
    ((2, 5, 6, 7), linear(2, 3, 4, **BOTH)),
    ((2, 5, 3, 7), linear(4, 1, 2)),
    ((5, 6, 7), cells(3, 4, 2, **FIXED)),
    # Orders of draws, as many as the grid has lines.
    ((3, 9, 11), linear(4, 4, **SHARE, **ordered(20))),
    ((2, 5, 6, 7), linear(2, 3, 4, **SHARE, **ordered(64))),
    ((2, 20), cells(7, **ordered(6))),
    # Labels: of pixels, of channels, of one axis in the middle, one for all, one for each.
    ((3, 5, 6), {"features": Labels(torch.arange(30).reshape(5, 6) % 7)}),
    ((3, 5, 6), {"features": Labels(torch.tensor([1, 0, 1]).reshape(3, 1, 1))}),
    ((2, 5, 6), {"features": Labels(torch.tensor([[2], [1], [0], [0], [2]]))}),
    ((2, 5), {"features": Labels(torch.tensor(0))}),
    ((2, 5), {"features": Labels(torch.arange(10).reshape(2, 5).flip(0))}),
)
"""Of these the kernels for whole grids serve some, and those for anything else the others."""
STILL = tuple(case for case in CASES if not case[1].get("block"))


def random(*shape, dtype=torch.float32):
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)))
    return drawn.to(gpu.DEVICE, dtype)


def still(case, kind="normal"):
    """A spec whose samples spread their draws alike."""
    shape, options = case
    options = gpu.on_device(options)
    if isinstance(options.get("features"), Grid):
        options = {**options, "features": dataclasses.replace(options["features"], jitter=False)}
    return make_spec(shape, kind, 0.5, seed=3, **options)


# ---- labels ----------------------------------------------------------------------------------

INTEGERS = (torch.int8, torch.int16, torch.int32, torch.int64)
INTEGERS += (torch.uint8, torch.uint16, torch.uint32, torch.uint64)
MASKS = {
    "pixels": torch.arange(30).reshape(5, 6) * 7 % 11,
    "strided": (torch.arange(30).reshape(6, 5) // 4).T,
    "channels": torch.tensor([1, 0, 1]).reshape(3, 1, 1),
    "rows": torch.tensor([2, 0, 1, 1, 0]).reshape(1, 5, 1),
    "outer axes": torch.arange(18).reshape(3, 1, 6) // 5,
    "one": torch.zeros(1, 1, dtype=torch.int64),
    "each its own": torch.arange(90).flip(0).reshape(3, 5, 6),
}


@covering(any_backend=gpu.EVERY, name=tuple(MASKS), kind=("normal", "rademacher", "hadamard"))
def test_elements_of_a_label_take_its_draw(any_backend, name, kind):
    mask = MASKS[name]
    spec = make_spec((3, 5, 6), kind, features=Labels(mask.to(gpu.DEVICE)), seed=2**63 + 7)
    vector = make_spec((int(mask.max()) + 1,), kind, seed=2**63 + 7)
    assert spec.draws == vector.draws
    first, weights = 2**32 - 3, random(7)
    options = {"device": gpu.DEVICE, "backend": any_backend}
    wanted = noise(vector, first, 7, **options)[:, mask.expand(3, 5, 6)]
    assert torch.equal(noise(spec, first, 7, **options), wanted)
    sums, of_labels = (torch.zeros(2, *s.shape, device=gpu.DEVICE) for s in (spec, vector))
    accumulate_(sums[0], weights, spec, first, sums[1], backend=any_backend)
    accumulate_(of_labels[0], weights, vector, first, of_labels[1], backend=any_backend)
    assert torch.equal(sums, of_labels[:, mask.expand(3, 5, 6)])


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_labels_of_any_integers(dtype):
    mask = MASKS["pixels"]
    spec, other = (NoiseSpec((3, 5, 6), features=Labels(m)) for m in (mask, mask.to(dtype)))
    assert spec == other
    assert torch.equal(noise(spec, 0, 3), noise(other, 0, 3))


def test_labels_in_memory_of_channels_last(any_backend):
    # Labels follow the logical index, wherever an element lies.
    mask = torch.arange(90).reshape(3, 5, 6) % 13
    spec = NoiseSpec((3, 5, 6), features=Labels(mask.to(gpu.DEVICE)), seed=1)
    x = random(3, 5, 6)
    last = x.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    made = perturb(last, spec, 0, 3, backend=any_backend)
    assert made.stride(1) == 1
    assert torch.equal(made, perturb(x, spec, 0, 3, backend=any_backend))


# ---- orders ----------------------------------------------------------------------------------

ORDERED = {
    "shared": ((3, 9, 11), linear(4, 4, **BOTH)),
    "single": ((9, 12), linear(4, 3, **FIXED)),
    "nearest": ((2, 9, 11), cells(4, 4, **FIXED)),
    "volume": ((2, 5, 6, 7), linear(2, 3, 4, **BOTH)),
    "pixels": ((2, 5, 6), SHARED),
    "many": ((1, 20, 20), linear(1, 2, **FIXED)),
}


@covering(
    any_backend=gpu.EVERY,
    name=tuple(ORDERED),
    kind=("normal", "cauchy", "rademacher", "hadamard"),
    order=("other", "own"),
)
def test_lines_take_the_draws_of_an_order(any_backend, name, kind, order):
    shape, options = ORDERED[name]
    plain = make_spec(shape, kind, seed=2**63 + 7, **options)
    lines = plain.draws
    shuffled = torch.randperm(2 * lines, generator=torch.Generator().manual_seed(lines))[:lines]
    takes = (torch.arange(lines) if order == "own" else shuffled).to(gpu.DEVICE)
    features = dataclasses.replace(options["features"], order=takes)
    spec = make_spec(shape, kind, seed=2**63 + 7, features=features)
    assert (spec.grid, spec.draws) == (plain.grid, int(takes.max()) + 1)
    first, weights, x = 2**32 - 3, random(7), random(*shape)
    run = {"backend": any_backend}
    if order == "own":
        assert torch.equal(perturb(x, spec, first, 7, **run), perturb(x, plain, first, 7, **run))
    for settings in ({}, {"baseline": 0.25, "position": 0.5, "pairs": True}):
        made = perturb(x, spec, first, 7, **settings, **run)
        where = [torch.full(shape, 0.25, device=gpu.DEVICE), 0.5] if settings else []
        assert_samples(made[:7], x, spec, first, 1, (-torch.inf, torch.inf), *where)
    total, square = torch.zeros(2, *shape, device=gpu.DEVICE)
    accumulate_(total, weights, spec, first, square, **run)
    assert_sums(total, square, weights, spec, first)
    alone = accumulate_(torch.zeros_like(total), weights, spec, first, **run)
    assert torch.equal(alone, total)
    values = random(spec.draws)
    for squared in (False, True):
        expected = expand(values[takes], plain, squared=squared, **run)
        assert torch.equal(expand(values, spec, squared=squared, **run), expected)


def test_an_order_on_another_device():
    spec = NoiseSpec((4,), features=Grid(2, "nearest", order=torch.arange(2)))
    for call in (lambda x: perturb(x, spec, 0, 1), lambda x: expand(x[:2], spec)):
        with pytest.raises(ValueError, match="order on x's device meta, got cpu"):
            call(torch.zeros(4, device="meta"))


# ---- between a baseline and x ----------------------------------------------------------------


@gpu.on_every_backend(CASES, 0)
def test_samples_between_a_baseline_and_x(any_backend, case):
    shape, options = case
    kind = ("normal", "hadamard")[CASES.index(case) % 2]
    spec = make_spec(shape, kind, 0.5, seed=2**63 + 5, **gpu.on_device(options))
    x, whole = random(*shape), random(2, *shape)[1]
    channels = [random(*shape[:-2], 1, 1)] if len(shape) > 2 else []
    if len(shape) == 2 and spec.view.height == 1 and spec.view.shared:  # series
        channels = [random(shape[0], 1)]
    for b, clip in ((0.25, (0.0, 0.5)), (whole, None), *((c, None) for c in channels)):
        out = torch.full((6, *shape), torch.nan, device=gpu.DEVICE)
        perturb(
            x, spec, 61, 3, 1, clip, out, pairs=True, baseline=b, position=0.5,
            backend=any_backend,
        )  # fmt: skip
        where = torch.as_tensor(b, device=gpu.DEVICE).expand(shape), 0.5
        limits = (-torch.inf, torch.inf) if clip is None else clip
        assert_samples(out[:3], x, spec, 61, 1, limits, *where)
        assert_samples(out[3:], x, spec, 61, -1, limits, *where)


@covering(
    any_backend=gpu.EVERY,
    dtype=(torch.float64, torch.float16, torch.bfloat16),
    options=({}, SMOOTH),
)
def test_types_and_memory_formats(any_backend, dtype, options):
    x, b = random(3, 6, 8, dtype=dtype), random(2, 3, 6, 8, dtype=dtype)[1]
    spec = NoiseSpec(x.shape, "rademacher", 0.5, seed=1, **options)
    made = perturb(x, spec, 0, 2, baseline=b, position=0.5, backend=any_backend)
    assert_samples(made, x, spec, 0, 1, (-torch.inf, torch.inf), b, 0.5)
    last = x.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    other = perturb(last, spec, 0, 2, baseline=b, position=0.5, backend=any_backend)
    assert other.stride(1) == 1
    assert torch.equal(other, made)


def test_half_way_with_signs_a_cell_is_the_input_s_or_the_baseline_s(any_backend):
    x, b = torch.full((3, 8, 8), 0.75, device=gpu.DEVICE), torch.zeros(3, 8, 8, device=gpu.DEVICE)
    spec = make_spec(x.shape, "hadamard", 0.5, features=Grid(4, "nearest"))
    made = perturb(x, spec, 0, 4, baseline=b, position=0.5, backend=any_backend)
    cells = made[:, 0, ::4, ::4].flatten(1)
    signs = (cells - 0.375) / 0.375
    assert torch.equal((signs @ signs.T).cpu(), 4 * torch.eye(4))  # orthogonal
    assert torch.equal(made, made[:, :1, :, :].expand_as(made))


def test_the_bits_do_not_depend_on_the_micro_batch_or_the_threads():
    x, b = random(3, 70, 33), random(2, 3, 70, 33)[1]
    spec = make_spec(x.shape, "hadamard", 0.5, seed=4, **linear(5, 5, share_channels=True))
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


def with_one(value):
    baseline = torch.zeros(3, 4, 4)
    baseline[1, 0, 1] = value
    return baseline


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((3, 9, 11), linear(4, 4, **BOTH)),
        ((1, 9, 11), linear(5, 3, **FIXED)),
        ((2, 20), linear(7, **SHARE)),
        ((2, 5, 6, 7), linear(2, 3, 4, **BOTH)),
        ((3, 9, 11), {"block": 5, **SMOOTH}),
        ((3, 9, 11), {}),
    ],
    ids=["grid", "plane", "series", "volume", "blocks", "elements"],
)
def test_held_changes_no_bit(any_backend, shape, options):
    x, b = random(*shape), random(2, *shape)[1]
    spec = NoiseSpec(shape, scale=0.7, seed=4, **options)
    given = {"baseline": b, "position": 0.5, "pairs": True, "backend": any_backend}
    out = perturb(x, spec, 40, 3, **given)
    perturb(x, spec, 43, 3, out=out, held=40, **given)
    assert torch.equal(out, perturb(x, spec, 43, 3, **given))


@pytest.mark.parametrize(
    ("options", "last"),
    [
        (linear(4, 4, **SHARE), True),
        (linear(4, **FIXED), True),  # of each row by itself
        (linear(4, **SHARE), False),  # of all rows: planes are not the first axis
        (linear(2, 3, 4), True),
        (SHARED, True),
    ],
    ids=["pictures", "rows", "shared by rows", "volumes", "shared"],
)
def test_an_input_in_channels_last(any_backend, options, last):
    """Its samples are laid out alike, where the kernels can serve that."""
    spec, x = NoiseSpec((5, 6, 8), scale=0.7, seed=2, **options), random(5, 6, 8)
    laid = x.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    made = perturb(laid, spec, 5, 3, backend=any_backend)
    assert_samples(made, x, spec, 5)
    assert (made.stride(1) == 1, made.is_contiguous()) == (last, not last)
    if not last:
        out = torch.empty(3, 6, 8, 5, device=gpu.DEVICE).permute(0, 3, 1, 2)
        with pytest.raises(ValueError, match="out must be contiguous, got strides"):
            perturb(x, spec, 5, 3, out=out, backend=any_backend)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"baseline": "grey"}, TypeError, "baseline must be a number or a tensor, got str"),
        ({"baseline": torch.nan}, ValueError, "baseline must be finite, got nan"),
        ({"baseline": 10**400}, ValueError, "baseline must be finite, got 1000"),
        ({"baseline": with_one(torch.nan)}, ValueError, "finite, got nan at element 17"),
        ({"baseline": with_one(-torch.inf)}, ValueError, "finite, got -inf at element 17"),
        ({"baseline": with_one(torch.nan)[:, :1, 1:2]}, ValueError, "got nan at element 1"),
        ({"baseline": torch.zeros(3, 4, 4).double()}, TypeError, "must have x's dtype"),
        ({"baseline": torch.zeros(3, 4, 4, device="meta")}, ValueError, "on x's device cpu"),
        (
            {"baseline": torch.zeros(5, 1, 1)},
            ValueError,
            r"or have x's shape \(3, 4, 4\), got \(5, 1, 1\)",
        ),
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


@gpu.on_every_backend(STILL, 1)
def test_expand_is_phi(any_backend, case):
    shape, options = case
    kind = ("normal", "hadamard")[STILL.index(case) % 2]
    spec, first = make_spec(shape, kind, 0.5, seed=3, **gpu.on_device(options)), 2**33 + 21
    values = random(spec.draws, dtype=torch.float64)
    units = torch.eye(spec.draws, dtype=torch.float64, device=gpu.DEVICE)
    phi = [reference.spread(spec, unit[None], first)[0] for unit in units]
    phi = torch.stack(phi)  # (K, *shape), as the sample's grid lies
    for dtype, error in ((torch.float32, 1e-6), (torch.float64, 1e-7)):  # of weights in float32
        given = values.to(dtype)
        found = expand(given, spec, first, backend=any_backend)
        assert (found.shape, found.dtype) == (spec.shape, dtype)
        expected = torch.tensordot(values, phi, 1)
        assert torch.allclose(found.double(), expected, rtol=error, atol=error)
        found = expand(given, spec, first, squared=True, backend=any_backend)
        expected = torch.tensordot(values, phi.square(), 1)
        assert torch.allclose(found.double(), expected, rtol=error, atol=error)


@gpu.on_every_backend(STILL, 2)
def test_sums_of_features_expand_to_sums_of_elements(any_backend, case):
    kind = ("normal", "hadamard", "cauchy")[STILL.index(case) % 3]
    spec, weights = still(case, kind), random(9)
    total = torch.zeros(spec.draws, device=gpu.DEVICE)
    accumulate_features_(total, weights, spec, 5, backend=any_backend)
    expected = torch.zeros(spec.shape, device=gpu.DEVICE)
    accumulate_(expected, weights, spec, 5, backend="reference")
    found = expand(total, spec, backend=any_backend)
    assert torch.allclose(found, expected, atol=2e-5 * float(weights.abs().sum()))


@gpu.on_every_backend(STILL, 0)
def test_sums_of_elements_reduce_to_sums_of_features(any_backend, case):
    # accumulate_ gives Phi t where accumulate_features_ gives t: Phi' of it is Phi' Phi t.
    spec, weights = still(case, ("hadamard", "cauchy", "normal")[STILL.index(case) % 3]), random(9)
    elements = torch.zeros(spec.shape, device=gpu.DEVICE)
    accumulate_(elements, weights, spec, 5, backend=any_backend)
    features = torch.zeros(spec.draws, device=gpu.DEVICE)
    accumulate_features_(features, weights, spec, 5, backend=any_backend)
    units = torch.eye(spec.draws, dtype=torch.float64, device=gpu.DEVICE)
    phi = reference.spread(spec, units, 5).flatten(1)
    reduced, gram = phi @ elements.flatten().double(), phi @ phi.T
    error = 2e-5 * float(weights.abs().sum()) * phi.sum(1)
    assert bool(((reduced - gram @ features.double()).abs() <= error).all())
    if not spec.view.linear:  # a feature's elements have its sum: the mean of them is it
        counts = phi.sum(1)
        assert torch.equal(gram, counts.diag())
        some = counts > 0  # draws of no line are no elements'
        means, own = (reduced / counts)[some], features.double()[some]
        assert torch.allclose(means, own, atol=float(error.max()))


GROUPED = (
    ((3, 9, 11), linear(4, 4, **SHARE, **ordered(20))),
    ((3, 9, 11), linear(4, 4, **BOTH)),
    ((3, 9, 11), linear(4, 4, **SHARE)),
    ((2, 20), linear(7)),
    ((2, 5, 6, 7), linear(3, 4, 4, **SHARE)),
    ((3, 5, 6), {"features": Labels(torch.arange(30).reshape(5, 6) % 7)}),
    ((7,), {}),
    ((1,), {}),
)


@covering(any_backend=gpu.EVERY, case=GROUPED, group=(0, 2**34 + 3))
def test_sums_along_all_directions_of_a_group(any_backend, case, group):
    shape, options = case
    spec = make_spec(shape, "hadamard", seed=2**63 + 3, **gpu.on_device(options))
    first, size = group * spec.group, spec.group
    vector = make_spec((spec.draws,), "hadamard", seed=2**63 + 3)
    signs = noise(vector, first, size, dtype=torch.float64, backend="reference")
    signs = signs.to(gpu.DEVICE)
    # Whole numbers, so exact. A score that is linear in the draws leaves nothing elsewhere.
    slope = (torch.arange(spec.draws, device=gpu.DEVICE) % 7 - 3).double()
    found = hadamard_sums(signs @ slope, spec, first, backend=any_backend)
    assert (found.shape, found.dtype) == ((size,), torch.float64)
    assert torch.equal(found[: spec.draws], size * slope)
    assert not bool(found[spec.draws :].any())
    # Parseval: along all directions there is as much as in the scores, of any part of a group.
    part = slice(size // 3, size - size // 4)
    weights = (torch.arange(size, device=gpu.DEVICE) % 5 - 1).double()[part]
    found = hadamard_sums(weights, spec, first + part.start, backend=any_backend)
    assert torch.equal(found[: spec.draws], weights @ signs[part])
    assert float(found.square().sum()) == size * float(weights.square().sum())


def test_a_sum_of_features_has_the_same_bits_for_calls_of_whole_groups(any_backend):
    spec = make_spec((3, 9, 11), "hadamard", seed=4, **linear(4, 4, **BOTH))
    assert spec.group == 32
    first, weights = 2**32 - 5, random(45)  # 5, 32 and 8 of three groups
    expected = torch.zeros(spec.draws, device=gpu.DEVICE)
    accumulate_features_(expected, weights, spec, first, backend=any_backend)
    for cuts in ((5,), (37,), (5, 37)):
        total = torch.zeros(spec.draws, device=gpu.DEVICE)
        for start, stop in itertools.pairwise((0, *cuts, 45)):
            accumulate_features_(
                total, weights[start:stop], spec, first + start, backend=any_backend
            )
        assert torch.equal(total, expected)


@pytest.mark.parametrize(
    ("spec", "weights", "first", "error", "message"),
    [
        (NoiseSpec((5,)), torch.ones(2), 0, ValueError, "spec must be of a Hadamard design"),
        (make_spec((5,), "hadamard", block=2), torch.ones(2), 0, ValueError, "without blocks"),
        (make_spec((5,), "hadamard"), torch.ones(9), 0, ValueError, "one group of 8, got 9 from 0"),
        (make_spec((5,), "hadamard"), torch.ones(2), 15, ValueError, "got 2 from 15 on"),
        (
            make_spec((5,), "hadamard"),
            torch.ones(2, 1),
            0,
            ValueError,
            "weights must have one axis",
        ),
        (make_spec((5,), "hadamard"), [1.0], 0, TypeError, "weights must be a tensor, got list"),
        (make_spec((5,), "hadamard"), torch.ones(2), -1, ValueError, "first must lie in"),
        (None, torch.ones(2), 0, TypeError, "spec must be a NoiseSpec"),
    ],
)
def test_what_hadamard_sums_refuses(spec, weights, first, error, message):
    with pytest.raises(error, match=message):
        hadamard_sums(weights, spec, first)


def test_a_value_that_is_not_finite_stays_with_its_feature(any_backend):
    spec = NoiseSpec((6,), features=Grid(2, "nearest"))
    values = torch.tensor([1.0, torch.inf, torch.nan], device=gpu.DEVICE)
    found = expand(values, spec, backend=any_backend)
    assert found.nan_to_num(nan=-1, posinf=-2).tolist() == [1, 1, -2, -2, -1, -1]
    smooth = NoiseSpec((6,), features=Grid(3))  # pixels 1 and 4 are centres
    values = torch.tensor([1.0, 2.0, torch.nan, 4.0], device=gpu.DEVICE)
    found = expand(values, smooth, backend=any_backend)
    assert found[1] == 2
    assert bool(found[2:].isnan().all())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block": 2}, "block must be None: each sample's block leaves other elements out"),
        (
            cells(2),
            "jitter must be False: each sample lays its grid elsewhere, so that a feature is",
        ),
        (
            linear(2),
            "jitter must be False: each sample lays its grid elsewhere, so that a feature is",
        ),
    ],
)
def test_samples_that_spread_their_draws_differently_have_no_features(options, message):
    spec, total = (
        NoiseSpec((8,), **options),
        torch.full((9,), 7.0)[: NoiseSpec((8,), **options).draws],
    )
    with pytest.raises(ValueError, match=message):
        accumulate_features_(total, torch.ones(1), spec, 0)
    assert bool((total == 7).all())
    if spec.block is not None:
        with pytest.raises(ValueError, match=message):
            expand(torch.zeros(spec.draws), spec)


def test_values_that_expand_refuses():
    spec = NoiseSpec((8,), features=Grid(2, "nearest"))
    with pytest.raises(ValueError, match=r"one for each of 4 draws, got \(5,\)"):
        expand(torch.zeros(5), spec)
    with pytest.raises(TypeError, match=r"float32 or float64 tensor, got torch\.int64"):
        expand(torch.zeros(4).long(), spec)


EMPTY = (
    ((0, 4, 4), {"features": Grid((2, 2), "nearest")}),
    ((0, 4), linear(2, share_channels=True)),
    ((2, 0, 4), linear(1, 2, share_channels=True)),
    ((2, 4, 0, 4), cells(2, 1, 2)),
    ((0, 3), {"features": Labels(torch.tensor([0, 1, 1]))}),
    ((3, 0), {"features": Labels(torch.tensor([[0], [1], [1]]))}),
)


@pytest.mark.parametrize("case", EMPTY, ids=case_id)
def test_empty_inputs(any_backend, case):
    shape, options = case
    spec, zero = make_spec(shape, **gpu.on_device(options)), torch.zeros(shape, device=gpu.DEVICE)
    assert perturb(zero, spec, 0, 3, backend=any_backend).shape == (3, *shape)
    assert perturb(zero, spec, 0, 3, baseline=0.5, backend=any_backend).shape == (3, *shape)
    weights = torch.ones(3, device=gpu.DEVICE)
    assert accumulate_(zero, weights, spec, 0, backend=any_backend) is zero
    for kind in ("normal", "hadamard"):
        spec = still(case, kind)
        total = torch.zeros(spec.draws, device=gpu.DEVICE)
        accumulate_features_(total, weights, spec, 0, backend=any_backend)
        assert expand(total, spec, backend=any_backend).shape == shape
