"""Scores of any unit: a map and its error do not depend on it, or a warning says so."""

import math
import warnings

import pytest
import torch

import fwdgrad
from fwdgrad import ForwardGradient, IntegratedGradients
from fwdgrad.integrations.captum import Attribution

X = torch.linspace(0.1, 1, 12)
W = torch.linspace(-1, 1, 12)
SCALE = torch.full((12,), 0.3)
SCALE[2] = 0


def forward(**noise):
    return ForwardGradient(**{"scale": 0.3, **noise})


RUNS = {
    "pairs": forward(),
    "plain": forward(antithetic=False),
    "clean": forward(antithetic=False, control_variate="clean"),
    "leave-one-out": forward(antithetic=False, control_variate="leave-one-out"),
    "blocks": forward(block=3),
    "scale map": forward(scale=SCALE),
    "one group": forward(design="hadamard", antithetic=False, control_variate="mean"),
    "groups": forward(design="hadamard"),
    "baseline": forward(baseline=0.0, distribution="rademacher"),
    "path": IntegratedGradients(0.0, steps=4, gradient=forward()),
    "smoothgrad": fwdgrad.SmoothGrad(scale=0.3),
    "squared": fwdgrad.SmoothGradSquared(scale=0.3),
    "vargrad": fwdgrad.VarGrad(scale=0.3),
    "gradient": fwdgrad.Gradient(),
}
COUNTS = {"one group": 15, "gradient": 1}  # else 64 samples


def cubic(batch, size=1.0):
    """(batch,): its output for a sample does not depend on the others."""
    score = (batch.double() * W).sum(1) + 1
    return size * score**3


def explain(size, dtype, run):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return fwdgrad.explain(
            lambda batch: cubic(batch, size), X.to(dtype), method=RUNS[run],
            n_samples=COUNTS.get(run, 64),
        )  # fmt: skip


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize(
    ("size", "dtype"),
    [
        (2.0**-62, torch.float32),  # of which the fourth power is out of range
        (2.0**50, torch.float32),
        (2.0**-500, torch.float64),
        (2.0**480, torch.float64),
    ],
)
def test_the_unit_of_the_score_is_that_of_the_map(run, size, dtype):
    """By a power of two: to the bit."""
    one, other = explain(1.0, dtype, run), explain(size, dtype, run)
    unit = size**2 if run in ("squared", "vargrad") else size
    assert torch.equal(other.attribution, unit * one.attribution)
    assert torch.equal(
        other.standard_error.nan_to_num(-1), (unit * one.standard_error).nan_to_num(-1)
    )
    assert other.reliability == one.reliability or math.isnan(one.reliability)
    assert other.attribution.any()


@pytest.mark.parametrize("run", ["pairs", "clean", "one group", "groups"])
@pytest.mark.parametrize("size", [1e-300, 1e-60, 1e-38, 1e38, 1e300])
def test_a_wider_type_holds_what_the_warning_is_of(run, size):
    one, other = (explain(s, torch.float64, run) for s in (1.0, size))
    torch.testing.assert_close(other.attribution / size, one.attribution, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(
        other.standard_error / size, one.standard_error, rtol=1e-6, atol=1e-12, equal_nan=True
    )


@pytest.mark.parametrize(
    ("run", "size", "said"),
    [
        ("pairs", 1e-60, "the attribution is about 1e-5. at most"),
        ("pairs", 1e38, "the attribution has values beyond"),
        ("vargrad", 1e-25, "the attribution is about 1e-4. at most"),  # a variance: of squares
        ("vargrad", 1e25, "the attribution has values beyond"),
    ],
)
def test_what_the_type_does_not_hold_is_told(run, size, said):
    model = lambda batch: 30 * cubic(batch.double(), size)  # noqa: E731
    with pytest.warns(UserWarning, match=said) as caught:
        fwdgrad.explain(model, X, method=RUNS[run], n_samples=64)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert "x.double()" in str(caught[0].message)


def test_differences_of_the_largest_scores():
    """Of scores near the end of the range on either side: half their difference is within it."""
    x, w = X.double(), W.double()
    model = lambda batch: 1e307 * (batch @ w)  # noqa: E731
    far = float(model(x + 1.8 * w.sign())) - float(model(x - 1.8 * w.sign()))
    assert math.isinf(far)
    method = ForwardGradient(scale=1.8, design="hadamard")
    e = fwdgrad.explain(model, x, method=method, n_samples=64)
    torch.testing.assert_close(e.attribution, 1e307 * w, rtol=1e-9, atol=0)


def test_a_small_probability_has_an_error():
    """Far below one half a probability is the exponential of a logit: a shift is a factor."""

    def model(batch, shift):
        logit = torch.tanh(batch.double() @ W.double()) - shift
        return torch.stack([logit, torch.zeros_like(logit)], 1)

    found = []
    for shift in (30.0, 88.0):  # 1e-13 and 6e-39
        e = fwdgrad.explain(
            lambda batch, shift=shift: model(batch, shift), X, 0, method=forward(),
            objective="probability", n_samples=64,
        )  # fmt: skip
        assert (e.standard_error > 0).all()
        found.append((math.exp(shift) * e.standard_error.double(), e.reliability))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-5, atol=0)
    assert found[0][1] == pytest.approx(found[1][1], abs=1e-5)


