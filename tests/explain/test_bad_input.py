"""Every wrong argument and every model of no use is refused by name, before any sample."""

import math
import re

import numpy as np
import pytest
import torch

import fwdgrad
from fwdgrad import (
    ForwardGradient,
    Grid,
    IntegratedGradients,
    Labels,
    ModelError,
    Regions,
    SmoothGrad,
    VarGrad,
)
from fwdgrad.integrations.captum import Attribution
from fwdgrad.objectives import OBJECTIVES
from fwdgrad_kernels import DISTRIBUTIONS

from .models import SHAPE, Recorder, X, exact, forward_gradient

OPTIONS = {"target": 1, "n_samples": 64, "scale": 0.3}


def x_with(value, at=17):
    x = X.clone()
    x.view(-1)[at:] = value  # from this element on, to see that the first is named
    return x


def cases(*rows):
    """Parametrises over (exception, change of the arguments, fragments of the message)."""
    return pytest.mark.parametrize(
        ("error", "change", "fragments"),
        rows,
        ids=[f"{'+'.join(row[1])} {row[2][-1]}"[:48] for row in rows],
    )


def refused(error, change, fragments):
    """Raises for the change; the recorder tells how often the model was called before."""
    arguments = {"x": X, **OPTIONS, **change}
    recorder, explain = Recorder(arguments.pop("model", exact)), forward_gradient
    if "method" in arguments:
        del arguments["scale"]
        explain = fwdgrad.explain
    with pytest.raises(error) as caught:
        explain(recorder, arguments.pop("x"), **arguments)
    for fragment in fragments:
        assert fragment in str(caught.value)
    assert "\n" not in str(caught.value)
    return recorder


