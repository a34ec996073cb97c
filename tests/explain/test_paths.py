"""Integrated gradients: completeness, the places of steps, and the baselines by name."""

import math

import numpy as np
import pytest
import torch

import fwdgrad
from fwdgrad import IntegratedGradients, ModelError, Regions
from fwdgrad.methods.blur import blurred

from .networks import NETWORK, SHAPE, X


def seen_at_the_start(baseline, x):
    """The baseline as the model is called on it: where the path starts."""
    seen = []

    def model(batch):
        seen.append(batch.detach().clone())
        return batch.flatten(1).sum(1)

    fwdgrad.explain(model, x, method=IntegratedGradients(baseline, steps=1))
    return seen[-1][0]  # after the samples


@pytest.mark.parametrize(
    "baseline", ["black", "white", "blur", 0.3, torch.full(SHAPE, 0.25)], ids=lambda b: str(b)[:6]
)
def test_completeness(baseline):
    options = {"target": 1, "objective": "output"}
    exact = fwdgrad.explain(NETWORK, X, method=IntegratedGradients(baseline, steps=24), **options)
    start = seen_at_the_start(baseline, X)
    change = float((NETWORK(X[None]) - NETWORK(start[None]))[0, 1].detach())
    assert exact.n_samples == 24
    assert abs(exact.convergence_delta) < 1e-4 * max(1, abs(change))
    total = float(exact.attribution.sum())
    assert total == pytest.approx(change + exact.convergence_delta, abs=1e-4)
    method = IntegratedGradients(baseline, steps=None)
    drawn = fwdgrad.explain(NETWORK, X, method=method, n_samples=2000, **options)
    # Elements of a sample share its place, so their errors add up.
    assert abs(drawn.convergence_delta) <= 5 * float(drawn.standard_error.sum())
    assert drawn.reliability > 0.9
    z = (drawn.attribution - exact.attribution) / drawn.standard_error.clamp(min=1e-9)
    assert float(z[drawn.standard_error > 1e-6].abs().max()) < 6


def test_one_place_on_a_path_has_no_error():
    """Drawn, other draws would differ, and one cannot tell by how much; a step is exact."""
    drawn = fwdgrad.explain(NETWORK, X, 1, method=IntegratedGradients(steps=None), n_samples=1)
    assert bool(drawn.standard_error.isnan().all())
    assert math.isnan(drawn.reliability)
    step = fwdgrad.explain(NETWORK, X, 1, method=IntegratedGradients(steps=1))
    assert step.reliability == 1.0


def test_a_gradient_has_no_convergence_delta():
    assert fwdgrad.explain(NETWORK, X, 1, method="gradient").convergence_delta is None


def test_the_default_number_of_steps():
    assert fwdgrad.explain(NETWORK, X, 1, method="integrated-gradients").n_samples == 50


def test_a_model_that_fails_at_the_baseline():
    def model(batch):
        if not bool(batch.any()):
            raise ValueError("an empty input")
        return batch.flatten(1).sum(1)

    message = r"ValueError: an empty input \(at the path's baseline\)"
    with pytest.raises(ModelError, match=message) as caught:
        fwdgrad.explain(model, X, method="integrated-gradients")
    assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("pink",), ValueError, "baseline must be one of .*black.*, got 'pink'"),
        ((None,), TypeError, "baseline must be "),
        ((math.nan,), ValueError, "baseline must be finite"),
        (("black", 0), ValueError, "steps must lie in 1"),
        (("black", 2, "gradient"), TypeError, "gradient must be .*, got 'gradient'"),
        (("black", 2, Regions()), TypeError, "gradient must be .*, got Regions"),
    ],
)
def test_paths_that_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        IntegratedGradients(*arguments)


@pytest.mark.parametrize(
    ("baseline", "x", "message"),
    [
        (torch.zeros(4), X, r"baseline must be a number or have x's shape"),
        ("black", X - 1, r"baseline 'black' is for values in \[0, 1\], got x = "),
        ("blur", torch.zeros(4), "baseline 'blur' is for "),
    ],
)
def test_baselines_that_do_not_fit(baseline, x, message):
    with pytest.raises(ValueError, match=message):
        fwdgrad.explain(lambda b: b.flatten(1).sum(1), x, method=IntegratedGradients(baseline))


def test_steps_take_as_many_samples_each():
    method = IntegratedGradients(steps=7, gradient=fwdgrad.ForwardGradient())
    with pytest.raises(ValueError, match=r"5 .*; ask for a multiple of 7|n_samples .*7"):
        fwdgrad.explain(NETWORK, X, 1, method=method, n_samples=10)


@pytest.mark.parametrize(("name", "level"), [("black", 0.0), ("grey", 0.5), ("white", 1.0)])
def test_baselines_by_name(name, level):
    assert torch.equal(seen_at_the_start(name, X), torch.full(SHAPE, level))


def test_a_blurred_baseline_is_an_average():
    x = torch.zeros(2, 40, 30)
    x[0, 20, 15] = 1.0
    start = seen_at_the_start("blur", x)
    assert float(start[0].sum()) == pytest.approx(1.0, abs=1e-4)
    assert float(start[1].abs().max()) == 0
    assert int(start[0].argmax()) == 20 * 30 + 15
    rows = (start[0].sum(1) * (torch.arange(40) - 20.0) ** 2).sum()
    assert float(rows) == pytest.approx(9.0, rel=0.05)  # the shorter side is 30: deviation 3


@pytest.mark.parametrize(("size", "deviation"), [((40, 31), 3.5), ((6, 9), 20.0)])
def test_the_blur_is_scipy_s(size, deviation):
    """Three deviations wide, reflected about the border's pixels."""
    ndimage = pytest.importorskip("scipy.ndimage")
    x = torch.rand(3, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    reach = min(math.ceil(3 * deviation), min(size) - 1)
    expected = [
        ndimage.gaussian_filter(plane.numpy(), deviation, mode="mirror", radius=reach)
        for plane in x
    ]
    found = blurred(x, deviation)
    assert found.is_contiguous()
    torch.testing.assert_close(found, torch.from_numpy(np.stack(expected)), rtol=0, atol=1e-12)
    assert torch.allclose(blurred(torch.full((1, 9, 7), 0.4), deviation), torch.tensor(0.4))
