"""The estimates against known gradients of the smoothed function, within 4 standard errors.

The truth is computed from other samples (another seed) by autograd, so it has a standard error of
its own, which is added in quadrature. With the noise z = scale J Phi xi, J the block's mask and Phi
the map from draws to elements, a distribution's score gives E[w s1(xi_c)] = E[df/dxi_c] for each
draw c, and the estimate takes that to the elements once more:

    E[estimate] = 1/(q scale) E[J Phi Phi^T J scale grad f(x + z)],

the noise's covariance times the smoothed gradient (Stein's lemma, for every distribution).
"""

import math

import pytest
import torch

from fwdgrad_kernels import Elements, Grid, NoiseSpec, noise, reference

from .models import forward_gradient, mostly_slow

SHAPE = (2, 4, 5)
SAMPLES = 20_480
TRUTH_SEED = 2**40 + 1

_generator = torch.Generator().manual_seed(0)
X = torch.randn(SHAPE, generator=_generator, dtype=torch.float64) * 0.5
A = torch.randn(40, generator=_generator, dtype=torch.float64)
B = torch.randn(40, 40, generator=_generator, dtype=torch.float64) / 6
W1 = torch.randn(40, 8, generator=_generator, dtype=torch.float64) / 4
W2 = torch.randn(8, generator=_generator, dtype=torch.float64)
MAP = torch.rand(SHAPE, generator=_generator, dtype=torch.float64) + 0.2
MAP[0, 1, 2] = 0.0  # frozen


def linear(batch):
    return batch.flatten(1) @ A


def quadratic(batch):
    flat = batch.flatten(1)
    return linear(batch) + ((flat @ B) * flat).sum(1)


def cubic(batch):
    return quadratic(batch) + (batch.flatten(1) ** 3 * A).sum(1) / 3


def network(batch):
    return torch.tanh(batch.flatten(1) @ W1 + 0.3) @ W2 - 2.0


# A Cauchy variable has no mean: only a bounded function has a smoothed value, as theorem 1 asks.
FUNCTIONS = (linear, quadratic, cubic, network)
CASES = [
    (kind, function)
    for kind in ("normal", "hyperbolic", "logistic", "rademacher", "hadamard")
    for function in FUNCTIONS
] + [("cauchy", network)]

CELLS = Grid((2, 2), "nearest", jitter=True, share_channels=False)
OPTIONS = {
    "blocks": {"block": (3, 2)},
    "cells": {"features": CELLS},
    "linear": {"features": Grid((3, 3), jitter=True, share_channels=False)},
    "one draw for all channels": {"features": Grid((1, 1), "nearest")},
    "everything": {"features": Grid((2, 2), jitter=True), "block": (2, 4), "scale": MAP},
    "scale map": {"scale": MAP},
    "pairs": {"antithetic": True},
    "clean": {"control_variate": "clean"},
    "leave-one-out": {"control_variate": "leave-one-out"},
    "blocks, leave-one-out": {"block": (2, 5), "control_variate": "leave-one-out"},
}


def of_kind(kind):
    """The options of a distribution, or of Hadamard signs."""
    return {"design": "hadamard"} if kind == "hadamard" else {"distribution": kind}


def estimate(function, kind, seed=1, samples=SAMPLES, x=X, **options):
    options = {"antithetic": False, "scale": 0.4, "batch_size": 2048, **of_kind(kind), **options}
    count = samples * (2 if options["antithetic"] else 1)
    return forward_gradient(function, x, seed=seed, n_samples=count, **options)


def spec_of(kind, scale=0.4, block=None, features=None, **_):
    # The truth is the same for signs of either design.
    distribution = "rademacher" if kind == "hadamard" else kind
    return NoiseSpec(SHAPE, distribution, scale, block, features or Elements(), seed=TRUTH_SEED)


def truth(function, spec):
    """The expectation of the estimate and its standard error, from derivatives along the draws."""
    count = 4096 if spec.distribution == "rademacher" else SAMPLES
    xi = reference.draws(spec, 0, count)
    mask = reference.masks(spec, 0, count).reshape(count, 1, *SHAPE[1:]).double()

    def value(draws):
        return function(X + spec.scale * mask * reference.spread(spec, draws, 0))

    if spec.distribution == "rademacher":  # a sign's derivative is the central difference
        along = torch.empty_like(xi)
        for c in range(spec.draws):
            up, down = xi.clone(), xi.clone()
            up[:, c], down[:, c] = 1.0, -1.0
            along[:, c] = (value(up) - value(down)) / 2
    else:
        xi.requires_grad_()
        (along,) = torch.autograd.grad(value(xi).sum(), xi)
    terms = mask * reference.spread(spec, along, 0) / spec.coverage
    mean, error = terms.mean(0), terms.std(0) / math.sqrt(count)
    scale = torch.as_tensor(spec.scale, dtype=torch.float64).expand(SHAPE)
    return (
        torch.where(scale == 0, 0.0, mean / scale),
        torch.where(scale == 0, 0.0, error / scale),
    )


def assert_agrees(result, function, spec):
    expected, error = truth(function, spec)
    bound = 4 * (result.standard_error**2 + error**2).sqrt() + 1e-9
    distance = (result.attribution - expected).abs()
    assert (distance <= bound).all(), f"{float((distance / bound).max()) * 4:.2f} standard errors"
    # The bound is of use only where it is well below what it bounds.
    assert bound.mean() < 0.5 * expected.abs().mean()


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "function"), CASES, ids=lambda v: getattr(v, "__name__", v))
def test_plain_estimate_is_the_gradient_of_the_smoothed_function(kind, function):
    samples = SAMPLES * (10 if kind == "cauchy" else 2 if function is network else 8)
    result = estimate(function, kind, samples=samples)
    assert_agrees(result, function, spec_of(kind))


