"""NoiseTunnel on our noise: values, drop-in behaviour, and what it holds."""

import importlib
import math
import sys

import numpy as np
import pytest
import torch

import fwdgrad

captum = pytest.importorskip("captum.attr", reason="the optional library Captum")

from fwdgrad.integrations.captum import Attribution  # noqa: E402
from fwdgrad.integrations.captum_noise_tunnel import NoiseTunnel  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:Input Tensor:UserWarning")

X = torch.linspace(-1, 1, 2 * 3 * 4 * 4).reshape(2, 3, 4, 4)
WEIGHTS = torch.linspace(-1, 1, 48 * 3).reshape(48, 3)


def cubic(batch):
    return (batch.flatten(1) ** 3) @ WEIGHTS.to(batch.dtype)


def tunnel(method=captum.InputXGradient, model=cubic):
    return NoiseTunnel(method(model))


def test_one_input_has_the_same_samples_as_smoothgrad():
    e = fwdgrad.explain(
        cubic, X[1], 2, method=fwdgrad.SmoothGrad(scale=0.3), objective="output", n_samples=9,
        seed=7,
    )  # fmt: skip
    found = NoiseTunnel(captum.Saliency(cubic)).attribute(
        X[1:], nt_samples=9, stdevs=0.3, target=2, abs=False, seed=7
    )
    torch.testing.assert_close(found[0], e.attribution, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["smoothgrad", "smoothgrad_sq", "vargrad"])
def test_it_estimates_what_captums_own_does(kind):
    options = {"nt_type": kind, "nt_samples": 4000, "stdevs": 0.3, "target": [0, 2]}
    torch.manual_seed(0)
    own = captum.NoiseTunnel(captum.InputXGradient(cubic)).attribute(X, **options)
    ours = tunnel().attribute(X, **options, seed=1)
    error = (own - ours).norm() / own.norm()
    assert error < 0.08
    wrong = {"smoothgrad": "vargrad", "smoothgrad_sq": "smoothgrad", "vargrad": "smoothgrad_sq"}
    other = tunnel().attribute(X, **{**options, "nt_type": wrong[kind]}, seed=1)
    assert (own - other).norm() / own.norm() > 0.3


@pytest.mark.parametrize("kind", ["smoothgrad", "smoothgrad_sq", "vargrad"])
def test_the_moments_are_those_of_the_samples(kind):
    seen = []

    class Kept(captum.InputXGradient):
        def attribute(self, inputs, **options):
            found = super().attribute(inputs, **options)
            seen.append(found.detach().clone())
            return found

    found = tunnel(Kept).attribute(X, nt_type=kind, nt_samples=10, nt_samples_batch_size=4,
                                   target=1, seed=3)  # fmt: skip
    assert [len(one) for one in seen] == [8, 8, 4]
    every = torch.cat([one.view(-1, *X.shape) for one in seen]).double()
    expected = {
        "smoothgrad": every.mean(0), "smoothgrad_sq": every.square().mean(0),
        "vargrad": every.var(0, correction=0),
    }[kind]  # fmt: skip
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


def test_a_variance_far_from_zero_keeps_its_digits():
    model = lambda batch: (1e4 * batch + batch**2 / 2).sum(1)  # noqa: E731
    found = NoiseTunnel(captum.Saliency(model)).attribute(
        torch.zeros(1, 400), nt_type="vargrad", nt_samples=200, stdevs=0.1, seed=0
    )
    assert found.mean().item() == pytest.approx(0.01, rel=0.03)


def test_the_result_depends_on_the_seed_and_not_on_the_micro_batch():
    results = [
        tunnel().attribute(X, nt_samples=20, nt_samples_batch_size=size, target=0, seed=5)
        for size in (1, 7, 20, 50, None)
    ]
    for one in results[1:]:
        torch.testing.assert_close(one, results[0], rtol=1e-5, atol=1e-6)
    other = tunnel().attribute(X, nt_samples=20, target=0, seed=6)
    assert not torch.allclose(other, results[0], rtol=1e-2)


def test_without_a_seed_torchs_generator_decides():
    run = lambda: tunnel().attribute(X, target=0)  # noqa: E731
    torch.manual_seed(4)
    one, other = run(), run()
    torch.manual_seed(4)
    assert torch.equal(run(), one)
    assert not torch.equal(one, other)


