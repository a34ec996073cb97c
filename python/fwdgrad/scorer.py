"""Calls of a model, each checked: a batch of samples gives one score a sample and target."""

from __future__ import annotations

import copy
import functools
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fwdgrad.errors import Message, ModelError, Option, warn
from fwdgrad.failing import what_may_help, why_not_finite
from fwdgrad.objectives import (
    AUTO,
    OF_LOGITS,
    Objective,
    are_within,
    by_name,
    check_objective,
    decide,
    resolve_target,
    scores_of,
    within,
)
from fwdgrad.outputs import cause, is_out_of_memory, tensor_of

_ENOUGH = 16  # outputs after which it is no accident that all lie in [0, 1]


def check_model(model: Any) -> None:
    """Raises TypeError for what cannot be called.

    >>> check_model(torch.nn.Linear(2, 2))
    """
    if not callable(model):
        methods = [name for name in ("predict_proba", "predict") if hasattr(model, name)]
        hint = ""
        if methods:
            hint = (
                f"; wrap it: fwdgrad.adapters.tables.TableModel for rows, strings.TextModel for "
                f"texts, or its {methods[0]} as arrays.NumpyModel for arrays"
            )
        is_file = isinstance(model, (str, os.PathLike)) and os.fspath(model).endswith(".onnx")
        if is_file or all(hasattr(model, name) for name in ("get_inputs", "get_outputs", "run")):
            hint = "; give an ONNX model as fwdgrad.adapters.arrays.OnnxModel(model)"
        hint = hint or "; the model is the first argument, a function from a batch to scores"
        raise TypeError(f"model must be callable on a batch, got {type(model).__name__}{hint}")
    if isinstance(model, type):
        raise TypeError(f"model must be callable on a batch, got the class {model.__name__}")


def check_mode(model: Any) -> None:
    """Raises where every call would change a model; warns where its scores may be random.

    Raises:
        ValueError: see ``check_statistics``.
    """
    check_statistics(model)
    module = module_of(model)
    if module is not None and module.training:
        warn(
            "the model is in training mode: its scores may be random or change it; call "
            "model.eval() first"
        )


def check_statistics(model: Any) -> None:
    """Raises where every call would change a model's batch normalisation.

    Args:
        model: a module, or a method of one; of one within another function nothing is seen.

    Raises:
        ValueError: it has batch normalisation in training mode.

    Example:
        >>> check_statistics(torch.nn.BatchNorm2d(3))
        Traceback (most recent call last):
        ValueError: model must be in evaluation mode: it is in training mode and every call would \
change its batch normalisation; call model.eval() first
    """
    module = module_of(model)
    # By their names: compiled modules are of no class of torch's normalisations.
    if module is not None and any(
        part.training
        and isinstance(getattr(part, "running_mean", None), Tensor)
        and getattr(part, "num_batches_tracked", None) is not None
        for part in module.modules()
    ):
        raise ValueError(
            "model must be in evaluation mode: it is in training mode and every call would "
            "change its batch normalisation; call model.eval() first"
        )


def module_of(model: Any) -> torch.nn.Module | None:
    """The module that a call of the model reaches, where that shows: in a method of it, say.

    >>> module_of(torch.nn.Flatten().forward), module_of(torch.sin)
    (Flatten(start_dim=1, end_dim=-1), None)
    """
    while isinstance(model, functools.partial):
        model = model.func
    for _ in range(2):  # an ImageClassifier has a forward, which may be a method
        if isinstance(model, torch.nn.Module):
            return model
        model = getattr(model, "__self__", None) or getattr(model, "forward", None)
    return model if isinstance(model, torch.nn.Module) else None


def outputs_at(model: Callable[[Tensor], Any], x: Tensor) -> Any:
    """What the model returns for one input; its error, where it fails, names the batch's shape.

    >>> outputs_at(torch.nn.Flatten(), torch.ones(2, 3)).shape
    torch.Size([1, 6])
    """
    check_model(model)
    try:
        return model(x[None].clone())
    except ModelError:  # an adapter's own
        raise
    except Exception as error:
        raise ModelError(
            f"the model failed on a batch of shape {(1, *x.shape)}: {cause(error)}"
            f"{what_may_help(error, x)}"
        ) from error


