"""Attribution takes what a method of Captum takes; values are those of single runs."""

import numpy as np
import pytest
import torch

import fwdgrad
from fwdgrad import ForwardGradient, IntegratedGradients, Regions, SmoothGrad
from fwdgrad.integrations.captum import Attribution

X = torch.linspace(-1, 1, 2 * 3 * 4 * 4).reshape(2, 3, 4, 4)
WEIGHTS = torch.linspace(-2, 2, 48 * 3).reshape(48, 3)
ONE, TWO = torch.tensor([[1.0, 2.0, 3.0], [0.0, 1.0, 0.0]]), torch.tensor([[4.0, 5.0], [6.0, 7.0]])
# Exact for what is linear in whether a feature is in.
IN_OR_OUT = {"method": Regions(0.0), "objective": "output", "n_samples": 64}
GRADIENT = {"method": "gradient", "objective": "output"}


def linear(batch):
    return batch.flatten(1) @ WEIGHTS.to(batch.dtype)


def bilinear(one, two):
    return torch.stack([one.sum(1) * two[:, 0], one[:, 0] - two.sum(1)], 1)


# ---- several inputs ------------------------------------------------------------------------


def test_a_tuple_gives_gradients_for_each_tensor():
    found = Attribution(bilinear, **GRADIENT).attribute((ONE, TWO), target=[0, 1])
    assert isinstance(found, tuple)
    torch.testing.assert_close(found[0], torch.tensor([[4.0, 4, 4], [1, 0, 0]]))
    torch.testing.assert_close(found[1], torch.tensor([[6.0, 0], [-1, -1]]))


def test_a_tuple_is_explained_by_one_run_over_all_its_numbers():
    options = {**IN_OR_OUT, "n_samples": 4096}
    found = Attribution(bilinear, **options).attribute((ONE, TWO), target=0)
    # Of a product of two features each has half of what both add: the Banzhaf value.
    torch.testing.assert_close(found[0], ONE * TWO[:, :1] / 2, rtol=0, atol=0.3)
    expected = torch.stack([ONE.sum(1) * TWO[:, 0] / 2, torch.zeros(2)], 1)
    torch.testing.assert_close(found[1], expected, rtol=0, atol=0.3)
    joined = torch.cat([ONE, TWO], 1)
    e = fwdgrad.explain(lambda b: bilinear(b[:, :3], b[:, 3:]), joined[1], 0, **options)
    assert torch.equal(torch.cat(found, 1)[1], e.attribution)


def test_a_tuple_of_one_is_the_tensor_itself():
    picture = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    options = {"method": Regions(cell=4), "n_samples": 64, "objective": "output"}
    explainer = Attribution(lambda batch: batch[:, :, :8].sum((1, 2, 3)), **options)
    (found,) = explainer.attribute((picture,))
    assert torch.equal(found, explainer.attribute(picture))


def test_each_tensor_has_a_scale_by_its_own_range():
    seen = []

    def model(one, two):
        seen.append((one.clone(), two.clone()))
        return one.sum(1) + two.sum(1)

    one, two = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, 500.0, 1000.0]], dtype=torch.float64)
    for method in (ForwardGradient(), SmoothGrad(), fwdgrad.GradientXInput(SmoothGrad())):
        seen.clear()
        Attribution(model, method=method, n_samples=2000, batch_size=500).attribute((one, two))
        noise = [torch.cat([s[i].detach() for s in seen[1:]]) - x for i, x in enumerate((one, two))]
        assert noise[0].std().item() == pytest.approx(0.2, rel=0.1)
        assert noise[1].std().item() == pytest.approx(200, rel=0.1)
        assert [n.dtype for n in noise] == [torch.float32, torch.float64]


def test_tensors_of_one_number_a_row():
    model = lambda one, two: one * two.sum(1)  # noqa: E731
    found = Attribution(model, **GRADIENT).attribute((torch.tensor([2.0, 3.0]), TWO))
    torch.testing.assert_close(found[0], torch.tensor([9.0, 13.0]))
    torch.testing.assert_close(found[1], torch.tensor([[2.0, 2], [3, 3]]))