def test_rows_and_tensors_have_noise_of_their_own():
    seen = []

    def model(one, two):
        seen.append((one.detach().clone(), two.detach().clone()))
        return one.sum(1) + two.sum(1)

    zeros = torch.zeros(3, 1000)
    tunnel(captum.Saliency, model).attribute(
        (zeros, zeros), nt_samples=4, nt_samples_batch_size=4, stdevs=(1.0, 2.0), seed=2
    )
    noise = torch.cat([part.view(12, 1000) for part in seen[0]])
    assert noise[:12].std().item() == pytest.approx(1, rel=0.03)
    assert noise[12:].std().item() == pytest.approx(2, rel=0.03)
    related = torch.corrcoef(noise) - torch.eye(24)
    assert related.abs().max() < 5 / math.sqrt(1000)


@pytest.mark.parametrize("target", [[0, 2], torch.tensor([0, 2]), [(0,), (2,)]], ids=repr)
def test_what_belongs_to_an_input_stays_with_it(target):
    def model(batch, factor, name):
        assert name == "x"
        return cubic(batch) * factor[:, None]

    factor = torch.tensor([1.0, 10.0])
    found = tunnel(model=model).attribute(
        X, nt_samples=6, nt_samples_batch_size=3, target=target,
        additional_forward_args=(factor, "x"), seed=1,
    )  # fmt: skip
    for row, (wanted, times) in enumerate(((0, 1), (2, 10))):
        expected = tunnel().attribute(X, nt_samples=6, target=wanted, seed=1)[row] * times
        torch.testing.assert_close(found[row], expected, rtol=1e-4, atol=1e-5)


def test_baselines_and_masks_go_along():
    baselines = torch.stack([torch.zeros(3, 4, 4), torch.ones(3, 4, 4)])
    found = tunnel(captum.IntegratedGradients).attribute(
        X, nt_samples=4, stdevs=1e-6, target=1, baselines=baselines, n_steps=20
    )
    plain = captum.IntegratedGradients(cubic).attribute(X, baselines, target=1, n_steps=20)
    torch.testing.assert_close(found, plain, rtol=1e-3, atol=1e-4)
    mask = torch.arange(48).reshape(1, 3, 4, 4) // 16
    ablated = tunnel(captum.FeatureAblation).attribute(
        X, nt_samples=4, stdevs=1e-6, target=1, baselines=baselines,
        feature_mask=torch.cat([mask, 2 - mask]),
    )  # fmt: skip
    plain = captum.FeatureAblation(cubic).attribute(
        X, baselines, target=1, feature_mask=torch.cat([mask, 2 - mask])
    )
    torch.testing.assert_close(ablated, plain, rtol=1e-3, atol=1e-4)


def test_baselines_are_drawn_anew_whatever_the_micro_batch():
    seen = []

    class Kept(captum.Saliency):
        def attribute(self, inputs, baselines):
            seen.append(baselines)
            return inputs

    for size in (3, 8):
        NoiseTunnel(Kept(cubic)).attribute(
            X, nt_samples=8, nt_samples_batch_size=size, draw_baseline_from_distrib=True,
            baselines=torch.arange(5.0)[:, None, None, None].expand(5, 3, 4, 4), seed=1,
        )  # fmt: skip
    parts, whole = torch.cat(seen[:3]), seen[3]
    assert torch.equal(parts, whole)
    assert whole.shape == (16, 3, 4, 4)
    assert set(whole[:, 0, 0, 0].tolist()) == set(range(5))


def test_deltas_come_input_by_input():
    found = []
    for size in (2, 6):
        _, delta = tunnel(captum.IntegratedGradients).attribute(
            X, nt_samples=6, nt_samples_batch_size=size, target=1, stdevs=0.01, seed=3, n_steps=5,
            baselines=0.5, return_convergence_delta=True, method="riemann_left",
        )  # fmt: skip
        found.append(delta.view(2, 6))
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-4)
    means, within = found[0].mean(1), found[0].std(1)
    assert (means[0] - means[1]).abs() > 5 * within.max()  # each row is of one input


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64])
def test_types(dtype):
    x = (X * 4).to(dtype)
    found = tunnel(captum.Saliency).attribute(x, nt_samples=50, stdevs=0.1, target=0, seed=0)
    assert found.dtype == (torch.float32 if dtype == torch.int64 else dtype)
    wide = tunnel(captum.Saliency).attribute(
        x.double(), nt_samples=50, stdevs=0.1, target=0, seed=0
    )
    tolerance = {torch.float16: 5e-3, torch.bfloat16: 4e-2}.get(dtype, 1e-5)
    assert (found.double() - wide).norm() / wide.norm() < tolerance


