"""The class in Captum's manner, and what its one-input form gives beside the map."""

import numpy as np
import pytest
import torch

import fwdgrad
from fwdgrad import LikelihoodRatio

from .models import SHAPE, Recorder, X, assert_same_bits, exact

INPUTS = torch.stack([X, -X, X.flip(0)])
OPTIONS = {"queries": 64, "sigma": 0.3, "seed": 5}

# 16 Hadamard directions of 16 elements recover a linear model's gradient to rounding.
_WEIGHTS = torch.linspace(-2, 2, 48).reshape(16, 3)
_EXACT = {"law": "hadamard", "queries": 32, "sigma": 0.5}


def linear(batch):
    return batch.flatten(1) @ _WEIGHTS.to(batch.dtype)


@pytest.mark.parametrize("shape", [(16,), (4, 4), (1, 4, 4), (2, 2, 2, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradient_of_a_linear_model(shape, dtype):
    inputs = torch.ones(3, *shape, dtype=dtype, requires_grad=True)
    result = LikelihoodRatio(linear, **_EXACT).attribute(inputs, target=[2, 0, 1])
    assert result.shape == inputs.shape
    assert result.dtype == dtype
    assert not result.requires_grad
    expected = _WEIGHTS.T[[2, 0, 1]].reshape(3, *shape).to(dtype)
    torch.testing.assert_close(result, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    "target", [[2, 0, 1], (2, 0, 1), torch.tensor([2, 0, 1])], ids=["list", "tuple", "tensor"]
)
def test_one_target_for_each_input(target):
    explainer = LikelihoodRatio(exact, **OPTIONS)
    result = explainer.attribute(INPUTS, target)
    for row, x, wanted in zip(result, INPUTS, (2, 0, 1), strict=True):
        assert torch.equal(row, explainer.explain(x, wanted).attribution)


@pytest.mark.parametrize("target", [1, torch.tensor(1), torch.tensor([1])], ids=repr)
def test_one_target_for_all_inputs(target):
    # Captum takes a tensor of one element for all inputs as well.
    explainer = LikelihoodRatio(exact, **OPTIONS)
    assert torch.equal(explainer.attribute(INPUTS, target), explainer.attribute(INPUTS, [1, 1, 1]))


def test_auto_is_chosen_for_each_input():
    explainer = LikelihoodRatio(exact, **OPTIONS)
    predicted = exact(INPUTS).argmax(1)
    assert len(set(predicted.tolist())) > 1
    assert torch.equal(explainer.attribute(INPUTS), explainer.attribute(INPUTS, predicted))


def test_a_model_of_one_number_needs_no_target():
    explainer = LikelihoodRatio(lambda batch: exact(batch)[:, 1], **OPTIONS)
    expected = LikelihoodRatio(exact, **OPTIONS).attribute(INPUTS, 1)
    assert torch.equal(explainer.attribute(INPUTS, None), expected)
    assert torch.equal(explainer.attribute(INPUTS), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_in_and_out(dtype):
    model = Recorder()
    result = LikelihoodRatio(model, **OPTIONS).attribute(INPUTS.to(dtype), 0)
    assert result.dtype == dtype
    wide = LikelihoodRatio(exact, **OPTIONS).explain(X.to(dtype), 0)
    assert wide.attribution.dtype == torch.float32
    assert torch.equal(result[0], wide.attribution.to(dtype))


def test_strided_inputs():
    explainer = LikelihoodRatio(exact, **OPTIONS)
    strided = INPUTS.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    assert not strided.is_contiguous()
    assert torch.equal(explainer.attribute(strided, 0), explainer.attribute(INPUTS, 0))


def test_no_inputs_give_no_attributions():
    assert LikelihoodRatio(exact, **OPTIONS).attribute(INPUTS[:0]).shape == (0, *SHAPE)


@pytest.mark.parametrize("target", [np.int64(1), torch.tensor(1)], ids=["numpy", "tensor"])
def test_a_target_as_argmax_gives_it(target):
    assert_same_bits(
        fwdgrad.explain(exact, X, target=target, **OPTIONS),
        fwdgrad.explain(exact, X, target=1, **OPTIONS),
    )


def test_numpy_numbers_are_numbers(tmp_path):
    options = {"queries": 64, "sigma": 0.5, "block": 2, "cell": 2, "seed": 5, "batch_size": 8}
    given = {name: np.asarray(value)[()] for name, value in options.items()}
    result = fwdgrad.explain(exact, X, target=1, **given)
    assert_same_bits(result, fwdgrad.explain(exact, X, target=1, **options))
    result.save(tmp_path / "map.safetensors")


# ---- what the model sees -------------------------------------------------------------------


@pytest.mark.parametrize("antithetic", [True, False])
def test_the_model_is_asked_as_often_as_was_said(antithetic):
    model = Recorder()
    fwdgrad.explain(model, X, target=0, antithetic=antithetic, batch_size=6, **OPTIONS)
    assert model.asked[0] == 1
    assert model.calls == 64
    assert max(model.asked) <= 6


def test_no_gradient_graph_and_no_change_of_the_input():
    x = X.clone().requires_grad_()

    def model(batch):
        assert not torch.is_grad_enabled()
        assert not batch.requires_grad
        assert batch.is_contiguous()
        assert batch.dtype == x.dtype
        assert batch.shape[1:] == SHAPE
        return exact(batch.neg_())

    result = fwdgrad.explain(model, x, target=1, **OPTIONS)
    assert torch.equal(x, X)
    assert not result.attribution.requires_grad
    assert not result.input.requires_grad


def test_copies_are_x_and_noise_of_the_default_scale():
    # SmoothGrad's rule: a fifth of the input's range, here 2.
    seen = []

    def model(batch):
        seen.append(batch.clone())
        return exact(batch)

    fwdgrad.explain(model, X, target=0, queries=512)
    assert torch.equal(seen[0], X[None])
    noise = torch.cat(seen[1:]) - X
    assert noise.std().item() == pytest.approx(0.4, rel=0.02)


def test_copies_go_along_the_way_to_the_baseline():
    seen = []

    def model(batch):
        seen.append(batch.clone())
        return exact(batch)

    baseline = torch.full(SHAPE, 0.5)
    baseline[0, 0, 0] = X[0, 0, 0]
    options = {"law": "rademacher", "sigma": 0.25, "clip": (-0.9, 0.9), "queries": 64}
    fwdgrad.explain(model, X, target=0, baseline=baseline, **options)
    copies = torch.cat(seen[1:])
    low, high = X - 0.25 * (X - baseline), X + 0.25 * (X - baseline)
    nearer = torch.minimum(
        (copies - low.clamp(-0.9, 0.9)).abs(), (copies - high.clamp(-0.9, 0.9)).abs()
    )
    assert nearer.max() < 1e-6
    assert torch.equal(
        copies.amin(0) < copies.amax(0), low.clamp(-0.9, 0.9) != high.clamp(-0.9, 0.9)
    )


def test_reference_backend_gives_the_same_map():
    one = fwdgrad.explain(exact, X, target=1, block=2, backend="reference", **OPTIONS)
    other = fwdgrad.explain(exact, X, target=1, block=2, **OPTIONS)
    assert one.provenance["backend"] == "reference"
    # A cubic score: noise that differs in the last digits moves it by somewhat more.
    torch.testing.assert_close(one.attribution, other.attribution, rtol=1e-4, atol=1e-4)


def test_training_mode_warns():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
    with pytest.warns(UserWarning, match=r"training mode.*model\.eval\(\)"):
        fwdgrad.explain(model, X, target=0, **OPTIONS)
    assert model.training  # the model is the caller's
    fwdgrad.explain(model.eval(), X, target=0, **OPTIONS)  # a warning would be an error here
