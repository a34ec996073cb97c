"""Objectives: from a model's output to one score per sample."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fwdgrad.errors import ArgumentError, ArgumentTypeError, ModelError, Option
from fwdgrad.names import found_by
from fwdgrad.outputs import check_no_labels, floating, tensor_of, told

Objective = str | Callable[[Any], Tensor]
# A callable may have ``n_targets``: it makes so many scores of a sample, (batch, n_targets), each
# a target; ``settled(outputs, x)``: what is explained, by the model's output at the input, or an
# error; ``check_at_input(outputs)``, which may warn; ``why_still(outputs, score)``: why all samples
# may have the same score; ``about(target, x)``: what an explanation's provenance says of a target,
# such as its ``label``, and its ``box`` in the pixels of a picture.

_NAMED: dict[str, Callable[[Tensor, int], Tensor]] = {
    "output": lambda outputs, target: outputs[:, target],
    "logit": lambda outputs, target: outputs[:, target],
    "sigmoid": lambda outputs, target: outputs[:, target].sigmoid(),
    "probability": lambda outputs, target: outputs.softmax(1)[:, target],
    "log-probability": lambda outputs, target: outputs.log_softmax(1)[:, target],
    "cross-entropy": lambda outputs, target: -outputs.log_softmax(1)[:, target],
}
OBJECTIVES = ("auto", *_NAMED)
OF_LOGITS = ("sigmoid", "probability", "log-probability", "cross-entropy")
_OF_NUMBERS = ("auto", "output", "logit", "sigmoid")  # that one number a sample can have


def objective_again(name: str, of: str) -> str:
    """What an explanation says that it is of, to be explained or judged again.

    Args:
        name: of its objective.
        of: how a message begins, ``heatmap explains`` say.

    Raises:
        ArgumentError: it is a callable, which the name does not give.

    Example:
        >>> objective_again("probability", "heatmap explains")
        'probability'
    """
    if name not in OBJECTIVES:
        raise ArgumentError(
            "objective",
            f"must be given: {of} {name}, a callable, of which an explanation has the name alone",
        )
    return name


def objective_name(objective: Objective) -> str:
    """How an objective is written down in an explanation.

    >>> objective_name("logit")
    'logit'
    """
    if isinstance(objective, str):
        return objective
    return str(getattr(objective, "__qualname__", type(objective).__qualname__))


def check_objective(objective: Objective) -> None:
    """Raises where an objective is neither a known name nor callable.

    >>> check_objective("accuracy")
    Traceback (most recent call last):
    fwdgrad.errors.ArgumentError: objective must be one of auto, output, logit, sigmoid, \
