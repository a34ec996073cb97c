"""Attributions of a batch in Captum's manner, and what a model is called on."""

import numpy as np
import pytest
import torch

import fwdgrad
from fwdgrad import ForwardGradient, Grid
from fwdgrad.integrations.captum import Attribution

from .models import SHAPE, Recorder, X, assert_same_bits, exact, forward_gradient

INPUTS = torch.stack([X, -X, X.flip(0)])
NOISE = {"n_samples": 64, "scale": 0.3, "seed": 5}
OPTIONS = {
    "method": ForwardGradient(scale=0.3), "objective": "output", "n_samples": 64, "seed": 5,
}  # fmt: skip

# 16 Hadamard directions of 16 elements recover a linear model's gradient to rounding.
_WEIGHTS = torch.linspace(-2, 2, 48).reshape(16, 3)
_EXACT = {
    "method": ForwardGradient(scale=0.5, design="hadamard"), "objective": "output",
    "n_samples": 32,
}  # fmt: skip


def linear(batch):
    return batch.flatten(1) @ _WEIGHTS.to(batch.dtype)


@pytest.mark.parametrize("shape", [(16,), (4, 4), (1, 4, 4), (2, 2, 2, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradient_of_a_linear_model(shape, dtype):
    inputs = torch.ones(3, *shape, dtype=dtype, requires_grad=True)
    result = Attribution(linear, **_EXACT).attribute(inputs, target=[2, 0, 1])
    assert result.shape == inputs.shape
    assert result.dtype == dtype
    assert not result.requires_grad
    expected = _WEIGHTS.T[[2, 0, 1]].reshape(3, *shape).to(dtype)
    torch.testing.assert_close(result, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    "target",
    [[2, 0, 1], [(2,), (0,), (1,)], torch.tensor([2, 0, 1])],
    ids=["list", "tuples", "tensor"],
)
def test_one_target_for_each_input(target):
    result = Attribution(exact, **OPTIONS).attribute(INPUTS, target=target)
    for row, x, wanted in zip(result, INPUTS, (2, 0, 1), strict=True):
        assert torch.equal(row, fwdgrad.explain(exact, x, wanted, **OPTIONS).attribution)


@pytest.mark.parametrize("target", [1, torch.tensor(1), torch.tensor([1])], ids=repr)
def test_one_target_for_all_inputs(target):
    # Captum takes a tensor of one element for all inputs as well.
    explainer = Attribution(exact, **OPTIONS)
    assert torch.equal(
        explainer.attribute(INPUTS, target=target), explainer.attribute(INPUTS, target=[1, 1, 1])
    )


def test_auto_is_chosen_for_each_input():
    explainer = Attribution(exact, **OPTIONS)
    predicted = exact(INPUTS).argmax(1)
    assert len(set(predicted.tolist())) > 1
    found = explainer.attribute(INPUTS, target="auto")
    assert torch.equal(found, explainer.attribute(INPUTS, target=predicted))


def test_a_model_of_one_number_needs_no_target():
    explainer = Attribution(lambda batch: exact(batch)[:, 1], **OPTIONS)
    expected = Attribution(exact, **OPTIONS).attribute(INPUTS, target=1)
    assert torch.equal(explainer.attribute(INPUTS), expected)
    assert torch.equal(explainer.attribute(INPUTS, target="auto"), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_in_and_out(dtype):
    model = Recorder()
    result = Attribution(model, **OPTIONS).attribute(INPUTS.to(dtype), target=0)
    assert result.dtype == dtype
    wide = fwdgrad.explain(exact, X.to(dtype), 0, **OPTIONS)
    assert wide.attribution.dtype == torch.float32
    assert torch.equal(result[0], wide.attribution.to(dtype))


def test_strided_inputs():
    explainer = Attribution(exact, **OPTIONS)
    strided = INPUTS.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    assert not strided.is_contiguous()
    assert torch.equal(
        explainer.attribute(strided, target=0), explainer.attribute(INPUTS, target=0)
    )


def test_no_inputs_give_no_attributions():
    assert Attribution(exact, **OPTIONS).attribute(INPUTS[:0]).shape == (0, *SHAPE)


@pytest.mark.parametrize("target", [np.int64(1), torch.tensor(1)], ids=["numpy", "tensor"])
def test_a_target_as_argmax_gives_it(target):
    assert_same_bits(
        fwdgrad.explain(exact, X, target=target, **OPTIONS),
        fwdgrad.explain(exact, X, target=1, **OPTIONS),
    )


def test_numpy_numbers_are_numbers(tmp_path):
    options = {"n_samples": 64, "scale": 0.5, "block": 2, "seed": 5, "batch_size": 8}
    given = {name: np.asarray(value)[()] for name, value in options.items()}
    result = forward_gradient(exact, X, 1, features=Grid((np.int64(2),) * 2), **given)
    assert_same_bits(result, forward_gradient(exact, X, 1, features=Grid((2, 2)), **options))
    result.save(tmp_path / "map.safetensors")


# ---- what the model sees -------------------------------------------------------------------


@pytest.mark.parametrize("antithetic", [True, False])
def test_the_model_is_called_on_n_samples(antithetic):
    model = Recorder()
    forward_gradient(model, X, target=0, antithetic=antithetic, batch_size=6, **NOISE)
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


def test_samples_are_x_and_noise_of_the_default_scale():
    # SmoothGrad's rule: a fifth of the input's range, here 2.
    seen = []

    def model(batch):
        seen.append(batch.clone())
        return exact(batch)

    fwdgrad.explain(model, X, target=0, n_samples=512)
    assert torch.equal(seen[0], X[None])
    noise = torch.cat(seen[1:]) - X
    assert noise.std().item() == pytest.approx(0.4, rel=0.02)


def test_samples_go_along_the_way_to_the_baseline():
    seen = []

    def model(batch):
        seen.append(batch.clone())
        return exact(batch)

    baseline = torch.full(SHAPE, 0.5)
    baseline[0, 0, 0] = X[0, 0, 0]
    options = {"distribution": "rademacher", "scale": 0.25, "clip": (-0.9, 0.9), "n_samples": 64}
    forward_gradient(model, X, target=0, baseline=baseline, **options)
    samples = torch.cat(seen[1:])
    low, high = X - 0.25 * (X - baseline), X + 0.25 * (X - baseline)
    nearer = torch.minimum(
        (samples - low.clamp(-0.9, 0.9)).abs(), (samples - high.clamp(-0.9, 0.9)).abs()
    )
    assert nearer.max() < 1e-6
    assert torch.equal(
        samples.amin(0) < samples.amax(0), low.clamp(-0.9, 0.9) != high.clamp(-0.9, 0.9)
    )


def test_reference_backend_gives_the_same_map():
    one = forward_gradient(exact, X, target=1, block=2, backend="reference", **NOISE)
    other = forward_gradient(exact, X, target=1, block=2, **NOISE)
    assert one.provenance["backend"] == "reference"
    # A cubic score: noise that differs in the last digits moves it by somewhat more.
    torch.testing.assert_close(one.attribution, other.attribution, rtol=1e-4, atol=1e-4)


def test_training_mode_warns():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
    with pytest.warns(UserWarning, match=r"training mode.*model\.eval\(\)"):
        fwdgrad.explain(model, X, target=0, **OPTIONS)
    assert model.training  # the model is the caller's
    fwdgrad.explain(model.eval(), X, target=0, **OPTIONS)  # a warning would be an error here
