"""Sanity of maps: what is drawn anew, and what a shift leaves alone."""

import copy
import functools
import math

import pytest
import torch

import fwdgrad
from fwdgrad.metrics.agreement import spearman
from fwdgrad.metrics.sanity import consistency, invariance, layers_of, randomised, shifted


def mlp() -> torch.nn.Sequential:
    torch.manual_seed(0)
    layers = [torch.nn.Linear(12, 8), torch.nn.Tanh(), torch.nn.Linear(8, 8), torch.nn.Tanh()]
    return torch.nn.Sequential(*layers, torch.nn.Linear(8, 3)).eval()


class Bare(torch.nn.Module):
    """A parameter of its own and no way to draw it."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(3 + 0.5 * torch.randn(10_000))

    def forward(self, batch):
        return batch @ self.weight


def test_every_parameter_is_drawn_and_nothing_else_changes():
    model = mlp()
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    drawn = randomised(model, 3)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    for name, value in drawn.state_dict().items():
        assert not torch.equal(value, before[name])
        assert value.data_ptr() != model.state_dict()[name].data_ptr()
    assert not drawn.training
    assert randomised(model.train(), 3).training


def test_the_draw_is_the_modules_own():
    # The distribution of torch's linear layers: uniform within 1 / sqrt(inputs).
    drawn = randomised(torch.nn.Linear(400, 300), 0)
    bound = 1 / math.sqrt(400)
    assert 0.999 * bound < drawn.weight.abs().max() <= bound
    # Uniform: deviation bound / sqrt(3), standard error of 120,000 draws below 0.2 %.
    assert drawn.weight.detach().std().item() == pytest.approx(bound / math.sqrt(3), rel=0.01)
    # And the very numbers that torch draws from that seed.
    torch.manual_seed(5)
    expected = torch.nn.Linear(4, 2).weight
    assert torch.equal(randomised(torch.nn.Linear(4, 2), 5).weight, expected)


def test_batch_normalisation_forgets():
    norm = torch.nn.BatchNorm1d(3)
    norm(torch.randn(50, 3) * 7 + 2)
    drawn = randomised(norm, 0)
    assert drawn.running_mean.tolist() == [0, 0, 0]
    assert drawn.running_var.tolist() == [1, 1, 1]
    assert int(drawn.num_batches_tracked) == 0
    assert norm.running_mean.tolist() != [0, 0, 0]


def test_parameters_of_no_reset_keep_their_mean_and_deviation():
    torch.manual_seed(0)
    model = Bare()
    drawn = randomised(model, 1).requires_grad_(False)
    # Standard errors of 10,000 draws: 0.005 of the mean, 0.0035 of the deviation; and independent.
    assert drawn.weight.detach().mean().item() == pytest.approx(3, abs=0.03)
    assert drawn.weight.detach().std().item() == pytest.approx(0.5, abs=0.02)
    assert (
        abs(float(torch.corrcoef(torch.stack((drawn.weight, model.weight.detach())))[0, 1])) < 0.05
    )


def test_the_cascade_is_nested():
    model = mlp()
    assert layers_of(model) == ["4", "2", "0"]
    everything = randomised(model, 7).state_dict()
    for count in range(4):
        chosen = layers_of(model)[:count]
        for name, value in randomised(model, 7, chosen).state_dict().items():
            source = everything if name.split(".")[0] in chosen else model.state_dict()
            assert torch.equal(value, source[name])


def test_a_tied_parameter_stays_tied():
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    model[1].weight = model[0].weight
    drawn = randomised(model, 0)
    assert drawn[1].weight is drawn[0].weight
    assert not torch.equal(drawn[0].weight, model[0].weight)


def test_consistency_is_the_mean_size_of_two_correlations():
    # The maps: the model's weights themselves, so that the answer is known.
    model = torch.nn.Linear(50, 1)
    other = randomised(model, 4).weight
    weights = lambda model, x: model.weight[0]  # noqa: E731
    signed = spearman(model.weight, other)
    absolute = spearman(model.weight.abs(), other.abs())
    expected = (abs(signed) + abs(absolute)) / 2
    assert consistency(weights, model, torch.zeros(50), seed=4) == pytest.approx(expected)
    assert signed * absolute != 0


def test_a_model_is_not_compared_with_itself():
    torch.manual_seed(0)
    model = torch.nn.Linear(50, 1)

    def weights(model, x):
        return model.weight[0].detach()

    for call in (
        randomised,
        lambda model, seed: consistency(weights, model, torch.zeros(50), seed=seed),
    ):
        with pytest.raises(ValueError, match=r"seed must be another one .*: 0 draws what it has"):
            call(model, 0)
    assert consistency(weights, model, torch.zeros(50)) < 0.5
    again = consistency(weights, model, torch.zeros(50))
    assert again == consistency(weights, model, torch.zeros(50))
    randomised(torch.nn.LayerNorm(4), 1)  # whose parameters are the same by any seed


def test_consistency_by_chance():
    # Of maps of 784 elements with nothing in common: sqrt(2 / (pi 783)) = 0.02852, which is AX's
    # 0.02811. The mean of 300 has a standard error of about 0.0009.
    model = torch.nn.Linear(784, 1)
    weights = lambda model, x: model.weight[0]  # noqa: E731
    found = [consistency(weights, model, torch.zeros(784), seed=seed) for seed in range(300)]
    assert sum(found) / 300 == pytest.approx(math.sqrt(2 / (math.pi * 783)), abs=0.004)


def test_consistency_tells_a_map_of_the_model_from_one_of_the_picture():
    model, x = mlp(), torch.rand(12, generator=torch.Generator().manual_seed(1))
    gradient = functools.partial(fwdgrad.explain, method="gradient", target=1, objective="output")
    assert consistency(lambda model, x: x, model, x) == pytest.approx(1)
    assert sum(consistency(gradient, model, x, seed=s) for s in range(10)) / 10 < 0.5
    # Nothing is drawn: the map keeps all of itself.
    assert consistency(gradient, model, x, layers=[]) == pytest.approx(1)


def test_maps_of_two_classes_are_not_compared():
    model, x = mlp().eval(), torch.rand(12, generator=torch.Generator().manual_seed(1))
    own = int(model(x[None]).argmax())
    seed = next(s for s in range(99) if int(randomised(model, s)(x[None]).argmax()) != own)
    gradient = functools.partial(fwdgrad.explain, method="gradient", objective="output")
    other = int(randomised(model, seed)(x[None]).argmax())
    message = f"explain must name the target: it explained {own} of the model and {other} of the"
    with pytest.raises(ValueError, match=message):
        consistency(gradient, model, x, seed=seed)
    named = functools.partial(gradient, target=own)
    assert 0 <= consistency(named, model, x, seed=seed) <= 1


@pytest.mark.parametrize("shift", [-1.0, 0.25, torch.tensor([[[0.5]], [[-2.0]]])])
def test_the_shifted_model_is_the_same_function(shift):
    # Padded with zeros: no bias could make up for the shift at the border.
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(2, 3, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten()]
    model = torch.nn.Sequential(*layers, torch.nn.Linear(48, 2)).double()
    x = torch.randn(5, 2, 4, 4, dtype=torch.float64)
    other = shifted(model, shift)
    torch.testing.assert_close(other(x + shift), model(x), rtol=1e-12, atol=1e-12)
    assert {id(p) for p in other.parameters()} == {id(p) for p in model.parameters()}
    assert other.training
    assert not shifted(model.eval(), shift).training


def test_a_bias_undoes_the_shift_of_a_linear_layer_alike():
    model = mlp()
    bias = copy.deepcopy(model)
    with torch.no_grad():
        bias[0].bias -= bias[0].weight @ torch.full((12,), -1.0)
    x = torch.rand(4, 12)
    torch.testing.assert_close(shifted(model, -1.0)(x - 1), bias(x - 1))


def test_invariance_of_gradients_and_not_of_products():
    model, x = mlp(), torch.rand(12, generator=torch.Generator().manual_seed(2))
    of = functools.partial(functools.partial, fwdgrad.explain, target=0, objective="output")
    assert invariance(of(method="gradient"), model, x) == pytest.approx(1)
    assert invariance(of(method="smoothgrad", n_samples=8, seed=3), model, x) == pytest.approx(1)
    assert invariance(of(method="gradient-x-input"), model, x) < 0.9
    # Of a linear model the products are known: weight * x and weight * (x - 1).
    linear = torch.nn.Linear(12, 1).eval()
    weight = linear.weight[0].detach()
    expected = spearman(weight * x, weight * (x - 1))
    assert invariance(of(method="gradient-x-input"), linear, x) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: randomised(torch.nn.Tanh(), 0), "model must have parameters"),
        (lambda: randomised(lambda batch: batch, 0), "must be a torch.nn.Module"),
        (lambda: randomised(mlp(), 0, ["4", "5"]), r"layers must be .* got '5'"),
        (lambda: randomised(mlp(), -1), "seed"),
        (lambda: consistency(lambda model, x: None, mlp(), torch.ones(12)), "the map of explain"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()
