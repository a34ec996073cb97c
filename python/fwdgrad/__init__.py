"""Explain models that can be called but not differentiated.

>>> import torch, fwdgrad
>>> model = lambda batch: batch.flatten(1) @ torch.tensor([[0.0, 3.0], [0.0, -1.0]])
>>> x = torch.tensor([0.5, 0.2])
>>> fwdgrad.explain(model, x, target=1, queries=4000, sigma=1.0).attribution.round()
tensor([ 3., -1.])
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from fwdgrad.errors import CheckpointError, ModelError
from fwdgrad.explanation import Explanation
from fwdgrad.gradients import CONTROLS, Autograd, LikelihoodRatio
from fwdgrad.hard_labels import KeptLabel, LabelDistance, TextAnswer
from fwdgrad.methods import METHODS, explain
from fwdgrad.objectives import OBJECTIVES, Difference
from fwdgrad.parameters import ParameterNoise
from fwdgrad.saliency import (
    Gradient,
    GradientXInput,
    IntegratedGradients,
    SquaredGrad,
    VarGrad,
)
from fwdgrad.sampling import Sampling
from fwdgrad.smoothing import MOLLIFIERS, inherent_noise, out_of_bounds, smoothgrad_scale
from fwdgrad.taxonomy import Taxonomy
from fwdgrad_kernels import AdaptiveScale

try:
    __version__ = version("fwdgrad-kernels")
except PackageNotFoundError:  # a source tree that is on the path without being installed
    __version__ = "0+unknown"

__all__ = [
    "CONTROLS",
    "METHODS",
    "MOLLIFIERS",
    "OBJECTIVES",
    "AdaptiveScale",
    "Autograd",
    "CheckpointError",
    "Difference",
    "Explanation",
    "Gradient",
    "GradientXInput",
    "IntegratedGradients",
    "KeptLabel",
    "LabelDistance",
    "LikelihoodRatio",
    "ModelError",
    "ParameterNoise",
    "Sampling",
    "SquaredGrad",
    "Taxonomy",
    "TextAnswer",
    "VarGrad",
    "explain",
    "inherent_noise",
    "out_of_bounds",
    "smoothgrad_scale",
]
