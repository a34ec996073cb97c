"""Regions whose cells take chosen directions of a Hadamard group."""

import dataclasses

import pytest
import torch

import fwdgrad
from fwdgrad import Explanation, Grid, Labels, Regions
from fwdgrad.directions import Directions
from fwdgrad.estimate.missing import with_missing
from fwdgrad.methods import plan_of
from fwdgrad.significance import degrees_of_freedom
from fwdgrad_kernels import NoiseSpec, expand

X = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(5), dtype=torch.float64) + 0.5
SLOPE = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
DIRECTIONS = torch.randperm(63, generator=torch.Generator().manual_seed(1)) + 1  # not that of 0
ORDERED = {
    "linear": Grid(8, order=torch.cat((torch.tensor([63]), DIRECTIONS[DIRECTIONS < 63][:35]))),
    "nearest": Grid(8, "nearest", order=torch.cat((DIRECTIONS[DIRECTIONS > 31][:8] - 31,
                                                   DIRECTIONS[DIRECTIONS > 40][:8]))),
}  # fmt: skip
FEATURES = pytest.mark.parametrize("features", ORDERED.values(), ids=ORDERED)


def model(batch):
    return (batch * SLOPE).sum((1, 2, 3)) + 7


def explain(model, features, n_samples=64, **options):
    given = {"method": Regions(0.0), "n_samples": n_samples, **options}
    return fwdgrad.explain(model, X, features=features, **given)


def expected(features):
    """Cells' values of the linear score, at the elements."""
    spec = NoiseSpec(X.shape, features=dataclasses.replace(features, order=None))
    phi = torch.stack([expand(row, spec) for row in torch.eye(spec.draws).double()])
    return torch.tensordot((phi * X * SLOPE).sum((1, 2, 3)), phi, 1)


@FEATURES
@pytest.mark.parametrize("n_samples", [64, 100, 256])
def test_a_linear_score_has_exact_values(features, n_samples):
    plan = plan_of(X, Regions(0.0), features=features, n_samples=n_samples)
    assert (plan.spec.group, plan.spec.features) == (64, features)
    e, wanted = explain(model, features, n_samples), expected(features)
    if n_samples % 64 == 0:
        assert torch.allclose(e.attribution, wanted, rtol=0, atol=1e-9)
        assert float(e.standard_error.max()) < 1e-9
        assert bool(e.significant().all())
    else:  # a group that was begun leaks the mean into other directions
        away = ((e.attribution - wanted) / e.standard_error).square().mean().sqrt()
        assert 0.4 < float(away) < 2


@FEATURES
def test_the_error_is_of_the_directions_that_no_line_takes(features):
    plan = plan_of(X, Regions(0.0), features=features, n_samples=64)
    used, spare, telling, count = Directions.of(plan.spec)
    taken = {0, *features.order.tolist()}  # 0 has the scores' mean
    assert set(used.tolist()) == taken
    assert set(spare.tolist()) == set(range(64)) - taken
    free = 1 << min(features.order.tolist()).bit_length() - 1
    assert telling.tolist() == [one for one in spare.tolist() if one >= free]
    assert degrees_of_freedom(plan) == count == len(telling)


def squares(batch):
    """Cells of 8 x 8 act alone and with their neighbours."""
    cells = (batch * SLOPE).unflatten(2, (4, 8)).unflatten(4, (4, 8)).sum((1, 3, 5))
    return cells.sum((1, 2)) + (cells[:, 1:] * cells[:, :-1]).sum((1, 2)) / 8


CELLS = torch.arange(16).reshape(4, 4).repeat_interleave(8, 0).repeat_interleave(8, 1)
TAKES = torch.randperm(16, generator=torch.Generator().manual_seed(3))
SAME = (
    Grid(8, "nearest", order=TAKES + 1),
    Labels(CELLS).taking(TAKES + 1),
)
"""Both give each cell the same direction."""


@pytest.mark.parametrize("n_samples", [32, 45, 60])
def test_an_order_is_as_good_as_labels_of_the_same_directions(n_samples):
    grid, labels = (explain(squares, features, n_samples) for features in SAME)
    assert torch.allclose(grid.attribution, labels.attribution, rtol=1e-9, atol=0)
    assert torch.allclose(grid.standard_error, labels.standard_error, rtol=1e-6, atol=0)
    assert grid.reliability == pytest.approx(labels.reliability, abs=0.01)
    assert torch.equal(grid.significant(), labels.significant())


@pytest.mark.parametrize("gone", [3, 20])
def test_missing_samples_are_filled_in_alike(gone):
    weights = torch.rand(32, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    plans = [plan_of(X, Regions(0.0), features=one, n_samples=32) for one in SAME]
    missing = torch.arange(32) % 11 < gone % 11
    found = [with_missing(plan, weights, missing, "auto") for plan in plans]
    assert torch.allclose(found[0][0], found[1][0])
    assert found[0][1] == pytest.approx(found[1][1])


@FEATURES
def test_evidence_finds_the_cell_that_matters(features):
    hot = torch.zeros(3, 32, 32, dtype=torch.float64)
    hot[:, 8:16, 8:16] = 1

    def score(batch):
        return (batch * hot).sum((1, 2, 3))

    found = fwdgrad.evidence(score, explain(score, features))
    enough = found.enough.expand(X.shape)
    assert bool(enough[:, 10:14, 10:14].all())
    assert not bool(enough[:, 24:].any())


def test_a_result_keeps_its_order(tmp_path):
    e = explain(model, ORDERED["linear"])
    e.save(tmp_path / "e.safetensors")
    again = Explanation.load(tmp_path / "e.safetensors")
    assert again.features == ORDERED["linear"]
    assert torch.equal(again.significant(), e.significant())


def test_a_checkpoint_is_of_its_order(tmp_path):
    file = tmp_path / "run.ckpt"
    explain(model, ORDERED["linear"], checkpoint=file)
    explain(model, ORDERED["linear"], checkpoint=file)
    other = Grid(8, order=ORDERED["linear"].order.flip(0))
    with pytest.raises(fwdgrad.errors.CheckpointError, match="of another run: order was"):
        explain(model, other, checkpoint=file)