# ---- targets -------------------------------------------------------------------------------


def cube(batch):
    """(n, 2, 3, 4): the sum of a row of weights for each place of the output."""
    weights = torch.arange(48.0 * 24).reshape(48, 24) % 7
    return (batch.flatten(1) @ weights).reshape(len(batch), 2, 3, 4)


@pytest.mark.parametrize("target", [(1, 2, 0), [(1, 2, 0), (0, 1, 3)], (-1, 2, 0)], ids=repr)
def test_a_tuple_is_a_place_in_an_output_of_more_axes(target):
    found = Attribution(cube, method="gradient").attribute(X, target=target)
    places = target if isinstance(target, list) else [target, target]
    for row, place in enumerate(places):
        leaf = X[row : row + 1].clone().requires_grad_()
        (expected,) = torch.autograd.grad(cube(leaf)[(0, *place)], leaf)
        torch.testing.assert_close(found[row], expected[0])


@pytest.mark.parametrize(
    "target", [1, (1,), [1, 1], [(1,), (1,)], torch.tensor(1), torch.tensor([1, 1]), np.int64(1)],
    ids=repr,
)  # fmt: skip
def test_every_kind_of_target(target):
    found = Attribution(linear, **GRADIENT).attribute(X, target=target)
    torch.testing.assert_close(found, WEIGHTS[:, 1].reshape(1, 3, 4, 4).expand(X.shape))


def test_no_target_is_for_one_number_a_sample_and_auto_for_classes():
    single = lambda batch: linear(batch)[:, 2]  # noqa: E731
    found = Attribution(single, **GRADIENT).attribute(X)
    assert torch.equal(found, Attribution(linear, **GRADIENT).attribute(X, target=2))
    auto = Attribution(linear, **GRADIENT).attribute(X, target="auto")
    predicted = linear(X).argmax(1).tolist()
    assert torch.equal(auto, Attribution(linear, **GRADIENT).attribute(X, target=predicted))
    with pytest.raises(ValueError, match="target must be given: the model returns 3 classes"):
        Attribution(linear, **GRADIENT).attribute(X)


# ---- what goes along -----------------------------------------------------------------------


def test_additional_arguments_are_sliced_repeated_or_handed_on():
    table, seen = torch.randn(5, 3), []

    def model(batch, rows, single, settings, shared):
        seen.append((len(batch), rows.clone(), single, shared))
        assert settings == {"name": "x"}
        return linear(batch)[:, 0] * rows[:, 0]

    rows = torch.tensor([[2.0], [3.0]])
    single = torch.tensor(7.0)
    found = Attribution(model, **IN_OR_OUT, batch_size=16).attribute(
        X.flatten(1), additional_forward_args=(rows, single, {"name": "x"}, table)
    )
    expected = X.flatten(1) * WEIGHTS[:, 0] * rows
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    for many, given, one, shared in seen:
        assert given.shape == (many, 1)
        assert one is single
        assert shared is table
    assert {given.unique().tolist()[0] for _, given, _, _ in seen} == {2.0, 3.0}


def test_a_model_in_training_mode_is_seen_behind_what_goes_along():
    class Model(torch.nn.Module):
        def forward(self, batch, factor):
            return linear(batch) * factor

    with pytest.warns(UserWarning, match="the model is in training mode"):
        Attribution(Model(), **GRADIENT).attribute(X, target=0, additional_forward_args=2.0)


@pytest.mark.parametrize(
    "mask",
    [
        torch.arange(48).reshape(1, 3, 4, 4) // 16 * 10 + 5,  # gaps are closed
        torch.arange(3)[:, None, None],
        torch.stack([torch.arange(3), 2 - torch.arange(3)])[:, :, None, None],
    ],
    ids=["whole", "channels", "of each"],
)
def test_feature_masks(mask):
    found = Attribution(linear, **IN_OR_OUT).attribute(X, target=1, feature_mask=mask)
    sums = (X * WEIGHTS[:, 1].reshape(3, 4, 4)).sum((2, 3), keepdim=True)
    torch.testing.assert_close(found, sums.expand(X.shape), rtol=1e-3, atol=1e-3)


