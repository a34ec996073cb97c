"""Forward gradients with everything that they go with, and against the model's own gradient."""

import pytest
import torch

import fwdgrad
from fwdgrad import (
    AdaptiveScale,
    ForwardGradient,
    FusionGrad,
    GradientXInput,
    Grid,
    IntegratedGradients,
    NoiseGrad,
    ParameterNoise,
    SmoothGrad,
)

from .models import forward_gradient
from .networks import NETWORK, PARAMETERS, SHAPE, USES, X, close

SCALE = 0.3

# ---- every combination ---------------------------------------------------------------------

NOISES = {
    "normal": {"scale": 0.2, "antithetic": False},
    "hadamard": {"scale": 0.2, "design": "hadamard"},
    "cells": {"scale": 0.2, "distribution": "rademacher"},
    "blocks": {"scale": 0.2, "block": 4},
    "map": {"scale": torch.rand(SHAPE, generator=torch.Generator().manual_seed(1))},
    "adaptive": {"scale": AdaptiveScale(0.0, 1.0)},
    "clip": {"scale": 0.2, "clip": (0.0, 1.0)},
}
FEATURES = {"cells": Grid((4, 4)), "hadamard": Grid((4, 4), "nearest", jitter=True)}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("parameters", PARAMETERS)
@pytest.mark.parametrize("noise", NOISES)
def test_combinations(noise, parameters, use):
    method = ForwardGradient(**NOISES[noise])
    if PARAMETERS[parameters] is not None:
        method = NoiseGrad(PARAMETERS[parameters], method)
    refusal = "scale must be a number or a tensor on a path"

    def run():
        return fwdgrad.explain(
            NETWORK, X, 1, method=USES[use](method), objective="output", n_samples=24, seed=5,
            batch_size=7, features=FEATURES.get(noise),
        )  # fmt: skip

    if noise == "adaptive" and use in ("path", "quadrature"):
        with pytest.raises(ValueError, match=refusal):
            run()
        return
    if noise in FEATURES and use != "gradient":  # of elements that share a draw
        with pytest.raises(ValueError, match="features must be None"):
            run()
        return
    found = run()
    assert bool(found.attribution.isfinite().all())
    assert (found.convergence_delta is not None) == (use in ("path", "quadrature"))
    again = fwdgrad.explain(NETWORK, found.input, batch_size=24, **found.settings)
    assert close(again.attribution, found.attribution, 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "of",
    [
        lambda gradient: IntegratedGradients(0.2, None, gradient),
        lambda gradient: IntegratedGradients(0.2, 4, gradient),
        GradientXInput,
        lambda gradient: NoiseGrad(ParameterNoise(0.05, draws=64), gradient),
        lambda gradient: IntegratedGradients(
            0.2, None, NoiseGrad(ParameterNoise(0.05, draws=32), gradient)
        ),
    ],
    ids=["drawn path", "steps", "x input", "parameters", "path and parameters"],
)
def test_it_estimates_what_the_models_gradient_does(of):
    """On average over the noise, and to their standard errors."""
    options = {"target": 1, "objective": "output"}
    white = fwdgrad.explain(
        NETWORK, X, method=of(SmoothGrad(SCALE)), n_samples=2048, seed=1, **options
    )
    black = fwdgrad.explain(
        NETWORK, X, method=of(ForwardGradient(SCALE)), n_samples=16384, seed=2, **options
    )
    z = (black.attribution - white.attribution) / (
        black.standard_error.square() + white.standard_error.square()
    ).sqrt()
    assert float(z.abs().max()) < 5
    assert 0.8 < float(z.square().mean().sqrt()) < 1.2
    assert black.reliability > 0.5


# ---- the theorems --------------------------------------------------------------------------


def quartic(batch):
    """sum_k (x_k^4 + a_k x_k^3) + x_0^2 x_1^2: gradient and its Laplacian by hand below."""
    a = torch.tensor([0.5, -1.0, 2.0], dtype=batch.dtype)
    x = batch
    return (x**4 + a * x**3).sum(1) + x[:, 0] ** 2 * x[:, 1] ** 2