@cases(
    # The input.
    (TypeError, {"x": [1.0, 2.0]}, ["x must be a tensor", "list", "torch.tensor(x)"]),
    (TypeError, {"x": X.int()}, ["x must be float32", "torch.int32"]),
    (TypeError, {"x": X > 0}, ["x must be float32", "torch.bool"]),
    (TypeError, {"x": X + 1j}, ["x must be float32", "torch.complex64"]),
    (ValueError, {"x": X[:0]}, ["x must have elements", "(0, 4, 6)"]),
    (ValueError, {"x": torch.tensor(1.0)}, ["x must have", "()"]),
    (ValueError, {"x": x_with(math.nan)}, ["x must be finite", "nan at element 17"]),
    (ValueError, {"x": x_with(-math.inf)}, ["x must be finite", "-inf at element 17"]),
    (ValueError, {"x": X * 0 + 2, "scale": None}, ["scale must be given", "constant"]),
    # Samples.
    (ValueError, {"n_samples": 0}, ["n_samples must be at least 1", "got 0"]),
    (ValueError, {"n_samples": -2}, ["n_samples must be at least 1", "got -2"]),
    (ValueError, {"n_samples": 63}, ["n_samples must be even", "63", "64", "antithetic=False"]),
    (TypeError, {"n_samples": 64.0}, ["n_samples must be an integer", "64.0"]),
    (TypeError, {"n_samples": True}, ["n_samples must be an integer", "True"]),
    (TypeError, {"n_samples": "64"}, ["n_samples must be an integer", "'64'"]),
    (TypeError, {"antithetic": "no"}, ["antithetic must be", "'no'"]),
    (TypeError, {"n_sample": 64}, ["unexpected keyword argument 'n_sample'", "n_samples"]),
    (TypeError, {"queries": 64}, ["unexpected keyword argument 'queries'", "n_samples"]),
    # Scale and baseline.
    (ValueError, {"scale": -0.1}, ["scale must be positive", "-0.1"]),
    (ValueError, {"scale": 0}, ["scale must be positive", "got 0"]),
    (ValueError, {"scale": math.nan}, ["scale must be positive and finite", "nan"]),
    (ValueError, {"scale": math.inf}, ["scale must be positive and finite", "inf"]),
    (TypeError, {"scale": True}, ["scale must be a number", "True"]),
    (TypeError, {"scale": "0.1"}, ["scale must be a number", "'0.1'"]),
    (TypeError, {"scale": X.int()}, ["scale must be a floating tensor", "torch.int32"]),
    (ValueError, {"scale": X.abs()[0]}, ["scale", "(2, 4, 6)", "(4, 6)"]),
    (ValueError, {"scale": torch.tensor(0.3)}, ["scale", "(2, 4, 6)", "()"]),
    (ValueError, {"scale": x_with(-0.5).abs() * x_with(-1.0, 20).sign()}, ["scale", "element"]),
    (ValueError, {"scale": x_with(math.nan).abs()}, ["scale", "nan at element 17"]),
    (ValueError, {"scale": x_with(math.inf).abs()}, ["scale", "inf at element 17"]),
    (ValueError, {"scale": X * 0}, ["scale must not be zero everywhere"]),
    (TypeError, {"scale": X.abs(), "baseline": 0.0}, ["scale must be a number", "baseline"]),
    (ValueError, {"baseline": X}, ["baseline must differ from x"]),
    (ValueError, {"baseline": X[0]}, ["baseline", "(2, 4, 6)", "(4, 6)"]),
    (ValueError, {"baseline": math.nan}, ["baseline must be finite", "nan"]),
    (ValueError, {"baseline": x_with(math.inf)}, ["baseline must be finite", "inf"]),
    (ValueError, {"baseline": "grey"}, ["baseline 'grey'", "values in [0, 1]"]),
    # Neither can be written down by ``Explanation.save``.
    (TypeError, {"baseline": np.array(["grey"])}, ["baseline must be", "array"]),
    (TypeError, {"baseline": [[[0.0]]]}, ["baseline must be", "[[[0.0]]]"]),
    # The noise.
    (ValueError, {"distribution": "uniform"}, ["distribution", "uniform", "score", "normal"]),
    (ValueError, {"distribution": "gauss"}, ["distribution", "gauss", "normal"]),
    (ValueError, {"distribution": "hadamard"}, ["distribution", "hadamard", "normal"]),
    (ValueError, {"design": "sobol"}, ["design", "sobol", "independent", "hadamard"]),
    (
        ValueError,
        {"design": "hadamard", "distribution": "normal"},
        ["distribution", "hadamard", "rademacher", "normal"],
    ),
    (ValueError, {"block": 5}, ["block", "(4, 6)", "5"]),
    (ValueError, {"block": (4, 7)}, ["block", "(4, 6)", "(4, 7)"]),
    (ValueError, {"block": 0}, ["block", "0"]),
    (ValueError, {"block": (2, 2, 2)}, ["block", "(2, 2, 2)"]),
    (TypeError, {"block": 2.5}, ["block", "2.5"]),
    (ValueError, {"x": X.flatten(), "features": Grid((2, 2))}, ["(48,)", "(2, 2)"]),
    (ValueError, {"features": Labels(torch.zeros(3, 5).long())}, ["mask", "(3, 5)"]),
    (TypeError, {"features": torch.zeros(4, 6)}, ["features", "float32"]),
    (TypeError, {"features": "superpixels"}, ["features", "'superpixels'", "Grid"]),
    (ValueError, {"seed": -1}, ["seed", "-1"]),
    (ValueError, {"seed": 2**64}, ["seed", str(2**64)]),
    (TypeError, {"seed": None}, ["seed", "None"]),
    (ValueError, {"clip": (1, 0)}, ["clip must be (low, high)", "(1, 0)"]),
    (ValueError, {"clip": (0, math.nan)}, ["clip must be (low, high)", "nan"]),
    ((TypeError, ValueError), {"clip": (0,)}, ["clip must be (low, high)", "(0,)"]),
    ((TypeError, ValueError), {"clip": (0, 1, 2)}, ["clip must be (low, high)", "(0, 1, 2)"]),
    ((TypeError, ValueError), {"clip": 0.5}, ["clip must be (low, high)", "0.5"]),
    ((TypeError, ValueError), {"clip": "ab"}, ["clip must be (low, high)", "'ab'"]),
    ((TypeError, ValueError), {"clip": ("a", 1)}, ["clip must be (low, high)", "('a', 1)"]),
    ((TypeError, ValueError), {"clip": (None, 1)}, ["clip must be (low, high)", "(None, 1)"]),
    (ValueError, {"block": -3}, ["block must be at least 1, got -3"]),
    (ValueError, {"block": (0, 2)}, ["block must be at least 1, got 0"]),
    # Other methods.
    (ValueError, {"method": VarGrad(0.3), "n_samples": 1}, ["n_samples must be at least 2", "1"]),
    (ValueError, {"method": IntegratedGradients(X, 64)}, ["baseline must differ from x"]),
    (
        ValueError,
        {"method": IntegratedGradients(0.0, steps=50)},
        ["n_samples must be 50 without noise", "got 64", "steps=64"],
    ),
    (ValueError, {"method": SmoothGrad(0.3), "features": Grid((2, 2))}, ["features", "Grid"]),
    (
        ValueError,
        {"method": "gradient", "n_samples": None, "features": Labels(torch.zeros(4, 6).long())},
        ["features", "Labels"],
    ),
    (ValueError, {"method": Regions(cell=2), "features": Grid((2, 2))}, ["cell", "features"]),
    # The run.
    (
        ValueError,
        {"control_variate": "median"},
        ["control_variate", "'median'", "clean", "leave-one-out", "mean"],
    ),
    (ValueError, {"control_variate": "mean"}, ["control_variate", "antithetic pairs", "'mean'"]),
    (
        ValueError,
        {"control_variate": "leave-one-out", "n_samples": 1, "antithetic": False},
        ["leave-one-out", "more than 1", "1"],
    ),
    (ValueError, {"control_variate": "clean"}, ["control_variate", "antithetic pairs", "'clean'"]),
    (
        ValueError,
        {"control_variate": "leave-one-out", "design": "hadamard", "antithetic": False},
        ["n_samples", "more than 64", "got 64"],
    ),
    (ValueError, {"objective": "accuracy"}, ["objective", "'accuracy'", *OBJECTIVES]),
    (ValueError, {"objective": None}, ["objective", "None"]),
    (ValueError, {"batch_size": 0}, ["batch_size must be at least 1", "0"]),
    (TypeError, {"batch_size": 1.5}, ["batch_size must be an integer", "1.5"]),
    (ValueError, {"batch_size": 4, "memory": "1GiB"}, ["batch_size", "memory", "one of them"]),
    (ValueError, {"memory": "lots"}, ["memory", "'lots'", "1GiB"]),
    (ValueError, {"memory": 0}, ["memory must be positive", "0"]),
    (ValueError, {"backend": "gpu"}, ["backend", "'gpu'", "reference"]),
    ((TypeError, ValueError), {"progress": "yes"}, ["progress must be", "'yes'"]),
)
def test_arguments(error, change, fragments):
    assert refused(error, change, fragments).asked in ([], [1])


