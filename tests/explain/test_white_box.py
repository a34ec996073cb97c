"""Methods that take the model's own gradient, against gradients of samples that are all stored."""

import functools
import warnings

import numpy as np
import pytest
import torch

import fwdgrad
from fwdgrad import (
    AdaptGrad,
    AdaptiveScale,
    FusionGrad,
    Gradient,
    IntegratedGradients,
    ModelError,
    NoiseGrad,
    ParameterNoise,
    Sampling,
    SmoothGrad,
    SmoothGradSquared,
    VarGrad,
)
from fwdgrad.runner import checkpoint as checkpoints
from fwdgrad.smoothing import MOLLIFIERS
from fwdgrad_kernels import NoiseSpec, path_positions, perturb

from .models import Recorder, assert_same_bits, mostly_slow
from .networks import NETWORK, PARAMETERS, SHAPE, USES, X, close, gradient_at, network

# ---- every combination ---------------------------------------------------------------------

NOISES = {
    "none": None,
    "normal": {"scale": 0.2},
    "uniform": {"scale": 0.2, "distribution": "uniform"},
    "signs": {"scale": 0.2, "distribution": "rademacher"},
    "map": {"scale": torch.rand(SHAPE, generator=torch.Generator().manual_seed(1))},
    "adaptive": {"scale": AdaptiveScale(0.0, 1.0)},
    "pairs": {"scale": 0.2, "antithetic": True},
    "clip": {"scale": 0.2, "clip": (0.0, 1.0)},
}
SAMPLES = 12


def gradient_of(noise, parameters):
    """The method that averages gradients over these two kinds of noise."""
    if noise is None:
        return Gradient() if parameters is None else NoiseGrad(parameters)
    if isinstance(noise["scale"], AdaptiveScale):
        return (
            AdaptGrad(**noise) if parameters is None else NoiseGrad(parameters, AdaptGrad(**noise))
        )
    return SmoothGrad(**noise) if parameters is None else FusionGrad(**noise, parameters=parameters)


@functools.cache
def gradients_at(noise, parameters, path, count):
    """Those of ``gradients_of_samples``, by the names of the noise."""
    return gradients_of_samples(NOISES[noise], PARAMETERS[parameters], path, count)


def gradients_of_samples(noise, parameters, path=None, count=SAMPLES):
    """The gradient at each sample and each sign of its noise, with seed 5, weighted on a path."""
    options = dict(noise or {})
    scale, clip = options.get("scale"), options.get("clip")
    spec = None
    if noise is not None:
        spec = NoiseSpec(SHAPE, options.get("distribution", "normal"), scale, seed=5)
    start = torch.zeros_like(X)
    positions, weights = torch.ones(count), torch.ones(count)
    if path == "quadrature":
        start = torch.full_like(X, 0.5)
        nodes, w = np.polynomial.legendre.leggauss(3)
        at = np.arange(count) % 3
        positions, weights = torch.tensor((nodes[at] + 1) / 2), torch.tensor(w[at] * 1.5)
    elif path == "path":
        positions = path_positions(5, 0, count)
    gradients = []
    for i in range(count):
        model = NETWORK
        if parameters is not None:
            model = network()
            draw = i // (count // (parameters.draws or count))
            for t, p in enumerate(model.parameters()):
                own = NoiseSpec(
                    (p.numel(),), parameters.distribution, parameters.scale, seed=5, stream=16 + t
                )
                flat = perturb(p.data.reshape(-1), own, draw, 1, relative=True)
                p.data = flat.view_as(p)
        for sign in (1, -1) if options.get("antithetic") else (1,):
            point = start + (X - start) * float(positions[i])
            if spec is not None:
                point = perturb(point, spec, i, 1, sign, clip, backend="reference")[0]
            gradients.append(float(weights[i]) * gradient_at(model, point, 1).double())
    return torch.stack(gradients)


@pytest.mark.parametrize("use", mostly_slow(USES, keep=2))
@pytest.mark.parametrize("parameters", PARAMETERS)
@pytest.mark.parametrize("noise", NOISES)
def test_means_of_gradients(noise, parameters, use):
    exact = noise == "none" and parameters == "fixed"
    count = {"quadrature": 3, "path": SAMPLES}.get(use, 1) if exact else SAMPLES
    want = gradients_at(noise, parameters, use if use in ("path", "quadrature") else None, count)
    method = USES[use](gradient_of(NOISES[noise], PARAMETERS[parameters]))
    n_samples = len(want)
    found = fwdgrad.explain(
        NETWORK, X, 1, method=method, objective="output", n_samples=n_samples, seed=5, batch_size=5
    )
    want = want.mean(0) * {"x input": X, "path": X, "quadrature": X - 0.5}.get(use, 1.0)
    away = (found.attribution - want).abs().max()
    assert close(found.attribution, want.float(), 2e-4), away
    assert found.n_samples == n_samples
    if exact and use != "path":
        assert bool((found.standard_error == 0).all())
        assert found.reliability == 1.0
    else:
        assert bool(found.standard_error.isfinite().all())


