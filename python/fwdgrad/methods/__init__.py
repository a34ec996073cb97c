"""The methods, each a small frozen value in a file of its own."""

from __future__ import annotations

import warnings
from typing import Any

from torch import Tensor

from fwdgrad.checks import check_choice
from fwdgrad.errors import ArgumentTypeError
from fwdgrad.methods.adaptgrad import AdaptGrad
from fwdgrad.methods.auto import choose
from fwdgrad.methods.base import Method, Request
from fwdgrad.methods.coalitions import Coalitions
from fwdgrad.methods.forward_gradient import ForwardGradient
from fwdgrad.methods.fusiongrad import FusionGrad
from fwdgrad.methods.gradient import Gradient
from fwdgrad.methods.gradient_x_input import GradientXInput
from fwdgrad.methods.integrated_gradients import IntegratedGradients
from fwdgrad.methods.noise import features_of
from fwdgrad.methods.noisegrad import NoiseGrad
from fwdgrad.methods.regions import Regions
from fwdgrad.methods.smoothgrad import SmoothGrad
from fwdgrad.methods.smoothgrad_squared import SmoothGradSquared
from fwdgrad.methods.vargrad import VarGrad
from fwdgrad.outputs import told
from fwdgrad.plan import Plan

__all__ = [
    "METHODS",
    "AdaptGrad",
    "Coalitions",
    "ForwardGradient",
    "FusionGrad",
    "Gradient",
    "GradientXInput",
    "IntegratedGradients",
    "Method",
    "NoiseGrad",
    "Regions",
    "Request",
    "SmoothGrad",
    "SmoothGradSquared",
    "VarGrad",
    "choose",
    "method_of",
    "plan_again",
    "plan_of",
]

METHODS: dict[str, type[Method]] = {
    kind.name: kind
    for kind in (
        Regions,
        Coalitions,
        ForwardGradient,
        Gradient,
        SmoothGrad,
        SmoothGradSquared,
        VarGrad,
        AdaptGrad,
        NoiseGrad,
        FusionGrad,
        GradientXInput,
        IntegratedGradients,
    )
}
"""By name, which is short for the value with its defaults. The papers: docs/papers.md."""


def method_of(method: Any) -> Method | None:
    """A method by its name or as a value; None where it is "auto".

    Raises:
        TypeError, ValueError: there is none such; what is near.

    Example:
        >>> method_of("vargrad")
        VarGrad(scale=None, distribution='normal', antithetic=False, clip=None)
    """
    if isinstance(method, Method):
        return method
    if isinstance(method, type) and issubclass(method, Method):
        return method()
    if not isinstance(method, str):
        raise ArgumentTypeError(
            "method", f"must be a name or a value such as Regions(), got {told(repr(method), 80)}"
        )
    if method == "auto":
        return None
    check_choice("method", method, ("auto", *METHODS))
    return METHODS[method]()


def plan_of(
    x: Tensor, method: Any, *, n_samples: int | None = None, features: Any = None, seed: int = 0
) -> Plan:
    """The run of a method on an input.

    Example:
        >>> import torch
        >>> plan_of(torch.rand(3, 224, 224), Regions(), n_samples=512).spec.features.cell
        (13, 13)
    """
    found = method_of(method) or choose(x)[0]
    return found.plan(x, Request(n_samples, features_of(features), seed))


def plan_again(explanation: Any) -> Plan:
    """The run of an explanation, planned again without its warnings."""
    e = explanation
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return plan_of(e.input, e.method, n_samples=e.n_samples, features=e.features, seed=e.seed)
