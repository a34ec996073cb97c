"""From a model's output to one score per copy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fwdgrad.errors import ModelError

Objective = str | Callable[[Any], Tensor]

_NAMED: dict[str, Callable[[Tensor, int], Tensor]] = {
    "logit": lambda outputs, target: outputs[:, target],
    "probability": lambda outputs, target: outputs.softmax(1)[:, target],
    "log-probability": lambda outputs, target: outputs.log_softmax(1)[:, target],
    "cross-entropy": lambda outputs, target: -outputs.log_softmax(1)[:, target],
}
OBJECTIVES = tuple(_NAMED)


def objective_name(objective: Objective) -> str:
    """How an objective is written down in an explanation.

    >>> objective_name("logit")
    'logit'
    """
    if isinstance(objective, str):
        return objective
    return str(getattr(objective, "__qualname__", type(objective).__qualname__))


def check_model(model: Any) -> None:
    """Raises TypeError for what cannot be called.

    >>> check_model(torch.nn.Linear(2, 2))
    """
    if not callable(model):
        raise TypeError(f"model must be callable on a batch, got {type(model).__name__}")


def outputs_at(model: Callable[[Tensor], Any], x: Tensor) -> Any:
    """What the model returns for one input; where it fails, with the shape that it was asked with.

    >>> outputs_at(torch.nn.Flatten(), torch.ones(2, 3)).shape
    torch.Size([1, 6])
    """
    check_model(model)
    try:
        return model(x[None].clone())
    except Exception as error:
        hint = ""
        if isinstance(error, (RuntimeError, ValueError, IndexError)):  # of shapes or types
            hint = (
                f" (x is one input, without a batch axis, and the batch has its dtype, {x.dtype})"
            )
        raise ModelError(
            f"the model failed on a batch of shape {(1, *x.shape)}: {type(error).__name__}: "
            f"{error}{hint}"
        ) from error


def check_objective(objective: Objective) -> None:
    """Raises where an objective is neither a known name nor callable.

    >>> check_objective("accuracy")
    Traceback (most recent call last):
    ValueError: objective must be one of logit, probability, log-probability, cross-entropy, or a \
callable from the model's output to one score per copy, got 'accuracy'
    """
    if not callable(objective) and objective not in _NAMED:
        raise ValueError(
            f"objective must be one of {', '.join(OBJECTIVES)}, or a callable from the model's "
            f"output to one score per copy, got {objective!r}"
        )


def _check_outputs(
    outputs: Any, batch: int | None, source: str = "model", differentiable: bool = False
) -> Tensor:
    """The output as a tensor that has the right batch and real numbers; a graph where wanted."""
    if isinstance(outputs, Tensor):
        tensor = outputs
    else:
        try:
            tensor = torch.as_tensor(outputs)
        except (TypeError, ValueError, RuntimeError):
            if _are_names(outputs):
                raise ModelError(_LABELS.format(f"names such as {str(outputs[0])!r}")) from None
            raise ModelError(
                f"the {source} must return a tensor or an array, got {type(outputs).__name__}; "
                "give an objective that makes one score per copy of it, or wrap the model, e.g. "
                "lambda batch: model(batch)[0]"
            ) from None
    if tensor.requires_grad and not differentiable:
        raise ModelError(
            f"the {source} returned a tensor with a gradient graph, though it is called under "
            "torch.no_grad(); remove enable_grad from it, or return output.detach()"
        )
    if batch is not None and (tensor.dim() == 0 or tensor.shape[0] != batch):
        raise ModelError(
            f"the {source} returned shape {tuple(tensor.shape)} for a batch of {batch}; the "
            "first axis must be the batch"
        )
    if tensor.is_complex():
        raise ModelError(f"the {source} must return real numbers, got {tensor.dtype}")
    if tensor.dtype == torch.bool and source == "model":
        raise ModelError(
            "the model must return scores, got torch.bool, which only says yes or no; return what "
            "is compared, or numbers, e.g. lambda batch: model(batch).double()"
        )
    axes = 1 if source == "objective" else 2
    if tensor.dim() > axes or not tensor.numel():
        expected = "one score per copy," if source == "objective" else "(batch, classes) or"
        hint = "; give an objective that makes one score per copy of it" if axes == 2 else ""
        raise ModelError(
            f"the {source} must return {expected} (batch,), got shape {tuple(tensor.shape)}{hint}"
        )
    if axes == 2 and tensor.shape[1:].numel() == 1 and not tensor.is_floating_point():
        raise ModelError(_LABELS.format(f"integers of shape {tuple(tensor.shape)}"))
    return tensor


_LABELS = (
    "the model returned {}: labels, which are no scores. Explain them by "
    "objective=KeptLabel(target) or LabelDistance(target, taxonomy); or return floating numbers, "
    "where they are scores"
)


def _are_names(outputs: Any) -> bool:
    """Whether it is a list or an array of strings."""
    is_list = isinstance(outputs, (list, tuple)) or getattr(outputs, "ndim", 0) == 1
    return is_list and len(outputs) > 0 and all(isinstance(one, str) for one in outputs)


def by_name(model: Any, target: Any) -> Any:
    """The class of a name, where the model knows names (has ``find``); any other target as it is.

    >>> from fwdgrad.boxes.images import ImageClassifier
    >>> by_name(ImageClassifier("pets", torch.nn.Identity(), 8, ("cat, puss", "dog")), "puss")
    0
    """
    find = getattr(model, "find", None)
    is_name = isinstance(target, str) and target != "auto"
    return find(target) if is_name and callable(find) else target


def resolve_target(
    target: Any, outputs: Any, objective: Objective, batch: int | None = None
) -> int | None:
    """The class to explain, from the output at the clean input.

    Args:
        target: a class (an int, or what ``argmax`` gives), ``"auto"`` for the one of the largest
            output, or None where the model returns one number per copy.
        outputs: the model's output at the clean input.
        objective: where it is a callable, there is no class.
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
        if not (target is None or (isinstance(target, str) and target == "auto")):
            raise ValueError(
                f"target must be left out where objective is a callable, got {target!r}"
            )
        return None
    outputs = _check_outputs(outputs, batch)
    if not (target is None or isinstance(target, str)):
        value = target
        if isinstance(target, (Tensor, np.ndarray)) and len(target.reshape(-1)) == 1:
            value = target.item()
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
            raise TypeError(f"target must be a class number, 'auto' or None, got {target!r}")
        target = int(value)
    elif target not in ("auto", None):
        raise ValueError(f"target must be a class number, 'auto' or None, got {target!r}")
    classes = outputs.shape[1] if outputs.dim() == 2 else 1
    if classes == 1:
        if objective != "logit":
            raise ValueError(
                "objective must be 'logit' where the model returns one number per copy (it is that "
                f"number) or a callable, got {objective!r}"
            )
        if target in ("auto", None, 0):
            return None
        raise ValueError(f"target must be 0: the model returns one number per copy, got {target}")
    if target is None:
        raise ValueError(f"target must be given: the model returns {classes} classes")
    if target == "auto":
        return int(outputs[0].argmax())
    if not 0 <= target < classes:
        raise ValueError(f"target must lie in 0 .. {classes - 1}, got {target}")
    return int(target)


