"""A small network with a gradient, its input, the gradient by hand, and what is made of one."""

import torch

from fwdgrad import GradientXInput, IntegratedGradients, ParameterNoise

SHAPE = (3, 8, 8)
X = torch.rand(SHAPE, generator=torch.Generator().manual_seed(3)).mul(0.8).add(0.1)

PARAMETERS = {
    "fixed": None,
    "a draw a sample": ParameterNoise(0.1),
    "four draws": ParameterNoise(0.1, "logistic", draws=4),
}
USES = {
    "gradient": lambda gradient: gradient,
    "x input": GradientXInput,
    "path": lambda gradient: IntegratedGradients(steps=None, gradient=gradient),
    "quadrature": lambda gradient: IntegratedGradients(0.5, 3, gradient),
}


def network(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, padding=1),
        torch.nn.Tanh(),
        torch.nn.Flatten(),
        torch.nn.Linear(256, 3),
    ).eval()


NETWORK = network()


def gradient_at(model, point, target):
    leaf = point.clone().requires_grad_()
    return torch.autograd.grad(model(leaf[None])[0, target], leaf)[0]


def close(a, b, tolerance=1e-5):
    return torch.allclose(a, b, rtol=tolerance, atol=tolerance * float(b.abs().max()))
