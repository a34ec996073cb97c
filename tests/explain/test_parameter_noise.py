"""Noise on a model's parameters: wherever they are used, and never in the module itself."""

import itertools

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef

import fwdgrad
from fwdgrad import (
    ForwardGradient,
    FusionGrad,
    ModelError,
    NoiseGrad,
    ParameterNoise,
    Sampling,
    parameters,
)
from fwdgrad_kernels import NoiseSpec, Perturber, perturb

from .networks import X, close, network


class Everything(torch.nn.Module):
    """Layers that use their parameters in other ways than by owning and calling."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(4)
        self.embed = torch.nn.Linear(8, 8)
        self.tied = torch.nn.Linear(8, 8)
        self.tied.weight = self.embed.weight
        self.attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)
        self.encoder = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.lstm = torch.nn.LSTM(8, 4, batch_first=True, bidirectional=True)
        self.norm = torch.nn.BatchNorm1d(8)
        self.scale = torch.nn.Parameter(torch.full((8,), 1.5))
        self.head = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(8, 3))
        self.unused = torch.nn.Linear(5, 5)

    def forward(self, batch):
        h = torch.tanh(self.embed(batch)) + self.tied(batch) * self.scale
        h = h + self.attention(h, h, h, need_weights=False)[0]
        h = self.lstm(self.encoder(h))[0]
        h = torch.nn.functional.linear(h, self.embed.weight)  # tied by hand
        return self.head(self.norm(h.mean(1)))


def by_gradient(noise):
    return FusionGrad(scale=0.1, parameters=noise)


def by_forward_calls(noise):
    return NoiseGrad(noise, ForwardGradient(scale=0.1, antithetic=False))


BOTH = pytest.mark.parametrize("of", [by_gradient, by_forward_calls])


@BOTH
def test_parameters_wherever_they_are_used(of):
    """Each draw equals a model whose parameters were all replaced."""
    model = Everything().eval()
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(1))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    seen = []
    objective = lambda outputs: seen.append(outputs.detach().clone()) or outputs[:, 1]  # noqa: E731
    fwdgrad.explain(
        model, x, method=of(ParameterNoise(0.2, draws=3)), objective=objective, n_samples=12,
        batch_size=4, seed=7,
    )  # fmt: skip
    outputs = torch.cat([some for some in seen if len(some) == 4])
    for draw in range(3):
        noisy = Everything().eval()
        for t, p in enumerate(noisy.parameters()):
            spec = NoiseSpec((p.numel(),), scale=0.2, seed=7, stream=16 + t)
            flat = perturb(p.detach().reshape(-1), spec, draw, 1, relative=True)
            p.data.copy_(flat.view_as(p))
        samples = perturb(x, NoiseSpec(x.shape, scale=0.1, seed=7), 4 * draw, 4)
        assert close(outputs[4 * draw : 4 * draw + 4], noisy(samples).detach(), 1e-4)
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(p.requires_grad for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("no"), ModelError("no")])
@BOTH
def test_parameters_have_the_same_bits_after_a_failure(of, error):
    model = network()
    failing = []

    class Failing(torch.nn.Module):
        def forward(self, batch):
            failing.append(1)
            if len(failing) == 7:
                raise error
            return batch

    whole = torch.nn.Sequential(model[0], Failing(), *model[1:]).eval()
    own = list(whole.parameters())
    before = [p.detach().clone() for p in own]
    with pytest.raises(type(error)):
        fwdgrad.explain(whole, X, method=of(ParameterNoise()), n_samples=20)
    assert [id(p) for p in whole.parameters()] == [id(p) for p in own]
    assert all(torch.equal(p, was) for p, was in zip(own, before, strict=True))
    assert all(p.requires_grad for p in own)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in whole.modules())


def test_one_layer_of_parameters_at_a_time(monkeypatch):
    """Forward-only: of the noisy parameters no more than the largest layer's ever exist."""
    sizes = [64, 600, 900, 700, 2]
    model = torch.nn.Sequential(*(torch.nn.Linear(a, b) for a, b in itertools.pairwise(sizes)))
    made, most = [], 0

    class Watched(Perturber):
        def __call__(self, out, first, **options):
            nonlocal most
            made.append((StorageWeakRef(out.untyped_storage()), out.numel()))
            made[:] = [(storage, size) for storage, size in made if not storage.expired()]
            most = max(most, sum(size for _, size in made))
            return super().__call__(out, first, **options)

    monkeypatch.setattr(parameters, "Perturber", Watched)
    method = NoiseGrad(ParameterNoise(), ForwardGradient(scale=0.1))
    fwdgrad.explain(model.eval(), torch.randn(64), 0, method=method, n_samples=8, batch_size=2)
    assert most == 900 * 700 + 700


def test_a_module_inside_a_function():
    inner = network()
    model = lambda batch: 2 * inner(batch)  # noqa: E731
    options = {"target": 1, "objective": "output", "seed": 5, "n_samples": 6}
    method = NoiseGrad(ParameterNoise(0.1, module=inner))
    result = fwdgrad.explain(model, X, method=method, **options)
    same = fwdgrad.explain(inner, X, method=NoiseGrad(ParameterNoise(0.1)), **options)
    assert torch.equal(result.attribution, 2 * same.attribution)


@pytest.mark.parametrize(
    ("model", "noise", "error", "message"),
    [
        (lambda b: b.flatten(1), ParameterNoise(), TypeError, "parameters need a torch.nn.Module"),
        (torch.nn.Flatten(), ParameterNoise(), ValueError, "this one has none"),
        (network(), ParameterNoise(draws=5), ValueError, "draws must divide the samples"),
        (torch.jit.trace(network(), X[None]), ParameterNoise(), TypeError, "this one is compiled"),
        (
            torch.nn.Sequential(torch.jit.trace(network(), X[None]), torch.nn.Linear(3, 3)),
            ParameterNoise(),
            TypeError,
            "its TopLevelTracedModule is compiled",
        ),
    ],
)
def test_models_that_are_refused(model, noise, error, message):
    with pytest.raises(error, match=message):
        fwdgrad.explain(model, X, 0, method=by_gradient(noise), n_samples=8)


@pytest.mark.parametrize("method", [NoiseGrad, FusionGrad])
def test_noise_of_another_kind_is_refused(method):
    with pytest.raises(TypeError, match="parameters must be a ParameterNoise"):
        method(parameters=0.2)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"scale": 0}, ValueError, "parameters' scale must be positive"),
        ({"scale": "a"}, TypeError, "parameters' scale must be a number"),
        ({"distribution": "hadamard"}, ValueError, "distribution must be one of normal"),
        ({"draws": 0}, ValueError, "parameters' draws must be at least 1"),
        ({"sampling": "cauchy"}, TypeError, "parameters' sampling must be a Sampling"),
        ({"sampling": Sampling("uniform")}, ValueError, "must reach wherever 'normal' does"),
        ({"module": 3}, TypeError, "parameters' module must be a torch.nn.Module"),
    ],
)
def test_parameter_noise_that_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        ParameterNoise(**options)