def test_our_own_methods_and_a_tunnel_in_a_tunnel():
    within = Attribution(cubic, method="gradient", objective="output")
    found = NoiseTunnel(within).attribute(X, nt_samples=5, stdevs=0.2, target=1, seed=1)
    plain = NoiseTunnel(captum.Saliency(cubic)).attribute(
        X, nt_samples=5, stdevs=0.2, target=1, seed=1, abs=False
    )
    torch.testing.assert_close(found, plain, rtol=1e-5, atol=1e-6)
    nested = captum.NoiseTunnel(NoiseTunnel(captum.Saliency(cubic)))
    assert nested.attribute(X, target=0).shape == X.shape
    assert isinstance(nested.attribution_method, captum.Attribution)


def test_parameters_keep_no_graph_and_are_left_alone():
    seen = []

    class Watched(torch.nn.Linear):
        def forward(self, batch):
            result = super().forward(batch.flatten(1))
            seen.append({type(n[0]).__name__ for n in result.grad_fn.next_functions if n[0]})
            return result

    model = Watched(48, 3).eval()
    for of, grads in ((captum.NoiseTunnel, True), (NoiseTunnel, False)):
        seen.clear()
        of(captum.Saliency(model)).attribute(X, target=0)
        assert seen
        assert all(("AccumulateGrad" in names) == grads for names in seen)
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_no_more_than_a_micro_batch_is_held():
    rows = []

    def model(batch):
        rows.append(len(batch))
        return cubic(batch)

    tunnel(model=model).attribute(X, nt_samples=30_000, target=0)
    assert sum(rows) == 60_000
    assert max(rows) <= 512  # DEFAULT_BATCH of two rows each
    for method, most in ((captum.Saliency, 2), (captum.FeatureAblation, 8)):
        rows.clear()
        large = torch.zeros(1, 2**19)  # 2 MiB
        mask = torch.zeros(1, 2**19, dtype=torch.int64)
        first = lambda batch: (rows.append(len(batch)), batch[:, 0])[1]  # noqa: E731
        given = {"feature_mask": mask} if method is captum.FeatureAblation else {}
        tunnel(method, first).attribute(large, nt_samples=8, nt_samples_batch_size=8, **given)
        assert max(rows) == most


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nt_type": "mean"}, "nt_type must be one of smoothgrad, smoothgrad_sq, vargrad"),
        ({"nt_samples": 0}, "nt_samples must be at least 1"),
        ({"nt_samples_batch_size": 0}, "nt_samples_batch_size must be at least 1"),
        ({"stdevs": -1.0}, "stdevs must be finite and not negative, got -1.0"),
        ({"stdevs": math.nan}, "stdevs must be finite"),
        ({"stdevs": (1.0, 2.0)}, "stdevs must be one number or 1"),
        ({"stdevs": "much"}, "stdevs must be a number"),
        ({"seed": -1}, "seed must lie in"),
        ({"inputs": (X, X[:1])}, "inputs must have a batch axis of the same length"),
        ({"inputs": np.zeros((2, 3))}, "inputs must be a tensor or a tuple of them, got 'ndarray'"),
        ({"inputs": ()}, "inputs must be a tensor"),
        (
            {"draw_baseline_from_distrib": True, "baselines": torch.zeros(5, 4)},
            r"baselines must be numbers or of shape \(any number, 3, 4, 4\), got \(5, 4\)",
        ),
    ],
)
def test_bad_input(change, message):
    with pytest.raises((TypeError, ValueError), match=message):
        tunnel().attribute(**{"inputs": X, "target": 0, **change})


def test_without_captum(monkeypatch):
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    monkeypatch.delitem(sys.modules, "fwdgrad.integrations.captum_noise_tunnel")
    with pytest.raises(ImportError, match=r"pip install 'fwdgrad-kernels\[captum\]'"):
        importlib.import_module("fwdgrad.integrations.captum_noise_tunnel")
