"""Sources, smoothing and saliency rules, and all their combinations."""

import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef

import fwdgrad
from fwdgrad import (
    METHODS,
    MOLLIFIERS,
    AdaptiveScale,
    Autograd,
    Difference,
    Explanation,
    Gradient,
    GradientXInput,
    IntegratedGradients,
    LikelihoodRatio,
    ModelError,
    ParameterNoise,
    Sampling,
    SquaredGrad,
    VarGrad,
    parameters,
)
from fwdgrad import checkpoint as checkpoints
from fwdgrad.noise import noise_spec
from fwdgrad.saliency import blurred
from fwdgrad_kernels import NoiseSpec, Perturber, path_positions, perturb

from .models import Recorder, assert_same_bits

SHAPE = (3, 8, 8)
X = torch.rand(SHAPE, generator=torch.Generator().manual_seed(3)).mul(0.8).add(0.1)
SIGMA = 0.3


def network(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, padding=1),
        torch.nn.Tanh(),
        torch.nn.Flatten(),
        torch.nn.Linear(256, 3),
    ).eval()


NETWORK = network()


def gradient_at(model, point, target):
    leaf = point.clone().requires_grad_()
    return torch.autograd.grad(model(leaf[None])[0, target], leaf)[0]


def close(a, b, tolerance=1e-5):
    return torch.allclose(a, b, rtol=tolerance, atol=tolerance * float(b.abs().max()))


# ---- every combination ---------------------------------------------------------------------

NOISES = {
    "none": {},
    "normal": {"sigma": 0.2},
    "uniform": {"sigma": 0.2, "law": "uniform"},
    "hadamard": {"sigma": 0.2, "law": "hadamard", "cell": 4, "shared": True},
    "blocks": {"sigma": 0.2, "block": 4},
    "map": {"sigma": torch.rand(SHAPE, generator=torch.Generator().manual_seed(1))},
    "adaptive": {"sigma": AdaptiveScale(0.0, 1.0)},
    "pairs": {"sigma": 0.2, "antithetic": True},
    "clip": {"sigma": 0.2, "clip": (0.0, 1.0)},
}
PARAMETERS = {
    "fixed": None,
    "a draw a copy": ParameterNoise(0.1),
    "four draws": ParameterNoise(0.1, "logistic", draws=4),
}
SALIENCIES = {
    "gradient": Gradient(),
    "x input": GradientXInput(),
    "path": IntegratedGradients(),
    "quadrature": IntegratedGradients(0.5, steps=3),
    "squared": SquaredGrad(),
    "variance": VarGrad(),
}
LIKELIHOOD_RATIO_REFUSES = {
    ("none", None): None,  # a source without noise is the other one
    ("uniform", None): "law must have a score",
    (None, "squared"): "needs each copy's own gradient",
    (None, "variance"): "needs each copy's own gradient",
}


def reference(options, copies):
    """The same map from autograd on copies that are all stored, in float64."""
    options = dict(options)
    saliency = options.pop("saliency", Gradient())
    parameters = options.pop("parameters", None)
    signs = 2 if options.pop("antithetic", False) else 1
    clip = options.pop("clip", None)
    sigma = options.pop("sigma", 0.0)
    spec = (
        noise_spec(SHAPE, scale=sigma, seed=5, **options)
        if torch.is_tensor(sigma) or sigma
        else None
    )
    start = torch.zeros_like(X)
    positions, weights = torch.ones(copies), torch.ones(copies)
    if isinstance(saliency, IntegratedGradients):
        if saliency.steps:
            start = torch.full_like(X, 0.5)
            nodes, w = np.polynomial.legendre.leggauss(3)
            at = np.arange(copies) % 3
            positions, weights = torch.tensor((nodes[at] + 1) / 2), torch.tensor(w[at] * 1.5)
        else:
            positions = path_positions(5, 0, copies)
    gradients = []
    for i in range(copies):
        model = NETWORK
        if parameters is not None:
            model = network()
            draw = i // (copies // (parameters.draws or copies))
            for t, p in enumerate(model.parameters()):
                noise = NoiseSpec(
                    (p.numel(),), parameters.law, parameters.scale, seed=5, stream=16 + t
                )
                p.data = perturb(
                    p.data.reshape(-1), noise, draw, 1, relative=True, backend="reference"
                ).view_as(p)
        for sign in (1, -1)[:signs]:
            point = start + (X - start) * float(positions[i])
            if spec is not None:
                point = perturb(point, spec, i, 1, sign, clip, backend="reference")[0]
            elif clip:
                point = point.clamp(*clip)
            gradients.append(float(weights[i]) * gradient_at(model, point, 1).double())
    gradients = torch.stack(gradients)
    if isinstance(saliency, VarGrad):
        return gradients.var(0, correction=0).float()
    if isinstance(saliency, SquaredGrad):
        return gradients.square().mean(0).float()
    factor = saliency.factor(X)
    return (gradients.mean(0) * (1.0 if factor is None else factor)).float()


