"""Scale rules by the numbers that the AdaptGrad paper and its equations give."""

import math

import pytest
import torch

import fwdgrad
from fwdgrad import AdaptiveScale, Explanation, ForwardGradient
from fwdgrad.errors import ArgumentError, CheckpointError
from fwdgrad.smoothing import inherent_noise, out_of_bounds, smoothgrad_scale
from fwdgrad_kernels import NoiseSpec

LOW, HIGH = -2.12, 2.64  # figure 3: ImageNet's values after normalisation
UNIFORM = torch.linspace(LOW, HIGH, 200_001, dtype=torch.float64)


def test_inherent_noise_of_smoothgrad_is_the_papers():
    scale = smoothgrad_scale(LOW, HIGH)
    assert scale == pytest.approx(0.2 * 4.76)
    assert inherent_noise(UNIFORM, scale, LOW, HIGH).mean().item() == pytest.approx(
        0.1596, abs=5e-5
    )


def test_inherent_noise_of_adaptgrad():
    """0.01335 by equation 13 at c = 0.95; the paper prints 0.01424."""
    rule = AdaptiveScale(LOW, HIGH)
    noise = inherent_noise(UNIFORM, rule.of(UNIFORM, "normal"), LOW, HIGH)
    assert noise.mean().item() == pytest.approx(0.01335, abs=5e-6)
    assert noise.max().item() <= 1 - 0.95


def test_inherent_noise_of_the_exact_rule_is_the_same_everywhere():
    rule = AdaptiveScale(LOW, HIGH, form="exact")
    scale = rule.of(UNIFORM, "normal")
    noise = inherent_noise(UNIFORM, scale, LOW, HIGH)[1:-1]
    torch.testing.assert_close(noise, torch.full_like(noise, 0.05), rtol=0, atol=1e-12)
    # How much more smoothing it keeps: a third more scale on average.
    nearest = AdaptiveScale(LOW, HIGH).of(UNIFORM, "normal")
    assert (scale.mean() / nearest.mean()).item() == pytest.approx(1.3138, abs=5e-5)


@pytest.mark.parametrize("distribution", ["normal", "cauchy", "logistic", "uniform"])
def test_what_leaves_the_bounds_is_what_was_predicted(distribution):
    x = torch.linspace(0.02, 0.98, 5000)
    for scale in (0.3, AdaptiveScale(0.0, 1.0, 0.9), AdaptiveScale(0.0, 1.0, 0.9, "exact")):
        spec = NoiseSpec((5000,), distribution, scale, seed=11)
        predicted = inherent_noise(x, spec.scale_at(x), 0.0, 1.0, distribution)
        elements, images = out_of_bounds(x, spec, 0.0, 1.0, samples=40)
        error = (predicted * (1 - predicted)).sum().sqrt() / 5000 / math.sqrt(40)
        assert abs(elements - predicted.mean()) <= 5 * error
        assert images == 1.0


@pytest.mark.parametrize("form", ["nearest", "released", "exact"])
def test_explanation_of_a_linear_model_is_its_weights(form):
    generator = torch.Generator().manual_seed(3)
    weights, x = torch.randn(2, 3, 8, generator=generator), torch.rand(2, 3, 8, generator=generator)
    design = "independent" if form == "exact" else "hadamard"
    result = fwdgrad.explain(
        lambda batch: (batch * weights).sum((1, 2, 3)),
        x,
        method=ForwardGradient(AdaptiveScale(-0.2, 1.2, form=form), design=design),
        n_samples=40_000 if design == "independent" else 256,
    )
    if design == "hadamard":  # orthogonal directions: exact for a linear score
        torch.testing.assert_close(result.attribution, weights, rtol=1e-4, atol=1e-4)
    else:
        errors = (result.attribution - weights) / result.standard_error
        assert errors.abs().max() < 5
    assert result.reliability > 0.9


def test_an_element_on_the_bound_is_frozen_unless_there_is_a_floor():
    x = torch.tensor([0.0, 0.5, 1.0, 0.3])

    def explain(x, rule):
        method = ForwardGradient(rule, design="hadamard")
        return fwdgrad.explain(lambda b: b.sum(1), x, method=method, n_samples=64)

    rule = AdaptiveScale(0.0, 1.0, floor=0.0)
    frozen = explain(x, rule)
    assert (frozen.attribution[[0, 2]] == 0).all()
    torch.testing.assert_close(frozen.attribution[[1, 3]], torch.ones(2))
    assert math.isfinite(frozen.reliability)
    for rule in (AdaptiveScale(0.0, 1.0), AdaptiveScale(0.0, 1.0, floor=0.05)):
        moved = explain(x, rule)
        torch.testing.assert_close(moved.attribution, torch.ones(4))
    assert moved.method.scale.floor == 0.05
    rule = AdaptiveScale(0.0, 1.0, floor=0.0)
    with pytest.raises(ValueError, match="every element of x lies on a bound"):
        explain(x.round(), rule)


def test_the_floor_keeps_elements_beside_a_bound_from_drowning_the_others():
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(600, generator=generator)
    x = torch.rand(600, generator=generator)
    x[:20] *= 1e-3  # next to a bound

    def cosine(floor):
        method = ForwardGradient(AdaptiveScale(0.0, 1.0, floor=floor))
        found = fwdgrad.explain(lambda b: b @ weights, x, method=method, n_samples=2048)
        return torch.cosine_similarity(found.attribution, weights, dim=0).item()

    assert cosine(None) > 0.6
    assert cosine(0.0) < 0.2


def test_saved_loaded_and_run_again(tmp_path):
    x, rule = torch.rand(3, 4, 4), AdaptiveScale((0.0, -0.1, 0.0), 1.0, 0.9, "exact", 0.01)
    model = lambda batch: batch.square().sum((1, 2, 3))  # noqa: E731
    result = fwdgrad.explain(model, x, method=ForwardGradient(rule), n_samples=32)
    result.save(tmp_path / "map.safetensors")
    loaded = Explanation.load(tmp_path / "map.safetensors")
    assert loaded.method.scale == rule
    again = fwdgrad.explain(model, loaded.input, **loaded.settings)
    assert torch.equal(again.attribution, result.attribution)


def test_a_checkpoint_knows_the_rule(tmp_path):
    x, path = torch.rand(4, 4), tmp_path / "run.safetensors"

    def explain(confidence):
        method = ForwardGradient(AdaptiveScale(0.0, 1.0, confidence))
        fwdgrad.explain(lambda b: b.sum((1, 2)), x, method=method, n_samples=32, checkpoint=path)

    explain(0.95)
    with pytest.raises(CheckpointError, match="scale was"):
        explain(0.9)


def test_bounds_that_do_not_contain_x_are_named():
    x = torch.zeros(3, 2, 2)
    x[1, 0, 1] = 1.5
    rule = AdaptiveScale((-1.0, -1.0, -1.0), (1.0, 1.25, 2.0))
    with pytest.raises(ArgumentError, match=r"got 1.5 at element 5 where they are -1.0 and") as e:
        fwdgrad.explain(lambda b: b.sum((1, 2, 3)), x, method=ForwardGradient(rule))
    assert e.value.argument == "scale"
    with pytest.raises(TypeError, match="scale must be a number where a baseline is given"):
        ForwardGradient(rule, baseline=0.5)
    with pytest.raises(ValueError, match=r"low must be below high, got 1.0 and 0.0"):
        smoothgrad_scale(1.0, 0.0)
    with pytest.raises(ValueError, match="alpha must be positive, got 0"):
        smoothgrad_scale(0.0, 1.0, 0)
