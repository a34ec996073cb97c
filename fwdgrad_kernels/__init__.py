"""Noise that is never stored: perturb an input and sum likelihood-ratio scores, by seed.

>>> import torch
>>> from fwdgrad_kernels import NoiseSpec, accumulate_, perturb
>>> x, g = torch.zeros(8), torch.arange(8.0)
>>> spec = NoiseSpec(x.shape, "normal", scale=0.1, seed=3)
>>> total = torch.zeros(8)
>>> for first in range(0, 20_000, 1000):
...     scores = perturb(x, spec, first, 1000) @ g  # the model: forward calls alone
...     _ = accumulate_(total, scores, spec, first)
>>> error = (spec.gradient(total, 20_000) - g).abs().max()
>>> bool(error < 0.5)
True
"""

from fwdgrad_kernels.backends import BACKENDS, backend_for
from fwdgrad_kernels.features import Elements, Grid, Labels
from fwdgrad_kernels.samples import Perturber, blocks, noise, path_positions, perturb
from fwdgrad_kernels.scale import AdaptiveScale, confidence_scale
from fwdgrad_kernels.spec import CONTRACT, DESIGNS, LAWS, NoiseSpec
from fwdgrad_kernels.sums import accumulate_, accumulate_features_, expand, hadamard_sums

__all__ = [
    "BACKENDS",
    "CONTRACT",
    "DESIGNS",
    "LAWS",
    "AdaptiveScale",
    "Elements",
    "Grid",
    "Labels",
    "NoiseSpec",
    "Perturber",
    "accumulate_",
    "accumulate_features_",
    "backend_for",
    "blocks",
    "confidence_scale",
    "expand",
    "hadamard_sums",
    "noise",
    "path_positions",
    "perturb",
]
