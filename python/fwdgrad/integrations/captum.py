"""Our methods as a class in the manner of Captum: a batch in, attributions out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fwdgrad.advice import is_noise, warn_of_noise
from fwdgrad.explaining import explanations
from fwdgrad.methods import method_of
from fwdgrad.methods.base import Method
from fwdgrad.powers import warn_unless_finite
from fwdgrad.scorer import check_model

_Targets = int | str | Sequence[int] | Tensor | np.ndarray[Any, Any] | None


class Attribution:
    """A method bound to a model, with Captum's ``attribute``.

    It has no ``baselines`` (the method has one) and no ``additional_forward_args`` (let the model
    add them).

    Args:
        forward_func: the model: takes a batch (batch, ...).
        method: see ``fwdgrad.explain``.
        **options: what else it takes: objective, n_samples, features, seed, batch_size, ...

    Raises:
        TypeError, ValueError: naming the argument.

    Example:
        >>> model = lambda batch: batch @ torch.tensor([1.0, -2.0])
        >>> Attribution(model, method="gradient").attribute(torch.zeros(3, 2))
        tensor([[ 1., -2.],
                [ 1., -2.],
                [ 1., -2.]])

    Source: the interface is that of Captum, https://captum.ai.
    """

    def __init__(
        self,
        forward_func: Callable[[Tensor], Any],
        *,
        method: str | Method = "auto",
        **options: Any,
    ) -> None:
        """Checks what can be checked without an input."""
        check_model(forward_func)
        self.forward_func = forward_func
        self.method = method_of(method) or method
        self.options = options

    def attribute(self, inputs: Tensor, target: _Targets = "auto") -> Tensor:
        """Attributions of a batch of inputs.

        Args:
            inputs: (batch, ...).
            target: one class for all inputs; one for each, as a list or a tensor or an array (n,)
                or (n, 1); "auto" for the predicted ones; or None where the model returns one
                number.

        Returns:
            Attributions of the shape of inputs.
        """
        if not isinstance(inputs, Tensor):
            raise TypeError(f"inputs must be a tensor, got {type(inputs).__name__}")
        if inputs.dim() < 2:
            raise ValueError(f"inputs must have a batch axis, got shape {tuple(inputs.shape)}")
        targets = _each(target, len(inputs))
        result = torch.empty_like(inputs, memory_format=torch.contiguous_format)
        low = []
        for row, x, wanted in zip(result, inputs, targets, strict=True):
            (found,) = explanations(
                self.forward_func, x, [wanted], method=self.method, **self.options
            )
            row.copy_(found.attribution)
            low += [found] * is_noise(found)
        warn_of_noise(low, len(inputs))
        if inputs.dtype not in (torch.float32, torch.float64):  # narrower than an explanation's
            warn_unless_finite(result)
        return result


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
    if not isinstance(target, (list, tuple)):
        return [target] * count
    if len(target) != count:
        raise ValueError(
            f"target must be one class or {count}, one for each input, got {len(target)}"
        )
    return list(target)