@pytest.mark.parametrize(
    "name",
    [
        *("distribution", "design", "control_variate", "antithetic", "clip"),
        *("backend", "seed", "n_samples"),
    ],
)
@pytest.mark.parametrize("value", [np.zeros((2, 9)), torch.zeros(2, 9)], ids=["array", "tensor"])
def test_an_array_for_a_single_value(name, value):
    with pytest.raises(TypeError, match=rf"^{name} must not be an array, got a .*\(2, 9\)$"):
        forward_gradient(exact, X, **{**OPTIONS, name: value})


@pytest.mark.parametrize("name", ["cell", "antithetic"])
def test_an_array_for_a_single_value_of_regions(name):
    with pytest.raises(TypeError, match=rf"^{name} must not be an array, got a .*\(2, 9\)$"):
        Regions(**{name: torch.zeros(2, 9)})


@pytest.mark.parametrize("change", [{"method": [1]}, {"objective": ["logit"]}, {"checkpoint": 3}])
def test_what_cannot_be_looked_up(change):
    (name,) = change
    with pytest.raises((TypeError, ValueError), match=rf"^{name} must be .*, got "):
        fwdgrad.explain(exact, X, 1, **change)


@cases(
    (ValueError, {"target": 3}, ["target must lie in 0 .. 2", "3"]),
    (ValueError, {"target": -1}, ["target must lie in 0 .. 2", "-1"]),
    ((TypeError, ValueError), {"target": "cat"}, ["target must be a class number", "'cat'"]),
    (ValueError, {"target": None}, ["target must be given", "3 classes"]),
    (TypeError, {"target": 1.0}, ["target must be a class number", "1.0"]),
    (TypeError, {"target": True}, ["target must be a class number", "True"]),
    (TypeError, {"target": [[1]]}, ["target must be a class number", "[1]"]),
    (TypeError, {"target": np.array([0, 1])}, ["target must be a class number", "array([0, 1])"]),
    (TypeError, {"target": torch.tensor([0, 1])}, ["target must be a class", "tensor([0, 1])"]),
    (TypeError, {"target": torch.tensor(True)}, ["target must be a class", "tensor(True)"]),
    (TypeError, {"target": torch.tensor(1.5)}, ["target must be a class", "tensor(1.5"]),
    (ValueError, {"objective": exact}, ["target must be left out", "objective", "1"]),
    (ValueError, {"model": lambda batch: exact(batch)[:, 1]}, ["target must be 0", "one", "1"]),
)
def test_targets(error, change, fragments):
    assert refused(error, change, fragments).asked == [1]


