"""NoiseSpec as a value, and what it derives: draws, coverage, gradient."""

import copy
import dataclasses
import pickle
import weakref

import pytest
import torch

from fwdgrad_kernels import DISTRIBUTIONS, Elements, Grid, Labels, NoiseSpec, noise
from fwdgrad_kernels.testing import cells, linear

FIELDS = {
    "shape": (3, 8, 9),
    "distribution": "rademacher",
    "scale": 0.25,
    "block": (4, 5),
    "features": Grid((2, 2)),
    "design": "hadamard",
    "seed": 2**64 - 1,
}
OTHER = {
    "shape": (3, 9, 8),
    "distribution": "normal",
    "scale": 0.5,
    "block": (5, 4),
    "features": Grid((2, 3)),
    "design": "independent",
    "seed": 2**63 - 1,
}
MASK = torch.arange(72).reshape(8, 9) // 10


@pytest.mark.parametrize("name", FIELDS)
def test_each_field_makes_a_difference(name):
    of_signs = name == "distribution"  # a Hadamard design has no other
    given = {**FIELDS, "design": "independent"} if of_signs else FIELDS
    spec = NoiseSpec(**given)
    other = dataclasses.replace(spec, **{name: OTHER[name]})
    assert spec != other
    assert other == NoiseSpec(**{**given, name: OTHER[name]})
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(spec, name, OTHER[name])


@pytest.mark.parametrize("duplicate", [lambda s: pickle.loads(pickle.dumps(s)), copy.deepcopy])
@pytest.mark.parametrize(
    "scale", [0.25, torch.arange(216.0).reshape(3, 8, 9) - 7], ids=["number", "map"]
)
def test_value(duplicate, scale):
    spec = NoiseSpec(**{**FIELDS, "scale": scale})
    spec.coverage, spec.encoded  # noqa: B018  (the copy is of a spec that was used)
    again = duplicate(spec)
    assert again == spec
    assert hash(again) == hash(spec)
    assert {spec: 1}[again] == 1
    assert spec != "a spec"


@pytest.mark.parametrize("duplicate", [lambda s: pickle.loads(pickle.dumps(s)), copy.deepcopy])
@pytest.mark.parametrize(
    "features",
    [Elements(), Grid(4, jitter=True), Grid(4, order=torch.arange(16).flip(0)), Labels(MASK)],
    ids=lambda f: type(f).__name__,
)
def test_features_are_values(duplicate, features):
    spec, again = NoiseSpec((3, 8, 9), features=features, seed=3), duplicate(features)
    assert again == features
    assert hash(again) == hash(features)
    assert duplicate(spec) == spec == NoiseSpec((3, 8, 9), features=again, seed=3)
    assert hash(duplicate(spec)) == hash(spec)
    assert torch.equal(noise(duplicate(spec), 5, 2), noise(spec, 5, 2))
    with pytest.raises(dataclasses.FrozenInstanceError):
        features.cell = 3


@pytest.mark.parametrize(
    "change",
    [{"cell": 3}, {"interpolation": "nearest"}, {"jitter": True}, {"share_channels": False}],
)
def test_each_field_of_a_grid_makes_a_difference(change):
    grid, other = Grid(4), Grid(**{"cell": 4, **change})
    assert grid != other
    assert NoiseSpec((3, 8, 9), features=grid) != NoiseSpec((3, 8, 9), features=other)


def test_orders_are_compared_by_value_and_are_a_copy():
    given = torch.arange(16).flip(0)
    grid, other = Grid(4, order=given), Grid(4, order=torch.arange(16))
    spec = NoiseSpec((3, 8, 9), features=grid)
    assert (spec.grid, spec.draws) == ((1, 1, 4, 4), 16)
    for same in (given.clone(), given.to(torch.uint8), given.numpy()):
        assert Grid(4, order=same) == grid
        assert hash(Grid(4, order=same)) == hash(grid)
        assert NoiseSpec((3, 8, 9), features=Grid(4, order=same)) == spec
    for different in (other, Grid(4)):
        assert grid != different
        assert spec != NoiseSpec((3, 8, 9), features=different)
    assert repr(grid).endswith("share_channels=True, order=<16 draws>)")
    given.zero_()
    assert int(grid.order[0]) == 15


