"""Every wrong argument and every model of no use is refused by name, before queries are spent."""

import math
import re

import numpy as np
import pytest
import torch

import fwdgrad
from fwdgrad import CONTROLS, OBJECTIVES, IntegratedGradients, LikelihoodRatio, ModelError
from fwdgrad_kernels import LAWS

from .models import SHAPE, Recorder, X, exact

OPTIONS = {"target": 1, "queries": 64, "sigma": 0.3}


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
    """What the change is answered with, and how often the model was asked before."""
    arguments = {"x": X, **OPTIONS, **change}
    recorder = Recorder(arguments.pop("model", exact))
    with pytest.raises(error) as caught:
        fwdgrad.explain(recorder, arguments.pop("x"), **arguments)
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
    (ValueError, {"x": X * 0 + 2, "sigma": None}, ["sigma must be given", "constant"]),
    # Queries.
    (ValueError, {"queries": 0}, ["queries must be at least 1", "got 0"]),
    (ValueError, {"queries": -2}, ["queries must be at least 1", "got -2"]),
    (ValueError, {"queries": 63}, ["queries must be even", "63", "64", "antithetic=False"]),
    (TypeError, {"queries": 64.0}, ["queries must be an integer", "64.0"]),
    (TypeError, {"queries": True}, ["queries must be an integer", "True"]),
    (TypeError, {"queries": "64"}, ["queries must be an integer", "'64'"]),
    (TypeError, {"queries": None}, ["queries must be an integer", "None"]),
    (TypeError, {"antithetic": "no"}, ["antithetic must be", "'no'"]),
    (TypeError, {"query": 64}, ["query"]),
    # Sigma and baseline.
    (ValueError, {"sigma": -0.1}, ["sigma must be positive", "-0.1"]),
    (ValueError, {"sigma": 0}, ["sigma must be positive", "got 0"]),
    (ValueError, {"sigma": math.nan}, ["sigma must be positive and finite", "nan"]),
    (ValueError, {"sigma": math.inf}, ["sigma must be positive and finite", "inf"]),
    (TypeError, {"sigma": True}, ["sigma must be a number", "True"]),
    (TypeError, {"sigma": "0.1"}, ["sigma must be a number", "'0.1'"]),
    (TypeError, {"sigma": X.int()}, ["sigma must be a floating tensor", "torch.int32"]),
    (ValueError, {"sigma": X.abs()[0]}, ["sigma", "(2, 4, 6)", "(4, 6)"]),
    (ValueError, {"sigma": torch.tensor(0.3)}, ["sigma", "(2, 4, 6)", "()"]),
    (ValueError, {"sigma": x_with(-0.5).abs() * x_with(-1.0, 20).sign()}, ["sigma", "element"]),
    (ValueError, {"sigma": x_with(math.nan).abs()}, ["sigma", "nan at element 17"]),
    (ValueError, {"sigma": x_with(math.inf).abs()}, ["sigma", "inf at element 17"]),
    (ValueError, {"sigma": X * 0}, ["sigma must not be zero everywhere"]),
    (TypeError, {"sigma": X.abs(), "baseline": 0.0}, ["sigma must be a number", "baseline"]),
    (ValueError, {"baseline": X}, ["baseline must not", "zero everywhere"]),
    (ValueError, {"baseline": X[0]}, ["baseline", "(2, 4, 6)", "(4, 6)"]),
    (ValueError, {"baseline": math.nan}, ["baseline must be finite", "nan"]),
    (ValueError, {"baseline": x_with(math.inf)}, ["baseline must be finite", "inf"]),
    (TypeError, {"baseline": "grey"}, ["baseline must be", "'grey'", "0.5 is grey"]),
    # Neither can be written down by ``Explanation.save``.
    (TypeError, {"baseline": np.array(["grey"])}, ["baseline must be", "array"]),
    (TypeError, {"baseline": [[[0.0]]]}, ["baseline must be", "[[[0.0]]]"]),
    # The noise.
    (ValueError, {"law": "uniform"}, ["law", "uniform", "score", "normal", "hadamard"]),
    (ValueError, {"law": "gauss"}, ["law", "gauss", "normal"]),
    (ValueError, {"block": 5}, ["block", "(4, 6)", "5"]),
    (ValueError, {"block": (4, 7)}, ["block", "(4, 6)", "(4, 7)"]),
    (ValueError, {"block": 0}, ["block", "0"]),
    (ValueError, {"block": (2, 2, 2)}, ["block", "(2, 2, 2)"]),
    (TypeError, {"block": 2.5}, ["block", "2.5"]),
    (ValueError, {"cell": 0}, ["cell", "0"]),
    (ValueError, {"cell": 7}, ["cell", "1 .. 6", "7"]),
    (ValueError, {"field": "cubic"}, ["field", "cubic", "bilinear"]),
    (TypeError, {"shared": 1}, ["shared", "1"]),
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
    (ValueError, {"block": (0, 2)}, ["block must be at least 1, got (0, 2)"]),
    # The saliency rule.
    (ValueError, {"method": "vargrad", "queries": 1}, ["queries must be at least 2", "got 1"]),
    (
        ValueError,
        {"method": "autograd", "saliency": IntegratedGradients(X)},
        ["baseline must differ from x"],
    ),
    (
        ValueError,
        {"method": "autograd", "sigma": 0.0, "saliency": IntegratedGradients(0.0, steps=50)},
        ["queries must be 50 without noise", "got 64", "IntegratedGradients(steps=64)"],
    ),
    # The run.
    (ValueError, {"control": "median"}, ["control", "'median'", *CONTROLS[1:]]),
    (ValueError, {"control": "mean"}, ["control", "antithetic pairs", "'mean'"]),
    (ValueError, {"position": 0.5}, ["position must be 1 without a baseline", "0.5"]),
    (ValueError, {"position": 1.5, "baseline": 0.0}, ["position must be from 0", "1.5"]),
    (TypeError, {"position": "middle", "baseline": 0.0}, ["position", "'middle'"]),
    (
        ValueError,
        {"control": "leave-one-out", "queries": 1, "antithetic": False},
        ["leave-one-out", "more than 1", "1"],
    ),
    (ValueError, {"control": "clean"}, ["control", "antithetic pairs", "'clean'"]),
    (
        ValueError,
        {"control": "leave-one-out", "law": "hadamard", "queries": 64, "antithetic": False},
        ["queries", "more than 64", "got 64"],
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


@pytest.mark.parametrize("name", ["law", "field", "control", "backend", "seed", "queries", "clip"])
@pytest.mark.parametrize("value", [np.zeros((2, 9)), torch.zeros(2, 9)], ids=["array", "tensor"])
def test_an_array_for_a_single_value(name, value):
    for method in ("likelihood-ratio", "regions"):
        x = torch.rand(3, 16, 16) if method == "regions" else X
        with pytest.raises(TypeError, match=rf"^{name} must not be an array, got a .*\(2, 9\)$"):
            fwdgrad.explain(exact, x, **{**OPTIONS, "method": method, name: value})


@pytest.mark.parametrize("change", [{"method": [1]}, {"objective": ["logit"]}, {"checkpoint": 3}])
def test_what_cannot_be_looked_up(change):
    (name,) = change
    with pytest.raises((TypeError, ValueError), match=rf"^{name} must be .*, got "):
        fwdgrad.explain(exact, X, **{**OPTIONS, **change})


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
        fwdgrad.explain(model, X, **OPTIONS)


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
        LikelihoodRatio(exact, queries=8, sigma=0.3).attribute(inputs, target)


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
        r"integers of shape \(1,\): labels.*KeptLabel.*LabelDistance",
    ),
    "names": (
        lambda batch: ["cat"] * len(batch),
        "names such as 'cat': labels.*KeptLabel.*LabelDistance",
    ),
    "yes or no": (lambda batch: exact(batch) > 0, "must return scores, got torch.bool"),
    "complex": (lambda batch: exact(batch) + 1j, "real numbers, got torch.complex128"),
    "nan": (lambda batch: exact(batch) * math.nan, "score at the input itself is nan"),
    "infinite": (lambda batch: exact(batch).abs() / 0, "score at the input itself is inf"),
    "error": (fails, r"failed on a batch of shape \(1, 2, 4, 6\): KeyError.*no such layer"),
}


