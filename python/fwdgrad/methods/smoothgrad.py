"""SmoothGrad: the mean gradient of noisy inputs."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from torch import Tensor

from fwdgrad.importance import Sampling
from fwdgrad.methods.base import Method, Request, method
from fwdgrad.methods.noise import check_no_features, check_noise, scale_on
from fwdgrad.plan import Plan
from fwdgrad_kernels import AdaptiveScale, NoiseSpec

_SAMPLES = 50  # where nothing is asked for


@method
class Smoothed(Method):
    """Gradients of the model's own at noisy inputs: what the methods that take them share."""

    statistic: ClassVar[str] = "mean"  # of the gradients: or "square", of their squares, "variance"

    scale: float | Tensor | AdaptiveScale | None = None
    distribution: str = "normal"
    antithetic: bool = False
    clip: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        """Checks each option."""
        check_noise(self)

    def plan(self, x: Tensor, request: Request) -> Plan:
        """The samples, and what is made of their gradients."""
        check_no_features(self, request.features)
        scale = scale_on(x, self.scale)
        drawn: Any = scale
        drawn_from = self.distribution
        sampling = getattr(self, "sampling", None)
        if sampling is not None:  # from another distribution than the one to smooth with
            drawn, drawn_from = sampling.factor * scale, sampling.distribution
        return Plan(
            method=dataclasses.replace(self, scale=scale),  # which it may have left open
            x=x,
            gradient="autograd",
            samples=request.count(_SAMPLES, self.antithetic),
            seed=request.seed,
            spec=NoiseSpec(tuple(x.shape), drawn_from, drawn, seed=request.seed),
            antithetic=self.antithetic,
            clip=self.clip,
            statistic=self.statistic,
            sampling=sampling,
            smoothed_with=self.distribution,
        )


@method
class SmoothGrad(Smoothed):
    """The mean of the model's gradients at noisy inputs.

    Args:
        scale: the noise's scale, in the input's units: a number, a tensor of the input's shape
            (0 where an element is to be left alone), or an ``AdaptiveScale``. None is a fifth of
            the input's range.
        distribution: of the noise: normal, cauchy, hyperbolic, logistic, uniform or rademacher;
            ``fwdgrad.smoothing.MOLLIFIERS`` has the papers' names.
        antithetic: take each draw of the noise with both signs.
        clip: (low, high) to clamp noisy inputs to.
        sampling: draw from another distribution than the one to smooth with; see ``Sampling``.

    Raises:
        TypeError, ValueError: naming the option, what was given and what would do.

    Example:
        >>> import torch, fwdgrad
        >>> square = lambda batch: (batch**2).sum(1)
        >>> x = torch.tensor([1.0, -2.0])
        >>> fwdgrad.explain(square, x, method=SmoothGrad(0.1), n_samples=500).attribution.round()
        tensor([ 2., -4.])

    Source: *Rethinking the principle of gradient smooth methods in model explanation*, equations 2
    and 6; *Axiomatization of gradient smoothing in neural networks*, equation 3.
    """

    name = "smoothgrad"
    line = "the mean gradient of noisy inputs, their scale a fifth of the range"
    source = "AG equations 2 and 6; AX equation 3"

    sampling: Sampling | None = None
