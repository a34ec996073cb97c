"""From outputs to scores: literal answers, and what each objective means for an explanation."""

import functools
import math

import numpy as np
import pytest
import torch

import fwdgrad
from fwdgrad import ForwardGradient, ModelError
from fwdgrad.objectives import objective_name, resolve_target, scores_of

from .models import Recorder, X, assert_same_bits, exact

# Softmax of the first row: 1/8, 3/8, 4/8.
OUTPUTS = torch.tensor([[0.0, math.log(3), math.log(4)], [1.0, 1.0, 1.0]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        ("logit", [math.log(3), 1]),
        ("probability", [3 / 8, 1 / 3]),
        ("log-probability", [math.log(3 / 8), -math.log(3)]),
        ("cross-entropy", [-math.log(3 / 8), math.log(3)]),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_literal_scores(objective, expected, dtype):
    scores = scores_of(OUTPUTS.to(dtype), objective, 1, batch=2)
    # Half precision is an error of the logits alone: the softmax is taken in float32.
    assert scores.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    tolerance = 2 * torch.finfo(dtype).eps
    torch.testing.assert_close(
        scores.double(), torch.tensor(expected, dtype=torch.float64), rtol=tolerance, atol=tolerance
    )


@pytest.mark.parametrize(
    ("objective", "expected"),
    [("probability", [0, 1]), ("log-probability", [-1000, 0]), ("cross-entropy", [1000, 0])],
)
def test_large_logits_do_not_overflow(objective, expected):
    outputs = torch.tensor([[1000.0, 0.0], [0.0, 1000.0]])
    assert scores_of(outputs, objective, 1, batch=2).tolist() == expected


@pytest.mark.parametrize("kind", [np.asarray, torch.Tensor.tolist, torch.Tensor.int])
def test_outputs_of_other_kinds(kind):
    # Another runtime answers with arrays, an API with lists, a quantised model with integers.
    outputs = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert scores_of(kind(outputs), "logit", 1, batch=2).tolist() == [2, 4]
    assert resolve_target("auto", kind(outputs[:1]), "logit") == 1


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_one_number_per_sample(shape):
    outputs = torch.arange(4.0).reshape(shape)
    for target in ("auto", None, 0):
        assert resolve_target(target, outputs[:1], "logit") is None
    assert scores_of(outputs, "logit", None, batch=4).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("log-probability", "log-probability"),
        (exact, "exact"),
        (functools.partial(exact), "partial"),
        (torch.nn.Flatten(), "Flatten"),
    ],
)
def test_objective_name(name, expected):
    assert objective_name(name) == expected


def explain(model=exact, **options):
    given = {"target": 1, "objective": "output", "n_samples": 64, "method": ForwardGradient(0.3)}
    return fwdgrad.explain(model, X, **{**given, **options})


def test_auto_is_the_largest_output_at_the_input():
    outputs = exact(X[None])[0]
    chosen = explain(target="auto")
    assert chosen.target == int(outputs.argmax())
    assert chosen.score == float(outputs.max())
    assert_same_bits(chosen, explain(target=chosen.target))


def test_auto_is_by_class_whatever_the_objective():
    # The largest cross-entropy would be of the least likely class.
    assert explain(target="auto", objective="cross-entropy").target == explain(target="auto").target


def test_cross_entropy_is_the_log_probability_with_the_other_sign():
    one, other = explain(objective="cross-entropy"), explain(objective="log-probability")
    other.attribution.neg_()
    assert_same_bits(one, other)
    assert one.score == -other.score > 0


def test_a_callable_takes_whatever_the_model_returns():
    def wrapped(batch):
        return {"logits": exact(batch), "hidden": None}

    def margin(outputs):
        return outputs["logits"][:, 1] - outputs["logits"][:, 0]

    result = explain(wrapped, target=None, objective=margin)
    assert result.target is None
    assert result.objective.endswith("margin")
    plain = explain(lambda batch: exact(batch)[:, 1] - exact(batch)[:, 0], target=None)
    assert_same_bits(result, plain)
    assert result.score == plain.score


def test_an_objective_may_have_parameters():
    # It is called without a gradient graph as the model is, at the clean input too.
    head = torch.nn.Linear(3, 1, dtype=torch.float64)
    result = explain(target=None, objective=lambda outputs: head(outputs)[:, 0])
    assert result.attribution.abs().max() > 0
    assert head.weight.grad is None


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (
            lambda outputs: outputs,
            r"objective must return one score per sample, .*got .*\(1, 3\)",
        ),
        (lambda outputs: outputs[:, 0].sum(), r"objective returned shape \(\) for a batch of 1"),
        (lambda outputs: "high", "must return a tensor or an array, got str"),
    ],
)
def test_a_callable_that_returns_something_else(objective, message):
    model = Recorder()
    with pytest.raises(ModelError, match=message):
        explain(model, target=None, objective=objective)
    assert model.asked == [1]  # said at the clean input, before the samples are spent


def test_a_single_number_is_no_probability():
    # Whether it is a logit, a probability or a regression's value only the model's author knows.
    with pytest.raises(ValueError, match=r"objective must be 'auto'.*one number.*'probability'"):
        explain(model=lambda batch: batch.flatten(1).sum(1), objective="probability", target=None)