@pytest.mark.parametrize("model", [None, "resnet", torch.zeros(3)], ids=repr)
def test_model_that_cannot_be_called(model):
    with pytest.raises(TypeError, match=f"model must be callable.*{type(model).__name__}"):
        forward_gradient(model, X, **OPTIONS)


@pytest.mark.parametrize(
    ("inputs", "target", "error", "message"),
    [
        ([X], 0, TypeError, "inputs must be a tensor, got list"),
        (X[0, 0], 0, ValueError, r"inputs must have a batch axis, got shape \(6,\)"),
        (torch.stack([X, X]), [0, 1, 2], ValueError, "target must be one class or 2.*got 3"),
        (torch.stack([X, X]), [0, 3], ValueError, r"target must lie in 0 \.\. 2, got 3"),
        (torch.stack([X, X]), torch.tensor([0.0, 1.0]), TypeError, "target must be .*got 0.0"),
        (torch.stack([X, X]).int(), 0, TypeError, "must be float32.*torch.int32"),
    ],
)
def test_attribute(inputs, target, error, message):
    with pytest.raises(error, match=message):
        Attribution(exact, method=ForwardGradient(scale=0.3), n_samples=8).attribute(
            inputs, target=target
        )


# ---- models --------------------------------------------------------------------------------


def graph(batch):
    with torch.enable_grad():
        weights = torch.ones(48, 3, requires_grad=True)
        return batch.flatten(1).float() @ weights


def fails(_):
    raise KeyError("no such layer")


USELESS = {
    "graph": (graph, "gradient graph.*no_grad.*enable_grad.*detach"),
    "larger": (lambda batch: exact(batch.repeat(2, 1, 1, 1)), r"shape \(2, 3\) for a batch of 1"),
    "empty": (lambda batch: exact(batch)[:0], r"shape \(0, 3\) for a batch of 1"),
    "no classes": (lambda batch: exact(batch)[:, :0], r"shape \(1, 0\)|0 classes"),
    "maps": (lambda batch: batch, r"\(batch, classes\) or \(batch,\), got shape \(1, 2, 4, 6\)"),
    "sequence": (lambda batch: exact(batch)[:, None], r"got shape \(1, 1, 3\).*give an objective"),
    "dict": (
        lambda batch: {"out": exact(batch)},
        r"keys 'out'.*model\(batch\)\['out'\].*objective",
    ),
    "tuple": (lambda batch: (exact(batch), exact(batch)), r"got tuple.*model\(batch\)\[0\]"),
    "text": (lambda batch: "a cat", "got str; give an objective"),
    "nothing": (lambda batch: None, "got NoneType; let it return its scores"),
    "labels": (
        lambda batch: exact(batch).argmax(1),
        r"integers of shape \(1,\): labels.*Give its predict_proba.*KeptLabel.*LabelDistance",
    ),
    "names": (
        lambda batch: ["cat"] * len(batch),
        "names such as 'cat': labels.*KeptLabel.*LabelDistance",
    ),
    "yes or no": (lambda batch: exact(batch) > 0, "must return scores, got torch.bool"),
    "complex": (lambda batch: exact(batch) + 1j, "real numbers, got torch.complex128"),
    "nan": (
        lambda batch: exact(batch) * math.nan,
        r"score at the input itself is nan: the model returned nan for x, torch.float32 "
        r"\(2, 4, 6\) from -[0-9.]+ to [0-9.]+; call it on that alone, and check that its weights",
    ),
    "infinite": (
        lambda batch: exact(batch).abs() / 0,
        "score at the input itself is inf: the model returned inf for x",
    ),
    "error": (fails, r"failed on a batch of shape \(1, 2, 4, 6\): KeyError.*no such layer"),
}


