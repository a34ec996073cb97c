"""Scores of any unit: what a map and its error are does not depend on it, or a warning says so."""

import math
import warnings

import pytest
import torch

import fwdgrad
from fwdgrad import LikelihoodRatio

X = torch.linspace(0.1, 1, 12)
W = torch.linspace(-1, 1, 12)
SIGMA = torch.full((12,), 0.3)
SIGMA[2] = 0

RUNS = {
    "pairs": {},
    "plain": {"antithetic": False},
    "clean": {"antithetic": False, "control": "clean"},
    "leave-one-out": {"antithetic": False, "control": "leave-one-out"},
    "blocks": {"block": 3},
    "scale map": {"sigma": SIGMA},
    "one group": {"law": "hadamard", "antithetic": False, "control": "mean", "queries": 15},
    "groups": {"law": "hadamard", "queries": 64},
    "baseline": {"baseline": 0.0, "law": "rademacher"},
    "path": {"saliency": fwdgrad.IntegratedGradients(0.0, steps=4)},
    "smoothgrad": {"method": "smoothgrad"},
    "squared": {"method": "smoothgrad-squared"},
    "vargrad": {"method": "vargrad"},
    "gradient": {"method": "gradient", "sigma": 0.0, "queries": 1},
}


def cubic(batch, size=1.0):
    """(batch,): its answer for a copy does not depend on the others."""
    score = (batch.double() * W).sum(1) + 1
    return size * score**3


def explain(size, dtype, **options):
    x, options = X.to(dtype), {"target": None, "queries": 64, "sigma": 0.3, **options}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return fwdgrad.explain(lambda batch: cubic(batch, size), x, **options)


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
    squared = RUNS[run].get("method") in ("smoothgrad-squared", "vargrad")
    one, other = explain(1.0, dtype, **RUNS[run]), explain(size, dtype, **RUNS[run])
    unit = size**2 if squared else size
    assert torch.equal(other.attribution, unit * one.attribution)
    assert torch.equal(
        other.standard_error.nan_to_num(-1), (unit * one.standard_error).nan_to_num(-1)
    )
    assert other.reliability == one.reliability or math.isnan(one.reliability)
    assert other.attribution.any()


@pytest.mark.parametrize("run", ["pairs", "clean", "one group", "groups"])
@pytest.mark.parametrize("size", [1e-300, 1e-60, 1e-38, 1e38, 1e300])
def test_a_wider_type_holds_what_the_warning_is_of(run, size):
    one, other = (explain(s, torch.float64, **RUNS[run]) for s in (1.0, size))
    torch.testing.assert_close(other.attribution / size, one.attribution, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(
        other.standard_error / size, one.standard_error, rtol=1e-6, atol=1e-12, equal_nan=True
    )


@pytest.mark.parametrize(
    ("method", "size", "said"),
    [
        ("likelihood-ratio", 1e-60, "the attribution is about 1e-5. at most"),
        ("likelihood-ratio", 1e38, "the attribution has values beyond"),
        ("vargrad", 1e-25, "the attribution is about 1e-4. at most"),  # a variance: of squares
        ("vargrad", 1e25, "the attribution has values beyond"),
    ],
)
def test_what_the_type_does_not_hold_is_told(method, size, said):
    model = lambda batch: 30 * cubic(batch.double(), size)  # noqa: E731
    with pytest.warns(UserWarning, match=said) as caught:
        fwdgrad.explain(model, X, method=method, target=None, queries=64, sigma=0.3)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert "x.double()" in str(caught[0].message)


def test_differences_of_the_largest_scores():
    """Of scores near the end of the range on either side: half their difference is within it."""
    x, w = X.double(), W.double()
    model = lambda batch: 1e307 * (batch @ w)  # noqa: E731
    options = {"target": None, "sigma": 1.8, "law": "hadamard", "queries": 64}
    far = float(model(x + 1.8 * w.sign())) - float(model(x - 1.8 * w.sign()))
    assert math.isinf(far)
    e = fwdgrad.explain(model, x, **options)
    torch.testing.assert_close(e.attribution, 1e307 * w, rtol=1e-9, atol=0)


def test_a_small_probability_has_an_error():
    """Far below one half a probability is the exponential of a logit: a shift is a factor."""

    def model(batch, shift):
        logit = torch.tanh(batch.double() @ W.double()) - shift
        return torch.stack([logit, torch.zeros_like(logit)], 1)

    found = []
    for shift in (30.0, 88.0):  # 1e-13 and 6e-39
        e = fwdgrad.explain(
            lambda batch, shift=shift: model(batch, shift), X, target=0, objective="probability",
            queries=64, sigma=0.3,
        )  # fmt: skip
        assert (e.standard_error > 0).all()
        found.append((math.exp(shift) * e.standard_error.double(), e.reliability))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-5, atol=0)
    assert found[0][1] == pytest.approx(found[1][1], abs=1e-5)


def test_an_error_is_no_smaller_than_the_truth_where_rounding_hides_it():
    """Signs, and 10,000 x + y: x's terms are 10,000 +- 1, whose variance float32 cannot see."""
    model = lambda batch: 1e4 * batch[:, 0] + batch[:, 1]  # noqa: E731
    x = torch.tensor([0.5, 0.25])
    e = fwdgrad.explain(model, x, target=None, sigma=1.0, law="rademacher", queries=2048)
    true = 1 / math.sqrt(1024)
    assert 0.9 * true < float(e.standard_error[0]) < 30 * true
    assert float(e.standard_error[1]) == pytest.approx(1e4 / math.sqrt(1024), rel=0.01)


@pytest.mark.parametrize("law", ["normal", "hadamard"])
def test_the_error_of_what_no_block_covered_is_not_known(law):
    recorder = []

    def model(batch):
        recorder.append(batch.clone())
        return batch.square().sum(1)

    x = torch.linspace(1, 2, 400)
    sigma = torch.full((400,), 0.1)
    sigma[3] = 0  # frozen: known to be nothing
    e = fwdgrad.explain(
        model, x, target=None, law=law, block=2, queries=2048 if law == "hadamard" else 16,
        sigma=sigma,
    )  # fmt: skip
    covered = (torch.cat(recorder[1:]) != x).any(0)
    assert 0 < covered.sum() < 399
    assert torch.equal(e.standard_error.isnan(), ~covered & (sigma > 0))
    assert float(e.standard_error[3]) == 0


def test_what_never_changed_the_score_has_no_known_error():
    sigma = SIGMA.clone()
    options = {"target": None, "queries": 64, "sigma": sigma}
    constant = lambda batch: torch.full((len(batch),), 2.0)  # noqa: E731
    with pytest.warns(UserWarning, match="2 for every copy, so the map is zero"):
        e = fwdgrad.explain(constant, X, **options)
    assert torch.equal(e.attribution, torch.zeros(12))
    assert torch.equal(e.standard_error.isnan(), sigma > 0)
    with pytest.warns(UserWarning, match="2 for every copy, so the map is noise alone"):
        e = fwdgrad.explain(constant, X, antithetic=False, **options)
    assert torch.equal(e.attribution == 0, sigma == 0)
    assert (e.standard_error[sigma > 0] > 0).all()


def test_attributions_in_half_precision_that_do_not_fit():
    model = lambda batch: 1e6 * batch.float().sum(1)  # noqa: E731
    explainer = LikelihoodRatio(model, queries=64, sigma=0.3)
    with pytest.warns(UserWarning, match=r"beyond what torch.float16 holds"):
        explainer.attribute(torch.rand(2, 5).half(), None)
