"""FusionGrad: SmoothGrad and NoiseGrad in one."""

from __future__ import annotations

from torch import Tensor

from fwdgrad.importance import Sampling
from fwdgrad.methods.base import Request, method
from fwdgrad.methods.noisegrad import check_parameters, with_parameters
from fwdgrad.methods.smoothgrad import Smoothed
from fwdgrad.parameters import ParameterNoise
from fwdgrad.plan import Plan


@method
class FusionGrad(Smoothed):
    """The mean gradient over noise on the input and on the model's parameters.

    From forward calls alone it is ``NoiseGrad(gradient=ForwardGradient())``.

    Args:
        scale, distribution, antithetic, clip, sampling: of the noise on the input, see
            ``SmoothGrad``.
        parameters: the noise on the parameters.

    Raises:
        TypeError, ValueError: naming the option, what was given and what would do.

    Example:
        >>> import torch, fwdgrad
        >>> model = torch.nn.Linear(3, 1).eval()
        >>> draws = fwdgrad.ParameterNoise(0.2, draws=10)  # four samples of the input each
        >>> e = fwdgrad.explain(
        ...     model, torch.ones(3), method=FusionGrad(0.1, parameters=draws), n_samples=40
        ... )
        >>> e.attribution.shape
        torch.Size([3])

    Source: *Axiomatization of gradient smoothing in neural networks*, equation 5.
    """

    name = "fusiongrad"
    line = "the mean gradient over noise on the input and on the parameters"
    source = "AX equation 5"

    sampling: Sampling | None = None
    parameters: ParameterNoise = ParameterNoise()

    def __post_init__(self) -> None:
        """Checks each option."""
        super().__post_init__()
        check_parameters(self.parameters)

    def plan(self, x: Tensor, request: Request) -> Plan:
        """The samples of the input, in groups that share a draw of the parameters."""
        return with_parameters(super().plan, self.parameters, x, request)