@pytest.mark.parametrize("noise", [name for name in NOISES if name not in ("none", "adaptive")])
def test_squares_and_variances(noise):
    """The mean square and the variance of single gradients."""
    gradients, noise = gradients_at(noise, "fixed", None, SAMPLES), NOISES[noise]
    options = {"objective": "output", "n_samples": len(gradients), "seed": 5, "batch_size": 5}
    found = fwdgrad.explain(NETWORK, X, 1, method=SmoothGradSquared(**noise), **options)
    assert close(found.attribution, gradients.square().mean(0).float(), 2e-4)
    assert bool(found.standard_error.isfinite().all())
    found = fwdgrad.explain(NETWORK, X, 1, method=VarGrad(**noise), **options)
    assert close(found.attribution, gradients.var(0, correction=0).float(), 2e-4)
    assert bool(found.standard_error.isnan().all())


def test_fusiongrad_is_noisegrad_of_smoothgrad():
    noise = ParameterNoise(0.1)
    methods = (FusionGrad(scale=0.2, parameters=noise), NoiseGrad(noise, SmoothGrad(scale=0.2)))
    one, other = (fwdgrad.explain(NETWORK, X, 1, method=m, n_samples=8) for m in methods)
    assert_same_bits(one, other)


@pytest.mark.parametrize("name", MOLLIFIERS)
@pytest.mark.parametrize("where", ["input", "parameters"])
def test_every_mollifier(name, where):
    """AX's five kernels by their names, on the input and on the parameters."""
    distribution = MOLLIFIERS[name]
    noise = {"scale": 0.2, "distribution": distribution} if where == "input" else None
    parameters = ParameterNoise(0.1, distribution) if where == "parameters" else None
    found = fwdgrad.explain(
        NETWORK, X, 1, method=gradient_of(noise, parameters), objective="output", n_samples=8,
        seed=5,
    )  # fmt: skip
    want = gradients_of_samples(noise, parameters, count=8).mean(0)
    assert close(found.attribution, want.float(), 2e-4)


# ---- the theorems --------------------------------------------------------------------------

POINT = torch.tensor([0.7, -0.4, 1.2], dtype=torch.float64)
SCALE = 0.3


def test_vargrad_of_a_linear_and_a_quadratic_score():
    """NA theorem 2: zero, and scale^2 times the row sums of the squared Hessian."""
    method = VarGrad(scale=SCALE)
    weights = torch.tensor([1.0, -2.0, 300.0], dtype=torch.float64)
    linear = fwdgrad.explain(lambda batch: batch @ weights, POINT, method=method, n_samples=100)
    assert float(linear.attribution.abs().max()) <= 1e-25
    matrix = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    quadratic = lambda batch: ((batch @ matrix) * batch).sum(1) + batch @ weights  # noqa: E731
    result = fwdgrad.explain(quadratic, POINT, method=method, n_samples=40_000)
    want = SCALE**2 * (matrix + matrix.T).square().sum(1)
    assert close(result.attribution, want, 0.04)
    assert result.reliability > 0.99


def test_vargrad_keeps_its_digits():
    """Where E[g^2] - E[g]^2 in float32 would be nothing but rounding."""
    model = lambda batch: 1e4 * batch.sum(1) + 0.005 * batch.square().sum(1)  # noqa: E731
    x = torch.zeros(50)
    method = VarGrad(scale=1.0)
    result = fwdgrad.explain(model, x, method=method, n_samples=500, seed=2, batch_size=100)
    gradients = perturb(x, NoiseSpec((50,), seed=2), 0, 500).double() * 0.01
    rounding = (2**-11) ** 2  # the gradients themselves are rounded to about 1e-3
    assert close(result.attribution.double(), gradients.var(0, correction=0), 0.2 + rounding)