class Scorer:
    """A model's scores. What its output at one input is, is what it must be at every call.

    Args:
        model: takes a batch (batch, *x.shape).
        x: the input that settles the classes and, where it is "auto", the objective.
        targets: as ``resolve_target`` takes them.
        objective: see ``OBJECTIVES``.

    Attributes:
        outputs: what the model returned for x.
        objective: what is explained; never "auto".
        decision: why, where it was "auto".
        targets: the classes.
        clean: their scores at x.
        device: where scores are kept.
        looks: whether each call may read its output, and so wait for the device; else ``look``
            does, whenever it is called.

    Raises:
        TypeError, ValueError: a target or an objective that does not fit the output.
        ModelError: the model failed or returned something of no use, or a score is not finite.

    Example:
        >>> scorer = Scorer(torch.sigmoid, torch.tensor([0.0, 1.0]), ["auto"], "auto")
        >>> scorer.objective, scorer.targets, scorer(torch.zeros(3, 2))[0].tolist()
        ('output', [1], [0.5, 0.5, 0.5])
    """

    def __init__(
        self,
        model: Callable[[Tensor], Any],
        x: Tensor,
        targets: Sequence[Any],
        objective: Objective,
    ) -> None:
        """Calls the model once."""
        check_model(model)
        check_objective(objective)
        targets = by_name(model, targets)
        self.model = model
        self.looks = True
        self._form: _Form | None = None
        self._seen = 0
        self._inside: Tensor | None = None  # of all that was seen
        self._went_well = False  # with several samples at once
        with torch.no_grad():
            self.outputs = outputs_at(model, x)
            try:
                if settled := getattr(objective, "settled", None):
                    objective = settled(self.outputs, x)
                self.objective, self.decision = decide(objective, self.outputs, model)
                self.targets = [
                    resolve_target(t, self.outputs, self.objective, batch=1) for t in targets
                ]
                scores = self._read(self.outputs, 1, False)
                self.device = device_of_numbers(scores[0])
                self.clean = [float(score[0]) for score in scores]
            except ModelError as reason:
                if x.dim() > 1 and x.shape[0] == 1:
                    raise ModelError(
                        f"{reason}. x has shape {tuple(x.shape)}: if its first axis is a batch "
                        "axis, give x[0]"
                    ) from reason.__cause__
                raise
            except RuntimeError as error:  # of a tensor without values, say
                raise ModelError(
                    f"no score can be made of the model's output: {cause(error)}"
                ) from error
        self._watched = self._is_doubtful()
        for clean in self.clean:
            if not math.isfinite(clean):
                raise ModelError(why_not_finite(model, self.outputs, x, clean))

    def __call__(self, batch: Tensor, *, differentiable: bool = False) -> list[Tensor]:
        """The scores (batch,) of each target, floating.

        They may lie in memory of the model's own, which it writes to at its next call.

        Raises:
            ModelError: the model failed, or its output has another form than at x.
        """
        size, shape = len(batch), tuple(batch.shape)
        alone: str = ""
        if size > 1 and not self._went_well:
            alone = Message(
                "; a model that takes one input at a time needs ", Option("batch_size", 1)
            )
        try:
            outputs = self.model(batch)
        except Exception as error:
            if is_out_of_memory(error) or isinstance(error, ModelError):  # an adapter's own
                raise
            raise ModelError(
                Message(f"the model failed on a batch of shape {shape}: {cause(error)}", alone)
            ) from error
        try:
            scores = self._read(outputs, size, differentiable)
        except ModelError as error:
            few = alone if _is_of_one(outputs) else ""
            raise ModelError(Message(error, few)) from error.__cause__
        self._went_well |= size > 1
        if self._watched:
            values = tensor_of(outputs, size, differentiable=True).detach()
            self.saw(are_within(values), size)
            if self.looks:
                self.look()
        return scores

    def with_model(self, model: Callable[[Tensor], Any]) -> Scorer:
        """The same for the model of another thread or process, whose ``look`` is left to this."""
        other = copy.copy(self)
        other.model, other.looks, other._inside, other._seen = model, False, None, 0
        return other

    def taken(self) -> Tensor | None:
        """Whether all outputs since the last time lay in [0, 1], where it matters: for ``saw``."""
        inside, self._inside = self._inside, None
        return inside

    def saw(self, inside: Tensor | None, count: int) -> None:
        """Takes over what another's ``taken`` says of so many samples."""
        if inside is not None:
            self._inside = inside if self._inside is None else self._inside & inside
            self._seen += count

    def __getstate__(self) -> dict[str, Any]:
        """All but the model, and what it returned."""
        return {**vars(self), "model": None, "outputs": None}

    def _read(self, outputs: Any, size: int, differentiable: bool) -> list[Tensor]:
        """The scores of an output, whose form must be that at x."""
        found, kind, classes = outputs, None, None
        is_array = isinstance(outputs, (Tensor, np.ndarray))
        if callable(self.objective):  # which may take anything: a list of detections, say
            if is_array and len(outputs.shape) == 2 and outputs.shape[0] == size:
                classes = int(outputs.shape[1])
        else:
            found = tensor_of(outputs, size, differentiable=differentiable)
            classes = found.shape[1:].numel()
            if is_array:  # a list has integers where its numbers happen to be whole
                kind = "floating numbers" if found.is_floating_point() else "integers"
        self._check_form((classes, kind))
        objective = self.objective
        try:
            if callable(objective) and hasattr(objective, "n_targets"):  # once for all targets
                found, objective = objective(outputs), "output"
            return [
                scores_of(found, objective, t, size, differentiable=differentiable)
                for t in self.targets
            ]
        except ModelError:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                raise
            whose = " by the objective" * callable(self.objective)
            raise ModelError(
                f"no score can be made of the model's output{whose}: {cause(error)}"
            ) from error

    def _check_form(self, form: _Form) -> None:
        """Raises where an output has another form than the first."""
        if self._form is None:
            self._form = form
        for one, other in zip(form, self._form, strict=True):
            if None not in (one, other) and one != other:
                raise ModelError(
                    f"the model returned {_said(one)}, and at the input itself {_said(other)}"
                )

    def _is_doubtful(self) -> bool:
        """Whether [0, 1] at x may be an accident, which other inputs would show."""
        if callable(self.objective):
            return False
        if self.decision is not None:
            return self.decision == AUTO["labels"][1]
        return self.objective in OF_LOGITS and within(tensor_of(self.outputs, 1))

    def look(self) -> None:
        """Warns once, where other inputs show that the output was taken for something else."""
        if not self._watched or self._inside is None:
            return
        inside = bool(self._inside)
        if self.decision is not None and not inside:
            self._watched = False
            message = Message(
                "the model's output lies in [0, 1] at x and leaves it elsewhere, so it was wrongly "
                "taken for probabilities of labels. It is explained as it is; ",
                Option("objective", "probability"),
                " explains its softmax; ",
                Option("objective", "output"),
                " says that it is meant as it is",
            )
            warn(message)
        elif self.decision is None and (not inside or self._seen >= _ENOUGH):
            self._watched = False
            if inside:
                message = Message(
                    "the model's output lies in [0, 1] at every input, and objective "
                    f"{self.objective!r} takes it for logits; ",
                    Option("objective", "output"),
                    " explains it as it is",
                )
                warn(message)


def device_of_numbers(like: Tensor) -> torch.device:
    """The device to keep numbers of samples on, so that nothing waits: the device of the output.

    >>> device_of_numbers(torch.ones(1))
    device(type='cpu')
    """
    return torch.device("cpu") if like.device.type == "mps" else like.device  # has no float64


_Form = tuple[int | None, str | None]  # classes and kind of number, where they are known


def _is_of_one(outputs: Any) -> bool:
    """Whether an output is for a single input: a number alone, or one row."""
    if isinstance(outputs, (Tensor, np.ndarray, np.generic)):
        return outputs.shape[:1] in ((), (1,))
    if isinstance(outputs, (list, tuple)):
        return len(outputs) == 1
    return isinstance(outputs, (int, float))


def _said(part: int | str | None) -> str:
    """The number of classes, or the kind of numbers, in words."""
    if isinstance(part, int):
        return "one number a sample" if part == 1 else f"{part} classes"
    return str(part)
