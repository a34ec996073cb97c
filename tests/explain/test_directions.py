"""Which directions features take: what near ones do together must disturb no other feature."""

import pytest
import torch

import fwdgrad
from fwdgrad import Grid, Regions
from fwdgrad.directions import Directions, coset_of, directions, most_features
from fwdgrad.methods import plan_again, plan_of
from fwdgrad.parts import parts_of

LINES = [(9, 9), (13, 13), (19, 19), (27, 27), (7, 15), (4, 5, 6), (12,), (40,), (3,), (1,)]


@pytest.mark.parametrize("lines", LINES, ids=str)
@pytest.mark.parametrize("times", [1, 2])
def test_every_feature_has_a_direction_of_its_own_beyond_the_first_ones(lines, times):
    count = int(torch.tensor(lines).prod())
    group = times << count.bit_length()
    found, free = directions(lines, group, seed=7), coset_of(count, group)
    assert len(found.unique()) == count
    assert found.min() >= free
    assert found.max() < group
    assert found.max() >= group // 2  # else a group half as large would do
    assert torch.equal(found, directions(lines, group, seed=7))
    if count > 3:
        assert not torch.equal(found, directions(lines, group, seed=8))


@pytest.mark.parametrize("lines", [(9, 9), (13, 13), (19, 19), (27, 27)], ids=str)
def test_what_neighbours_do_together_falls_where_no_feature_is(lines):
    count = lines[0] * lines[1]
    group = 1 << count.bit_length()
    assert count <= most_features(group)
    found = directions(lines, group, seed=0).reshape(lines)
    across, down = found[:, 1:] ^ found[:, :-1], found[1:] ^ found[:-1]
    both = torch.cat([across.flatten(), down.flatten()])
    assert (both < group // 4).float().mean() > 0.85
    in_order = torch.arange(count).reshape(lines)
    fell = torch.isin(in_order[:, 1:] ^ in_order[:, :-1], in_order)
    assert fell.float().mean() > 0.8  # on other features, were they taken in order


def test_with_a_group_of_twice_the_features_no_two_disturb_a_third():
    found = directions((12,), 32, seed=3)
    assert (found[:, None] ^ found).max() < found.min()


@pytest.mark.parametrize("n_samples", [128, 120, 160])
def test_the_error_holds_in_the_top_row_too(n_samples):
    """Neighbours act together: taken in their order, the first row would have half of its error."""
    x = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(1)).double() + 0.5
    cells = torch.nn.AvgPool2d(9, 9)

    def model(batch):
        found = cells(batch).mean(1)
        near = found[:, 1:] * found[:, :-1] * torch.linspace(-3, 3, 7, dtype=batch.dtype)
        return (near.sum((1, 2)) + (found[:, :, 1:] * found[:, :, :-1]).sum((1, 2))).square()

    own, errors = [], []
    for seed in range(32):
        e = fwdgrad.explain(
            model, x, None, method=Regions(0.0, cell=9), n_samples=n_samples, seed=seed
        )
        value, error, _ = parts_of(plan_again(e)).own(e.attribution, e.standard_error)
        own.append(value)
        errors.append(error)
    spread, said = torch.stack(own).var(0), torch.stack(errors).square().mean(0)
    assert (said.mean() / spread.mean()).sqrt() == pytest.approx(1, abs=0.15)
    top = spread[:9]
    assert (said[:9].mean() / top.mean()).sqrt() == pytest.approx(1, abs=0.3)


def test_a_grid_that_is_given_takes_them_as_well():
    x = torch.rand(3, 64, 64)
    given = plan_of(x, Regions(), features=Grid(16), n_samples=128).spec
    assert Directions.of(given).tellings > 20
    own = Grid(16, order=torch.arange(36))
    assert plan_of(x, Regions(), features=own, n_samples=128).spec.features == own
