"""Our methods as a class in the manner of Captum: a batch in, attributions out."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fwdgrad.advice import is_noise, warn_of_noise
from fwdgrad.errors import ArgumentError, ArgumentTypeError, ModelError
from fwdgrad.explaining import Options, explanations, unexpected
from fwdgrad.methods import choose, method_of
from fwdgrad.methods.base import Method
from fwdgrad.objectives import Objective, check_objective
from fwdgrad.outputs import told
from fwdgrad.powers import warn_unless_finite
from fwdgrad.scorer import check_model
from fwdgrad_kernels import Labels

_Index = int | str | tuple[int, ...]
_Targets = _Index | Sequence[_Index] | Tensor | np.ndarray[Any, Any] | None
_Number = int | float
_Baselines = _Number | Tensor | tuple[_Number | Tensor, ...] | None


class Attribution:
    """A method bound to a model, with Captum's ``attribute``.

    Args:
        forward_func: the model: takes a batch (batch, ...), or several, and what goes along.
        method: see ``fwdgrad.explain``.
        objective: see there; by default the model's output as it is, which Captum explains.
        **options: what else it takes: n_samples, features, seed, batch_size, ...

    Raises:
        TypeError, ValueError: naming the argument.

    Example:
        >>> model = lambda batch, bias: batch @ torch.tensor([[1.0, 0.0], [-2.0, 1.0]]) + bias
        >>> explainer = Attribution(model, method="gradient")
        >>> explainer.attribute(torch.zeros(2, 2), target=[0, 1], additional_forward_args=3.0)
        tensor([[ 1., -2.],
                [ 0.,  1.]])

        Each of two inputs has its features, and one run explains both:

        >>> model = lambda one, two: one.sum(1) - two.prod(1)
        >>> one, two = torch.ones(1, 2), torch.full((1, 3), 2.0)
        >>> Attribution(model, method="gradient").attribute((one, two))
        (tensor([[1., 1.]]), tensor([[-4., -4., -4.]]))

    Source: the interface is that of Captum, https://captum.ai.
    """

    multiplies_by_inputs = False

    def __init__(
        self,
        forward_func: Callable[..., Any],
        *,
        method: str | Method = "auto",
        objective: Objective = "output",
        **options: Any,
    ) -> None:
        """Checks what can be checked without an input."""
        check_model(forward_func)
        check_objective(objective)
        for name in options:
            if name not in Options.__annotations__:
                raise TypeError(unexpected(name, "Attribution"))
        self.forward_func = forward_func
        self.method = method_of(method) or method
        self.options: dict[str, Any] = {**options, "objective": objective}

    def has_convergence_delta(self) -> bool:
        """There is none: an ``Explanation`` of integrated gradients has it."""
        return False

    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        baselines: _Baselines = None,
        target: _Targets = None,
        additional_forward_args: Any = None,
        feature_mask: Tensor | tuple[Tensor, ...] | None = None,
        n_samples: int | None = None,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
    ) -> Any:
        """Attributions of a batch of inputs, each explained by itself.

        Args:
            inputs: floating numbers (batch, ...), or a tuple of such. The tensors of a tuple are
                explained together, by one run over the vector of all their numbers: noise is on
                all of them at once, and a region is in or out whatever the others are. "auto" is
                then ``ForwardGradient()``. A scale that the method leaves open is a fifth of the
                range of each tensor; cells and "blur" need a single one.
            baselines: of the method, where it has one (``Regions``, ``ForwardGradient``,
                ``IntegratedGradients``): a number, or a tensor of the inputs' shape or with a first
                axis of 1; a tuple of them for a tuple of inputs. None: what the method says.
            target: None where the model returns one number; a class for all inputs, as an integer,
                a name that the model knows, or a tensor or array of one element; a list, or a
                tensor or an array (n,) or (n, 1), of one for each input; a tuple of indices into
                the output's axes after the first, or a list of such tuples: what they select is
                explained as it is. "auto" is the predicted class of each.
            additional_forward_args: what the model is called with after the inputs: one value, or
                a tuple. Of a tensor whose first axis is the batch each input has its row, repeated
                for its samples; all else is handed on as it is.
            feature_mask: integers of the inputs' shape, or that broadcast to it: elements of one
                number move together; in a tuple, across its tensors too. For ``Regions`` and
                ``ForwardGradient``.
            n_samples: perturbed inputs that the model is called on, for each input.
            perturbations_per_eval: samples per forward call; the result does not depend on it.
            show_progress: a bar for each input on standard error.

        Returns:
            Attributions of the shape of inputs; a tuple for a tuple.

        Raises:
            TypeError, ValueError: naming the argument, what was given and what would do.
            ModelError: the model failed or returned something of no use.
        """
        parts = inputs if isinstance(inputs, tuple) else (inputs,)
        _check_inputs(parts, isinstance(inputs, tuple))
        rows = len(parts[0])
        targets = _each(target, rows)
        arguments = additional_forward_args
        if not isinstance(arguments, tuple):
            arguments = () if arguments is None else (arguments,)
        bases = _of_each("baselines", baselines, parts)
        masks = _of_each("feature_mask", feature_mask, parts)
        options = dict(self.options)
        if masks is not None and options.get("features") is not None:
            raise ArgumentError("feature_mask", "must be None where features were given already")
        if n_samples is not None:
            options["n_samples"] = n_samples
        if perturbations_per_eval is not None:
            options |= {"batch_size": perturbations_per_eval, "memory": None}
        if show_progress:
            options["progress"] = True
        results = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in parts]
        low = []
        for row, wanted in enumerate(targets):
            along = [a[row : row + 1] if _is_batched(a, rows) else a for a in arguments]
            batched = [_is_batched(a, rows) for a in arguments]
            index = wanted if isinstance(wanted, tuple) else None
            if index is not None and len(index) == 1:
                wanted, index = index[0], None
            call = _Call(self.forward_func, [x[row].detach() for x in parts], along, batched, index)
            x, method = call.x, self.method
            if bases is not None or len(parts) > 1:
                chosen = method if isinstance(method, Method) else choose(x)[0]
                if bases is not None:
                    chosen = _with_baseline(chosen, call.joined(_rows_of(bases, row)))
                method = _with_scale(chosen, call) if len(parts) > 1 else chosen
            if masks is not None:
                options["features"] = call.labels_of(_rows_of(masks, row))
            model = self.forward_func if call.is_plain else call
            (found,) = explanations(
                model, x, [None if index is not None else wanted], method=method, **options
            )
            for result, one in zip(results, call.split(found.attribution[None]), strict=True):
                result[row].copy_(one[0])
            low += [found] * is_noise(found)
        warn_of_noise(low, rows)
        for result in results:
            if result.dtype not in (torch.float32, torch.float64):  # narrower than an explanation
                warn_unless_finite(result)
        return tuple(results) if isinstance(inputs, tuple) else results[0]


class _Call:
    """The model at one input: a batch of it is taken apart, and what goes along is put beside.

    Args:
        forward: the model. Its name here is where ``explain`` looks for the module.
        parts: the input's tensors, without a batch axis.
        along: what the model is called with after them.
        batched: which of these are rows (1, ...) to repeat for the samples.
        index: what to take of each sample's output.
    """

    def __init__(
        self,
        forward: Callable[..., Any],
        parts: list[Tensor],
        along: list[Any],
        batched: list[bool],
        index: tuple[int, ...] | None,
    ) -> None:
        self.forward, self._index = forward, index
        self.parts, self._along = parts, list(zip(along, batched, strict=True))
        self.is_plain = len(parts) == 1 and not along and index is None
        self.x = parts[0] if len(parts) == 1 else self.joined(list(parts))
        for name in ("find", "explained_as"):  # what explain looks for in a model
            if index is None and hasattr(forward, name):
                setattr(self, name, getattr(forward, name))

    def __call__(self, batch: Tensor) -> Any:
        rows = [one.to(part.dtype) for one, part in zip(self.split(batch), self.parts, strict=True)]
        along = [
            value.repeat(len(batch), *(1,) * (value.dim() - 1)) if is_row else value
            for value, is_row in self._along
        ]
        output = self.forward(*rows, *along)
        if self._index is None:
            return output
        if not isinstance(output, (Tensor, np.ndarray)):
            raise ModelError(
                f"the model must return a tensor where target is a tuple, got {type(output)}"
            )
        if output.ndim != len(self._index) + 1:
            raise ArgumentError(
                "target",
                f"must have an index for each of the output's {output.ndim - 1} axes after the "
                f"first, got {self._index} for an output of shape {tuple(output.shape)}",
            )
        where: Any = (slice(None), *self._index)
        return output[where]

    def split(self, batch: Tensor) -> list[Tensor]:
        """A batch of the input as batches of its tensors."""
        if len(self.parts) == 1:
            return [batch]
        cut = batch.split([part.numel() for part in self.parts], 1)
        return [
            one.reshape(len(batch), *part.shape) for one, part in zip(cut, self.parts, strict=True)
        ]

    def joined(self, values: list[Any]) -> Any:
        """One value for each tensor, as one for the input."""
        if len(self.parts) == 1:
            return values[0]
        if all(not isinstance(value, Tensor) and value == values[0] for value in values):
            return values[0]
        flat = [
            torch.as_tensor(value, device=part.device).expand(part.shape).reshape(-1)
            for value, part in zip(values, self.parts, strict=True)
        ]
        dtype = flat[0].dtype
        for one in flat:
            dtype = torch.promote_types(dtype, one.dtype)
        return torch.cat([one.to(dtype) for one in flat])

    def labels_of(self, masks: list[Any]) -> Labels:
        """A mask's numbers as labels, which have no gaps."""
        for mask in masks:
            if not isinstance(mask, Tensor) or mask.is_floating_point():
                kind = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
                raise ArgumentTypeError("feature_mask", f"must be a tensor of integers, got {kind}")
        mask = self.joined(masks)
        return Labels(torch.unique(mask, return_inverse=True)[1])


