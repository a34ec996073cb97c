"""Scales that follow from the input: the rules, and every backend's kernels of them."""

import itertools
import math

import gpu
import pytest
import torch
from bounds import ERRORS
from covering import covering

from fwdgrad_kernels import AdaptiveScale, NoiseSpec, confidence_scale, noise, perturb
from fwdgrad_kernels.scale import FORMS, probability_within
from fwdgrad_kernels.testing import KINDS, assert_samples, linear, make_spec

DENSITIES = ("normal", "cauchy", "hyperbolic", "logistic", "uniform")


def random(*shape, dtype=torch.float32):
    x = torch.rand(*shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    x.view(-1)[0], x.view(-1)[-1] = 0.0, 1.0  # on the bounds
    return x


@pytest.mark.parametrize(
    # Axiomatization paper, equation 30 and its like, by hand for a = 0.5.
    ("distribution", "expected"),
    [
        ("normal", 1 / 0.6744897501960817),
        ("cauchy", 1.0),
        ("hyperbolic", 1 / 0.5493061443340549),
        ("logistic", 1 / math.log(3)),
        ("uniform", 2.0),
        ("rademacher", 1.0),
    ],
)
def test_confidence_rule_literally(distribution, expected):
    assert confidence_scale(distribution, 1.0, 0.5) == pytest.approx(expected, rel=1e-12)
    assert confidence_scale(distribution, 3.0, 0.5) == pytest.approx(3 * expected, rel=1e-12)


@pytest.mark.parametrize("distribution", DENSITIES)
@pytest.mark.parametrize("probability", [0.3, 0.95])
def test_draws_keep_the_confidence(distribution, probability):
    scale = confidence_scale(distribution, 0.25, probability)
    drawn = noise(NoiseSpec((1000,), distribution, scale, seed=5), 0, 200)
    share = (drawn.abs() <= 0.25).double().mean().item()
    error = math.sqrt(probability * (1 - probability) / drawn.numel())
    assert abs(share - probability) <= ERRORS * error


def test_equation_13_and_the_released_code_literally():
    x = torch.tensor([0.0, 0.25, 0.9], dtype=torch.float64)
    distances = torch.tensor([0.0, 0.25, 0.1], dtype=torch.float64)
    nearest = AdaptiveScale(0.0, 1.0).of(x, "normal")
    # sqrt 2 erfinv(0.975) and sqrt 2 erfinv(0.95)
    torch.testing.assert_close(nearest, distances / 2.241402727604947)
    released = AdaptiveScale(0.0, 1.0, form="released").of(x, "normal")
    torch.testing.assert_close(released, distances / 1.959963984540054)


@pytest.mark.parametrize("distribution", DENSITIES)
@pytest.mark.parametrize("confidence", [0.4, 0.95, 0.999])
def test_exact_leaves_the_bounds_with_the_same_probability_everywhere(distribution, confidence):
    x = torch.linspace(-2.12, 2.64, 4001, dtype=torch.float64)[1:-1]
    rule = AdaptiveScale(-2.12, 2.64, confidence, "exact")
    scale = rule.of(x, distribution)
    inside = (
        probability_within(distribution, (x + 2.12) / scale)
        + probability_within(distribution, (2.64 - x) / scale)
    ) / 2
    torch.testing.assert_close(inside, torch.full_like(x, confidence), rtol=0, atol=1e-12)
    if confidence > 0.5:
        nearest = AdaptiveScale(-2.12, 2.64, confidence).of(x, distribution)
        assert bool((scale >= nearest).all())
        assert scale.mean() > nearest.mean()  # what the equation leaves to smoothing


CASES = (
    ((3, 17, 20), {}),
    ((3, 17, 19), {"block": 7}),
    ((3, 9, 8), linear(3, 3, share_channels=True)),
    ((37,), {}),
)
RULES = tuple(
    f"{kind}-{form}"
    for kind, form in itertools.product(KINDS, FORMS)
    if form != "exact" or kind in DENSITIES
)


@covering(any_backend=gpu.EVERY, rule=RULES, case=CASES)
def test_samples(any_backend, rule, case):
    shape, options = case
    kind, form = rule.split("-")
    bounds = ((0.0, -0.1, -1.0), (1.0, 1.2, 1.0)) if len(shape) == 3 else (0.0, 1.0)
    floor = 0.01 if kind == "cauchy" else 0.0
    scale = AdaptiveScale(*bounds, form=form, floor=floor)
    spec = make_spec(shape, kind, scale, seed=3, **options)
    x = random(*shape).to(gpu.DEVICE)
    out = perturb(x, spec, 5, 3, pairs=True, backend=any_backend)
    assert_samples(out[:3], x, spec, 5)
    assert_samples(out[3:], x, spec, 5, sign=-1)
    if floor == 0:
        assert torch.equal(out.flatten(1)[:, 0], x.flatten()[0].expand(6))  # on the bound: frozen


@covering(
    any_backend=gpu.EVERY,
    form=FORMS,
    dtype=(torch.float64, torch.float16, torch.bfloat16),
    last=(False, True),
)
def test_types_and_memory_formats(any_backend, form, dtype, last):
    x = random(3, 8, 12, dtype=dtype).to(gpu.DEVICE)
    if last:
        x = x.unsqueeze(0).contiguous(memory_format=torch.channels_last)[0]
    spec = NoiseSpec((3, 8, 12), "normal", AdaptiveScale(-0.1, 1.1, form=form), block=5, seed=3)
    out = perturb(x, spec, 5, 40, backend=any_backend)  # more than share a scale on the CPU
    assert_samples(out, x, spec, 5)


@pytest.mark.parametrize("form", FORMS)
def test_gradient_divides_by_the_scale(form):
    x, total = random(3, 5, 7), torch.randn(3, 5, 7)
    spec = NoiseSpec((3, 5, 7), scale=AdaptiveScale(0.0, 1.0, form=form), block=3)
    scale = spec.scale_at(x)
    expected = torch.where(scale > 0, total / (7 * spec.coverage * scale), 0.0)
    torch.testing.assert_close(spec.gradient(total, 7, x=x), expected)
    out = total.clone()
    assert spec.gradient(out, 7, out=out, x=x) is out
    torch.testing.assert_close(out, expected)
    with pytest.raises(ValueError, match="x must be given: the scale is adaptive"):
        spec.gradient(total, 7)


def test_spec_with_a_rule_is_a_value():
    a = NoiseSpec((3, 5), scale=AdaptiveScale(0, 1))
    assert a == NoiseSpec((3, 5), scale=AdaptiveScale(0.0, 1.0))
    assert a != NoiseSpec((3, 5), scale=AdaptiveScale(0.0, 1.0, 0.9))
    assert a != NoiseSpec((3, 5), scale=1.0)
    with pytest.raises(ValueError, match="scale must not depend on an input"):
        noise(a, 0, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"low": 1.0, "high": 1.0}, "low must be below high, got 1.0 and 1.0"),
        ({"low": (0.0, 2.0), "high": 1.0}, "got 2.0 and 1.0 for channel 1"),
        ({"low": (0.0, 0.0), "high": (1.0, 1.0, 1.0)}, "must go together, got 2 and 3"),
        ({"low": math.nan, "high": 1.0}, "low must be finite"),
        ({"low": "0", "high": 1.0}, "low must be a number"),
        ({"low": 0.0, "high": 1.0, "confidence": 1.0}, "confidence must lie between 0 and 1"),
        ({"low": 0.0, "high": 1.0, "confidence": 0}, "confidence must lie between 0 and 1"),
        ({"low": 0.0, "high": 1.0, "form": "best"}, "form must be one of nearest, released, exact"),
        ({"low": 0.0, "high": 1.0, "floor": -1.0}, "floor must be a finite number >= 0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        AdaptiveScale(**arguments)


def test_a_rule_that_does_not_fit_its_spec():
    with pytest.raises(ValueError, match="form 'exact' needs a distribution with a density"):
        NoiseSpec((3, 4), "rademacher", AdaptiveScale(0.0, 1.0, form="exact"))
    with pytest.raises(ValueError, match="low must be a number or 3, one for each channel, got 2"):
        NoiseSpec((3, 4, 4), scale=AdaptiveScale((0.0, 0.0), (1.0, 1.0)))
    with pytest.raises(ValueError, match=r"probability must lie between 0 and 1, got 1.5"):
        confidence_scale("normal", 1.0, 1.5)


def test_bounds_of_normalised_inputs():
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    rule = AdaptiveScale.normalised(mean, std, confidence=0.9, form="exact")
    pixels = torch.rand(3, 4, 5, dtype=torch.float64)
    scale = torch.tensor(std, dtype=torch.float64)[:, None, None]
    x = (pixels - torch.tensor(mean, dtype=torch.float64)[:, None, None]) / scale
    plain = AdaptiveScale(0.0, 1.0, confidence=0.9, form="exact").of(pixels, "normal")
    assert torch.allclose(rule.of(x, "normal") * scale, plain, rtol=1e-9)


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [((0.5, 0.4), (0.2, 0.2, 0.2), "go together"), (0.5, 0.0, "std must be positive")],
)
def test_normalisations_that_are_refused(mean, std, message):
    with pytest.raises(ValueError, match=message):
        AdaptiveScale.normalised(mean, std)
