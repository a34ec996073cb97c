"""Explain models that can be called but not differentiated.

>>> import torch, fwdgrad
>>> model = lambda batch: batch.flatten(1) @ torch.tensor([[0.0, 3.0], [0.0, -1.0]])
>>> method = fwdgrad.ForwardGradient(scale=1.0)
>>> run = {"method": method, "objective": "output", "n_samples": 4000}
>>> fwdgrad.explain(model, torch.tensor([0.5, 0.2]), 1, **run).attribution.round()
tensor([ 3., -1.])
"""

from __future__ import annotations

import importlib
import os
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fwdgrad.enough import evidence
    from fwdgrad.errors import CheckpointError, ModelError, ReliabilityWarning
    from fwdgrad.explaining import explain
    from fwdgrad.explanation import Explanation
    from fwdgrad.hard_labels import KeptLabel, LabelDistance, TextAnswer
    from fwdgrad.importance import Sampling
    from fwdgrad.many import explain_many
    from fwdgrad.methods import (
        AdaptGrad,
        Coalitions,
        ForwardGradient,
        FusionGrad,
        Gradient,
        GradientXInput,
        IntegratedGradients,
        NoiseGrad,
        Regions,
        SmoothGrad,
        SmoothGradSquared,
        VarGrad,
    )
    from fwdgrad.objectives import Difference
    from fwdgrad.parameters import ParameterNoise
    from fwdgrad.taxonomy import Taxonomy
    from fwdgrad_kernels import AdaptiveScale, Elements, Grid, Labels

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
    "fwdgrad.enough": ("evidence",),
    "fwdgrad.errors": ("CheckpointError", "ModelError", "ReliabilityWarning"),
    "fwdgrad.explaining": ("explain",),
    "fwdgrad.explanation": ("Explanation",),
    "fwdgrad.many": ("explain_many",),
    "fwdgrad.hard_labels": ("KeptLabel", "LabelDistance", "TextAnswer"),
    "fwdgrad.methods": (
        "AdaptGrad",
        "Coalitions",
        "ForwardGradient",
        "FusionGrad",
        "Gradient",
        "GradientXInput",
        "IntegratedGradients",
        "NoiseGrad",
        "Regions",
        "SmoothGrad",
        "SmoothGradSquared",
        "VarGrad",
    ),
    "fwdgrad.objectives": ("Difference",),
    "fwdgrad.parameters": ("ParameterNoise",),
    "fwdgrad.importance": ("Sampling",),
    "fwdgrad.taxonomy": ("Taxonomy",),
    "fwdgrad_kernels": ("AdaptiveScale", "Elements", "Grid", "Labels"),
}
_MODULES = ("adapters", "integrations", "methods", "metrics", "tasks")
_PLACE = {name: place for place, names in _PLACES.items() for name in names}


def __getattr__(name: str) -> Any:
    """A public name or module, imported now."""
    if name in _MODULES:
        return importlib.import_module(f"fwdgrad.{name}")
    if name not in _PLACE:
        raise AttributeError(f"module 'fwdgrad' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_PLACE[name]), name)
    return value


def __dir__() -> list[str]:
    """What can be asked for."""
    return sorted([*__all__, "__all__", "__doc__", "__name__", "__path__", "__version__"])


__all__ = [
    "AdaptGrad",
    "AdaptiveScale",
    "CheckpointError",
    "Coalitions",
    "Difference",
    "Elements",
    "Explanation",
    "ForwardGradient",
    "FusionGrad",
    "Gradient",
    "GradientXInput",
    "Grid",
    "IntegratedGradients",
    "KeptLabel",
    "LabelDistance",
    "Labels",
    "ModelError",
    "NoiseGrad",
    "ParameterNoise",
    "Regions",
    "ReliabilityWarning",
    "Sampling",
    "SmoothGrad",
    "SmoothGradSquared",
    "Taxonomy",
    "TextAnswer",
    "VarGrad",
    "evidence",
    "explain",
    "explain_many",
]
