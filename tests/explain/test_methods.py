"""Methods are values: what they hold, that they can be compared and written down, and repeated."""

import dataclasses
import re

import pytest
import torch

import fwdgrad
from fwdgrad import (
    AdaptGrad,
    AdaptiveScale,
    Coalitions,
    Difference,
    Elements,
    Explanation,
    ForwardGradient,
    FusionGrad,
    Gradient,
    GradientXInput,
    Grid,
    IntegratedGradients,
    Labels,
    ModelError,
    NoiseGrad,
    ParameterNoise,
    Regions,
    Sampling,
    SmoothGrad,
    SmoothGradSquared,
    VarGrad,
)
from fwdgrad.methods import METHODS

from .models import assert_same_bits
from .networks import NETWORK, SHAPE, X, close

_GENERATOR = torch.Generator().manual_seed(1)
SCALES = torch.rand(SHAPE, generator=_GENERATOR) + 0.1
PICTURE = torch.rand(3, 16, 16, generator=_GENERATOR)
LABELS = Labels(torch.arange(64).reshape(8, 8) // 10)
NOISE = ParameterNoise(0.1, draws=2)

OTHERS = {  # each method with no default left, and more than one of some; features
    "regions": [
        (Regions(0.25, cell=4, antithetic=True), None),
        (Regions("grey"), Grid((2, 4), "nearest", share_channels=False)),
        (Regions(X.flip(0)), LABELS),
        (Regions("white"), Elements()),
    ],
    "coalitions": [
        (Coalitions("shapley", "grey"), LABELS),
        (Coalitions("banzhaf", X.flip(0)), Grid((4, 4), "nearest")),
    ],
    "forward-gradient": [
        (ForwardGradient(SCALES, "logistic", block=(3, 3), clip=(-1, 2)), None),
        (ForwardGradient(0.5, design="hadamard", antithetic=False, control_variate="mean"), LABELS),
        (ForwardGradient(0.5, baseline=X.flip(0)), Grid((4, 4), jitter=True)),
        (ForwardGradient(AdaptiveScale(0.0, 1.0, floor=0.1), "hyperbolic"), None),
    ],
    "gradient": [(Gradient(), None)],
    "smoothgrad": [
        (SmoothGrad(0.3, "cauchy", antithetic=True, clip=(0.0, 1.0)), None),
        (SmoothGrad(SCALES, "logistic", sampling=Sampling("cauchy", 1.1)), None),
    ],
    "smoothgrad-squared": [(SmoothGradSquared(0.3, "uniform", True, clip=(0.0, 1.0)), None)],
    "vargrad": [(VarGrad(0.3, "hyperbolic", True, clip=(0.0, 1.0)), None)],
    "adaptgrad": [
        (AdaptGrad(AdaptiveScale(-0.5, 1.5, form="exact"), "logistic", True, (0.0, 1.0)), None)
    ],
    "noisegrad": [
        (NoiseGrad(NOISE), None),
        (NoiseGrad(NOISE, AdaptGrad()), None),
        (NoiseGrad(NOISE, ForwardGradient(0.3)), LABELS),
    ],
    "fusiongrad": [(FusionGrad(0.3, "uniform", True, clip=(0.0, 1.0), parameters=NOISE), None)],
    "gradient-x-input": [
        (GradientXInput(SmoothGrad(0.3)), None),
        (GradientXInput(NoiseGrad(NOISE, ForwardGradient(0.3))), None),
    ],
    "integrated-gradients": [
        (IntegratedGradients(X.flip(0), 3), None),
        (IntegratedGradients("grey", None, FusionGrad(0.1, parameters=NOISE)), None),
        (IntegratedGradients("blur", 3, ForwardGradient(0.1)), None),
    ],
}


def count_of(method):
    """As many samples as a run of it is given: without noise there is no choice."""
    steps = getattr(method, "steps", None)
    drawn = method if not isinstance(method, IntegratedGradients) or not steps else method.gradient
    return None if isinstance(drawn, (Gradient, Coalitions)) else 12


FEW = {"coalitions": LABELS}  # features of X that a method by name needs
CASES = [
    *((name, name, FEW.get(name), None) for name in METHODS),
    *(
        (name, method, features, count_of(method))
        for name, some in OTHERS.items()
        for method, features in some
    ),
]


def ids(value):
    return value if isinstance(value, str) else ""


def of_picture(method):
    """What is explained: regions by name need a blur that is another picture."""
    return PICTURE if method == "regions" else X


def model_of(x):
    return NETWORK if x.shape == SHAPE else lambda batch: NETWORK(batch[:, :, ::2, ::2])


# ---- a run and its repetition --------------------------------------------------------------


def test_every_method_has_others_here():
    assert OTHERS.keys() == METHODS.keys()
    for name, some in OTHERS.items():
        assert all(type(method) is METHODS[name] for method, _ in some)


@pytest.mark.filterwarnings("ignore:sampling leaves:UserWarning")
@pytest.mark.parametrize(("name", "method", "features", "n_samples"), CASES, ids=ids)
def test_settings_repeat_the_run_to_the_bit(tmp_path, name, method, features, n_samples):
    x = of_picture(method)
    model = model_of(x)
    e = fwdgrad.explain(
        model, x, "auto", method=method, features=features, n_samples=n_samples, seed=2**63 + 4
    )
    assert type(e.method) is METHODS[name]
    assert e.settings.keys() == {
        "target", "method", "objective", "n_samples", "features", "seed",
    }  # fmt: skip
    assert (e.settings["method"], e.settings["seed"]) == (e.method, 2**63 + 4)
    assert e.n_samples == e.settings["n_samples"]
    assert e.target == e.settings["target"] == int(model(x[None]).argmax())
    assert e.objective == "probability"  # of logits
    assert_same_bits(fwdgrad.explain(model, e.input, **e.settings), e)
    e.save(tmp_path / "e.safetensors")
    kept = Explanation.load(tmp_path / "e.safetensors")
    assert kept.method == e.method
    assert kept.settings == e.settings
    assert kept.convergence_delta == e.convergence_delta
    assert_same_bits(fwdgrad.explain(model, kept.input, **kept.settings), e)


@pytest.mark.parametrize("name", METHODS)
def test_a_name_is_the_value_of_its_defaults(name):
    x = of_picture(name)
    options = {"objective": "output", "seed": 4, "features": FEW.get(name)}
    one, other, kind = (
        fwdgrad.explain(model_of(x), x, 1, method=method, **options)
        for method in (name, METHODS[name](), METHODS[name])
    )
    assert_same_bits(one, other)
    assert_same_bits(one, kind)
    assert one.method == other.method == kind.method


@pytest.mark.parametrize(
    ("name", "n_samples"),
    [
        ("regions", 1024), ("coalitions", 128), ("forward-gradient", 1024), ("gradient", 1),
        ("smoothgrad", 50),
        ("smoothgrad-squared", 50), ("vargrad", 50), ("adaptgrad", 50), ("noisegrad", 50),
        ("fusiongrad", 50), ("gradient-x-input", 1), ("integrated-gradients", 50),
    ],
)  # fmt: skip
def test_how_many_samples_where_none_are_given(name, n_samples):
    x = of_picture(name)
    e = fwdgrad.explain(model_of(x), x, 1, method=name, features=FEW.get(name))
    assert e.n_samples == n_samples


def test_numbers_are_resolved_in_what_the_explanation_holds():
    e = fwdgrad.explain(NETWORK, X, 1, method="smoothgrad", n_samples=4)
    assert e.method.scale == pytest.approx(0.2 * float(X.max() - X.min()))
    e = fwdgrad.explain(model_of(PICTURE), PICTURE, 1, method="regions", n_samples=32)
    assert isinstance(e.method.cell, int)
    assert e.method.baseline == "blur"


# ---- values --------------------------------------------------------------------------------


def values():
    """Every method with its defaults and without."""
    yield from (kind() for kind in METHODS.values())
    for some in OTHERS.values():
        yield from (method for method, _ in some)


@pytest.mark.parametrize("method", values(), ids=lambda method: type(method).__name__)
def test_methods_are_frozen(method):
    fields = dataclasses.fields(method)
    for name in [one.name for one in fields] or ["scale"]:
        with pytest.raises((dataclasses.FrozenInstanceError, AttributeError, TypeError)):
            setattr(method, name, 1)


@pytest.mark.parametrize("method", values(), ids=lambda method: type(method).__name__)
def test_a_copy_of_a_method_equals_it(method):
    parts = {f.name: getattr(method, f.name) for f in dataclasses.fields(method) if f.init}
    copied = {n: p.clone() if isinstance(p, torch.Tensor) else p for n, p in parts.items()}
    assert type(method)(**copied) == method
    for kind in METHODS.values():
        if type(method) is not kind:
            assert kind() != method
    changed = {n: p + 1 for n, p in parts.items() if isinstance(p, torch.Tensor)}
    assert not changed or type(method)(**{**parts, **changed}) != method


def holds_a_tensor(method):
    parts = [getattr(method, field.name) for field in dataclasses.fields(method)]
    return any(isinstance(part, torch.Tensor) for part in parts)


@pytest.mark.parametrize(
    "method",
    [method for method in values() if not holds_a_tensor(method)],
    ids=lambda method: type(method).__name__,
)
def test_the_repr_of_a_method_makes_it_again(method):
    text = repr(method)
    assert text.startswith(type(method).__name__ + "(")
    assert eval(text, {name: getattr(fwdgrad, name) for name in fwdgrad.__all__}) == method


def test_methods_that_differ_in_one_field_differ():
    assert ForwardGradient(0.1) != ForwardGradient(0.2)
    assert ForwardGradient(SCALES) != ForwardGradient(0.2)
    assert ForwardGradient(SCALES) != ForwardGradient(SCALES.double() + 1)
    assert Regions("grey") != Regions("black")
    assert GradientXInput() != GradientXInput(SmoothGrad())
    assert SmoothGrad() != SmoothGradSquared()


# ---- what is refused -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *("scale", "sigma", "distribution", "law", "block", "cell", "clip", "antithetic"),
        *("parameters", "baseline", "control_variate", "steps"),
    ],
)
def test_an_option_of_noise_is_no_argument_of_explain(name):
    """It belongs to the method, and the message says so."""
    with pytest.raises(TypeError) as caught:
        fwdgrad.explain(NETWORK, X, **{name: 1})
    said = str(caught.value)
    start = f"explain() got an unexpected keyword argument '{name}'; "
    assert said.startswith(start)
    assert re.search(r"method=\w+\(\w+=", said[len(start) :])


