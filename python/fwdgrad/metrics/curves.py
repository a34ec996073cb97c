"""Deletion and insertion: whether the score follows the pixels that a map ranks first."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fwdgrad.checks import check_integer, first_outside
from fwdgrad.errors import ArgumentError, ArgumentTypeError, ModelError
from fwdgrad.inputs import input_of
from fwdgrad.metrics.maps import followed, heatmap_of
from fwdgrad.objectives import Objective
from fwdgrad.outputs import told
from fwdgrad.scorer import Scorer, check_mode, check_model
from fwdgrad.torch_state import TorchState

_KERNEL, _DEVIATION = 11, 5.0  # of RISE's blur, in pixels


@dataclasses.dataclass(frozen=True, eq=False)
class Curve:
    """The scores of a picture as its pixels are deleted or inserted, step by step.

    Attributes:
        scores: float64 (steps + 1,); the first before any pixel has changed, the last when all
            have.

    Example:
        >>> curve = Curve(torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64))
        >>> curve.auc, curve.fractions.tolist()
        (0.5, [0.0, 0.5, 1.0])
    """

    scores: Tensor

    @property
    def fractions(self) -> Tensor:
        """Of the pixels, changed at each score: float64 (steps + 1,) from 0 to 1."""
        return torch.linspace(0, 1, len(self.scores), dtype=torch.float64)

    @property
    def auc(self) -> float:
        """The area under the scores over the fractions, by trapezes."""
        ends = (self.scores[0] + self.scores[-1]) / 2
        return float((self.scores.sum() - ends) / (len(self.scores) - 1))


def deletion(
    model: Callable[[Tensor], Any],
    x: Tensor,
    heatmap: Any,
    target: int | str | None = "auto",
    *,
    steps: int | None = None,
    fill: float | Tensor = 0.0,
    objective: Objective = "auto",
    batch_size: int = 32,
) -> Curve:
    """The score as pixels are deleted, those that the map ranks highest first; low is good.

    Args:
        model: takes a batch (batch, *x.shape) and returns (batch, classes) or (batch,). One with
            batch normalisation in training mode is refused.
        x: one picture (C, H, W), or any input whose trailing axes are the map's.
        heatmap: a map (H, W), or an ``Explanation``, whose axes before those are summed. All
            channels of a pixel change together.
        target: the class whose score is followed; "auto": the explanation's, or of a map the
            predicted one.
        steps: of as many pixels each, or one pixel fewer; there is one score more than steps.
            Default: 224, as in RISE's evaluation of pictures of 224 x 224, or the map's pixels
            where those are fewer.
        fill: what takes the pixels' place: a number, or one for each channel (C,). RISE takes what
            the model's normalisation maps to zero: of EfficientNet-Lite0 127/255.
        objective: see ``fwdgrad.explain``; "auto": the explanation's, or of a map what the output
            at x decides: of logits the probability, which RISE takes.
        batch_size: pictures per call. Nothing else of the curve's size exists.

    Returns:
        The curve: ``scores`` and ``auc``.

    Raises:
        TypeError, ValueError: naming the argument, what was given and what would do.
        ModelError: the model returned something of no use.

    Example:
        >>> x = torch.tensor([[[4.0, 1.0]]])
        >>> mean = lambda batch: batch.mean((1, 2, 3))
        >>> deletion(mean, x, x[0], steps=2).scores.tolist()
        [2.5, 0.5, 0.0]

    Source: Petsiuk et al., *RISE: randomized input sampling for explanation of black-box models*,
    BMVC 2018, section 4.2 and its released evaluation.
    """
    check_model(model)
    check_mode(model)
    x = input_of(x)
    return _curve(model, x, _filled(x, fill), heatmap, target, steps, objective, batch_size, False)


def insertion(
    model: Callable[[Tensor], Any],
    x: Tensor,
    heatmap: Any,
    target: int | str | None = "auto",
    *,
    steps: int | None = None,
    fill: float | Tensor = 0.0,
    start: Tensor | None = None,
    objective: Objective = "auto",
    batch_size: int = 32,
) -> Curve:
    """The score as pixels are inserted into a blur, those that the map ranks highest first.

    High is good. The class is that of the picture itself, not of the blur.

    Args:
        model, x, heatmap, target, steps, objective, batch_size: see ``deletion``.
        fill: what lies outside the picture where it is blurred.
        start: what the pixels are inserted into, of x's shape. Default: ``rise_blur(x, fill)``.

    Returns:
        The curve: ``scores`` and ``auc``.

    Raises:
        TypeError, ValueError: naming the argument, what was given and what would do.
        ModelError: the model returned something of no use.

    Example:
        >>> x = torch.tensor([[[4.0, 1.0]]])
        >>> mean = lambda batch: batch.mean((1, 2, 3))
        >>> empty = torch.zeros(1, 1, 2)
        >>> insertion(mean, x, x[0], steps=2, start=empty).scores.tolist()
        [0.0, 2.0, 2.5]

    Source: see ``deletion``.
    """
    check_model(model)
    check_mode(model)
    x = input_of(x)
    if start is None:
        start = rise_blur(x, fill)
    elif not isinstance(start, Tensor) or start.layout != torch.strided or start.is_meta:
        raise TypeError(f"start must be a dense tensor with values, got {told(repr(start), 80)}")
    elif start.shape != x.shape:
        raise ValueError(f"start must have x's shape {tuple(x.shape)}, got {tuple(start.shape)}")
    start = start.to(x)
    return _curve(model, x, start, heatmap, target, steps, objective, batch_size, True)


def rise_blur(x: Tensor, fill: float | Tensor = 0.0) -> Tensor:
    """The blur that RISE's evaluation starts an insertion from.

    Its kernel of 11 x 11 is a single point under SciPy's Gaussian of deviation 5, which reflects at
    the kernel's edges: nearly flat. Outside the picture is zero of the normalised input.

    Args:
        x: a picture (C, H, W).
        fill: the value that normalisation maps to zero: a number, or one for each channel (C,).

    Returns:
        The blurred picture, of x's shape and type.

    Example:
        >>> rise_blur(torch.ones(1, 32, 32), fill=1.0).unique()
        tensor([1.])

    Source: see ``deletion``.
    """
    x = input_of(x)
    if x.dim() != 3:
        raise ValueError(f"x must be a picture (C, H, W) to be blurred, got {tuple(x.shape)}")
    offset = _filled(x, fill).double()
    kernel = torch.from_numpy(_rise_kernel()).to(x.device)
    wide = (x.double() - offset)[:, None]
    half = _KERNEL // 2
    rows = functional.conv2d(wide, kernel[None, None, None, :], padding=(0, half))
    both = functional.conv2d(rows, kernel[None, None, :, None], padding=(half, 0))
    return (both[:, 0] + offset).to(x.dtype)


def _rise_kernel() -> np.ndarray[Any, np.dtype[np.float64]]:
    """One axis of the kernel: a point's Gaussian, folded back at the edges of 11 places."""
    reach = int(4 * _DEVIATION + 0.5)  # where SciPy cuts it off
    at = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (at / _DEVIATION) ** 2)
    place = (at + _KERNEL // 2) % (2 * _KERNEL)  # reflected: 0 1 .. 10 10 .. 1 0 and again
    place = np.minimum(place, 2 * _KERNEL - 1 - place)
    kernel: np.ndarray[Any, np.dtype[np.float64]]
    kernel = np.bincount(place, weights / weights.sum(), _KERNEL).astype(np.float64)
    return kernel


def _filled(x: Tensor, fill: float | Tensor) -> Tensor:
    """The fill, of x's shape and type."""
    try:
        values = torch.as_tensor(fill, dtype=x.dtype, device=x.device)
        finite = bool(torch.isfinite(values).all())
    except Exception:
        raise ArgumentTypeError(
            "fill", f"must be a number or a tensor, got {told(repr(fill), 80)}"
        ) from None
    if not finite:
        raise ArgumentError("fill", f"must be finite, got {told(repr(fill), 80)}")
    if values.dim() == 1 and x.dim() == 3 and len(values) == len(x):
        values = values[:, None, None]
    elif values.dim():
        raise ArgumentError(
            "fill",
            f"must be a number or one for each of x's channels, got {tuple(values.shape)} for x of "
            f"shape {tuple(x.shape)}",
        )
    return values.expand(x.shape)


def _curve(
    model: Callable[[Tensor], Any],
    x: Tensor,
    other: Tensor,
    heatmap: Any,
    target: int | str | None,
    steps: int | None,
    objective: Objective,
    batch_size: int,
    inserting: bool,
) -> Curve:
    target, objective = followed(heatmap, target, objective, x)
    batch_size = check_integer("batch_size", batch_size, 1)
    values = heatmap_of(heatmap, x.shape)
    steps = check_integer("steps", min(224, values.numel()) if steps is None else steps, 1)
    if steps > values.numel():
        raise ArgumentError(
            "steps", f"must be at most {values.numel()}, the map's pixels, got {steps}"
        )
    # The place of each pixel in descending order; equal ones keep the picture's order.
    order = values.flatten().argsort(descending=True, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device)
    rank = rank.view(values.shape).to(x.device)
    before, after = (other, x) if inserting else (x, other)
    with TorchState(), torch.no_grad():
        scorer = Scorer(model, x, [target], objective)
        scores = torch.empty(steps + 1, dtype=torch.float64)
        for first in range(0, steps + 1, batch_size):
            count = min(batch_size, steps + 1 - first)
            batch = x.new_empty((count, *x.shape))
            for row, step in zip(batch, range(first, first + count), strict=True):
                changed = -(-step * values.numel() // steps)
                torch.where(rank < changed, after, before, out=row)
            scores[first : first + count] = scorer(batch)[0]
    bad = first_outside(scores, torch.isfinite(scores))
    if bad is not None:
        raise ModelError(f"the score is {bad[1]} at step {bad[0]} of {steps}")
    return Curve(scores)