def test_a_mask_of_a_tuple_joins_features_across_tensors():
    masks = (torch.tensor([[0, 0, 4]]), torch.tensor([[4, 9]]))
    model = lambda one, two: one.sum(1) + two.sum(1)  # noqa: E731
    found = Attribution(model, **IN_OR_OUT).attribute((ONE, TWO), feature_mask=masks)
    torch.testing.assert_close(found[0], torch.tensor([[3.0, 3, 7], [1, 1, 6]]), atol=1e-4, rtol=0)
    torch.testing.assert_close(found[1], torch.tensor([[7.0, 5], [6, 7]]), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "method", [Regions(0.5), ForwardGradient(design="hadamard"), IntegratedGradients()]
)
def test_baselines_are_the_methods(method):
    x = X.flatten(1)
    # From each baseline a linear score rises by its weights times the way.
    options = {"objective": "output", "n_samples": 128}
    if isinstance(method, IntegratedGradients):
        options = {"objective": "output"}
    explainer = Attribution(linear, method=method, **options)
    other = torch.stack([torch.zeros(48), torch.linspace(1, 2, 48)])
    for given, base in ((3.0, torch.full((2, 48), 3.0)), (other, other), (other[1:], other[1])):
        found = explainer.attribute(x, baselines=given, target=1)
        expected = (x - base) * WEIGHTS[:, 1]
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_baselines_of_a_tuple():
    model = lambda one, two: one.sum(1) + two.sum(1)  # noqa: E731
    found = Attribution(model, **IN_OR_OUT).attribute((ONE, TWO), baselines=(1.0, TWO[:1] - 1))
    torch.testing.assert_close(found[0], ONE - 1, rtol=0, atol=1e-4)
    torch.testing.assert_close(found[1], TWO - TWO[:1] + 1, rtol=0, atol=1e-4)


def test_samples_micro_batches_and_progress(capsys):
    rows = []

    def model(batch):
        rows.append(len(batch))
        return linear(batch)

    method = {"method": ForwardGradient(0.3), "n_samples": 999, "memory": "1GiB"}
    Attribution(model, **method).attribute(
        X[:1], target=0, n_samples=40, perturbations_per_eval=8, show_progress=True
    )
    assert rows == [1, 8, 8, 8, 8, 8]
    assert "40" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"baselines": 0.0, "method": "smoothgrad"}, ValueError, "baselines must be None with"),
        ({"baselines": "grey"}, TypeError, "baselines must be a number or a tensor, got 'grey'"),
        ({"baselines": torch.zeros(5, 3, 4, 4)}, ValueError, "baselines must broadcast to the sha"),
        ({"baselines": (0.0, 1.0)}, ValueError, "baselines must be a tuple of 1, one for each"),
        ({"feature_mask": torch.zeros(3, 4, 4)}, TypeError, "feature_mask must be a tensor of int"),
        ({"feature_mask": torch.zeros(7).int()}, ValueError, "feature_mask must broadcast to the"),
        ({"target": (0, 1)}, fwdgrad.ModelError, r"target must have an index for each .* got \(0"),
        ({"target": (0,), "inputs": (X, X[:1])}, ValueError, "inputs must have batch axes of one"),
        ({"inputs": (X, X.int())}, TypeError, "additional_forward_args"),
        ({"inputs": (X, torch.ones(2, 3))}, ValueError, r"scale must be given: inputs\[1\] is"),
    ],
)  # fmt: skip
def test_bad_input(change, error, message):
    method = change.pop("method", "forward-gradient")
    explainer = Attribution(lambda one, two=None: linear(one), method=method, n_samples=8)
    with pytest.raises(error, match=message):
        explainer.attribute(**{"inputs": X, "target": 0, **change})