@pytest.mark.parametrize("target", [1, "auto"])
@pytest.mark.parametrize("kind", USELESS)
def test_models_of_no_use(kind, target):
    model, message = USELESS[kind]
    recorder = Recorder(model)
    with pytest.raises(ModelError, match=message) as caught:
        fwdgrad.explain(recorder, X, **{**OPTIONS, "target": target})
    assert recorder.asked == [1]
    if kind == "error":
        assert isinstance(caught.value.__cause__, KeyError)


def test_votes_are_scores():
    def votes(batch):
        return (10 * exact(batch)).round().int()

    result = fwdgrad.explain(votes, X, **OPTIONS)
    same = fwdgrad.explain(lambda batch: votes(batch).double(), X, **OPTIONS)
    assert torch.equal(result.attribution, same.attribution)


def test_what_x_is_is_told_where_that_may_be_wrong():
    def factory():
        raise AssertionError

    with pytest.raises(ModelError, match=r"factory\(\) takes 0 positional arguments.*given$"):
        fwdgrad.explain(factory, X, **OPTIONS)
    with pytest.raises(ModelError, match=r"mat1 and mat2 .*x is one input, without a batch axis"):
        fwdgrad.explain(torch.nn.Linear(5, 2).eval(), X, **OPTIONS)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda batch: exact(batch[:1]), r"the model returned shape \(1, 3\) for a batch of 16"),
        (lambda batch: exact(batch).flatten(), r"the model returned shape \(48,\) for a batch of"),
        (lambda batch: exact(batch).T, r"the model returned shape \(3, 16\) for a batch of 16"),
        (lambda batch: exact(batch)[:, :1], "one number a copy, and at the input itself 3 classes"),
        (graph, "gradient graph"),
        (lambda batch: None, "got NoneType"),
    ],
    ids=["one row", "flat", "transposed", "fewer classes", "graph", "nothing"],
)
def test_models_that_fail_on_a_batch(answer, message, tmp_path):
    # The clean input's batch of one comes out well.
    path = tmp_path / "run.safetensors"
    recorder = Recorder(lambda batch: answer(batch) if len(recorder.asked) == 3 else exact(batch))
    with pytest.raises(ModelError, match=message):
        fwdgrad.explain(recorder, X, batch_size=16, checkpoint=path, **OPTIONS)
    mended = Recorder()
    fwdgrad.explain(mended, X, batch_size=16, checkpoint=path, **OPTIONS)
    assert mended.calls == 48 + 4  # copies that are asked for again