@pytest.mark.parametrize("saliency", SALIENCIES)
@pytest.mark.parametrize("parameters", PARAMETERS)
@pytest.mark.parametrize("noise", NOISES)
def test_autograd(noise, parameters, saliency):
    options = {**NOISES[noise], "saliency": SALIENCIES[saliency]}
    if PARAMETERS[parameters] is not None:
        options["parameters"] = PARAMETERS[parameters]
    copies = 12
    signs = 2 if options.get("antithetic") else 1
    if noise == "none" and parameters == "fixed":
        if saliency == "variance":
            with pytest.raises(ValueError, match="VarGrad needs noise"):
                Autograd(NETWORK, **options)
            return
        copies = {"quadrature": 3, "path": 12}.get(saliency, 1)
    explanation = fwdgrad.explain(
        NETWORK,
        X,
        method="autograd",
        target=1,
        seed=5,
        queries=copies * signs,
        batch_size=5,
        **options,
    )
    want = reference(options, copies)
    assert close(explanation.attribution, want, 2e-4), (explanation.attribution - want).abs().max()
    assert explanation.queries == copies * signs
    if saliency == "variance":
        assert bool(explanation.standard_error.isnan().all())
    elif noise == "none" and parameters == "fixed" and saliency != "path":
        assert bool((explanation.standard_error == 0).all())
        assert explanation.reliability == 1.0
    elif noise != "hadamard":  # one group of which says nothing about errors
        assert bool(explanation.standard_error.isfinite().all())


@pytest.mark.parametrize("saliency", SALIENCIES)
@pytest.mark.parametrize("parameters", PARAMETERS)
@pytest.mark.parametrize("noise", [name for name in NOISES if name != "none"])
def test_likelihood_ratio(noise, parameters, saliency):
    options = {**NOISES[noise], "saliency": SALIENCIES[saliency]}
    if PARAMETERS[parameters] is not None:
        options["parameters"] = PARAMETERS[parameters]
    refusals = [
        text
        for (one, other), text in LIKELIHOOD_RATIO_REFUSES.items()
        if text and one in (None, noise) and other in (None, saliency)
    ]
    if noise == "adaptive" and saliency in ("path", "quadrature"):
        refusals.append("sigma must be a number or a tensor on a path")
    run = lambda: fwdgrad.explain(  # noqa: E731
        NETWORK, X, target=1, seed=5, queries=24, batch_size=7, **options
    )
    if refusals:
        with pytest.raises(ValueError, match="|".join(refusals)):
            run()
        return
    explanation = run()
    assert bool(explanation.attribution.isfinite().all())
    again = fwdgrad.explain(
        NETWORK,
        explanation.input,
        target=1,
        batch_size=24,
        **explanation.settings,
    )
    assert close(again.attribution, explanation.attribution, 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"saliency": IntegratedGradients(0.2)},
        {"saliency": IntegratedGradients(0.2, steps=4)},
        {"saliency": GradientXInput()},
        {"parameters": ParameterNoise(0.05, draws=64)},
        {"saliency": IntegratedGradients(0.2), "parameters": ParameterNoise(0.05, draws=32)},
    ],
    ids=str,
)
def test_both_sources_estimate_the_same(options):
    """On average over the noise, and to their standard errors."""
    more = {"target": 1, "sigma": SIGMA, **options}
    white = fwdgrad.explain(NETWORK, X, method="autograd", queries=2048, seed=1, **more)
    black = fwdgrad.explain(NETWORK, X, queries=16384, seed=2, **more)
    z = (black.attribution - white.attribution) / (
        black.standard_error.square() + white.standard_error.square()
    ).sqrt()
    assert float(z.abs().max()) < 5
    assert 0.8 < float(z.square().mean().sqrt()) < 1.2
    assert black.reliability > 0.5


# ---- the theorems --------------------------------------------------------------------------


def quartic(batch):
    """sum_k (x_k^4 + a_k x_k^3) + x_0^2 x_1^2: gradient and its Laplacian by hand below."""
    a = torch.tensor([0.5, -1.0, 2.0], dtype=batch.dtype)
    x = batch
    return (x**4 + a * x**3).sum(1) + x[:, 0] ** 2 * x[:, 1] ** 2


def quartic_gradient_and_laplacian(x):
    a = torch.tensor([0.5, -1.0, 2.0], dtype=x.dtype)
    gradient = 4 * x**3 + 3 * a * x**2
    gradient += torch.stack([2 * x[0] * x[1] ** 2, 2 * x[0] ** 2 * x[1], x[2] * 0])
    laplacian = 24 * x + 6 * a + torch.stack([4 * x[0], 4 * x[1], x[2] * 0])
    return gradient, laplacian


