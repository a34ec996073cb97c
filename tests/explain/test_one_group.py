"""One group of Hadamard samples, or hardly more: its constant, its error, its reliability."""

import pytest
import torch

from fwdgrad import Grid, metrics

from .models import forward_gradient, mostly_slow


def test_mean_takes_off_what_all_samples_have():
    """In whole Hadamard groups a constant, however large, changes no draw but the first."""
    x = torch.linspace(0.1, 1, 12, dtype=torch.float64)
    options = {
        "design": "hadamard", "n_samples": 32, "antithetic": False, "scale": 1.0,
        "control_variate": "mean",
    }  # fmt: skip
    model = lambda batch: (batch**2).sum(1)  # noqa: E731
    plain = forward_gradient(model, x, **options).attribution
    large = forward_gradient(lambda b: model(b) + 1e6, x, **options).attribution
    torch.testing.assert_close(plain, large, rtol=0, atol=1e-6)
    torch.testing.assert_close(
        plain[1:], 2 * x[1:], rtol=0, atol=1e-9
    )  # pairs fall on no draw here


def runs_of_a_quadratic(count, n_samples=64):
    """As many seeds' runs of one group each: 64 directions for 40 elements."""
    g = torch.Generator().manual_seed(9)
    b = torch.randn(40, 40, generator=g, dtype=torch.float64)
    x = torch.randn(40, generator=g, dtype=torch.float64)
    model = lambda batch: ((batch @ b) * batch).sum(1)  # noqa: E731
    return [
        forward_gradient(
            model, x, design="hadamard", n_samples=n_samples, antithetic=False,
            control_variate="mean", scale=1.0, seed=seed,
        )
        for seed in range(count)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("n_samples", "off"),
    mostly_slow(
        [(64, 0.1), (56, 0.25), (96, 0.1), (48, 0.25), (66, 0.1), (80, 0.1), (120, 0.1)], keep=3
    ),
)
def test_the_error_of_one_group_is_that_over_seeds(n_samples, off):
    """What the unused directions tell, against the spread of 300 runs with other seeds.

    So do a whole group's of one with a second that was begun.
    """
    runs = runs_of_a_quadratic(300, n_samples)
    found = torch.stack([run.attribution for run in runs])[:, 1:]  # draw 0 is lost to the mean
    said = torch.stack([run.standard_error for run in runs])[:, 1:]
    said, found = said.square().mean().sqrt(), found.std(0).square().mean().sqrt()
    assert float(said / found) == pytest.approx(1, abs=off)  # 0.7, were all directions alike


def test_the_reliability_of_one_group_is_the_correlation_of_two():
    runs = runs_of_a_quadratic(100)
    pairs = zip(runs[::2], runs[1::2], strict=True)
    correlation = sum(metrics.pearson(a, c) for a, c in pairs) / 50
    assert sum(run.reliability for run in runs) / 100 == pytest.approx(correlation, abs=0.05)


def test_a_linear_score_has_no_error():
    weights = torch.arange(1.0, 41, dtype=torch.float64)
    x = torch.ones(40, dtype=torch.float64)
    e = forward_gradient(lambda b: b @ weights, x, design="hadamard", n_samples=128, scale=1.0)
    torch.testing.assert_close(e.attribution, weights, rtol=1e-12, atol=0)
    assert (e.standard_error < 1e-10).all()
    assert e.reliability == pytest.approx(1)


@pytest.mark.parametrize("control_variate", [None, "mean", "clean"])
def test_a_constant_of_the_score_falls_on_no_element(control_variate):
    worth = torch.tensor([1.0, 2.0, 3.0, 4.0])
    e = forward_gradient(
        lambda b: b @ worth + 100, torch.ones(4), design="hadamard", scale=0.1, antithetic=False,
        n_samples=8, control_variate=control_variate,
    )  # fmt: skip
    torch.testing.assert_close(e.attribution, worth, rtol=1e-3, atol=1e-3)


def test_a_first_cell_that_is_not_told_from_the_mean_is_told_of():
    options = {
        "design": "hadamard",
        "antithetic": False,
        "scale": 0.5,
        "features": Grid((16,), jitter=True),
    }
    with pytest.warns(UserWarning, match="first cell of the grid has one sign in all samples"):
        forward_gradient(lambda b: b.sum((1, 2)), torch.ones(2, 64), n_samples=8, **options)