probability, log-probability, cross-entropy, or a callable from the model's output to one score \
per sample, got 'accuracy'
    """
    named = isinstance(objective, str) and objective in OBJECTIVES
    if not (callable(objective) or named):
        raise ArgumentError(
            "objective",
            f"must be one of {', '.join(OBJECTIVES)}, or a callable from the model's output to one "
            f"score per sample, got {told(repr(objective), 80)}",
        )


def kind_of(outputs: Any) -> str:
    """What kind of output a model has, as its output for one input shows.

    Returns:
        "number", one for each sample; "probabilities", rows in [0, 1] that sum to 1; "labels", rows
        in [0, 1] that do not, so that each may be a label of its own; else "scores".

    Example:
        >>> [kind_of(torch.tensor([row])) for row in ([0.25, 0.75], [0.9, 0.8], [2.0, 0.0], [9.0])]
        ['probabilities', 'labels', 'scores', 'number']
    """
    values = tensor_of(outputs, None, differentiable=True).detach()
    if values.dim() < 2 or values.shape[1] == 1:
        return "number"
    if not within(values):
        return "scores"
    slack = 1e-2 if values.dtype in (torch.float16, torch.bfloat16) else 1e-3
    sums = floating(values).double().sum(1)
    return "probabilities" if bool(((sums - 1).abs() < slack).all()) else "labels"


def within(outputs: Tensor) -> bool:
    """Whether all values lie in [0, 1], but for a rounding.

    >>> within(torch.tensor([0.0, 1.0])), within(torch.tensor([1.1])), within(torch.tensor([]))
    (True, False, True)
    """
    return bool(are_within(outputs))


def are_within(outputs: Tensor) -> Tensor:
    """Whether all values lie in [0, 1], as a bool tensor () on their device; NaN may be anything.

    >>> are_within(torch.tensor([0.0, 1.1]))
    tensor(False)
    """
    values = floating(outputs)
    return ~((values < -1e-6) | (values > 1 + 1e-6)).any()


def decide(objective: Objective, outputs: Any, model: Any = None) -> tuple[Objective, str | None]:
    """The objective that "auto" stands for, and why; any other objective is itself.

    Args:
        objective: see ``OBJECTIVES``.
        outputs: the model's output for one input.
        model: one that knows what it returns says so: its attribute ``explained_as`` is then what
            "auto" means.

    Returns:
        The objective, and the reason where "auto" was asked for.

    Raises:
        ValueError: an objective is for logits, and the output is probabilities already.

    Example:
        >>> decide("auto", torch.tensor([[0.1, 0.9]]))
        ('output', "the model's outputs at x lie in [0, 1] and sum to 1: they are probabilities, \
explained as they are")
    """
    if callable(objective):
        return objective, None
    if objective == "auto":
        own = getattr(model, "explained_as", None)
        if isinstance(own, str) and own in _NAMED:
            return own, "the model says so by its attribute explained_as"
        return AUTO[kind_of(outputs)]
    if objective in OF_LOGITS and kind_of(outputs) == "probabilities":
        raise ArgumentError(
            "objective",
            f"{objective!r} is for logits, and the model returns probabilities already: its "
            "outputs at x lie in [0, 1] and sum to 1; use ",
            Option("objective", "output"),
            ", which explains them as they are, or a callable",
        )
    return objective, None


AUTO: dict[str, tuple[Objective, str]] = {
    "number": ("output", "the model returns one number a sample, explained as it is"),
    "probabilities": (
        "output",
        "the model's outputs at x lie in [0, 1] and sum to 1: they are probabilities, explained as "
        "they are",
    ),
    "labels": (
        "output",
        "the model's outputs at x lie in [0, 1] and do not sum to 1: each is a label of its own, "
        "explained as it is",
    ),
    "scores": (
        "probability",
        "the model's outputs at x do not all lie in [0, 1]: they are logits, whose softmax is "
        "explained",
    ),
}


def class_number(name: str, value: Any, what: str = "a class number") -> int:
    """A class from an integer of Python's, NumPy's or torch's, or a tensor of one element.

    >>> class_number("target", torch.tensor([[2]]))
    2
    """
    number = value
    if isinstance(value, (Tensor, np.ndarray)) and math.prod(value.shape) == 1:
        with contextlib.suppress(RuntimeError):  # it has no values
            number = value.item()
    if isinstance(number, bool) or not isinstance(number, (int, np.integer)):
        raise ArgumentTypeError(name, f"must be {what}, got {told(repr(value), 80)}")
    return int(number)


def by_name(model: Any, targets: Iterable[Any]) -> list[Any]:
    """The classes of names, where the model knows names (has ``find``); other targets as they are.

    >>> from fwdgrad.adapters.images import ImageClassifier
    >>> by_name(ImageClassifier("pets", torch.nn.Identity(), 8, ("cat, puss", "dog")), ["puss", 7])
    [0, 7]
    """
    find = getattr(model, "find", None)

    def one(target: Any) -> Any:
        is_name = isinstance(target, str) and target != "auto"
        return find(target) if is_name and callable(find) else target

    return found_by(one, targets)


def resolve_target(
    target: Any, outputs: Any, objective: Objective, batch: int | None = None
) -> int | None:
    """The class to explain, from the output at the clean input.

    Args:
        target: a class (an int, or what ``argmax`` gives), ``"auto"`` for the one of the largest
            output, or None where the model returns one number per sample.
        outputs: the model's output at the clean input.
        objective: where it is a callable, there is no class, or the classes are what it scores.
        batch: how many rows the output must have, where that is to be checked.

    Returns:
        The class, or None where the output is the score itself.

    Raises:
        ValueError: a target outside the classes, or one where there are none.

    Example:
        >>> resolve_target("auto", torch.tensor([[0.1, 0.7, 0.2]]), "logit")
        1
    """
    if callable(objective):
        count = getattr(objective, "n_targets", None)
        if count is not None:
            if target is None and count > 1:
                raise ArgumentError(
                    "target",
                    f"must be given: the objective scores {count}, 0 .. {count - 1}; a list gives "
                    "a map of each from the same calls",
                )
            return resolve_target(target, objective(outputs), "output", batch)
        if not (target is None or (isinstance(target, str) and target == "auto")):
            raise ArgumentError(
                "target", f"must be left out where objective is a callable, got {target!r}"
            )
        return None
    outputs = tensor_of(outputs, batch)
    check_no_labels(outputs)
    if not (target is None or isinstance(target, str)):
        target = class_number("target", target, "a class number, 'auto' or None")
    elif target not in ("auto", None):
        raise ArgumentError(
            "target", f"must be a class number, 'auto' or None, got {told(repr(target), 80)}"
        )
    classes = outputs.shape[1] if outputs.dim() == 2 else 1
    if classes == 1:
        if objective not in _OF_NUMBERS:
            raise ArgumentError(
                "objective",
                "must be 'auto' or 'output' where the model returns one number per sample (it is "
                f"that number), 'sigmoid' or a callable, got {objective!r}",
            )
        if target in ("auto", None, 0):
            return None
        raise ArgumentError(
            "target", f"must be 0: the model returns one number per sample, got {target}"
        )
    if target is None:
        raise ArgumentError("target", f"must be given: the model returns {classes} classes")
    if target == "auto":
        return int(floating(outputs)[0].argmax())
    if not 0 <= target < classes:
        raise ArgumentError("target", f"must lie in 0 .. {classes - 1}, got {target}")
    return int(target)


def scores_of(
    outputs: Any,
    objective: Objective,
    target: int | None,
    batch: int,
    *,
    differentiable: bool = False,
) -> Tensor:
    """One score per sample.

    Args:
        outputs: what the model returned for ``batch`` samples: (batch, classes) or (batch,), or
            anything that a callable objective takes.
        objective: see ``OBJECTIVES``.
        target: the class; None where the output is the score itself.
        batch: how many samples there were.
        differentiable: whether the output may carry a gradient graph.

    Returns:
        (batch,), floating; half precision comes back as float32.

    Raises:
        ModelError: the output has another batch, or carries a gradient graph.

    Example:
        >>> scores_of(torch.tensor([[0.0, 0.0]]), "probability", 1, batch=1)
        tensor([0.5000])
    """
    if callable(objective):
        return floating(tensor_of(objective(outputs), batch, "objective", differentiable))
    scores = floating(tensor_of(outputs, batch, differentiable=differentiable))
    if target is None:
        if scores.numel() != batch:
            raise ModelError(
                f"the model must return one number per sample, got {tuple(scores.shape)}"
            )
        scores, target = scores.reshape(batch, 1), 0
    if scores.dim() != 2 or scores.shape[1] <= target:
        raise ModelError(
            f"the model returned {tuple(scores.shape)} for samples, which has no class {target}, "
            "though its output at the input itself had"
        )
    return _NAMED[objective](scores, target)


class Difference:
    """An objective: the score of one class minus that of another.

    Its map shows what increases the one score rather than the other.

    Args:
        target: the class that is explained.
        other: the class that it is compared with.
        objective: what is subtracted: "logit" or "log-probability" (the same), or "probability".

    Example:
        >>> Difference(0, 2)(torch.tensor([[3.0, 0.0, 1.0]]))
        tensor([2.])

    Source: *Is forward gradient an effective tool for explaining black-box models?*, section 3.4.
    """

    def __init__(self, target: int, other: int, objective: str = "logit") -> None:
        """Checks the classes."""
        self.target, self.other = class_number("target", target), class_number("other", other)
        for name, value in (("target", self.target), ("other", self.other)):
            if value < 0:
                raise TypeError(f"{name} must be a class number, got {value}")
        if self.target == self.other:
            raise ValueError(f"target and other must differ, got class {self.target} for both")
        if not isinstance(objective, str) or objective not in _NAMED:
            raise ValueError(
                f"objective must be one of {', '.join(_NAMED)}, got {told(repr(objective), 80)}"
            )
        self.objective = objective
        self.__qualname__ = f"Difference({self.target}, {self.other}, {objective!r})"

    def __call__(self, outputs: Any) -> Tensor:
        """The scores of samples: (batch, classes) to (batch,)."""
        scores = floating(tensor_of(outputs, None, differentiable=True))
        if len(scores) == 1:  # as at the input: a look at all batches would wait for the device
            decide(self.objective, outputs)
        classes = scores.shape[1] if scores.dim() == 2 else 1
        if max(self.target, self.other) >= classes:
            raise ModelError(
                f"the model returned {classes} classes, and the objective is {self.__qualname__}"
            )
        one, other = (_NAMED[self.objective](scores, c) for c in (self.target, self.other))
        return one - other