def scores_of(
    outputs: Any,
    objective: Objective,
    target: int | None,
    batch: int,
    *,
    differentiable: bool = False,
) -> Tensor:
    """One score per copy.

    Args:
        outputs: what the model returned for ``batch`` copies: (batch, classes) or (batch,), or
            anything that a callable objective takes.
        objective: see ``OBJECTIVES``.
        target: the class; None where the output is the score itself.
        batch: how many copies there were.
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
        return _floating(_check_outputs(objective(outputs), batch, "objective", differentiable))
    scores = _floating(_check_outputs(outputs, batch, differentiable=differentiable))
    if target is None:
        if scores.numel() != batch:
            raise ModelError(
                f"the model must return one number per copy, got {tuple(scores.shape)}"
            )
        return scores.reshape(batch)
    if scores.dim() != 2 or scores.shape[1] <= target:
        raise ModelError(
            f"the model returned {tuple(scores.shape)} for copies, which has no class {target}, "
            "though its output at the input itself had"
        )
    return _NAMED[objective](scores, target)


class Difference:
    """The score of one class less that of another: what speaks for the one rather than the other.

    Args:
        target: the class that is explained.
        other: the class that it is set against.
        objective: what is subtracted: "logit" or "log-probability" (the same), or "probability".

    Example:
        >>> Difference(0, 2)(torch.tensor([[3.0, 0.0, 1.0]]))
        tensor([2.])

    Source: *Is forward gradient an effective tool for explaining black-box models?*, section 3.4.
    """

    def __init__(self, target: int, other: int, objective: str = "logit") -> None:
        """Checks the classes."""
        for name, value in (("target", target), ("other", other)):
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 0:
                raise TypeError(f"{name} must be a class number, got {value!r}")
        if target == other:
            raise ValueError(f"target and other must differ, got class {target} for both")
        if objective not in _NAMED:
            raise ValueError(f"objective must be one of {', '.join(OBJECTIVES)}, got {objective!r}")
        self.target, self.other, self.objective = int(target), int(other), objective
        self.__qualname__ = f"Difference({self.target}, {self.other}, {objective!r})"

    def __call__(self, outputs: Any) -> Tensor:
        """The scores of copies: (batch, classes) to (batch,)."""
        scores = _floating(_check_outputs(outputs, None, differentiable=True))
        classes = scores.shape[1] if scores.dim() == 2 else 1
        if max(self.target, self.other) >= classes:
            raise ModelError(
                f"the model returned {classes} classes, and the objective is {self.__qualname__}"
            )
        one, other = (_NAMED[self.objective](scores, c) for c in (self.target, self.other))
        return one - other


def _floating(scores: Tensor) -> Tensor:
    return scores if scores.dtype in (torch.float32, torch.float64) else scores.float()


def class_at(
    model: Callable[[Tensor], Any], x: Tensor, target: int | str | None, objective: Objective
) -> int | None:
    """The class that is meant, checked against what the model returns for one input.

    >>> class_at(torch.nn.Identity(), torch.tensor([1.0, 3.0, 2.0]), "auto", "logit")
    1
    """
    return resolve_target(by_name(model, target), outputs_at(model, x), objective, batch=1)