def quartic_gradient_and_laplacian(x):
    a = torch.tensor([0.5, -1.0, 2.0], dtype=x.dtype)
    gradient = 4 * x**3 + 3 * a * x**2
    gradient += torch.stack([2 * x[0] * x[1] ** 2, 2 * x[0] ** 2 * x[1], x[2] * 0])
    laplacian = 24 * x + 6 * a + torch.stack([4 * x[0], 4 * x[1], x[2] * 0])
    return gradient, laplacian


POINT = torch.tensor([0.7, -0.4, 1.2], dtype=torch.float64)


@pytest.mark.slow
@pytest.mark.parametrize("method", [SmoothGrad, ForwardGradient])
def test_the_smoothed_gradient_of_a_quartic(method):
    """NA theorem 1: the gradient plus scale^2 / 2 times its Laplacian, exactly for a quartic."""
    gradient, laplacian = quartic_gradient_and_laplacian(POINT)
    method = method(scale=SCALE, antithetic=True)
    result = fwdgrad.explain(quartic, POINT, method=method, n_samples=200_000)
    want = gradient + SCALE**2 / 2 * laplacian
    z = (result.attribution - want) / result.standard_error
    assert float(z.abs().max()) < 4
    # It tells them apart.
    assert float(((gradient - want) / result.standard_error).abs().max()) > 20


def test_corollary_1():
    """FG corollary 1: for a linear score the estimate is unbiased whatever the scale."""
    weights = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    for scale in (0.01, 1.0, 100.0):
        result = forward_gradient(lambda b: b @ weights, POINT, scale=scale, n_samples=20_000)
        assert float(((result.attribution - weights) / result.standard_error).abs().max()) < 4


def test_forward_calls_give_integrated_gradients():
    weights = torch.tensor([1.0, -2.0, 3.0])
    method = IntegratedGradients(steps=None, gradient=ForwardGradient(scale=0.2))
    result = fwdgrad.explain(
        lambda batch: (batch @ weights) ** 2, torch.tensor([1.0, 0.5, 0.25]), method=method,
        n_samples=40_000,
    )  # fmt: skip
    want = torch.tensor([1.0, 0.5, 0.25]) * weights * 0.75  # x_k w_k (w x), and w x = 0.75
    assert float(((result.attribution - want) / result.standard_error).abs().max()) < 4
    assert abs(result.convergence_delta) < 5 * float(result.standard_error.sum())


def test_the_score_does_not_move():
    model = lambda batch: torch.ones(len(batch), 2)  # noqa: E731
    with pytest.warns(UserWarning, match="is 1 for every sample, so the map is zero"):
        forward_gradient(model, X, 0, n_samples=4)


# ---- what it does not go with --------------------------------------------------------------


@pytest.mark.parametrize(
    "method", [SmoothGrad(0.1), "vargrad", "gradient", "adaptgrad", FusionGrad()]
)
@pytest.mark.parametrize(
    "features", [Grid((4, 4)), torch.arange(64).reshape(8, 8)], ids=["cells", "mask"]
)
def test_features_are_for_forward_calls_alone(method, features):
    """Of the model's own gradient each element has its own."""
    with pytest.raises(ValueError, match=r"^features .*(Regions|ForwardGradient)"):
        fwdgrad.explain(NETWORK, X, 1, method=method, features=features)


def test_features_go_through_to_a_forward_gradient():
    features, method = Grid((4, 4), "nearest"), NoiseGrad(gradient=ForwardGradient(0.2))
    found = fwdgrad.explain(NETWORK, X, 1, method=method, features=features, n_samples=20)
    assert found.features == features
    cells = found.attribution.reshape(3, 2, 4, 2, 4)
    first = cells[:1, :, :1, :, :1].expand_as(cells)
    torch.testing.assert_close(cells, first, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match=r"^features "):
        fwdgrad.explain(NETWORK, X, 1, method=NoiseGrad(), features=features)