@pytest.mark.parametrize("distribution", MOLLIFIERS.values())
def test_less_noise_gives_the_gradient(distribution):
    """The limit of mollification in AX: e to 0, for each kernel."""
    errors = []
    want = gradient_at(NETWORK, X, 1)
    for scale in (1e-1, 1e-2, 1e-3):
        method = SmoothGrad(scale, distribution)
        got = fwdgrad.explain(NETWORK, X, 1, method=method, objective="output", n_samples=64)
        errors.append(float((got.attribution - want).norm() / want.norm()))
    assert errors[0] > 3 * errors[1] > 9 * errors[2]
    assert errors[2] < 2e-2 if distribution == "cauchy" else errors[2] < 2e-4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("distribution", "sampling"),
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
def test_theorem_3_11(distribution, sampling):
    """Drawn from another distribution, the smoothed gradient is the mollifier's."""
    model = lambda batch: (batch.sin() * torch.tensor([1.0, 2.0])).sum(1)  # noqa: E731
    x = torch.tensor([0.3, 0.9])

    def run(method, seed):
        return fwdgrad.explain(model, x, method=method, n_samples=40_000, seed=seed)

    plain = run(SmoothGrad(0.5, distribution), 1)
    method = SmoothGrad(0.5, distribution, sampling=sampling)
    other = run(method, 2)
    error = (plain.standard_error.square() + other.standard_error.square()).sqrt()
    assert float(((plain.attribution - other.attribution) / error).abs().max()) < 4
    unweighted = run(SmoothGrad(0.5 * sampling.factor, sampling.distribution), 2)
    apart = ((unweighted.attribution - plain.attribution) / error).abs().max()
    assert float(apart) > 6  # which the weights must have mended
    assert other.method == method


@pytest.mark.slow
def test_theorem_3_11_for_parameters():
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Linear(2, 1, bias=False), torch.nn.Tanh()).eval()
    x = torch.tensor([0.4, -0.8])
    plain = fwdgrad.explain(model, x, method=NoiseGrad(ParameterNoise(0.5)), n_samples=8000)
    weighted = NoiseGrad(ParameterNoise(0.5, sampling=Sampling("logistic", 0.8)))
    other = fwdgrad.explain(model, x, method=weighted, n_samples=8000, seed=9)
    error = (plain.standard_error.square() + other.standard_error.square()).sqrt()
    assert float(((plain.attribution - other.attribution) / error).abs().max()) < 4


def test_sampling_of_many_elements_warns():
    method = SmoothGrad(scale=0.2, sampling=Sampling("cauchy"))
    with pytest.warns(UserWarning, match="effective samples of 64"):
        fwdgrad.explain(NETWORK, X, method=method, n_samples=64)


# ---- the loop ------------------------------------------------------------------------------

STREAMED = {
    "smoothgrad": SmoothGrad(scale=0.2),
    "pairs": SmoothGrad(scale=0.2, antithetic=True),
    "squared": SmoothGradSquared(scale=0.2),
    "vargrad": VarGrad(scale=0.2),
    "path": IntegratedGradients(steps=None),
    "fusiongrad": FusionGrad(scale=0.2, parameters=ParameterNoise(0.1, draws=4)),
}


def separate(batch):
    """A model whose gradient for a sample does not depend on the batch, bit for bit."""
    return torch.stack([batch.square().flatten(1)[:, i] * (i + 1.0) for i in range(3)], 1)


@pytest.mark.parametrize("name", [name for name in STREAMED if name != "fusiongrad"])
def test_it_does_not_depend_on_the_batch(name):
    def run(size):
        options = {"objective": "output", "n_samples": 32, "seed": 3, "batch_size": size}
        return fwdgrad.explain(separate, X, 1, method=STREAMED[name], **options)

    whole = run(32)
    for size in (1, 5, None):
        assert_same_bits(run(size), whole)


class Stopping(torch.nn.Module):
    """The network, which is interrupted at a call."""

    def __init__(self, at):
        super().__init__()
        self.inner, self.left = network(), at

    def forward(self, batch):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return self.inner(batch)


@pytest.mark.parametrize("name", STREAMED)
def test_it_goes_on_from_a_checkpoint(name, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "SAVE_EVERY_SECONDS", 0.0)
    options = {"method": STREAMED[name], "n_samples": 32, "batch_size": 4, "seed": 3}
    path = tmp_path / "run.safetensors"
    whole = fwdgrad.explain(network(), X, 1, **options)
    with pytest.raises(KeyboardInterrupt):
        fwdgrad.explain(Stopping(6).eval(), X, 1, checkpoint=path, **options)
    counted = Stopping(10**6).eval()
    result = fwdgrad.explain(counted, X, 1, checkpoint=path, **options)
    assert_same_bits(result, whole)
    assert 10**6 - counted.left <= 8 + 4  # the latter evaluated again, with noise one by one


