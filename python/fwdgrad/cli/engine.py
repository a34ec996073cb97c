"""Which engine a command calls its model by."""

from __future__ import annotations

import argparse
from typing import Any

from torch import Tensor

from fwdgrad.adapters.engines import on_engine
from fwdgrad.adapters.images import MODELS, ImageClassifier
from fwdgrad.errors import ArgumentError
from fwdgrad.methods import Coalitions, ForwardGradient, Regions

_OF_FORWARD_CALLS = (Regions, Coalitions, ForwardGradient)


def on_asked_engine(
    arguments: argparse.Namespace, classifier: ImageClassifier, pixels: Tensor, method: Any = "auto"
) -> tuple[ImageClassifier, str | None]:
    """The built-in network on --engine, and what to say of it; an own callable as it is.

    Raises:
        ArgumentError: the engine cannot be used, or is given for an own callable.
    """
    if arguments.model not in MODELS:
        if arguments.engine is not None:
            raise ArgumentError("engine", f"is of {', '.join(MODELS)}, got an own callable")
        return classifier, None
    why_torch = None
    if arguments.device not in (None, "cpu"):
        why_torch = f"it is called on {arguments.device}"
    elif method != "auto" and not isinstance(method, _OF_FORWARD_CALLS):
        why_torch = f"{method.name} takes the model's own gradient"
    return on_engine(classifier, arguments.engine or "auto", pixels, why_torch)