POINT = torch.tensor([0.7, -0.4, 1.2], dtype=torch.float64)


@pytest.mark.slow
@pytest.mark.parametrize("source", [Autograd, LikelihoodRatio])
def test_smoothgrad_of_a_quartic(source):
    """NA theorem 1: the gradient plus sigma^2 / 2 times its Laplacian, exactly for a quartic."""
    gradient, laplacian = quartic_gradient_and_laplacian(POINT)
    result = source(quartic, sigma=SIGMA, queries=200_000, antithetic=True).explain(POINT, None)
    want = gradient + SIGMA**2 / 2 * laplacian
    z = (result.attribution - want) / result.standard_error
    assert float(z.abs().max()) < 4
    assert (
        float(((gradient - want) / result.standard_error).abs().max()) > 20
    )  # it tells them apart


def test_vargrad_of_a_linear_and_a_quadratic_score():
    """NA theorem 2: zero, and sigma^2 times the row sums of the squared Hessian."""
    options = {"method": "vargrad", "target": None, "sigma": SIGMA, "queries": 40_000}
    weights = torch.tensor([1.0, -2.0, 300.0], dtype=torch.float64)
    linear = fwdgrad.explain(lambda batch: batch @ weights, POINT, **{**options, "queries": 100})
    assert float(linear.attribution.abs().max()) <= 1e-25
    matrix = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    quadratic = lambda batch: ((batch @ matrix) * batch).sum(1) + batch @ weights  # noqa: E731
    result = fwdgrad.explain(quadratic, POINT, **options)
    want = SIGMA**2 * (matrix + matrix.T).square().sum(1)
    assert close(result.attribution, want, 0.04)
    assert result.reliability > 0.99


def test_vargrad_keeps_its_digits():
    """Where E[g^2] - E[g]^2 in float32 would be nothing but rounding."""
    model = lambda batch: 1e4 * batch.sum(1) + 0.005 * batch.square().sum(1)  # noqa: E731
    x = torch.zeros(50)
    result = fwdgrad.explain(
        model, x, method="vargrad", target=None, sigma=1.0, queries=500, seed=2, batch_size=100
    )
    gradients = perturb(x, NoiseSpec((50,), seed=2), 0, 500).double() * 0.01
    rounding = (2**-11) ** 2  # the gradients themselves are rounded to about 1e-3
    assert close(result.attribution.double(), gradients.var(0, correction=0), 0.2 + rounding)


@pytest.mark.parametrize("law", ["normal", "cauchy", "hyperbolic", "logistic", "uniform"])
def test_less_noise_gives_the_gradient(law):
    """The limit of mollification in AX: e to 0, for each kernel."""
    errors = []
    want = gradient_at(NETWORK, X, 1)
    for sigma in (1e-1, 1e-2, 1e-3):
        got = fwdgrad.explain(
            NETWORK, X, method="autograd", target=1, sigma=sigma, law=law, queries=64
        )
        errors.append(float((got.attribution - want).norm() / want.norm()))
    assert errors[0] > 3 * errors[1] > 9 * errors[2]
    assert errors[2] < 2e-2 if law == "cauchy" else errors[2] < 2e-4


def test_corollary_1():
    """FG corollary 1: for a linear score the estimate is unbiased whatever the scale."""
    weights = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    for sigma in (0.01, 1.0, 100.0):
        result = LikelihoodRatio(lambda b: b @ weights, sigma=sigma, queries=20_000).explain(
            POINT, None
        )
        assert float(((result.attribution - weights) / result.standard_error).abs().max()) < 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("law", "sampling"),
    [
        ("normal", Sampling("cauchy", 0.7)),
        ("normal", Sampling("logistic")),
        ("normal", Sampling("normal", 1.5)),
        ("logistic", Sampling("normal", 2.0)),
        ("hyperbolic", Sampling("logistic", 0.6)),
        ("uniform", Sampling("normal")),
        ("uniform", Sampling("uniform", 1.5)),
        ("cauchy", Sampling("cauchy", 2.0)),
    ],
    ids=str,
)
def test_theorem_3_11(law, sampling):
    """Drawn from another law, the smoothed gradient is the mollifier's."""
    model = lambda batch: (batch.sin() * torch.tensor([1.0, 2.0])).sum(1)  # noqa: E731
    x = torch.tensor([0.3, 0.9])
    options = {"method": "autograd", "target": None, "sigma": 0.5, "law": law, "queries": 40_000}
    plain = fwdgrad.explain(model, x, seed=1, **options)
    other = fwdgrad.explain(model, x, seed=2, sampling=sampling, **options)
    error = (plain.standard_error.square() + other.standard_error.square()).sqrt()
    assert float(((plain.attribution - other.attribution) / error).abs().max()) < 4
    unweighted = fwdgrad.explain(
        model, x, seed=2,
        **{**options, "law": sampling.law, "sigma": 0.5 * sampling.factor},
    )  # fmt: skip
    apart = ((unweighted.attribution - plain.attribution) / error).abs().max()
    assert float(apart) > 6  # which the weights must have mended
    assert other.settings["law"] == law
    assert other.settings["sampling"] == sampling


