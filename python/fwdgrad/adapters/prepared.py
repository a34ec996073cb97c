"""What an adapter makes of an input: features as numbers, and the model of these numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from torch import Tensor

from fwdgrad.methods.base import Method
from fwdgrad_kernels import Features

if TYPE_CHECKING:
    from fwdgrad.explanation import Explanation


@dataclasses.dataclass(frozen=True)
class Prepared:
    """An input as a run takes it.

    Attributes:
        x: what is explained: ones (K,) where features are in or out, say.
        forward: the model of it: takes a batch (batch, *x.shape). What ``explain`` looks for in a
            model (``labels``, ``find``, ``explained_as``, ``eval``) may be attributes of it.
        show: from an explanation to what ``explain`` returns.
        method: that "auto" takes.
        why: it takes that, as in "the words of a text are in or out".
        features: of x, where none are given.
        about: what else makes two runs the same, as JSON has it: the text, how it was split.
    """

    x: Tensor
    forward: Callable[[Tensor], Any]
    show: Callable[[Explanation], Any]
    method: Method
    why: str
    features: Features | None = None
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@runtime_checkable
class Adapter(Protocol):
    """A model of something else than tensors: texts, rows of tables, requests.

    ``explain(adapter, x)`` calls ``prepare(x)`` and runs on what that returns.
    """

    def prepare(self, x: Any) -> Prepared:
        """What is run for an input.

        Raises:
            TypeError, ValueError: the input is not what the model takes; what would do.
        """
