"""AdaptGrad: SmoothGrad whose noise mostly keeps within the bounds of values."""

from __future__ import annotations

from fwdgrad.errors import ArgumentTypeError
from fwdgrad.methods.base import method
from fwdgrad.methods.smoothgrad import Smoothed
from fwdgrad_kernels import AdaptiveScale


@method
class AdaptGrad(Smoothed):
    """SmoothGrad with each element's own scale, so that noisy inputs mostly keep within bounds.

    Args:
        scale: the bounds of values and how they are kept; by default those of pixels, [0, 1].
        distribution, antithetic, clip: see ``SmoothGrad``.

    Raises:
        TypeError, ValueError: naming the option, what was given and what would do.

    Example:
        >>> import torch, fwdgrad
        >>> model = lambda batch: batch @ torch.tensor([1.0, -2.0])
        >>> fwdgrad.explain(model, torch.tensor([0.25, 0.5]), method=AdaptGrad()).attribution
        tensor([ 1., -2.])

    Source: *Rethinking the principle of gradient smooth methods in model explanation*, equation 13.
    """

    name = "adaptgrad"
    line = "SmoothGrad with each element's own scale, which mostly keeps noisy inputs in [0, 1]"
    source = "AG equation 13"

    scale: AdaptiveScale = AdaptiveScale(0.0, 1.0)

    def __post_init__(self) -> None:
        """Checks each option."""
        if not isinstance(self.scale, AdaptiveScale):
            raise ArgumentTypeError(
                "scale", f"must be an AdaptiveScale, got {self.scale!r}; SmoothGrad takes a number"
            )
        super().__post_init__()