@pytest.mark.parametrize("target", [1, "auto"])
@pytest.mark.parametrize("kind", USELESS)
def test_models_of_no_use(kind, target):
    model, message = USELESS[kind]
    recorder = Recorder(model)
    with pytest.raises(ModelError, match=message) as caught:
        forward_gradient(recorder, X, **{**OPTIONS, "target": target})
    assert recorder.asked == [1]
    if kind == "error":
        assert isinstance(caught.value.__cause__, KeyError)


def test_votes_are_scores():
    def votes(batch):
        return (10 * exact(batch)).round().int()

    result = forward_gradient(votes, X, **OPTIONS)
    same = forward_gradient(lambda batch: votes(batch).double(), X, **OPTIONS)
    assert torch.equal(result.attribution, same.attribution)


def test_what_x_is_is_told_where_that_may_be_wrong():
    def factory():
        raise AssertionError

    with pytest.raises(ModelError, match=r"factory\(\) takes 0 positional arguments.*given$"):
        fwdgrad.explain(factory, X)
    with pytest.raises(ModelError, match=r"mat1 and mat2 .*x is one input, without a batch axis"):
        fwdgrad.explain(torch.nn.Linear(5, 2).eval(), X)


@pytest.mark.parametrize(
    ("text", "is_last"),
    [
        ("size 3 is different from 224", True),
        ("The size of tensor a (3) must match the size of tensor b (224) at dimension 3", True),
        ("The size of tensor a (224) must match the size of tensor b (3) at dimension 3", True),
        ("(Linear) mat1 and mat2 shapes cannot be multiplied (672x224 and 3x4)", True),
        ("expected input[1, 224, 3, 224] to have 3 channels, but got 224 channels instead", True),
        ("expected shape=(None, 299, 299, 3), found shape=(1, 3, 224, 224), dtype=float32", True),
        (
            "Got invalid dimensions: index: 1 Got: 3 Expected: 224 index: 3 Got: 224 Expected: 3",
            True,
        ),
        ("expected input[1, 3, 224, 224] to have 1 channels, but got 3 channels instead", False),
        ("mat1 and mat2 shapes cannot be multiplied (1x150528 and 768x10)", False),
        ("shape (1, 3, 224, 224), dtype float32", False),
        ("expected pictures of size 16 x 16", False),
    ],
)
def test_a_model_that_takes_channels_last(text, is_last):
    def fails(batch):
        raise ValueError(text)

    with pytest.raises(ModelError) as caught:
        fwdgrad.explain(fails, torch.rand(3, 224, 224))
    hint = "wrap it: lambda batch: model(batch.permute(0, 2, 3, 1))"
    assert (hint in str(caught.value)) is is_last


def test_a_score_that_the_objective_makes_infinite():
    message = "the model returned finite numbers: the objective made it of them"
    with pytest.raises(ModelError, match=message):
        fwdgrad.explain(exact, X, objective=lambda outputs: outputs[:, 0] / 0)


@pytest.mark.parametrize("first", ["resnet50", X, None])
def test_the_model_is_the_first_argument(first):
    message = f"got {type(first).__name__}; the model is the first argument, a function from a"
    with pytest.raises(TypeError, match=message):
        fwdgrad.explain(first, exact)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda batch: exact(batch[:1]), r"the model returned shape \(1, 3\) for a batch of 16"),
        (lambda batch: exact(batch).flatten(), r"the model returned shape \(48,\) for a batch of"),
        (lambda batch: exact(batch).T, r"the model returned shape \(3, 16\) for a batch of 16"),
        (
            lambda batch: exact(batch)[:, :1],
            "one number a sample, and at the input itself 3 classes",
        ),
        (graph, "gradient graph"),
        (lambda batch: None, "got NoneType"),
    ],
    ids=["one row", "flat", "transposed", "fewer classes", "graph", "nothing"],
)
def test_models_that_fail_on_a_batch(answer, message, tmp_path):
    # The input's own batch of one comes out well.
    path = tmp_path / "run.safetensors"
    recorder = Recorder(lambda batch: answer(batch) if len(recorder.asked) == 3 else exact(batch))
    with pytest.raises(ModelError, match=message):
        forward_gradient(recorder, X, batch_size=16, checkpoint=path, **OPTIONS)
    mended = Recorder()
    forward_gradient(mended, X, batch_size=16, checkpoint=path, **OPTIONS)
    assert mended.calls == 48 + 4  # samples that are evaluated again


