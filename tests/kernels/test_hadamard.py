"""Hadamard directions are orthogonal inside a group, exactly: everything here is integers."""

import gpu
import torch
from covering import covering

from fwdgrad_kernels import Labels, accumulate_, noise, perturb, reference
from fwdgrad_kernels.testing import cells, linear, make_spec

BACKENDS = ("cpu", "reference")
# Numbers of draws: powers of two and not, within and beyond a word's 32 signs and a group's 128.
DRAWS = (1, 2, 3, 8, 13, 32, 100, 128, 200)
GROUPS = (0, 1, 2**35 + 1)


def directions(spec, group, backend="auto"):
    """All samples of a group: (M, K)."""
    return noise(spec, group * spec.group, spec.group, backend=backend).flatten(1)


@covering(draws=DRAWS, group=GROUPS, backend=BACKENDS)
def test_directions_are_orthogonal(draws, group, backend):
    spec = make_spec((draws,), "hadamard", seed=2**63 + 9)
    rows = directions(spec, group, backend)
    samples = 1 << (draws - 1).bit_length()  # the power of two not below K
    assert rows.shape == (samples, draws)
    assert bool((rows.abs() == 1).all())
    assert torch.equal(rows.T @ rows, samples * torch.eye(draws))
    if draws == samples:
        assert torch.equal(rows @ rows.T, samples * torch.eye(draws))


def test_groups_differ():
    # In signs and in the order of their rows, or every group would start with the same one.
    spec = make_spec((16,), "hadamard", seed=3)
    groups = torch.stack([directions(spec, group) for group in range(40)])
    assert len(groups[:, 0].unique(dim=0)) > 35
    rows = groups * groups[:, :1]  # signs cancel: row r' of sample i times row r' of sample 0
    assert len(rows[:, 1].unique(dim=0)) > 5
    assert len(groups.reshape(-1, 16).unique(dim=0)) > 600


@covering(draws=DRAWS, group=GROUPS, sign=(1, -1), backend=BACKENDS)
def test_a_group_recovers_a_linear_gradient(draws, group, sign, backend):
    # Whole numbers and powers of two, so "to rounding" is exactly.
    spec = make_spec((draws,), "hadamard", scale=0.5, seed=1)
    slope = torch.arange(draws).float() % 17 - 8
    first, count = group * spec.group, spec.group
    scores = perturb(torch.zeros(draws), spec, first, count, sign, backend=backend) @ slope
    total = accumulate_(torch.zeros(draws), sign * scores, spec, first, backend=backend)
    assert torch.equal(spec.gradient(total, count), slope)


FEATURES = [
    ((2, 6, 7), cells(3, 3)),
    ((2, 6, 7), linear(3, 3)),
    ((2, 6, 7), cells(3, 3, share_channels=True)),
    ((2, 6, 7), linear(3, 3, share_channels=True, jitter=False)),
    ((3, 9), linear(4, share_channels=True)),
    ((2, 5, 4, 6), cells(2, 3, 3)),
    ((2, 5, 4, 6), linear(3, 2, 4, share_channels=True)),
    ((2, 6, 7), {"features": Labels(torch.arange(42).reshape(6, 7) % 5)}),
    ((5, 6), {"features": Labels(torch.tensor([[1], [0], [2], [0], [2]]))}),
]


@gpu.on_every_backend(FEATURES, 0)
def test_a_group_gives_the_projected_gradient(any_backend, case):
    # With directions Phi h the sum over a group is M Phi Phi' slope: a group shares its features.
    shape, options = case
    spec = make_spec(shape, "hadamard", seed=8, **gpu.on_device(options))
    group = 5 * (FEATURES.index(case) % 2)
    first, count = group * spec.group, spec.group
    zero = torch.zeros(shape, device=gpu.DEVICE)
    slope = (torch.arange(spec.numel, device=gpu.DEVICE) % 11 - 5).reshape(shape).float()
    scores = (perturb(zero, spec, first, count, backend=any_backend) * slope).flatten(1).sum(1)
    total = accumulate_(zero.clone(), scores, spec, first, backend=any_backend)

    units = torch.eye(spec.draws, dtype=torch.float64, device=gpu.DEVICE)
    phi = torch.stack([reference.spread(spec, unit[None], first).flatten() for unit in units], 1)
    expected = (phi @ phi.T @ slope.flatten().double()).reshape(shape)
    got = spec.gradient(total, count).double()
    # Whole numbers, so exact, but for what is interpolated.
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4 if spec.view.linear else 0)


def test_groups_of_cells_have_their_own_grids():
    spec = make_spec((9, 9), "hadamard", seed=8, **cells(4, 4))
    grids = set()
    for group in range(30):
        samples = directions(spec, group).reshape(-1, 9, 9)
        edges = [(samples.diff(dim=axis) != 0).any(0).flatten() for axis in (1, 2)]
        grids.add(tuple(torch.cat(edges).tolist()))
    assert len(grids) > 8  # of 4 x 4 shifts
