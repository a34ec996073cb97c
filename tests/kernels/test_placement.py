"""Where noise falls: blocks, grids of cells and shared draws. Bounds are in bounds.py."""

import dataclasses
import math

import contract
import pytest
import torch
from bounds import ERRORS, assert_uniform

from fwdgrad_kernels import Grid, NoiseSpec, blocks, noise, perturb, reference
from fwdgrad_kernels.testing import cells, linear

BACKEND = pytest.mark.parametrize("backend", ["cpu", "reference"])
INTERPOLATION = pytest.mark.parametrize("interpolation", ["nearest", "linear"])
JITTER = pytest.mark.parametrize("jitter", [True, False], ids=["jitter", "still"])


def count_places(places, sizes):
    """How often each combination of places occurs."""
    index = torch.zeros_like(places[0])
    for place, size in zip(places, sizes, strict=True):
        assert bool((place >= 0).all() & (place < size).all())
        index = index * size + place
    return torch.bincount(index, minlength=math.prod(sizes)).double()


# ---- blocks ------------------------------------------------------------------------------


@BACKEND
@pytest.mark.parametrize(
    ("shape", "block"),
    [
        ((6, 9), (4, 3)),
        ((3, 224, 200), (103, 1)),
        ((9,), 4),
        ((2, 7, 7), 7),
        ((2**31 + 1,), 2**31),  # 2^32 places, the most that 32 random bits can tell apart
    ],
    ids=str,
)
def test_blocks_follow_the_contract(shape, block, backend):
    seed = 2**64 - 3
    spec = NoiseSpec(shape, block=block, seed=seed)
    for sample in (0, 1, 2, 3, 2**32 + 1, 2**63 - 2):
        expected = []
        words = contract.words(0, 1, sample, seed)
        for word, extent, length in zip(words, spec.extents, spec.planes[1:], strict=False):
            start = 0
            if extent < length:
                start = contract.place(word, length + extent - 1) - (extent - 1)
            expected.append([max(start, 0), min(start + extent, length)])
        got = blocks(spec, sample, 1, backend=backend)[0].tolist()
        assert got == expected[-len(shape[-2:]) :]


def test_starts_are_uniform_and_axes_independent():
    samples, length, block = 50_000, torch.tensor([6, 9]), torch.tensor([4, 3])
    start, stop = blocks(NoiseSpec((2, 6, 9), block=(4, 3), seed=1), 0, samples).unbind(-1)
    # A block that is cut at the low border is known by where it stops.
    place = torch.where(start > 0, start, stop - block) + block - 1
    assert bool((stop == (place + 1).clamp(max=length)).all())
    assert_uniform(count_places(place.unbind(1), (9, 11)))


@pytest.mark.parametrize(
    ("shape", "block", "coverage"),
    [
        ((2, 6, 9), (4, 3), 4 / 9 * 3 / 11),
        ((2, 6, 9), (6, 3), 3 / 11),
        ((2, 6, 9), 1, 1 / 54),
        ((11,), 5, 1 / 3),
        ((7, 11), (11,), 1.0),
        ((7, 11), None, 1.0),
    ],
    ids=str,
)
def test_every_element_is_covered_with_probability_q(shape, block, coverage):
    samples = 20_000
    spec = NoiseSpec(shape, "rademacher", block=block, seed=2)
    assert spec.coverage == pytest.approx(coverage, rel=1e-15)
    hits = (noise(spec, 0, samples) != 0).sum(0)
    error = math.sqrt(samples * coverage * (1 - coverage))
    assert bool(((hits - samples * coverage).abs() <= ERRORS * error).all())  # the corners too
    if len(shape) == 3:  # the block covers all leading axes
        assert torch.equal(hits[0], hits[1])


@BACKEND
def test_outside_the_block_x_keeps_its_bits(backend):
    spec = NoiseSpec((2, 30, 41), "normal", 3.0, block=(11, 13), seed=3)
    x = torch.randn(2, 30, 41, generator=torch.Generator().manual_seed(0))
    x[:, ::7, ::5] = torch.tensor([math.nan, math.inf])[:, None, None]
    changed = 0
    for sample, bounds in enumerate(blocks(spec, 0, 20, backend=backend).tolist()):
        (y0, y1), (x0, x1) = bounds
        outside = torch.ones(2, 30, 41, dtype=torch.bool)
        outside[:, y0:y1, x0:x1] = False
        got = perturb(x, spec, sample, 1, backend=backend)[0]
        assert torch.equal(got[outside].view(torch.int32), x[outside].view(torch.int32))
        changed += int((got[~outside] != x[~outside]).sum())
    assert changed > 1000


