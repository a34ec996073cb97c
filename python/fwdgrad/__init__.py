"""Explain models that can be called but not differentiated.

>>> import torch, fwdgrad
>>> model = lambda batch: batch.flatten(1) @ torch.tensor([[0.0, 3.0], [0.0, -1.0]])
>>> x = torch.tensor([0.5, 0.2])
>>> fwdgrad.explain(model, x, target=1, queries=4000, sigma=1.0).attribution.round()
tensor([ 3., -1.])
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from torch import Tensor

from fwdgrad.errors import CheckpointError, ModelError
from fwdgrad.explanation import Explanation
from fwdgrad.gradients import CONTROLS, LikelihoodRatio
from fwdgrad.hard_labels import KeptLabel, LabelDistance, TextAnswer
from fwdgrad.objectives import OBJECTIVES
from fwdgrad.smoothing import MOLLIFIERS, inherent_noise, out_of_bounds, smoothgrad_scale
from fwdgrad.stream import Progress
from fwdgrad.taxonomy import Taxonomy
from fwdgrad_kernels import AdaptiveScale

try:
    __version__ = version("fwdgrad-kernels")
except PackageNotFoundError:  # a source tree that is on the path without being installed
    __version__ = "0+unknown"

__all__ = [
    "CONTROLS",
    "MOLLIFIERS",
    "OBJECTIVES",
    "AdaptiveScale",
    "CheckpointError",
    "Explanation",
    "KeptLabel",
    "LabelDistance",
    "LikelihoodRatio",
    "ModelError",
    "Taxonomy",
    "TextAnswer",
    "explain",
    "inherent_noise",
    "out_of_bounds",
    "smoothgrad_scale",
]


def explain(
    model: Callable[[Tensor], Any],
    x: Tensor,
    *,
    target: int | str | None = "auto",
    checkpoint: str | os.PathLike[str] | None = None,
    progress: Progress = False,
    **options: Any,
) -> Explanation:
    """Which elements of an input a model's score depends on, from forward calls alone.

    Args:
        model: takes a batch (batch, *x.shape) and returns (batch, classes) or (batch,); no
            gradient is asked of it.
        x: one input, without a batch axis: an image (C, H, W), text embeddings (T, E), a vector
            (N,); float32, float64, float16 or bfloat16.
        target: the class to explain, "auto" for the predicted one, None where the model returns
            one number.
        checkpoint: a file to write to and to go on from.
        progress: True for a bar on standard error, or a callable of (calls done, all).
        **options: everything else that ``LikelihoodRatio`` takes: objective, queries, sigma,
            baseline, law, block, cell, field, shared, antithetic, control, clip, seed,
            batch_size, memory, backend.

    Returns:
        The explanation: attribution, standard error, reliability and what repeats the run.

    Raises:
        TypeError, ValueError: naming the argument, what was given and what would do.
        ModelError: the model failed or returned something of no use.
        CheckpointError: the checkpoint is of another run, or damaged.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(4, 2).eval()
        >>> explain(model, torch.ones(4), target=0, queries=64, law="hadamard", sigma=0.5)
        Explanation(logit of class 0 = ..., shape (4,), 64 queries, reliability 1.00)

    Source: *Is forward gradient an effective tool for explaining black-box models?*.
    """
    explainer = LikelihoodRatio(model, **options)
    return explainer.explain(x, target, checkpoint=checkpoint, progress=progress)