def _check_inputs(parts: tuple[Any, ...], is_tuple: bool) -> None:
    for x in parts:
        if not isinstance(x, Tensor):
            text = f"inputs must be a tensor{' each' * is_tuple}, got {type(x).__name__}"
            raise TypeError(f"{text}; several are given as a tuple" if not is_tuple else text)
        if x.dim() < (1 if len(parts) > 1 else 2):
            raise ValueError(f"inputs must have a batch axis, got shape {tuple(x.shape)}")
        if len(parts) > 1 and not x.is_floating_point():
            raise TypeError(
                f"inputs must have floating numbers, got {x.dtype}; what is not to be explained "
                "goes into additional_forward_args"
            )
    if not parts:
        raise ValueError("inputs must be a tensor or a tuple of them, got ()")
    if len({len(x) for x in parts}) > 1:
        shapes = ", ".join(str(tuple(x.shape)) for x in parts)
        raise ValueError(f"inputs must have batch axes of one length, got shapes {shapes}")


def _of_each(name: str, given: Any, parts: tuple[Tensor, ...]) -> list[Any] | None:
    """One value for each tensor of the inputs, such that a tensor's first axis is the batch's."""
    if given is None:
        return None
    values = list(given) if isinstance(given, tuple) else [given] * len(parts)
    if len(values) != len(parts) or (len(parts) > 1 and isinstance(given, Tensor)):
        raise ArgumentError(
            name,
            f"must be a tuple of {len(parts)}, one for each tensor of the inputs, got "
            f"{len(values) if isinstance(given, tuple) else 'a tensor'}",
        )
    found = []
    for value, x in zip(values, parts, strict=True):
        if isinstance(value, Tensor) and value.dim():
            if value.dim() < x.dim():
                value = value[(None,) * (x.dim() - value.dim())]
            fits = value.dim() == x.dim() and all(
                length in (1, whole) for length, whole in zip(value.shape, x.shape, strict=True)
            )
            if not fits:
                raise ArgumentError(
                    name,
                    f"must broadcast to the shape {tuple(x.shape)} of the inputs, got "
                    f"{tuple(value.shape)}",
                )
        elif not isinstance(value, (int, float, np.number)):
            value = torch.as_tensor(value) if isinstance(value, np.ndarray) else value
            if not isinstance(value, Tensor):
                raise ArgumentTypeError(
                    name, f"must be a number or a tensor, got {told(repr(value), 80)}"
                )
        found.append(value)
    return found