def test_an_error_of_the_model_on_a_batch_keeps_the_scores(tmp_path):
    path = tmp_path / "run.safetensors"
    recorder = Recorder(lambda batch: fails(batch) if len(recorder.asked) == 3 else exact(batch))
    message = (
        "KeyError: 'no such layer' .copies 8 .. 15.; the results of copies 0 .. 7 are kept in "
    )
    with pytest.raises(ModelError, match=message + re.escape(str(path))) as caught:
        fwdgrad.explain(recorder, X, batch_size=16, checkpoint=path, **OPTIONS)
    assert isinstance(caught.value.__cause__, KeyError)
    mended = Recorder()
    fwdgrad.explain(mended, X, batch_size=16, checkpoint=path, **OPTIONS)
    assert mended.calls == 48 + 4  # copies that are asked for again


@pytest.mark.parametrize("law", [law for law in LAWS if law != "uniform"])
def test_what_is_right_is_not_refused(law):
    result = fwdgrad.explain(
        exact, X, **OPTIONS, law=law, block=(4, 6), cell=6, seed=2**64 - 1, clip=(-1, 1)
    )
    assert result.attribution.shape == SHAPE
    assert result.attribution.isfinite().all()


def test_leave_one_out_takes_the_fewest_queries_it_says():
    for queries, options in ((2, {}), (65, {"law": "hadamard"})):
        options = {**options, "antithetic": False}
        with pytest.raises(ValueError, match="more than") as caught:
            fwdgrad.explain(exact, X, target=1, queries=1, control="leave-one-out", **options)
        least = int(re.search(r"more than (\d+)", str(caught.value)).group(1)) + 1
        assert least == queries
        result = fwdgrad.explain(
            exact, X, target=1, queries=queries, control="leave-one-out", **options
        )
        assert np.isfinite(result.attribution.numpy()).all()


def test_batch_normalisation_is_not_changed_behind_the_users_back():
    norm = torch.nn.BatchNorm2d(3)
    pool = torch.nn.AdaptiveAvgPool2d(1)
    model = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 1), norm, pool, torch.nn.Flatten())
    before = norm.running_mean.clone()
    with pytest.raises(ValueError, match=r"model must be in evaluation mode.*model\.eval\(\)"):
        fwdgrad.explain(model, X, **OPTIONS)
    assert torch.equal(norm.running_mean, before)
    # A frozen layer within a model in training mode does no such harm.
    norm.eval()
    with pytest.warns(UserWarning, match="training mode"):
        fwdgrad.explain(model, X, **OPTIONS)


@pytest.mark.parametrize("name", ["probability", "log-probability", "cross-entropy", "sigmoid"])
def test_a_softmax_of_probabilities_is_refused(name):
    recorder = Recorder(lambda batch: exact(batch).softmax(1))
    with pytest.raises(ValueError, match=r"probabilities already.*use objective='output'"):
        fwdgrad.explain(recorder, X, **OPTIONS, objective=name)
    assert recorder.asked == [1]
    with pytest.raises(ModelError, match=r"probabilities already.*use objective='output'"):
        fwdgrad.explain(recorder, X, objective=fwdgrad.Difference(0, 1, name), queries=8, sigma=0.3)


def test_a_batch_axis_left_on_the_input_is_guessed():
    with pytest.raises(ModelError, match=r"x has shape \(1, 2, 4, 6\).*batch axis, give x\[0\]"):
        fwdgrad.explain(lambda batch: batch.mean((2, 3, 4))[:, :, None], X[None], **OPTIONS)