@pytest.mark.slow
def test_theorem_3_11_for_parameters():
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Linear(2, 1, bias=False), torch.nn.Tanh()).eval()
    x = torch.tensor([0.4, -0.8])
    options = {"method": "noisegrad", "target": None, "queries": 20_000}
    plain = fwdgrad.explain(model, x, parameters=ParameterNoise(0.5), **options)
    weighted = ParameterNoise(0.5, sampling=Sampling("logistic", 0.8))
    other = fwdgrad.explain(model, x, parameters=weighted, seed=9, **options)
    error = (plain.standard_error.square() + other.standard_error.square()).sqrt()
    assert float(((plain.attribution - other.attribution) / error).abs().max()) < 4


def test_sampling_of_many_elements_warns():
    with pytest.warns(UserWarning, match="effective copies of 64"):
        fwdgrad.explain(
            NETWORK, X, method="autograd", sigma=0.2, queries=64, sampling=Sampling("cauchy")
        )


# ---- paths ---------------------------------------------------------------------------------


@pytest.mark.parametrize("baseline", ["black", "white", "blurred", 0.3, torch.full(SHAPE, 0.25)])
def test_completeness(baseline):
    exact = fwdgrad.explain(
        NETWORK, X, method="integrated-gradients", target=1,
        saliency=IntegratedGradients(baseline, steps=24),
    )  # fmt: skip
    start = IntegratedGradients(baseline).start(X)
    change = float((NETWORK(X[None]) - NETWORK(start[None]))[0, 1].detach())
    assert exact.queries == 24
    assert abs(exact.delta) < 1e-4 * max(1, abs(change))
    assert float(exact.attribution.sum()) == pytest.approx(change + exact.delta, abs=1e-4)
    drawn = fwdgrad.explain(
        NETWORK, X, method="autograd", target=1, queries=2000,
        saliency=IntegratedGradients(baseline),
    )  # fmt: skip
    # Elements of a copy share its position, so their errors add up.
    assert abs(drawn.delta) <= 5 * float(drawn.standard_error.sum())
    assert drawn.reliability > 0.9
    z = (drawn.attribution - exact.attribution) / drawn.standard_error.clamp(min=1e-9)
    assert float(z[drawn.standard_error > 1e-6].abs().max()) < 6


def test_one_place_on_a_path_has_no_error():
    """Drawn, other draws would differ, and one cannot tell by how much; a step is exact."""
    drawn = Autograd(NETWORK, queries=1, saliency=IntegratedGradients()).explain(X, 1)
    assert bool(drawn.standard_error.isnan().all())
    assert math.isnan(drawn.reliability)
    step = Autograd(NETWORK, saliency=IntegratedGradients(steps=1)).explain(X, 1)
    assert step.reliability == 1.0


def test_a_memory_budget_counts_the_moments():
    x = torch.rand(3, 64, 64)
    model = lambda batch: batch.square().sum((1, 2, 3))[:, None]  # noqa: E731
    # The input, its mean and its spread, the sample of the half-run, the copy, a power of two and
    # four copies' scores.
    least = 6 * x.nbytes + 4 + 4 * 8
    with pytest.raises(ValueError, match=f"at least {least} bytes"):
        Autograd(model, sigma=0.1, queries=8, memory=least - 1).explain(x, None)
    Autograd(model, sigma=0.1, queries=8, memory=least).explain(x, None)


def test_a_gradient_has_no_delta():
    assert fwdgrad.explain(NETWORK, X, method="gradient", target=1).delta is None


def test_forward_calls_give_integrated_gradients():
    weights = torch.tensor([1.0, -2.0, 3.0])
    result = fwdgrad.explain(
        lambda batch: (batch @ weights) ** 2, torch.tensor([1.0, 0.5, 0.25]), target=None,
        sigma=0.2, queries=40_000, saliency=IntegratedGradients(),
    )  # fmt: skip
    want = torch.tensor([1.0, 0.5, 0.25]) * weights * 0.75  # x_k w_k (w x), and w x = 0.75
    assert float(((result.attribution - want) / result.standard_error).abs().max()) < 4
    assert abs(result.delta) < 5 * float(result.standard_error.sum())


# ---- parameters ----------------------------------------------------------------------------


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


