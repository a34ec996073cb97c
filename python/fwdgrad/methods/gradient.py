"""The gradient itself."""

from __future__ import annotations

from torch import Tensor

from fwdgrad.errors import ArgumentError, Message, Option
from fwdgrad.methods.base import Method, Request, method
from fwdgrad.methods.noise import check_no_features
from fwdgrad.plan import Plan

_SAMPLES = 50  # of what differs from sample to sample, where nothing is asked for


@method
class Gradient(Method):
    """The model's own gradient at the input, by automatic differentiation.

    It is taken once. Within ``IntegratedGradients`` or ``NoiseGrad`` it is taken for each sample.

    Example:
        >>> import torch, fwdgrad
        >>> square = lambda batch: (batch**2).sum(1)
        >>> fwdgrad.explain(square, torch.tensor([1.0, -2.0]), method=Gradient()).attribution
        tensor([ 2., -4.])

    Source: *Rethinking the principle of gradient smooth methods in model explanation*, equation 1.
    """

    name = "gradient"
    line = "the model's own gradient, once"
    source = "AG equation 1"

    def plan(self, x: Tensor, request: Request) -> Plan:
        """One sample; or as many as differ by something else than noise on the input."""
        check_no_features(self, request.features)
        samples = request.count(_SAMPLES if request.is_random else request.multiple)
        if not request.is_random and samples != request.multiple:
            hint = Message()
            if request.multiple > 1:
                hint = Message(
                    "; for as many points on the path give ", Option("steps", request.n_samples)
                )
            raise ArgumentError(
                "n_samples",
                f"must be {request.multiple} without noise, or left out: there is "
                f"nothing to average over, got {request.n_samples}",
                hint,
            )
        return Plan(method=self, x=x, gradient="autograd", samples=samples, seed=request.seed)
