"""NoiseGrad: the mean gradient of models with noisy parameters."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

from torch import Tensor

from fwdgrad.errors import ArgumentTypeError
from fwdgrad.methods.adaptgrad import AdaptGrad
from fwdgrad.methods.base import Method, Request, check_gradient, method
from fwdgrad.methods.forward_gradient import ForwardGradient
from fwdgrad.methods.gradient import Gradient
from fwdgrad.methods.smoothgrad import SmoothGrad
from fwdgrad.parameters import ParameterNoise
from fwdgrad.plan import Plan


@method
class NoiseGrad(Method):
    """The mean gradient over noise on the model's parameters.

    Args:
        parameters: the noise on them.
        gradient: how each gradient is taken: ``Gradient()``, or one that puts noise on the input,
            too: ``SmoothGrad``, ``AdaptGrad`` or, from forward calls alone, ``ForwardGradient``.

    Raises:
        TypeError: naming the option.

    Example:
        >>> import torch, fwdgrad
        >>> model = torch.nn.Linear(3, 1).eval()
        >>> e = fwdgrad.explain(model, torch.ones(3), method=NoiseGrad(), n_samples=20)
        >>> e.attribution.shape, e.method.parameters.scale
        (torch.Size([3]), 0.2)

    Source: *Axiomatization of gradient smoothing in neural networks*, equation 4.
    """

    name = "noisegrad"
    line = "the mean gradient of models with noisy parameters"
    source = "AX equation 4"

    parameters: ParameterNoise = ParameterNoise()
    gradient: Method = Gradient()

    def __post_init__(self) -> None:
        """Checks each option."""
        check_parameters(self.parameters)
        check_gradient(self.gradient, Gradient, SmoothGrad, AdaptGrad, ForwardGradient)

    def plan(self, x: Tensor, request: Request) -> Plan:
        """The samples of the gradient, in groups that share a draw of the parameters."""
        plan = with_parameters(self.gradient.plan, self.parameters, x, request)
        return dataclasses.replace(plan, method=dataclasses.replace(self, gradient=plan.method))


def check_parameters(parameters: object) -> None:
    """Raises TypeError unless it is noise on parameters."""
    if not isinstance(parameters, ParameterNoise):
        raise ArgumentTypeError("parameters", f"must be a ParameterNoise, got {parameters!r}")


def with_parameters(
    plan: Callable[[Tensor, Request], Plan], noise: ParameterNoise, x: Tensor, request: Request
) -> Plan:
    """A plan whose samples share draws of the parameters evenly."""
    multiple = math.lcm(request.multiple, noise.draws or 1)
    found = plan(x, dataclasses.replace(request, multiple=multiple, is_random=True))
    noise.samples_per_draw(found.samples)  # checks that they are shared evenly
    return dataclasses.replace(found, parameters=noise)