def _rows_of(values: list[Any], row: int) -> list[Any]:
    return [
        value[min(row, len(value) - 1)] if isinstance(value, Tensor) and value.dim() else value
        for value in values
    ]


def _is_batched(value: Any, rows: int) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0 and len(value) == rows


def _with_baseline(method: Method, baseline: Any) -> Method:
    if not hasattr(method, "baseline"):
        raise ArgumentError(
            "baselines",
            f"must be None with {type(method).__name__}, which has none; Regions, "
            "ForwardGradient and IntegratedGradients have one",
        )
    return dataclasses.replace(method, **{"baseline": baseline})


def _with_scale(method: Method, call: _Call) -> Method:
    """A method whose scale is open with that of each tensor: a fifth of its range."""
    gradient = getattr(method, "gradient", None)
    if gradient is not None:
        return dataclasses.replace(method, **{"gradient": _with_scale(gradient, call)})
    is_open = getattr(method, "scale", 0) is None and getattr(method, "baseline", None) is None
    if not is_open:
        return method
    ranges = []
    for i, part in enumerate(call.parts):
        low, high = part.detach().aminmax()
        ranges.append(0.2 * (float(high) - float(low)))
        if not ranges[-1] > 0 or not math.isfinite(ranges[-1]):
            raise ArgumentError(
                "scale",
                f"must be given: inputs[{i}] is constant, so it has no range; a method takes one, "
                f"as in {type(method).__name__}(scale=0.1)",
            )
    scale = torch.cat(
        [
            torch.full((part.numel(),), one, dtype=call.x.dtype, device=part.device)
            for part, one in zip(call.parts, ranges, strict=True)
        ]
    )
    return dataclasses.replace(method, **{"scale": scale})


def _each(target: Any, count: int) -> list[Any]:
    """The target of each input."""
    if isinstance(target, (Tensor, np.ndarray)):
        if target.reshape(-1).shape[0] not in (*target.shape[:1], 1):
            raise ValueError(
                f"target must be one class or {count}, one for each input, got shape "
                f"{tuple(target.shape)}"
            )
        values = target.reshape(-1).tolist()
        target = values[0] if len(values) == 1 else values
    if not isinstance(target, list):
        return [target] * count
    if len(target) != count:
        raise ValueError(
            f"target must be one class or {count}, one for each input, got {len(target)}"
        )
    return target