def test_an_error_is_no_smaller_than_the_truth_where_rounding_hides_it():
    """Signs, and 10,000 x + y: x's terms are 10,000 +- 1, whose variance float32 cannot see."""
    model = lambda batch: 1e4 * batch[:, 0] + batch[:, 1]  # noqa: E731
    x = torch.tensor([0.5, 0.25])
    method = ForwardGradient(scale=1.0, distribution="rademacher")
    e = fwdgrad.explain(model, x, method=method, n_samples=2048)
    true = 1 / math.sqrt(1024)
    assert 0.9 * true < float(e.standard_error[0]) < 30 * true
    assert float(e.standard_error[1]) == pytest.approx(1e4 / math.sqrt(1024), rel=0.01)


@pytest.mark.parametrize("design", ["independent", "hadamard"])
def test_the_error_of_what_no_block_covered_is_not_known(design):
    recorder = []

    def model(batch):
        recorder.append(batch.clone())
        return batch.square().sum(1)

    x = torch.linspace(1, 2, 400)
    scale = torch.full((400,), 0.1)
    scale[3] = 0  # frozen: known to be nothing
    e = fwdgrad.explain(
        model, x, method=ForwardGradient(scale=scale, design=design, block=2),
        n_samples=2048 if design == "hadamard" else 16,
    )  # fmt: skip
    covered = (torch.cat(recorder[1:]) != x).any(0)
    assert 0 < covered.sum() < 399
    assert torch.equal(e.standard_error.isnan(), ~covered & (scale > 0))
    assert float(e.standard_error[3]) == 0


def test_what_never_changed_the_score_has_no_known_error():
    constant = lambda batch: torch.full((len(batch),), 2.0)  # noqa: E731
    with pytest.warns(UserWarning, match="2 for every sample, so the map is zero"):
        e = fwdgrad.explain(constant, X, method=forward(scale=SCALE), n_samples=64)
    assert torch.equal(e.attribution, torch.zeros(12))
    assert torch.equal(e.standard_error.isnan(), SCALE > 0)
    plain = forward(scale=SCALE, antithetic=False)
    with pytest.warns(UserWarning, match="2 for every sample, so the map is noise alone"):
        e = fwdgrad.explain(constant, X, method=plain, n_samples=64)
    assert torch.equal(e.attribution == 0, SCALE == 0)
    assert (e.standard_error[SCALE > 0] > 0).all()


def test_attributions_in_half_precision_that_do_not_fit():
    model = lambda batch: 1e6 * batch.float().sum(1)  # noqa: E731
    attribution = Attribution(model, method=forward(), n_samples=64)
    with pytest.warns(UserWarning, match=r"beyond what torch.float16 holds"):
        attribution.attribute(torch.rand(2, 5).half())