def test_labels_are_compared_by_value():
    other = MASK.clone()
    other[0, 0] = 7  # all from 0 to 7 as before
    spec = NoiseSpec((3, 8, 9), features=Labels(MASK))
    for same in (MASK.clone(), MASK.to(torch.uint8), MASK.numpy()):
        assert Labels(same) == Labels(MASK)
        assert hash(Labels(same)) == hash(Labels(MASK))
        assert NoiseSpec((3, 8, 9), features=Labels(same)) == spec
    for different in (other, MASK[None], MASK.T):
        assert Labels(different) != Labels(MASK)
    assert NoiseSpec((3, 8, 9), features=Labels(other)) != spec
    assert Labels(MASK) != Grid(4)
    assert spec != NoiseSpec((3, 8, 9))


def test_labels_are_a_copy():
    mask = MASK.int()
    spec = NoiseSpec((3, 8, 9), features=Labels(mask), seed=1)
    before = noise(spec, 0, 2)
    mask.zero_()
    assert torch.equal(noise(spec, 0, 2), before)
    assert int(spec.features.mask.max()) == 7


def test_the_vector_of_a_spec_s_draws():
    for spec in (NoiseSpec(**FIELDS), NoiseSpec((3, 8, 9), scale=2.0), NoiseSpec(9), NoiseSpec(0)):
        vector = spec.vector
        assert vector.shape == (spec.draws,)
        assert (vector.scale, vector.block, vector.features) == (1.0, None, Elements())
        for name in ("distribution", "design", "seed"):
            assert getattr(vector, name) == getattr(spec, name)
        assert vector.group == spec.group
        assert vector.vector is vector
    gone = weakref.ref(NoiseSpec((9,), scale=torch.ones(9)))
    assert gone() is None  # at once: a spec is in no cycle of references


def test_repr_is_python():
    for spec in (NoiseSpec(**FIELDS), NoiseSpec(9), NoiseSpec((2, 3), features=Grid(2, "nearest"))):
        names = {"NoiseSpec": NoiseSpec, "Elements": Elements, "Grid": Grid}
        assert eval(repr(spec), names) == spec
    labels = NoiseSpec((3, 8, 9), features=Labels(MASK))
    assert "features=Labels(<8 in a mask of shape (8, 9)>)" in repr(labels)
    assert len(repr(labels)) < 200


def test_scales_are_compared_by_value_and_kind():
    ones = torch.ones(4)
    assert NoiseSpec((4,), scale=ones) == NoiseSpec((4,), scale=torch.ones(4))
    assert NoiseSpec((4,), scale=ones) != NoiseSpec((4,), scale=2 * ones)
    assert NoiseSpec((4,), scale=ones) != NoiseSpec((4,), scale=ones.double())
    assert NoiseSpec((4,), scale=ones) != NoiseSpec((4,), scale=1.0)
    assert not NoiseSpec((4,), scale=ones.clone().requires_grad_()).scale.requires_grad


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ({"block": 5}, {"block": (5, 5)}),
        ({"block": (5,)}, {"block": (8, 5)}),
        ({"shape": [3, 8, 9]}, {"shape": torch.Size([3, 8, 9])}),
        ({"scale": 1}, {"scale": 1.0}),
        ({"features": Grid(2)}, {"features": Grid((2, 2))}),
        ({"features": Grid((2, 2))}, {"features": Grid([2, 2])}),
        ({"features": Grid((1, 1), share_channels=False)}, {"features": Elements()}),
        ({"features": Grid((1, 1, 1), share_channels=False)}, {"features": Elements()}),
        ({"features": Grid((1, 1), "nearest", jitter=True)}, {"features": Grid((1, 1))}),
    ],
    ids=str,
)
def test_ways_to_write_one_spec(a, b):
    one, other = (NoiseSpec(**{"shape": (3, 8, 9), **kwargs}) for kwargs in (a, b))
    assert one == other
    assert hash(one) == hash(other)


def test_a_vector_is_a_shape_of_one_axis():
    assert NoiseSpec(9) == NoiseSpec((9,))
    assert NoiseSpec((9,), block=4) == NoiseSpec((9,), block=(4,))
    assert NoiseSpec((9,)) != NoiseSpec((1, 9))