@pytest.mark.parametrize("source", [Autograd, LikelihoodRatio])
def test_parameters_wherever_they_are_used(source):
    """Each draw equals a model whose parameters were all replaced."""
    model = Everything().eval()
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(1))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    noise = ParameterNoise(0.2, draws=3)
    seen = []
    objective = lambda outputs: seen.append(outputs.detach().clone()) or outputs[:, 1]  # noqa: E731
    source(
        model, objective=objective, sigma=0.1, queries=12, antithetic=False, batch_size=4, seed=7,
        parameters=noise,
    ).explain(x)  # fmt: skip
    outputs = torch.cat([some for some in seen if len(some) == 4])
    for draw in range(3):
        noisy = Everything().eval()
        for t, p in enumerate(noisy.parameters()):
            spec = NoiseSpec((p.numel(),), scale=0.2, seed=7, stream=16 + t)
            flat = perturb(p.detach().reshape(-1), spec, draw, 1, relative=True)
            p.data.copy_(flat.view_as(p))
        copies = perturb(x, NoiseSpec(x.shape, scale=0.1, seed=7), 4 * draw, 4)
        assert close(outputs[4 * draw : 4 * draw + 4], noisy(copies).detach(), 1e-4)
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(p.requires_grad for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("no"), ModelError("no")])
@pytest.mark.parametrize("source", [Autograd, LikelihoodRatio])
def test_parameters_have_the_same_bits_after_a_failure(source, error):
    model = network()
    failing = []

    class Failing(torch.nn.Module):
        def forward(self, batch):
            failing.append(1)
            if len(failing) == 7:
                raise error
            return batch

    whole = torch.nn.Sequential(model[0], Failing(), *model[1:]).eval()
    parameters = list(whole.parameters())
    before = [p.detach().clone() for p in parameters]
    with pytest.raises(type(error)):
        source(whole, sigma=0.1, queries=20, antithetic=False, parameters=ParameterNoise()).explain(
            X
        )
    assert [id(p) for p in whole.parameters()] == [id(p) for p in parameters]
    assert all(torch.equal(p, was) for p, was in zip(parameters, before, strict=True))
    assert all(p.requires_grad for p in parameters)
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
    LikelihoodRatio(
        model.eval(), sigma=0.1, queries=8, parameters=ParameterNoise(), batch_size=2
    ).explain(torch.randn(64), 0)
    assert most == 900 * 700 + 700


@pytest.mark.parametrize(
    ("model", "parameters", "error", "message"),
    [
        (lambda b: b.flatten(1), ParameterNoise(), TypeError, "parameters need a torch.nn.Module"),
        (torch.nn.Flatten(), ParameterNoise(), ValueError, "this one has none"),
        (network(), ParameterNoise(draws=5), ValueError, "draws must divide the copies"),
        (network(), 0.2, TypeError, "parameters must be a ParameterNoise"),
        (torch.jit.trace(network(), X[None]), ParameterNoise(), TypeError, "this one is compiled"),
        (
            torch.nn.Sequential(torch.jit.trace(network(), X[None]), torch.nn.Linear(3, 3)),
            ParameterNoise(),
            TypeError,
            "its TopLevelTracedModule is compiled",
        ),
    ],
)
def test_parameters_that_are_refused(model, parameters, error, message):
    with pytest.raises(error, match=message):
        Autograd(model, sigma=0.1, queries=8, parameters=parameters).explain(X, 0)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"scale": 0}, ValueError, "parameters' scale must be positive"),
        ({"scale": "a"}, TypeError, "parameters' scale must be a number"),
        ({"law": "hadamard"}, ValueError, "parameters' law must be one of normal"),
        ({"draws": 0}, ValueError, "parameters' draws must be at least 1"),
        ({"sampling": "cauchy"}, TypeError, "parameters' sampling must be a Sampling"),
        ({"sampling": Sampling("uniform")}, ValueError, "must reach wherever 'normal' does"),
        ({"module": 3}, TypeError, "parameters' module must be a torch.nn.Module"),
    ],
)
def test_parameter_noise_that_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        ParameterNoise(**options)


@pytest.mark.parametrize("name", MOLLIFIERS)
@pytest.mark.parametrize("where", ["input", "parameters"])
def test_every_mollifier(name, where):
    """AX's five kernels by their names, on the input and on the parameters."""
    law = MOLLIFIERS[name]
    options = {"sigma": 0.2, "law": law} if where == "input" else {}
    if where == "parameters":
        options["parameters"] = ParameterNoise(0.1, law)
    result = fwdgrad.explain(NETWORK, X, method="autograd", target=1, seed=5, queries=8, **options)
    assert close(result.attribution, reference(options, 8), 2e-4)


def test_a_module_inside_a_function():
    inner = network()
    result = fwdgrad.explain(
        lambda batch: inner(batch), X, method="noisegrad", target=1, seed=5, queries=6,
        parameters=ParameterNoise(0.1, module=inner),
    )  # fmt: skip
    same = fwdgrad.explain(
        inner, X, method="noisegrad", target=1, seed=5, queries=6, parameters=ParameterNoise(0.1)
    )
    assert torch.equal(result.attribution, same.attribution)


