"""Each distribution's draws, their scores and independence. Bounds are in bounds.py."""

import math

import pytest
import torch
from bounds import ERRORS, assert_mean, assert_uncorrelated, assert_uniform

from fwdgrad_kernels import DISTRIBUTIONS, NoiseSpec, blocks, noise
from fwdgrad_kernels.testing import KINDS, SCORED, make_spec, unit_scores

ELEMENTS, SAMPLES = 2**15, 8

SIGNS = ("rademacher", "hadamard")
REAL_VALUED = tuple(kind for kind in DISTRIBUTIONS if kind not in SIGNS)
REAL = pytest.mark.parametrize("kind", REAL_VALUED)

CDF = {
    "normal": torch.special.ndtr,
    "cauchy": lambda x: 0.5 + x.atan() / math.pi,
    "hyperbolic": lambda x: 0.5 + x.tanh() / 2,
    "logistic": torch.sigmoid,
    "uniform": lambda x: (x + 1) / 2,
}
LOG_DENSITY = {  # the table of distributions, without constants
    "normal": lambda x: -(x**2) / 2,
    "cauchy": lambda x: -torch.log1p(x**2),
    "hyperbolic": lambda x: -2 * x.cosh().log(),
    "logistic": lambda x: x - 2 * torch.nn.functional.softplus(x),
}
# Variance of a draw (the Cauchy distribution has none) and of its score, the Fisher information.
MOMENTS = {
    "normal": (1.0, 1.0),
    "cauchy": (None, 1 / 2),
    "hyperbolic": (math.pi**2 / 12, 4 / 3),
    "logistic": (math.pi**2 / 3, 1 / 3),
    "uniform": (1 / 3, None),
    "rademacher": (1.0, 1.0),
    "hadamard": (1.0, 1.0),
}


def draw(kind, seed=5, first=3, count=SAMPLES, elements=ELEMENTS):
    return noise(make_spec((elements,), kind, seed=seed), first, count, dtype=torch.float64)


@REAL
def test_distribution(kind):
    u = CDF[kind](draw(kind))
    assert_uniform(torch.histc(u, 256, 0, 1))
    # Both tails at once, finer than the bins: a count that is binomial.
    n, p = u.numel(), 1e-3
    hits = int(((u < p / 2) | (u > 1 - p / 2)).sum())
    assert abs(hits - n * p) <= ERRORS * math.sqrt(n * p)


@pytest.mark.parametrize("kind", SIGNS)
def test_signs_are_fair(kind):
    signs = draw(kind)
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    assert_mean(signs, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_moments(kind):
    variance, information = MOMENTS[kind]
    xi = draw(kind)
    if variance is not None:
        assert_mean(xi, 0)
        assert_mean(xi**2, variance)
    if information is not None:
        scores = unit_scores(make_spec((ELEMENTS,), kind, seed=5), 3, SAMPLES).double()
        assert_mean(scores, 0)
        assert_mean(scores**2, information)
        assert_mean(scores * xi, 1)  # integration by parts, for any density


@pytest.mark.parametrize("kind", SCORED)
def test_score_is_the_slope_of_the_log_density(kind):
    xi = draw(kind).requires_grad_()
    if kind in SIGNS:
        expected = xi
    else:
        (slope,) = torch.autograd.grad(LOG_DENSITY[kind](xi).sum(), xi)
        expected = -slope
    scores = unit_scores(make_spec((ELEMENTS,), kind, seed=5), 3, SAMPLES)
    # No score of the table is steeper than 2, so the error of xi at most doubles.
    assert bool(((scores - expected).abs() <= 2 * 2e-6 * (1 + xi.abs()) + 2e-6).all())


@pytest.mark.parametrize("kind", KINDS)
def test_independence(kind):
    bounded = CDF[kind] if kind in REAL_VALUED else lambda xi: (xi + 1) / 2

    def centred(**changes):
        return bounded(draw(kind, **changes)) - 0.5

    u = centred()
    for lag in (1, 2, 3, 4, 32, 128, 4096):  # elements: a Box-Muller pair, a group, a run's end
        assert_uncorrelated(u[:, lag:], u[:, :-lag])
    assert_uncorrelated(u[0::2], u[1::2])  # samples
    assert_uncorrelated(u, centred(first=3 + 2**32))
    assert_uncorrelated(u, centred(seed=6))
    assert_uncorrelated(u, centred(seed=5 + 2**32))
    # Sample i of seed s is not sample i + 1 of seed s - 1.
    assert_uncorrelated(u, centred(seed=4, first=4))


def test_streams_are_independent():
    # The words that place a sample's block are not those that make its noise.
    samples, spec = 2**16, NoiseSpec((3, 50, 50), block=20, seed=5)
    starts = blocks(spec, 0, samples)[:, :, 0].double()
    draws = draw("uniform", first=0, count=samples, elements=4)
    for axis in (0, 1):
        for element in range(4):
            assert_uncorrelated(starts[:, axis], draws[:, element])
    order = draw("hadamard", first=0, count=samples, elements=1)[:, 0]
    assert_uncorrelated(order, draw("rademacher", first=0, count=samples, elements=1)[:, 0])