# ---- grids -------------------------------------------------------------------------------


def shift_of(line, cell):
    """The grid's shift along an axis, from where the field first changes: (samples, length)."""
    first_change = (line[:, 1:] != line[:, :-1]).double().argmax(1) + 1
    return -first_change % cell


def nearest(shape, cell, samples, first=0, seed=4):
    # Uniform draws: two cells of one sample share a value once in 2^23.
    spec = NoiseSpec(shape, "uniform", seed=seed, **cells(cell, cell))
    return noise(spec, first, samples, dtype=torch.float64)


@INTERPOLATION
@JITTER
def test_a_grid_has_the_lines_that_elements_reach(interpolation, jitter):
    for length in range(2, 40):
        for cell in range(2, length + 1):
            spec = NoiseSpec((length,), features=Grid(cell, interpolation, jitter))
            last = length - 1 + (cell - 1 if jitter else 0)  # counted from the first cell's start
            wanted = last // cell + 1
            if (
                interpolation == "linear"
            ):  # centres at cell (line - 1/2); the last at or after the middle
                wanted = math.ceil((last + 0.5) / cell + 0.5) + 1
            assert spec.grid == (1, 1, 1, wanted)


def test_grid_shifts_are_uniform():
    cell = 5
    field = nearest((11, 11), cell, 20_000)
    shifts = shift_of(field[:, :, 0], cell), shift_of(field[:, 0, :], cell)
    assert_uniform(count_places(shifts, (cell, cell)))


@pytest.mark.parametrize("cell", [2, 3, 7, 12])
def test_a_nearest_grid_is_constant_in_each_cell(cell):
    height, width, first, seed = 12, 23, 2**32 + 5, 2**63 + 1
    for sample, field in enumerate(nearest((2, height, width), cell, 20, first, seed), first):
        _, _, word_y, word_x = contract.words(0, 1, sample, seed)
        rows = (torch.arange(height) + contract.place(word_y, cell)) // cell
        columns = (torch.arange(width) + contract.place(word_x, cell)) // cell
        cells = torch.stack(torch.meshgrid(torch.arange(2), rows, columns, indexing="ij"))
        cells = (cells * torch.tensor([10_000, 100, 1])[:, None, None, None]).sum(0)
        # One value per cell and one cell per value.
        pairs = torch.stack((cells.double().flatten(), field.flatten()), 1).unique(dim=0)
        assert len(pairs) == len(cells.unique()) == len(field.unique())


