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

from fwdgrad_kernels.backends import BACKENDS, backend_for, backend_states
from fwdgrad_kernels.checks import DTYPES
from fwdgrad_kernels.features import Elements, Features, Grid, Labels
from fwdgrad_kernels.hadamard import walsh_hadamard
from fwdgrad_kernels.layout import empty_samples, is_channels_last
from fwdgrad_kernels.samples import Perturber, blocks, noise, path_positions, perturb
from fwdgrad_kernels.scale import (
    AdaptiveScale,
    confidence_scale,
    log_density,
    probability_within,
)
from fwdgrad_kernels.spec import CONTRACT, DESIGNS, DISTRIBUTIONS, PARAMETER_STREAM, NoiseSpec
from fwdgrad_kernels.sums import accumulate_, accumulate_features_, expand, hadamard_sums

__all__ = [
    "BACKENDS",
    "CONTRACT",
    "DESIGNS",
    "DISTRIBUTIONS",
    "DTYPES",
    "PARAMETER_STREAM",
    "AdaptiveScale",
    "Elements",
    "Features",
    "Grid",
    "Labels",
    "NoiseSpec",
    "Perturber",
    "accumulate_",
    "accumulate_features_",
    "backend_for",
    "backend_states",
    "blocks",
    "confidence_scale",
    "empty_samples",
    "expand",
    "hadamard_sums",
    "is_channels_last",
    "log_density",
    "noise",
    "path_positions",
    "perturb",
    "probability_within",
    "walsh_hadamard",
]
