"""Epsilon-LRP and DeepLIFT as gradients of a network in which activations have become lines.

This is the form of Ancona et al., whose program NA used. Captum has both methods, but not for a
network such as EfficientNet-Lite0: its LRP (0.9) refuses ReLU6 and a module that is used twice,
and its DeepLIFT gives ReLU6 the plain derivative without a word. Where Captum is installed, the
tests compare with its numbers.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

ACTIVATIONS = (torch.nn.ReLU, torch.nn.ReLU6)


def epsilon_lrp(network: torch.nn.Module, x: Tensor, target: int, epsilon: float = 1e-4) -> Tensor:
    """Layer-wise relevance propagation by the epsilon rule, of a class score.

    As epsilon goes to 0, the relevance of the elements and of the biases add up to the score.
    BatchNorm counts as a linear layer with a bias: as only what an activation takes is divided by,
    folding it into a convolution would change nothing.

    Args:
        network: in evaluation mode, without nonlinearities but modules of ``ACTIVATIONS``.
        x: one input, of any shape.
        target: the class.
        epsilon: added to what an activation takes, away from zero. The default is NA's program's.

    Returns:
        The relevance of each element, of x's shape.

    Raises:
        ValueError: an activation overwrites what it takes.

    Source: Ancona et al., *Towards better understanding of gradient-based attribution methods for
    deep neural networks*, ICLR 2018 (arXiv 1711.06104), proposition 1.
    """

    def slope(before: Tensor, after: Tensor) -> Tensor:
        return after / (before + torch.where(before >= 0, epsilon, -epsilon))

    return x * _gradient(network, x[None], target, slope)


def deep_lift(
    network: torch.nn.Module, x: Tensor, target: int, baseline: float | Tensor = 0.0
) -> Tensor:
    """DeepLIFT by the rescale rule: its sum is the score of x less that of the baseline.

    Args:
        network, x, target: see ``epsilon_lrp``.
        baseline: a number, or a tensor of x's shape.

    Returns:
        What each element adds, of x's shape.

    Raises:
        ValueError: see ``epsilon_lrp``.

    Source: Ancona et al., proposition 2.
    """
    start = torch.as_tensor(baseline).to(x).expand_as(x)

    def slope(before: Tensor, after: Tensor) -> Tensor:
        step, rise = (torch.sub(*values.chunk(2)) for values in (before, after))
        return torch.cat([rise / step] * 2)  # NaN where the input takes no step

    return (x - start) * _gradient(network, torch.stack([x, start]), target, slope)


def _gradient(
    network: torch.nn.Module,
    batch: Tensor,
    target: int,
    slope: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """The gradient of the first input's score, by the chain rule with other slopes.

    Args:
        slope: of an activation, of what it takes and what it gives; NaN keeps the derivative.
    """

    def become_line(module: torch.nn.Module, inputs: tuple[Tensor], after: Tensor) -> Tensor:
        slopes = slope(inputs[0].detach(), after.detach())
        line = inputs[0] * slopes.nan_to_num()
        # Only the gradient is the line's: the value stays as it is.
        return torch.where(slopes.isnan(), after, after.detach() + (line - line.detach()))

    activations = [module for module in network.modules() if isinstance(module, ACTIVATIONS)]
    if any(activation.inplace for activation in activations):
        raise ValueError("network must keep what its activations take: set inplace=False")
    handles = [activation.register_forward_hook(become_line) for activation in activations]
    try:
        inputs = batch.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(network(inputs)[0, target], inputs)
    finally:
        for handle in handles:
            handle.remove()
    return gradient[0]
