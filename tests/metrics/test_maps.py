"""Agreement, sparseness and localization: literal answers, and other libraries'."""

import math

import numpy as np
import pytest
import torch

from fwdgrad import metrics


def test_agreement_by_hand():
    a, b = torch.tensor([3.0, 4.0]), torch.tensor([4.0, 3.0])
    assert metrics.cosine(a, b) == pytest.approx(24 / 25)
    assert metrics.cosine(a, -2 * a) == -1
    assert metrics.pearson(a, b) == -1
    # Differences of ranks 1, 1, 0, 0: rho = 1 - 6 * 2 / (4 * 15).
    one, other = torch.tensor([1.0, 2, 3, 4]), torch.tensor([20.0, 10, 30, 400])
    assert metrics.spearman(one, other) == pytest.approx(0.8)
    assert metrics.top_k_overlap(one, other, 2) == 1
    assert metrics.top_k_overlap(one, -other, 1) == 0


@pytest.mark.parametrize("ties", [False, True])
def test_correlations_are_scipys(ties):
    stats = pytest.importorskip("scipy.stats")
    distance = pytest.importorskip("scipy.spatial.distance")
    g = torch.Generator().manual_seed(3)
    a, b = torch.randn(2, 500, generator=g)
    b = b + a
    if ties:
        a, b = a.round(), b.round()
    assert metrics.spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)
    assert metrics.pearson(a, b) == pytest.approx(
        stats.pearsonr(a.double(), b.double()).statistic, abs=1e-12
    )
    assert metrics.cosine(a, b) == pytest.approx(
        1 - distance.cosine(a.double(), b.double()), abs=1e-12
    )


@pytest.mark.parametrize("size", [1e-200, 1.0, 1e200])
def test_agreement_does_not_depend_on_the_scale(size):
    a = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    b = torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64)
    for found in (metrics.cosine, metrics.pearson, metrics.spearman):
        assert found(size * a, b) == pytest.approx(found(a, b), rel=1e-12)


def test_a_constant_map_agrees_with_nothing():
    a, flat = torch.tensor([1.0, 2.0, 4.0]), torch.full((3,), 0.1)
    assert math.isnan(metrics.pearson(a, flat))
    assert math.isnan(metrics.spearman(a, flat))
    assert math.isnan(metrics.cosine(a, 0 * a))


def test_gini_by_hand():
    # Pairs differ by 1, 2, 1: mean absolute difference over twice the mean, of |a|.
    a = torch.tensor([-1.0, 2.0, 3.0])
    differences = np.abs(np.subtract.outer([1, 2, 3], [1, 2, 3])).mean()
    assert metrics.gini(a) == pytest.approx(differences / (2 * 2))
    assert metrics.gini(7 * a) == pytest.approx(metrics.gini(a))
    assert metrics.gini(torch.eye(10)) == pytest.approx(0.9)
    assert math.isnan(metrics.gini(torch.zeros(4)))


def test_pointing_game_by_hand():
    heatmap, mask = torch.zeros(40, 40), torch.zeros(40, 40, dtype=torch.bool)
    mask[:10, :10] = True
    for at, hit, exact in [
        ((9, 9), True, True),
        ((24, 9), True, False),  # 15 pixels below
        ((25, 9), False, False),
        ((21, 18), True, False),  # 12 and 9 away: 15
        ((21, 19), False, False),
    ]:
        one = heatmap.clone()
        one[at] = 1
        assert metrics.pointing_game(one, mask) is hit
        assert metrics.pointing_game(one, mask, tolerance=0) is exact


def test_share_inside_by_hand():
    mask = torch.tensor([[True, True], [False, False]])
    assert metrics.share_inside(torch.tensor([[1.0, 2.0], [1.0, 0.0]]), mask) == 0.75
    assert metrics.share_inside(torch.tensor([[1.0, -9.0], [1.0, -9.0]]), mask) == 0.5
    assert metrics.share_inside(torch.ones(2, 2), mask) == 0.5
    assert math.isnan(metrics.share_inside(-torch.ones(2, 2), mask))


def test_bad_input():
    a, mask = torch.ones(2, 2), torch.ones(2, 2, dtype=torch.bool)
    for call, message in [
        (lambda: metrics.cosine(a, torch.ones(4)), r"one shape, got \(2, 2\) and \(4,\)"),
        (lambda: metrics.spearman(a, None), "other must be a tensor"),
        (lambda: metrics.top_k_overlap(a, a, 5), "k must be from 1 to 4"),
        (lambda: metrics.gini(a.bool()), "heatmap must have numbers"),
        (lambda: metrics.share_inside(a, a), "mask must be a bool tensor, got torch.float32"),
        (lambda: metrics.share_inside(a, mask[0]), r"must both be \(H, W\)"),
        (lambda: metrics.share_inside(a, ~mask), "mask must be true somewhere"),
        (lambda: metrics.pointing_game(a, mask, -1), "tolerance must be at least 0"),
    ]:
        with pytest.raises((ValueError, TypeError), match=message):
            call()
