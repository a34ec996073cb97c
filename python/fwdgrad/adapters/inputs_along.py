"""Models of several inputs: one is explained, the others go along for every sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fwdgrad.adapters.prepared import Prepared
from fwdgrad.errors import ArgumentError, ArgumentTypeError
from fwdgrad.files import digest_of
from fwdgrad.inputs import input_of
from fwdgrad.methods import choose
from fwdgrad.scorer import check_model


class WithInputs:
    """A model of several inputs, one of which is explained.

    ``fwdgrad.explain(WithInputs(model, "image"), {"image": x, "ids": ids})`` calls
    ``model(image=batch, ids=...)`` with ids for every sample; inputs in a tuple are given in their
    order. As in Captum, the others may also be said once, as ``additional_forward_args``:
    ``explain(WithInputs(model, others=(ids,)), x)`` calls ``model(batch, ids)``.

    Of the other inputs, tensors and arrays are of a batch of one: their first axis is 1 and is
    repeated for every sample. Single numbers, and what is neither, are given as they are. In a dict
    or a tuple the explained input may have that axis as well: a first axis of 1 is taken for it.

    Args:
        model: a callable. One that takes a dict needs ``lambda **inputs: model(inputs)``.
        explained: which input is explained: its name, in a dict, or its place.
        others: the other inputs, where they are the same for all that is explained: in order, or
            by name. None: they are in the dict or the tuple that is explained.

    Raises:
        TypeError, ValueError: naming the argument, what was given and what would do.

    Example:
        >>> import fwdgrad
        >>> model = lambda x, weights: (x * weights).sum(1)
        >>> weights = torch.tensor([[1.0, 0.0, -2.0, 0.0]])
        >>> method = fwdgrad.ForwardGradient(design="hadamard")
        >>> x = (torch.arange(4.0), weights)
        >>> fwdgrad.explain(WithInputs(model), x, method=method, n_samples=64).attribution.round()
        tensor([ 1.,  0., -2.,  0.])
    """

    def __init__(
        self,
        model: Callable[..., Any],
        explained: int | str = 0,
        others: Sequence[Any] | Mapping[Any, Any] | None = None,
    ) -> None:
        """Checks the arguments."""
        check_model(model)
        if isinstance(explained, bool) or not isinstance(explained, (int, str)):
            raise ArgumentTypeError("explained", f"must be a name or a place, got {explained!r}")
        if others is not None and not isinstance(others, (Mapping, list, tuple)):
            raise ArgumentTypeError(
                "others", f"must be a tuple or a dict of inputs, got {type(others).__name__}"
            )
        self.forward, self.explained = model, explained
        for name in ("labels", "find", "explained_as"):  # what a model says of itself
            if hasattr(model, name):
                setattr(self, name, getattr(model, name))
        self.others: dict[int | str, Any] = {}
        if isinstance(others, Mapping):
            self.others.update(others.items())
        elif others is not None:
            places = iter(place for place in range(len(others) + 1) if place != explained)
            self.others = dict(zip(places, others, strict=False))
        if explained in self.others:
            raise ArgumentError("others", f"must not have {explained!r}, which is explained")
        for which, value in self.others.items():
            _check_repeats(which, value)

    def __call__(self, batch: Tensor) -> Any:
        """The model's output for samples of the explained input."""
        given: dict[Any, Any] = {self.explained: batch}
        given |= {name: _repeated(value, batch) for name, value in self.others.items()}
        places = sorted(key for key in given if isinstance(key, int))
        named = {key: value for key, value in given.items() if isinstance(key, str)}
        return self.forward(*(given[place] for place in places), **named)

    def prepare(self, x: Any) -> Prepared:
        """What is run for one input, or for a dict or a tuple of inputs.

        Raises:
            TypeError, ValueError: the explained one is not among them, or others do not repeat.
        """
        model = self
        if isinstance(x, (Mapping, list, tuple)):
            inputs: dict[Any, Any] = dict(x if isinstance(x, Mapping) else enumerate(x))
            if self.explained not in inputs:
                raise ArgumentError(
                    "explained",
                    f"must be one of {', '.join(map(repr, inputs))}, got {self.explained!r}",
                )
            x = inputs.pop(self.explained)
            if isinstance(x, (Tensor, np.ndarray)) and x.ndim > 1 and len(x) == 1:
                x = x[0]
            model = WithInputs(self.forward, self.explained, self.others | inputs)
        places = sorted(key for key in (self.explained, *model.others) if isinstance(key, int))
        if places != list(range(len(places))):
            raise ArgumentError(
                "explained",
                f"must be the place of an input, 0 .. {len(places) - 1}, got {self.explained}",
            )
        tensor = input_of(x)
        method, why = choose(tensor)
        about = {"others": {str(name): _told(value) for name, value in model.others.items()}}
        return Prepared(tensor, model, lambda found: found, method, why, about=about)


def _check_repeats(name: int | str, value: Any) -> None:
    if isinstance(value, (Tensor, np.ndarray)) and value.ndim and value.shape[0] != 1:
        which = repr(name) if isinstance(name, str) else f"at place {name}"
        raise ArgumentError(
            "others",
            f"must be of a batch of one, with a first axis of 1, got shape {tuple(value.shape)} "
            f"for the one {which}: give it as value[None]; what is of no sample goes into the "
            "model, by functools.partial, say",
        )


def _repeated(value: Any, batch: Tensor) -> Any:
    """A value of one sample for each of a batch."""
    if isinstance(value, Tensor):
        value = value.to(batch.device)
        return value.expand(len(batch), *value.shape[1:]) if value.dim() else value
    if isinstance(value, np.ndarray) and value.ndim:
        return np.broadcast_to(value, (len(batch), *value.shape[1:]))
    return value


def _told(value: Any) -> Any:
    """A value as JSON has it, by which a checkpoint tells it from another."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "buif":
        value = torch.from_numpy(np.ascontiguousarray(value))
    if isinstance(value, Tensor):
        return f"{value.dtype} {tuple(value.shape)} {digest_of(value)}"
    return value if isinstance(value, (str, int, float, bool)) else type(value).__name__