def test_an_error_of_the_model_on_a_batch_keeps_the_scores(tmp_path):
    path = tmp_path / "run.safetensors"
    recorder = Recorder(lambda batch: fails(batch) if len(recorder.asked) == 3 else exact(batch))
    message = (
        "KeyError: 'no such layer' .samples 8 .. 15.; the results of samples 0 .. 7 are kept in "
    )
    with pytest.raises(ModelError, match=message + re.escape(str(path))) as caught:
        forward_gradient(recorder, X, batch_size=16, checkpoint=path, **OPTIONS)
    assert isinstance(caught.value.__cause__, KeyError)
    mended = Recorder()
    forward_gradient(mended, X, batch_size=16, checkpoint=path, **OPTIONS)
    assert mended.calls == 48 + 4  # samples that are evaluated again


@pytest.mark.parametrize("distribution", [one for one in DISTRIBUTIONS if one != "uniform"])
def test_what_is_right_is_not_refused(distribution):
    result = forward_gradient(
        exact, X, **OPTIONS, distribution=distribution, block=(4, 6), features=Grid((4, 6)),
        seed=2**64 - 1, clip=(-1, 1),
    )  # fmt: skip
    assert result.attribution.shape == SHAPE
    assert result.attribution.isfinite().all()


def test_leave_one_out_takes_the_fewest_samples_it_says():
    for count, design in ((2, "independent"), (65, "hadamard")):
        options = {"control_variate": "leave-one-out", "design": design, "antithetic": False}
        with pytest.raises(ValueError, match="more than") as caught:
            forward_gradient(exact, X, 1, n_samples=1, **options)
        least = int(re.search(r"more than (\d+)", str(caught.value)).group(1)) + 1
        assert least == count
        result = forward_gradient(exact, X, 1, n_samples=count, **options)
        assert np.isfinite(result.attribution.numpy()).all()


def test_batch_normalisation_is_not_changed_behind_the_users_back():
    norm = torch.nn.BatchNorm2d(3)
    pool = torch.nn.AdaptiveAvgPool2d(1)
    model = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 1), norm, pool, torch.nn.Flatten())
    before = norm.running_mean.clone()
    with pytest.raises(ValueError, match=r"model must be in evaluation mode.*model\.eval\(\)"):
        forward_gradient(model, X, **OPTIONS)
    assert torch.equal(norm.running_mean, before)
    # A frozen layer within a model in training mode does no such harm.
    norm.eval()
    with pytest.warns(UserWarning, match="training mode"):
        forward_gradient(model, X, **OPTIONS)


@pytest.mark.parametrize("name", ["probability", "log-probability", "cross-entropy", "sigmoid"])
def test_a_softmax_of_probabilities_is_refused(name):
    recorder = Recorder(lambda batch: exact(batch).softmax(1))
    with pytest.raises(ValueError, match=r"probabilities already.*use objective='output'"):
        forward_gradient(recorder, X, **OPTIONS, objective=name)
    assert recorder.asked == [1]
    with pytest.raises(ModelError, match=r"probabilities already.*use objective='output'"):
        fwdgrad.explain(recorder, X, objective=fwdgrad.Difference(0, 1, name), n_samples=8)


def test_a_batch_axis_left_on_the_input_is_guessed():
    with pytest.raises(ModelError, match=r"x has shape \(1, 2, 4, 6\).*batch axis, give x\[0\]"):
        forward_gradient(lambda batch: batch.mean((2, 3, 4))[:, :, None], X[None], **OPTIONS)