@pytest.mark.parametrize(
    ("shape", "options", "draws"),
    [
        ((3, 8, 9), {}, 216),
        ((3, 8, 9), cells(1, 1, share_channels=True), 72),
        # The cells that can touch 8 and 9 elements, wherever the grid lies: 3 and 3, or 4 and 4.
        ((3, 8, 9), cells(4, 4), 3 * 3 * 3),
        ((3, 8, 9), cells(3, 3, share_channels=True), 4 * 4),
        # Without jitter the grid starts with the input.
        ((3, 8, 9), cells(4, 4, jitter=False), 3 * 2 * 3),
        # A linear grid has a centre before the first element and one after the last.
        ((8, 10), linear(3, 3), 5 * 6),
        ((8, 10), linear(3, 3, jitter=False), 4 * 5),
        ((8, 9), linear(1, 1), 72),
        ((1, 9), cells(1, 9), 2),
        ((3, 50), cells(7, share_channels=True), 8),
        ((2, 4, 6, 9), cells(2, 3, 4, share_channels=True, jitter=False), 2 * 2 * 3),
        ((2, 4, 6, 9), cells(2, 3, 4, jitter=False), 2 * 2 * 2 * 3),
        ((3, 8, 9), {"features": Labels(MASK)}, 8),
        ((2, 3), {"features": Labels(torch.zeros(3, dtype=torch.int64))}, 1),
    ],
    ids=str,
)
def test_number_of_draws(shape, options, draws):
    spec = NoiseSpec(shape, **options)
    assert spec.draws == draws
    assert spec.group == 1
    hadamard = NoiseSpec(shape, "rademacher", design="hadamard", **options)
    assert (hadamard.draws, hadamard.group) == (draws, 1 << (draws - 1).bit_length())


@pytest.mark.parametrize(
    ("shape", "block", "coverage"),
    [
        ((3, 224, 224), 103, (103 / 326) ** 2),
        ((3, 224, 224), (224, 103), 103 / 326),
        ((3, 224, 224), None, 1.0),
        ((10, 6), (6,), 1.0),
        ((6,), 2, 2 / 7),
    ],
    ids=str,
)
def test_coverage(shape, block, coverage):
    assert NoiseSpec(shape, block=block).coverage == pytest.approx(coverage, rel=1e-15)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_only_uniform_has_no_score(distribution):
    assert NoiseSpec((2,), distribution).has_score == (distribution != "uniform")


# ---- gradient(): total / (count q scale) -------------------------------------------------

TOTAL = [1.0, -2.0, 3.0, 0.5]
GRADIENTS = pytest.mark.parametrize(
    ("scale", "expected"),
    [
        (0.5, [1.0, -2.0, 3.0, 0.5]),  # count q scale = 5 x 2/5 x 1/2
        (2.0, [0.25, -0.5, 0.75, 0.125]),
        (0.0, [0.0, 0.0, 0.0, 0.0]),
        (torch.tensor([0.5, -0.5, 0.0, 0.25]), [1.0, 2.0, 0.0, 1.0]),
    ],
    ids=str,
)


@GRADIENTS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("where", ["new", "out", "total"])
def test_gradient(scale, expected, dtype, where):
    spec = NoiseSpec((4,), scale=scale, block=2)
    total = torch.tensor(TOTAL, dtype=dtype)
    out = {"new": None, "out": torch.full_like(total, torch.nan), "total": total}[where]
    got = spec.gradient(total, 5, out)
    assert got.dtype == dtype
    torch.testing.assert_close(got, torch.tensor(expected, dtype=dtype), rtol=1e-6, atol=0)
    if where == "new":
        assert total.tolist() == TOTAL
    else:
        assert got is out


@pytest.mark.parametrize("scale", [0.0, torch.zeros(2), torch.tensor([0.0, -0.0])], ids=str)
def test_gradient_of_frozen_elements_is_zero_whatever_was_summed(scale):
    total = torch.tensor([torch.nan, torch.inf])
    assert NoiseSpec((2,), scale=scale).gradient(total, 3).tolist() == [0.0, 0.0]