# ---- the stream ----------------------------------------------------------------------------

STREAMED = {
    "smoothgrad": {"sigma": 0.2},
    "pairs": {"sigma": 0.2, "antithetic": True},
    "hadamard": {"sigma": 0.2, "law": "hadamard", "cell": 4, "shared": True},
    "vargrad": {"sigma": 0.2, "saliency": VarGrad()},
    "fusiongrad": {"sigma": 0.2, "parameters": ParameterNoise(0.1, draws=4)},
    "path": {"saliency": IntegratedGradients()},
}


def separate(batch):
    """A model whose gradient for a copy does not depend on the batch, bit for bit."""
    return torch.stack([batch.square().flatten(1)[:, i] * (i + 1.0) for i in range(3)], 1)


@pytest.mark.parametrize("name", [name for name in STREAMED if name != "fusiongrad"])
def test_autograd_does_not_depend_on_the_batch(name):
    options = STREAMED[name]

    def run(size):
        source = Autograd(separate, seed=3, queries=32, batch_size=size, **options)
        return source.explain(X, 1)

    whole = run(32)
    for size in (1, 5, None):
        assert_same_bits(run(size), whole)


@pytest.mark.parametrize("name", STREAMED)
def test_autograd_goes_on_from_a_checkpoint(name, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "SAVE_EVERY_SECONDS", 0.0)
    options = {"queries": 32, "batch_size": 4, "seed": 3, **STREAMED[name]}
    path = tmp_path / "run.safetensors"
    whole = Autograd(network(), **options).explain(X, 1)

    class Stopping(torch.nn.Module):
        def __init__(self, at):
            super().__init__()
            self.inner, self.left = network(), at

        def forward(self, batch):
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
            return self.inner(batch)

    with pytest.raises(KeyboardInterrupt):
        Autograd(Stopping(6).eval(), **options).explain(X, 1, checkpoint=path)
    counted = Stopping(10**6).eval()
    result = Autograd(counted, **options).explain(X, 1, checkpoint=path)
    assert_same_bits(result, whole)
    assert 10**6 - counted.left <= 8 + 4  # the latter asked for again, with noise one by one


def test_a_checkpoint_of_another_source_is_refused(tmp_path):
    path = tmp_path / "run.safetensors"
    Autograd(NETWORK, sigma=0.1, queries=4).explain(X, 1, checkpoint=path)
    with pytest.raises(fwdgrad.CheckpointError, match="method was 'autograd'"):
        LikelihoodRatio(NETWORK, sigma=0.1, queries=4).explain(X, 1, checkpoint=path)


# ---- what is asked -------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["likelihood-ratio", "smoothgrad", "vargrad", "fusiongrad"])
def test_several_targets_from_the_same_calls(method):
    recorder = []

    class Counting(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network()

        def forward(self, batch):
            recorder.append(len(batch))
            return self.inner(batch)

    model = Counting().eval()
    options = {"method": method, "sigma": 0.2, "queries": 12, "batch_size": 4, "seed": 2}
    several = fwdgrad.explain(model, X, target=[2, "auto", 0], **options)
    calls = sum(recorder)
    assert calls <= 12 + 2  # and the input itself, once more to see where parameters are used
    predicted = int(NETWORK(X[None]).argmax())
    assert [e.target for e in several] == [2, predicted, 0]
    for explanation in several:
        alone = fwdgrad.explain(model, X, target=explanation.target, **options)
        assert close(explanation.attribution, alone.attribution)
        assert explanation.score == pytest.approx(alone.score)
        assert explanation.reliability == pytest.approx(alone.reliability, nan_ok=True, abs=1e-4)


def test_several_targets_resume(tmp_path):
    path = tmp_path / "run.safetensors"
    for source in (Autograd, LikelihoodRatio):
        first = source(NETWORK, sigma=0.1, queries=8).explain(X, [0, 2], checkpoint=path)
        asked = Recorder(NETWORK)
        again = source(asked, sigma=0.1, queries=8).explain(X, [0, 2], checkpoint=path)
        assert asked.calls == 4  # that are asked for again
        for one, other in zip(first, again, strict=True):
            assert torch.equal(one.attribution, other.attribution)
        path.unlink()


def test_a_model_that_fails_at_the_baseline():
    def model(batch):
        if not bool(batch.any()):
            raise ValueError("an empty input")
        return batch.flatten(1).sum(1)

    message = r"ValueError: an empty input \(at the path's baseline\)"
    with pytest.raises(ModelError, match=message) as caught:
        fwdgrad.explain(model, X, method="integrated-gradients", target=None)
    assert isinstance(caught.value.__cause__, ValueError)


def test_difference_of_two_classes():
    options = {"method": "autograd", "sigma": 0.2, "queries": 10, "seed": 1}
    difference = fwdgrad.explain(NETWORK, X, objective=Difference(2, 0), **options)
    both = fwdgrad.explain(NETWORK, X, target=[2, 0], **options)
    assert close(difference.attribution, both[0].attribution - both[1].attribution)
    assert repr(difference).startswith("Explanation(Difference(2, 0, 'logit') = ")
    black = fwdgrad.explain(
        NETWORK, X, objective=Difference(2, 0, "probability"), sigma=0.2, queries=10
    )
    assert black.score == pytest.approx(
        float((lambda p: p[2] - p[0])(NETWORK(X[None])[0].softmax(0)))
    )


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((1, 1), ValueError, "target and other must differ"),
        ((-1, 1), TypeError, "target must be a class number"),
        ((1, 2.0), TypeError, "other must be a class number"),
        ((1, 2, "odds"), ValueError, "objective must be one of"),
    ],
)
def test_differences_that_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        Difference(*arguments)