@BACKEND
@INTERPOLATION
@JITTER
@pytest.mark.parametrize(
    ("shape", "cell"),
    [
        ((2, 12, 23), (4, 4)),
        ((9, 13), (5, 3)),
        ((2, 20), (12,)),
        ((1, 9), (1, 3)),
        ((2, 7, 5, 8), (3, 2, 4)),
        ((6, 5, 8), (6, 1, 5)),
    ],
    ids=str,
)
def test_grids_follow_the_contract(shape, cell, interpolation, jitter, backend):
    seed, axes = 2**63 + 1, len(cell)
    share = jitter == (interpolation == "linear")  # every two of the three meet
    grid = Grid(cell, interpolation, jitter, share_channels=share)
    spec = NoiseSpec(shape, "uniform", features=grid, seed=seed)
    # Draw k of a grid is draw k of a vector: the grid of cells is stored row by row.
    vector = NoiseSpec((spec.draws,), "uniform", seed=seed)
    for sample in (0, 7, 2**32 + 5):
        words = (*contract.words(0, 1, sample, seed)[2:], contract.words(1, 1, sample, seed)[0])
        draws = noise(vector, sample, 1, dtype=torch.float64, backend=backend)
        lines = spec.grid[4 - axes :]
        draws = draws.reshape(-1, *lines)
        for axis in range(axes):
            size, length, count = cell[axis], shape[axis - axes], lines[axis]
            word = words[axis - axes + 2]  # of depth the last, which comes round as -1
            at = torch.arange(length).double() + jitter * contract.place(word, size)
            if interpolation == "nearest" or size == 1:
                weights = torch.eye(count)[(at // size).long()].double()
            else:  # a tent around the centre of each cell, of which number 0 lies before the first
                centres = size * (torch.arange(count) - 0.5)
                weights = (1 - (at[:, None] + 0.5 - centres).abs() / size).clamp(min=0)
            draws = (draws.movedim(1 + axis, -1) @ weights.T).movedim(-1, 1 + axis)
        expected = draws.expand(math.prod(shape[:-axes]), *shape[-axes:]).reshape(shape)
        got = noise(spec, sample, 1, dtype=torch.float64, backend=backend)[0]
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)


def phi_of(shape, cell, first, seed=5):
    """Phi, the reference's linear map from a sample's draws to its elements: (elements, draws)."""
    spec = NoiseSpec(shape, seed=seed, **linear(*cell))
    units = torch.eye(spec.draws, dtype=torch.float64)
    columns = [reference.spread(spec, unit[None], first).flatten() for unit in units]
    return torch.stack(columns, 1)


SMOOTH = pytest.mark.parametrize(
    ("shape", "cell"),
    [
        ((2, 9, 11), (4, 4)),
        ((9, 11), (5, 3)),
        ((13,), (3,)),
        ((9, 1), (4, 1)),
        ((2, 8), (2, 8)),
        ((2, 5, 4, 7), (3, 2, 4)),
    ],
    ids=str,
)


@SMOOTH
def test_a_linear_grid_is_a_convex_combination_of_neighbours(shape, cell):
    axes = sum(size > 1 for size in cell)
    for first in range(4):
        phi = phi_of(shape, cell, first)
        assert bool((phi >= 0).all())
        torch.testing.assert_close(phi.sum(1), torch.ones(len(phi)).double(), rtol=1e-15, atol=0)
        assert int((phi > 0).sum(1).max()) <= 2**axes


@SMOOTH
@BACKEND
def test_a_linear_grid_is_straight_between_centres(shape, cell, backend):
    spec = NoiseSpec(shape, "uniform", seed=5, **linear(*cell))
    field = noise(spec, 0, 40, backend=backend)
    assert float(field.abs().max()) <= 1 + 1e-6
    for axis in range(-len(cell), 0):
        size = cell[axis]
        if shape[axis] < 3:
            continue
        lines = field.movedim(axis, -1).reshape(40, -1, shape[axis])
        bends = (lines.diff(n=2).abs() > 1e-5).any(1)  # of each sample, where along this axis
        # Centres lie `cell` apart; one between two elements bends the line at both of them.
        for bend in bends:
            assert len((bend.nonzero() % size).unique()) <= 2
        assert bool(bends.any())
        assert size == 2 or not bool(bends.all())


@pytest.mark.parametrize("cell", [3, 5])
def test_a_linear_grid_takes_its_draws_at_centres(cell):
    # The field is extreme only at centres, so with signs it reaches -1 and 1 there: odd cells
    # have a centre element.
    spec = NoiseSpec((40, 40), "rademacher", seed=6, **linear(cell, cell))
    field = noise(spec, 0, 10)
    full = field.abs() == 1
    assert bool(full.flatten(1).any(1).all())
    assert float(full.double().mean()) < 0.5


@BACKEND
@pytest.mark.parametrize(
    "grid",
    [cells(1, 1), cells(3, 3), linear(3, 3), linear(5)],
    ids=["pixels", "nearest", "linear", "series"],
)
def test_shared_channels_take_the_draws_of_one(grid, backend):
    axes = len(grid["features"].cell)
    shape = (2, 3, 10, 13)[3 - axes :]
    leading, trailing = shape[:-axes], shape[-axes:]
    apart = noise(NoiseSpec(shape, seed=7, **grid), 4, 6, backend=backend)
    one = noise(NoiseSpec(trailing, seed=7, **grid), 4, 6, backend=backend)
    grid = {"features": dataclasses.replace(grid["features"], share_channels=True)}
    shared = noise(NoiseSpec(shape, seed=7, **grid), 4, 6, backend=backend)
    assert torch.equal(shared, one.view(6, *[1] * len(leading), *trailing).expand(6, *shape))
    rows = apart.reshape(6, -1, *trailing)
    assert not torch.equal(rows[:, 0], rows[:, -1])