def test_a_checkpoint_of_another_method_is_refused(tmp_path):
    path = tmp_path / "run.safetensors"
    fwdgrad.explain(NETWORK, X, 1, method=SmoothGrad(0.1), n_samples=4, checkpoint=path)
    method = fwdgrad.ForwardGradient(0.1)
    with pytest.raises(fwdgrad.CheckpointError, match=r"method.* was "):
        fwdgrad.explain(NETWORK, X, 1, method=method, n_samples=4, checkpoint=path)


def test_a_memory_budget_counts_the_moments():
    x = torch.rand(3, 64, 64)
    model = lambda batch: batch.square().sum((1, 2, 3))[:, None]  # noqa: E731
    # The input, its mean and its spread, the sample of the half-run, the sample, a power of two
    # and four samples' scores.
    least = 6 * x.nbytes + 4 + 4 * 8
    options = {"method": SmoothGrad(scale=0.1), "n_samples": 8}
    with pytest.raises(ValueError, match=f"at least {least} bytes"):
        fwdgrad.explain(model, x, memory=least - 1, **options)
    fwdgrad.explain(model, x, memory=least, **options)


METHODS = [fwdgrad.ForwardGradient(0.2), SmoothGrad(0.2), VarGrad(0.2), FusionGrad(0.2)]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_several_targets_from_the_same_calls(method):
    calls = []

    class Counting(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network()

        def forward(self, batch):
            calls.append(len(batch))
            return self.inner(batch)

    model = Counting().eval()
    options = {"method": method, "n_samples": 12, "batch_size": 4, "seed": 2}
    several = fwdgrad.explain(model, X, [2, "auto", 0], **options)
    assert sum(calls) <= 12 + 2  # and the input itself, once more to see where parameters are used
    predicted = int(NETWORK(X[None]).argmax())
    assert [e.target for e in several] == [2, predicted, 0]
    for explanation in several:
        alone = fwdgrad.explain(model, X, explanation.target, **options)
        assert close(explanation.attribution, alone.attribution)
        assert explanation.score == pytest.approx(alone.score)
        assert explanation.reliability == pytest.approx(alone.reliability, nan_ok=True, abs=1e-4)


@pytest.mark.parametrize("method", METHODS[:2], ids=lambda method: type(method).__name__)
def test_several_targets_resume(tmp_path, method):
    options = {"method": method, "n_samples": 8, "checkpoint": tmp_path / "run.safetensors"}
    first = fwdgrad.explain(NETWORK, X, [0, 2], **options)
    recorder = Recorder(NETWORK)
    again = fwdgrad.explain(recorder, X, [0, 2], **options)
    assert recorder.calls == 4  # that are evaluated again
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one.attribution, other.attribution)


# ---- the model -----------------------------------------------------------------------------


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
    with pytest.raises(ModelError, match=r"gives no gradient.*(forward-gradient|ForwardGradient)"):
        fwdgrad.explain(model, X, 0, method="gradient")


def test_a_model_that_overwrites_its_input():
    model = lambda batch: batch.mul_(2).flatten(1)  # noqa: E731
    with pytest.raises(ModelError, match=r"changes its input in place.*clone"):
        fwdgrad.explain(model, X, 0, method="gradient")


def test_a_gradient_that_is_not_finite(tmp_path):
    model = lambda batch: (batch.sum((1, 2, 3)) - batch.detach().sum((1, 2, 3))).sqrt()[:, None]  # noqa: E731
    path = tmp_path / "run.safetensors"
    with pytest.raises(ModelError, match=r"the gradient is (inf|nan) for 2 of 2 samples"):
        fwdgrad.explain(model, X, method="smoothgrad", batch_size=2, checkpoint=path)


def test_inference_mode_around_it():
    with torch.inference_mode():
        result = fwdgrad.explain(NETWORK, X.clone(), 1, method="gradient", objective="output")
    assert close(result.attribution, gradient_at(NETWORK, X, 1))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_dtypes(dtype):
    model = network().to(dtype)
    options = {"method": "smoothgrad", "objective": "output", "n_samples": 8}
    result = fwdgrad.explain(model, X.to(dtype), 1, **options)
    assert result.attribution.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    want = fwdgrad.explain(NETWORK, X, 1, **options)
    assert close(result.attribution.float(), want.attribution, 0.05)


def test_channels_last():
    x = X.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    last, plain = (fwdgrad.explain(NETWORK, a, 1, method="smoothgrad") for a in (x, X))
    assert close(last.attribution, plain.attribution)


def test_methods_of_gradients_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fwdgrad.explain(NETWORK, X, 1, method="gradient")
        fwdgrad.explain(NETWORK, X, 1, method="integrated-gradients")