def test_a_difference_of_classes_that_are_not_there():
    with pytest.raises(ModelError, match=r"returned 3 classes.*Difference\(1, 7"):
        fwdgrad.explain(NETWORK, X, objective=Difference(1, 7), queries=2)


@pytest.mark.parametrize(
    "model",
    [
        lambda batch: batch.detach().flatten(1)[:, :3],
        lambda batch: batch.detach().numpy().reshape(len(batch), -1)[:, :3],
        lambda batch: batch.numpy().reshape(len(batch), -1)[:, :3],
        lambda batch: torch.zeros(len(batch), 3) + torch.ones(1, requires_grad=True),
    ],
    ids=["detached", "NumPy", "NumPy of the batch", "constant"],
)
def test_a_model_that_gives_no_gradient(model):
    with pytest.raises(ModelError, match=r"gives no gradient.*likelihood-ratio"):
        fwdgrad.explain(model, X, method="gradient", target=0)


def test_a_model_that_overwrites_its_input():
    model = lambda batch: batch.mul_(2).flatten(1)  # noqa: E731
    with pytest.raises(ModelError, match=r"changes its input in place.*clone"):
        fwdgrad.explain(model, X, method="gradient", target=0)


def test_a_gradient_that_is_not_finite(tmp_path):
    model = lambda batch: (batch.sum((1, 2, 3)) - batch.detach().sum((1, 2, 3))).sqrt()[:, None]  # noqa: E731
    path = tmp_path / "run.safetensors"
    with pytest.raises(ModelError, match=r"the gradient is (inf|nan) for 2 of 2 copies"):
        fwdgrad.explain(model, X, method="smoothgrad", target=None, batch_size=2, checkpoint=path)


def test_inference_mode_around_it():
    with torch.inference_mode():
        result = fwdgrad.explain(NETWORK, X.clone(), method="gradient", target=1)
    assert close(result.attribution, gradient_at(NETWORK, X, 1))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_dtypes(dtype):
    model = network().to(dtype)
    result = fwdgrad.explain(model, X.to(dtype), method="smoothgrad", target=1, queries=8)
    assert result.attribution.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    want = fwdgrad.explain(NETWORK, X, method="smoothgrad", target=1, queries=8)
    assert close(result.attribution.float(), want.attribution, 0.05)


def test_channels_last():
    x = X.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    last, plain = (fwdgrad.explain(NETWORK, a, method="smoothgrad", target=1) for a in (x, X))
    assert close(last.attribution, plain.attribution)


# ---- methods by name -----------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_every_method(method):
    result = fwdgrad.explain(NETWORK, X, method=method, target=1, seed=4)
    assert isinstance(result, Explanation)
    again = fwdgrad.explain(
        NETWORK, result.input, target=1, objective=result.objective, **result.settings
    )
    assert torch.equal(again.attribution, result.attribution)
    assert METHODS[method].line
    assert METHODS[method].equation


