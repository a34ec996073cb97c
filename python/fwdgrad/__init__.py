"""Explain models that can be called but not differentiated.

>>> import torch, fwdgrad
>>> model = lambda batch: batch.flatten(1) @ torch.tensor([[0.0, 3.0], [0.0, -1.0]])
>>> x = torch.tensor([0.5, 0.2])
>>> fwdgrad.explain(model, x, target=1, queries=4000, sigma=1.0).attribution.round()
tensor([ 3., -1.])
"""

from __future__ import annotations

import importlib
import os
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fwdgrad.errors import CheckpointError, ModelError, ReliabilityWarning
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

# Threads that wait for one another do not spin: on a busy machine they would wait for each other's
# turns. OpenMP reads it when torch is loaded.
if "torch" not in sys.modules:
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# Where the public names are. They are imported when they are asked for: torch takes seconds to
# load, and the command line's help does not need it.
_PLACES = {
    "fwdgrad.errors": ("CheckpointError", "ModelError", "ReliabilityWarning"),
    "fwdgrad.explanation": ("Explanation",),
    "fwdgrad.gradients": ("CONTROLS", "Autograd", "LikelihoodRatio"),
    "fwdgrad.hard_labels": ("KeptLabel", "LabelDistance", "TextAnswer"),
    "fwdgrad.methods": ("METHODS", "explain"),
    "fwdgrad.objectives": ("OBJECTIVES", "Difference"),
    "fwdgrad.parameters": ("ParameterNoise",),
    "fwdgrad.saliency": (
        "Gradient",
        "GradientXInput",
        "IntegratedGradients",
        "SquaredGrad",
        "VarGrad",
    ),
    "fwdgrad.sampling": ("Sampling",),
    "fwdgrad.smoothing": ("MOLLIFIERS", "inherent_noise", "out_of_bounds", "smoothgrad_scale"),
    "fwdgrad.taxonomy": ("Taxonomy",),
    "fwdgrad_kernels": ("AdaptiveScale", "Elements", "Grid", "Labels"),
}
_PLACE = {name: place for place, names in _PLACES.items() for name in names}


def __getattr__(name: str) -> Any:
    """A public name, imported now."""
    if name not in _PLACE:
        raise AttributeError(f"module 'fwdgrad' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_PLACE[name]), name)
    return value


def __dir__() -> list[str]:
    """What can be asked for."""
    return sorted({*globals(), *__all__})


__all__ = [
    "CONTROLS",
    "METHODS",
    "MOLLIFIERS",
    "OBJECTIVES",
    "AdaptiveScale",
    "Autograd",
    "CheckpointError",
    "Difference",
    "Elements",
    "Explanation",
    "Gradient",
    "GradientXInput",
    "Grid",
    "IntegratedGradients",
    "KeptLabel",
    "LabelDistance",
    "Labels",
    "LikelihoodRatio",
    "ModelError",
    "ParameterNoise",
    "ReliabilityWarning",
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