WITH_OPTIONS = [  # with a distribution that draws as the normal one does, an option does, too
    pytest.param(
        kind, name,
        marks=[pytest.mark.slow] * (kind != "hadamard" and name != "everything"),
    )
    for kind in ("normal", "cauchy", "hyperbolic", "logistic", "rademacher", "hadamard")
    for name in OPTIONS
]  # fmt: skip


@pytest.mark.parametrize(("kind", "name"), WITH_OPTIONS)
def test_estimate_with_options(kind, name):
    options = OPTIONS[name]
    samples = SAMPLES * (12 if kind == "cauchy" else 3)  # whose smoothed gradient is the smallest
    result = estimate(network, kind, samples=samples, **options)
    assert_agrees(result, network, spec_of(kind, **options))


def test_closed_forms():
    """Normal noise of deviation s: the gradient of x^2 stays, that of x^3 gains 3 s^2 x."""
    result = estimate(quadratic, "normal", antithetic=True, samples=16 * SAMPLES)
    exact = A + (B + B.T) @ X.flatten()
    z = (result.attribution.flatten() - exact) / result.standard_error.flatten()
    assert z.abs().max() < 4
    result = estimate(cubic, "normal", antithetic=True, samples=16 * SAMPLES)
    exact = exact + A * (X.flatten() ** 2 + 0.4**2)
    z = (result.attribution.flatten() - exact) / result.standard_error.flatten()
    assert z.abs().max() < 4


def test_plain_estimator_is_the_papers_to_the_letter():
    """Equation 2 for normal noise, 1/(n sigma^2) sum f(x + z) z, and equation 6 with blocks."""
    for block, q in ((None, 1.0), ((2, 3), 2 / 5 * 3 / 7)):
        result = estimate(network, "normal", seed=5, samples=64, block=block)
        spec = NoiseSpec(SHAPE, "normal", 0.4, block, seed=5)
        z = noise(spec, 0, 64, dtype=torch.float64)
        paper = (network(X + z)[:, None, None, None] * z).sum(0) / (64 * q * 0.4**2)
        torch.testing.assert_close(result.attribution, paper, rtol=1e-5, atol=1e-6)


def test_baseline_gives_the_derivative_along_the_direction():
    baseline = torch.zeros(SHAPE, dtype=torch.float64)
    result = forward_gradient(
        linear, X, design="hadamard", n_samples=128, baseline=baseline, scale=0.3
    )
    torch.testing.assert_close(result.attribution.flatten(), A * X.flatten(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"antithetic": True},
        {"block": (3, 3)},
        {"control_variate": "leave-one-out"},
        {"scale": MAP, "features": Grid((2, 2), jitter=True, share_channels=False)},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", mostly_slow(["hadamard", "normal", "rademacher"], keep=1))
def test_standard_error_is_the_spread_over_seeds(kind, options):
    seeds = 150
    runs = [
        estimate(network, kind, seed=seed, samples=640 - 30, **options) for seed in range(seeds)
    ]  # 30 short of ten Hadamard groups, so that the last one is smaller
    maps = torch.stack([run.attribution for run in runs])
    claimed = torch.stack([run.standard_error**2 for run in runs]).mean(0)
    live = claimed > 0
    ratio = float((maps.var(0)[live] / claimed[live]).mean())
    # A variance from 150 runs is good to sqrt(2/149) = 0.116, a mean over elements to less.
    assert abs(ratio - 1) < 0.116
    assert (maps[:, ~live] == 0).all()


def test_equation_9_blocks_have_the_smaller_variance():
    """At equal coverage, n_plain = q n_block, for every element (FG equation 9)."""
    block, seeds = (2, 2), 300
    spec = NoiseSpec(SHAPE, block=block)
    samples = 1500
    small = {"scale": 0.05, "control_variate": "clean"}  # else both have the variance of f(x) xi
    blockwise, plain = (
        torch.stack(
            [
                estimate(network, "normal", seed=s, samples=n, block=b, **small).attribution
                for s in range(seeds)
            ]
        ).var(0)
        for n, b in ((samples, block), (round(samples * spec.coverage), None))
    )
    assert (blockwise < plain).all()
    assert (blockwise / plain).mean() < 0.5


def test_reliability_predicts_the_correlation_of_two_runs():
    options = {"scale": 0.2, "antithetic": True, "samples": 200}
    runs = [estimate(network, "normal", seed=seed, **options) for seed in range(40)]
    maps = torch.stack([run.attribution.flatten() for run in runs])
    correlations = torch.corrcoef(maps)
    actual = float(correlations[~torch.eye(40, dtype=torch.bool)].mean())
    claimed = sum(run.reliability for run in runs) / 40
    assert 0.5 < actual < 0.95
    assert abs(claimed - actual) < 0.05


def test_one_group_of_hadamard_directions_is_exact_for_a_linear_score():
    result = estimate(linear, "hadamard", samples=64)
    assert (result.standard_error < 1e-12).all()  # nothing is found along the 24 spare directions
    assert result.reliability == pytest.approx(1)
