"""Hadamard directions are orthogonal inside a group, exactly: everything here is integers."""

import pytest
import torch

from fwdgrad_kernels import NoiseSpec, accumulate_, noise, perturb, reference

BACKEND = pytest.mark.parametrize("backend", ["cpu", "reference"])
# Numbers of draws: powers of two and not, within and beyond a word's 32 signs and a group's 128.
DRAWS = pytest.mark.parametrize("draws", [1, 2, 3, 8, 13, 32, 100, 128, 200])
GROUP = pytest.mark.parametrize("group", [0, 1, 2**35 + 1])


def directions(spec, group, backend="auto"):
    """All copies of a group: (M, K)."""
    return noise(spec, group * spec.group, spec.group, backend=backend).flatten(1)


@BACKEND
@GROUP
@DRAWS
def test_directions_are_orthogonal(draws, group, backend):
    spec = NoiseSpec((draws,), "hadamard", seed=2**63 + 9)
    rows = directions(spec, group, backend)
    copies = 1 << (draws - 1).bit_length()  # the power of two not below K
    assert rows.shape == (copies, draws)
    assert bool((rows.abs() == 1).all())
    assert torch.equal(rows.T @ rows, copies * torch.eye(draws))
    if draws == copies:
        assert torch.equal(rows @ rows.T, copies * torch.eye(draws))


def test_groups_differ():
    # In signs and in the order of their rows, or every group would start with the same one.
    spec = NoiseSpec((16,), "hadamard", seed=3)
    groups = torch.stack([directions(spec, group) for group in range(40)])
    assert len(groups[:, 0].unique(dim=0)) > 35
    rows = groups * groups[:, :1]  # signs cancel: row r' of copy i times row r' of copy 0
    assert len(rows[:, 1].unique(dim=0)) > 5
    assert len(groups.reshape(-1, 16).unique(dim=0)) > 600


@BACKEND
@pytest.mark.parametrize("sign", [1, -1])
@GROUP
@DRAWS
def test_a_group_recovers_a_linear_gradient(draws, group, sign, backend):
    # Whole numbers and powers of two, so "to rounding" is exactly.
    spec = NoiseSpec((draws,), "hadamard", scale=0.5, seed=1)
    slope = torch.arange(draws).float() % 17 - 8
    first, count = group * spec.group, spec.group
    scores = perturb(torch.zeros(draws), spec, first, count, sign, backend=backend) @ slope
    total = accumulate_(torch.zeros(draws), sign * scores, spec, first, backend=backend)
    assert torch.equal(spec.gradient(total, count), slope)


@BACKEND
@pytest.mark.parametrize("field", ["nearest", "bilinear"])
@pytest.mark.parametrize("shared", [False, True], ids=["apart", "shared"])
@pytest.mark.parametrize("group", [0, 5])
def test_with_cells_a_group_gives_the_projected_gradient(group, shared, field, backend):
    # With directions Phi h the sum over a group is M Phi Phi' slope: a group shares its grid.
    spec = NoiseSpec((2, 6, 7), "hadamard", cell=3, field=field, shared=shared, seed=8)
    first, count = group * spec.group, spec.group
    slope = torch.arange(84).reshape(2, 6, 7).float() % 11 - 5
    scores = perturb(torch.zeros(2, 6, 7), spec, first, count, backend=backend) * slope
    total = accumulate_(torch.zeros(2, 6, 7), scores.sum((1, 2, 3)), spec, first, backend=backend)

    units = torch.eye(spec.draws, dtype=torch.float64)
    phi = [reference.spread(spec, unit[None], first).flatten() for unit in units]
    phi = torch.stack(phi, 1)
    expected = (phi @ phi.T @ slope.flatten().double()).reshape(2, 6, 7)
    tolerance = 0 if field == "nearest" else 1e-4
    got = spec.gradient(total, count).double()
    torch.testing.assert_close(got, expected, rtol=0, atol=tolerance)
    if field == "nearest":  # every element gets its cell's sum, so cells hold one value
        assert len(got.unique()) <= spec.draws


def test_groups_of_cells_have_their_own_grids():
    spec = NoiseSpec((9, 9), "hadamard", cell=4, seed=8)
    grids = set()
    for group in range(30):
        copies = directions(spec, group).reshape(-1, 9, 9)
        edges = [(copies.diff(dim=axis) != 0).any(0).flatten() for axis in (1, 2)]
        grids.add(tuple(torch.cat(edges).tolist()))
    assert len(grids) > 8  # of 4 x 4 shifts