@pytest.mark.parametrize("name", ["field", "whatever"])
def test_an_argument_that_there_is_not(name):
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'; .*features, seed"):
        fwdgrad.explain(NETWORK, X, **{name: 1})


@pytest.mark.parametrize(
    ("name", "meant"), [("quries", "n_samples"), ("n_sample", "n_samples"), ("feature", "features")]
)
def test_a_slip_is_told_what_was_meant(name, meant):
    with pytest.raises(TypeError, match=rf"unexpected keyword argument '{name}'; .*{meant}"):
        fwdgrad.explain(NETWORK, X, **{name: 8})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Regions(sigma=1), "'sigma'; .+"),
        (lambda: Regions(baselines="grey"), "'baselines'; .*baseline"),
        (lambda: ForwardGradient(sigma=1), "'sigma'; .*scale"),
        (lambda: ForwardGradient(law="normal"), "'law'; .*distribution"),
        (lambda: ForwardGradient(control="mean"), "'control'; .*control_variate"),
        (lambda: Gradient(scale=1), "'scale'; .+"),
        (lambda: SmoothGrad(block=3), "'block'; .+"),
        (lambda: VarGrad(sampling=Sampling("cauchy")), "'sampling'; .+"),
        (lambda: IntegratedGradients(step=3), "'step'; .*steps"),
    ],
)
def test_an_option_that_a_method_has_not(make, message):
    with pytest.raises(TypeError, match="unexpected keyword argument " + message):
        make()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"method": "smothgrad"},
            ValueError,
            "method must be one of auto, .* did you mean 'smoothgrad'",
        ),
        ({"method": "autograd"}, ValueError, "method must be one of auto, .*gradient"),
        (
            {"method": "likelihood-ratio"},
            ValueError,
            "method must be one of auto, .*forward-gradient",
        ),
        ({"method": 3}, TypeError, "method must be a name or a value .*got 3"),
        ({"method": "gradient", "n_samples": 3}, ValueError, "n_samples must be 1 without noise"),
        ({"method": AdaptGrad(AdaptiveScale(0.0, 0.5))}, ValueError, "bounds that contain x, got"),
        ({"target": []}, ValueError, "target must name at least one class"),
    ],
)
def test_runs_that_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        fwdgrad.explain(NETWORK, X, **options)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: SmoothGrad(-1), ValueError, "scale must be "),
        (lambda: SmoothGrad(0), ValueError, "scale must be "),
        (lambda: SmoothGrad(0.1, "hadamard"), ValueError, "distribution must be one of normal"),
        (lambda: SmoothGrad(antithetic="no"), TypeError, "antithetic must be .*'no'"),
        (lambda: SmoothGrad(sampling="cauchy"), TypeError, "sampling must be a Sampling"),
        (lambda: SmoothGrad(AdaptiveScale(0, 1), sampling=Sampling("cauchy")),
         (TypeError, ValueError), "sampling|scale"),
        (lambda: SmoothGrad(0.1, "rademacher", sampling=Sampling("normal")), ValueError,
         "sampling needs a distribution with a density"),
        (lambda: AdaptGrad("wide"), TypeError, "scale must be .*'wide'"),
        (lambda: Regions("pink"), ValueError, "baseline must be .*blur.*'pink'"),
        (lambda: Regions(float("nan")), ValueError, "baseline must be finite"),
        (lambda: Regions(cell=0), ValueError, "cell must be at least 1|cell must be .*0"),
        (lambda: Regions(cell="large"), (TypeError, ValueError), "cell must be .*'large'"),
        (lambda: GradientXInput(VarGrad()), TypeError, "gradient must be .*VarGrad"),
        (lambda: GradientXInput(IntegratedGradients()), TypeError, "gradient must be "),
        (lambda: NoiseGrad(gradient=FusionGrad()), TypeError, "gradient must be .*FusionGrad"),
        (lambda: NoiseGrad(gradient=Regions()), TypeError, "gradient must be .*Regions"),
    ],
)  # fmt: skip
def test_values_that_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


# ---- differences of two classes ------------------------------------------------------------


def test_difference_of_two_classes():
    options = {"method": SmoothGrad(0.2), "n_samples": 10, "seed": 1}
    difference = fwdgrad.explain(NETWORK, X, objective=Difference(2, 0), **options)
    both = fwdgrad.explain(NETWORK, X, [2, 0], objective="output", **options)
    assert close(difference.attribution, both[0].attribution - both[1].attribution)
    assert repr(difference).startswith("Explanation(Difference(2, 0, 'logit') = ")
    black = fwdgrad.explain(NETWORK, X, objective=Difference(2, 0, "probability"), n_samples=10)
    assert black.score == pytest.approx(
        float((lambda p: p[2] - p[0])(NETWORK(X[None])[0].detach().softmax(0)))
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
        fwdgrad.explain(NETWORK, X, objective=Difference(1, 7), n_samples=2)