@pytest.mark.parametrize("method", ["adaptgrad", "fusiongrad", "integrated-gradients"])
def test_every_setting_survives_a_file(method, tmp_path):
    more = {"saliency": IntegratedGradients(torch.full(SHAPE, 0.1), steps=3), "queries": 12}
    more["parameters"] = ParameterNoise(0.1, draws=4, sampling=Sampling("logistic"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = fwdgrad.explain(NETWORK, X, method=method, target=1, **more)
        result.save(tmp_path / "e.safetensors")
        loaded = Explanation.load(tmp_path / "e.safetensors")
        again = fwdgrad.explain(NETWORK, loaded.input, target=1, **loaded.settings)
    assert torch.equal(again.attribution, result.attribution)
    assert loaded.delta == result.delta
    assert loaded.settings["parameters"] == result.settings["parameters"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"method": "smothgrad"}, ValueError, "method must be one of .* did you mean 'smoothgrad'"),
        ({"method": "vargrad", "quries": 3}, TypeError, "no option 'quries'; did you mean queries"),
        ({"sampling": Sampling("normal")}, TypeError, "'likelihood-ratio' has no option 'sampl"),
        ({"method": "gradient", "queries": 3}, ValueError, "queries must be 1 without noise"),
        ({"method": "gradient", "sigma": -1}, ValueError, "sigma must be >= 0"),
        ({"method": "gradient", "antithetic": True}, ValueError, "antithetic needs noise"),
        ({"saliency": "gradient"}, TypeError, "saliency must be one of Gradient"),
        ({"saliency": GradientXInput(), "baseline": 0.0}, ValueError, "saliency must be Gradient"),
        (
            {"method": "autograd", "saliency": IntegratedGradients(steps=7), "queries": 10},
            ValueError,
            "queries must be 7 without noise",
        ),
        (
            {"saliency": IntegratedGradients(steps=7), "queries": 10},
            ValueError,
            "as many copies, got 5 copies; ask for a multiple of 7",
        ),
        (
            {"method": "smoothgrad", "sampling": Sampling("cauchy"), "block": 2},
            ValueError,
            "sampling needs a draw for every element",
        ),
        (
            {"method": "gradient", "sampling": Sampling("cauchy")},
            ValueError,
            "sampling needs noise",
        ),
        (
            {"method": "vargrad", "sampling": Sampling("cauchy")},
            ValueError,
            "VarGrad is the variance under the law that is drawn",
        ),
        (
            {"method": "smoothgrad", "sampling": Sampling("normal"), "law": "rademacher"},
            ValueError,
            "sampling needs a law with a density",
        ),
        ({"target": []}, ValueError, "target must name at least one class"),
        (
            {"method": "adaptgrad", "sigma": AdaptiveScale(0.0, 0.5)},
            ValueError,
            "bounds must contain x, got .* at element",
        ),
    ],
)
def test_options_that_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        fwdgrad.explain(NETWORK, X, **options)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("pink",), ValueError, "baseline must be one of black, grey, white, blurred"),
        ((None,), TypeError, "baseline must be a name, a number or a tensor"),
        ((math.nan,), ValueError, "baseline must be finite"),
        (("black", 0), ValueError, "steps must lie in 1"),
    ],
)
def test_paths_that_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        IntegratedGradients(*arguments)


@pytest.mark.parametrize(("size", "deviation"), [((40, 31), 3.5), ((6, 9), 20.0)])
def test_the_blur_is_scipy_s(size, deviation):
    """Three deviations wide, reflected about the border's pixels."""
    ndimage = pytest.importorskip("scipy.ndimage")
    x = torch.rand(3, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    reach = min(math.ceil(3 * deviation), min(size) - 1)
    expected = [
        ndimage.gaussian_filter(plane.numpy(), deviation, mode="mirror", radius=reach)
        for plane in x
    ]
    found = blurred(x, deviation)
    assert found.is_contiguous()
    torch.testing.assert_close(found, torch.from_numpy(np.stack(expected)), rtol=0, atol=1e-12)


def test_baselines_that_do_not_fit():
    with pytest.raises(ValueError, match=r"baseline must be a number or have x's shape"):
        IntegratedGradients(torch.zeros(4)).start(X)
    with pytest.raises(ValueError, match=r"baseline 'black' is for values in \[0, 1\], got x = "):
        IntegratedGradients().start(X - 1)
    with pytest.raises(ValueError, match="baseline 'blurred' is for images"):
        IntegratedGradients("blurred").start(torch.zeros(4))


def test_a_blurred_baseline_is_an_average():
    x = torch.zeros(2, 40, 30)
    x[0, 20, 15] = 1.0
    blurred = IntegratedGradients("blurred").start(x)
    assert float(blurred[0].sum()) == pytest.approx(1.0, abs=1e-4)
    assert float(blurred[1].abs().max()) == 0
    assert int(blurred[0].argmax()) == 20 * 30 + 15
    rows = (blurred[0].sum(1) * (torch.arange(40) - 20.0) ** 2).sum()
    assert float(rows) == pytest.approx(9.0, rel=0.05)  # the shorter side is 30: deviation 3
    assert torch.allclose(
        IntegratedGradients("blurred").start(torch.full((1, 9, 7), 0.4)), torch.tensor(0.4)
    )


def test_the_score_does_not_move():
    with pytest.warns(UserWarning, match="is 1 for every copy, so the map is zero"):
        fwdgrad.explain(lambda batch: torch.ones(len(batch), 2), X, target=0, queries=4)


@pytest.mark.parametrize(("name", "level"), [("black", 0.0), ("grey", 0.5), ("white", 1.0)])
def test_baselines_by_name(name, level):
    assert torch.equal(IntegratedGradients(name).start(X), torch.full(SHAPE, level))
