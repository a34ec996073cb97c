"""Performance information curves: how much of a picture a map reveals before the score is back."""

from __future__ import annotations

import dataclasses
import functools
import io
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fwdgrad.checks import check_integer, check_number
from fwdgrad.hard_labels import KeptLabel
from fwdgrad.inputs import input_of
from fwdgrad.metrics.maps import followed, heatmap_of
from fwdgrad.objectives import Objective
from fwdgrad.outputs import told
from fwdgrad.scorer import Scorer, check_mode, check_model
from fwdgrad.torch_state import TorchState

Array = np.ndarray[Any, Any]

THRESHOLDS = (0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.07, 0.10, 0.13, 0.21, 0.34, 0.5, 0.75)
"""The shares of pixels that are revealed in turn, as in the authors' released code."""


@dataclasses.dataclass(frozen=True, eq=False)
class InformationCurve:
    """A picture's score over the information in it, both from 0 (blurred) to 1 (the picture).

    Attributes:
        information: float64 (bins + 1,), evenly spaced.
        scores: float64 (bins + 1,).

    Example:
        >>> line = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
        >>> InformationCurve(line, line.sqrt()).auc
        0.603...
    """

    information: Tensor
    scores: Tensor

    @property
    def auc(self) -> float:
        """The area under the scores, by trapezes; high is good."""
        return float(torch.trapezoid(self.scores, self.information))


def information_curve(
    model: Callable[[Tensor], Any],
    x: Tensor,
    heatmap: Any,
    target: int | str | None = "auto",
    *,
    objective: Objective = "auto",
    thresholds: Sequence[float] = THRESHOLDS,
    known: float = 0.01,
    seed: int = 0,
    bins: int = 1000,
    batch_size: int = 32,
) -> InformationCurve:
    """The performance information curve of a map: the softmax form, or that of the accuracy.

    The picture is blurred by keeping a random few of its pixels and interpolating between them; the
    pixels that the map ranks highest are put back, share by share. A picture's information is its
    length as a lossless WebP file. Scores only rise: each is the highest so far.

    Args:
        model: takes a batch (batch, *x.shape) and returns (batch, classes) or (batch,). One with
            batch normalisation in training mode is refused.
        x: one picture (3, H, W) or (1, H, W) in [0, 1]; it is rounded to 8 bits a channel.
        heatmap: a map (H, W), or an ``Explanation``, whose channels are summed.
        target: the class whose score is followed; "auto": the explanation's, or of a map the
            predicted one.
        objective: see ``fwdgrad.explain``; "probability" gives the softmax information curve,
            "accuracy", which is 1 where the class is the predicted one and 0 elsewhere, the
            accuracy one. "auto": the explanation's, or of a map what the output at x says: of
            logits the probability.
        thresholds: shares of the pixels, ascending. A pixel is revealed where its value is not
            below the quantile, so that equal ones are revealed together.
        known: the share of the pixels that the blurred picture keeps, and always the corners.
        seed: of the pixels that it keeps. Maps are compared with the same one.
        bins: of the curve's information.
        batch_size: pictures per call.

    Returns:
        The curve: ``information``, ``scores`` and ``auc``.

    Raises:
        TypeError, ValueError: naming the argument; also where the blurred picture has a score or a
            length not below the picture's, so that there is no curve (the authors skip such ones).
        ModelError: the model returned something of no use.
        ImportError: Pillow or SciPy is not installed.

    Example:
        >>> x = torch.full((1, 64, 64), 0.5)  # a uniform background with a grainy square on it
        >>> x[:, 20:40, 20:40] = torch.rand(20, 20, generator=torch.Generator().manual_seed(0))
        >>> grain = lambda batch: batch.diff(dim=3).abs().mean((1, 2, 3))
        >>> good = torch.zeros(64, 64)
        >>> good[20:40, 20:40] = 1
        >>> good, bad = (information_curve(grain, x, m).auc
        ...              for m in (good, x.diff(dim=2, prepend=x[:, :, :1])[0]))
        >>> good > bad
        True

    Source: Kapishnikov et al., *XRAI: better attributions through regions*, ICCV 2019, section 4.2,
    and the authors' released code.
    """
    check_model(model)
    check_mode(model)
    accuracy = isinstance(objective, str) and objective == "accuracy"
    x = input_of(x)
    target, objective = followed(heatmap, target, "output" if accuracy else objective, x)
    if x.dim() != 3 or x.shape[0] not in (1, 3):
        raise ValueError(
            f"x must be a floating picture (3, H, W) or (1, H, W), got {x.dtype} {tuple(x.shape)}"
        )
    if not bool(((x >= 0) & (x <= 1)).all()):
        raise ValueError(f"x must lie in [0, 1], got {float(x.min())} to {float(x.max())}")
    values = heatmap_of(heatmap, x.shape).cpu().numpy()
    if values.ndim != 2:
        raise ValueError(f"heatmap must be (H, W), got {values.shape}")
    known = check_number("known", known)
    if not 0 <= known < 1:
        raise ValueError(f"known must be a share, at least 0 and below 1, got {known}")
    if isinstance(thresholds, str) or not isinstance(thresholds, (Sequence, np.ndarray)):
        raise TypeError(f"thresholds must be numbers, got {told(repr(thresholds), 80)}")
    shares = [check_number("thresholds", share) for share in thresholds]
    if shares != sorted(shares) or not all(0 < share < 1 for share in shares):
        raise ValueError(f"thresholds must ascend within (0, 1), got {tuple(shares)}")
    bins = check_integer("bins", bins, 1, 2**24)
    batch_size = check_integer("batch_size", batch_size, 1)

    picture = (x.detach().permute(1, 2, 0) * 255).round().to(torch.uint8).cpu().numpy()
    kept = _kept(picture.shape[:2], known, check_integer("seed", seed, 0))
    masks = [kept | (values >= np.quantile(values, 1 - share)) for share in shares]
    pictures = [interpolated(picture, mask) for mask in (kept, *masks)] + [picture]
    lengths = np.array([webp_length(p) for p in pictures], dtype=np.float64)
    if lengths[0] >= lengths[-1]:
        raise ValueError(
            f"the blurred picture must hold less than the picture: {lengths[0]:.0f} bytes against "
            f"{lengths[-1]:.0f}"
        )
    scores = _scores(model, x, pictures, target, objective, accuracy, batch_size)
    if not scores[0] < scores[-1]:
        raise ValueError(
            f"the blurred picture must have a score below the picture's: {scores[0]:.4g} against "
            f"{scores[-1]:.4g}"
        )
    at = np.clip((lengths[1:-1] - lengths[0]) / (lengths[-1] - lengths[0]), 0, 1)
    level = np.clip((scores[1:-1] - scores[0]) / (scores[-1] - scores[0]), 0, 1)
    level = np.maximum.accumulate(level)
    at, level = np.concatenate((at, (0.0, 1.0))), np.concatenate((level, (0.0, 1.0)))
    order = at.argsort(kind="stable")
    information = np.linspace(0, 1, bins + 1)
    curve = np.interp(information, at[order], level[order])
    curve[-1] = 1
    return InformationCurve(torch.from_numpy(information), torch.from_numpy(curve))


def median_curve(curves: Sequence[InformationCurve]) -> InformationCurve:
    """The median over several pictures' curves, at each information.

    Args:
        curves: with the same bins.

    Returns:
        The curve, whose area the papers give.

    Example:
        >>> at = torch.tensor([0.0, 1.0], dtype=torch.float64)
        >>> curves = [InformationCurve(at, at * height) for height in (0.1, 0.6, 1.0)]
        >>> median_curve(curves).scores.tolist()
        [0.0, 0.6]

    Source: see ``information_curve``.
    """
    if not curves:
        raise ValueError("curves must have at least one curve, got none")
    sizes = {len(curve.scores) for curve in curves}
    if len(sizes) > 1:
        raise ValueError(f"curves must have the same bins, got {sorted(n - 1 for n in sizes)}")
    stacked = torch.stack([curve.scores for curve in curves])
    return InformationCurve(curves[0].information, stacked.quantile(0.5, dim=0))


def webp_length(picture: Array) -> int:
    """The bytes of a picture (H, W, 1 or 3) of uint8 as a lossless WebP file.

    >>> webp_length(np.zeros((64, 64, 3), np.uint8)) < 64
    True
    """
    try:
        from PIL import Image
    except ImportError:
        raise ImportError(
            "the length of a picture needs Pillow: pip install 'fwdgrad-kernels[metrics]'"
        ) from None
    file = io.BytesIO()
    grey = picture[:, :, 0] if picture.shape[2] == 1 else picture
    Image.fromarray(grey).save(file, format="webp", lossless=True, quality=100)
    return file.tell()


def interpolated(picture: Array, known: Array) -> Array:
    """A picture of which only some pixels are known, the others linear between those.

    Args:
        picture: uint8 (H, W, C).
        known: bool (H, W); the corners count as known.

    Returns:
        uint8 (H, W, C).

    Example:
        >>> picture = np.array([[[0], [7], [20]], [[0], [9], [20]]], np.uint8)
        >>> interpolated(picture, np.zeros((2, 3), bool))[:, :, 0].tolist()
        [[0, 10, 20], [0, 10, 20]]
    """
    try:
        from scipy.interpolate import LinearNDInterpolator  # type: ignore[import-untyped]
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
    except ImportError:
        raise ImportError(
            "the information curve needs SciPy and threadpoolctl: pip install "
            "'fwdgrad-kernels[metrics]'"
        ) from None
    known = known.copy()
    known[[0, 0, -1, -1], [0, -1, 0, -1]] = True
    if known.all():
        return picture
    result = picture.copy()
    # It solves two equations for each triangle, which threads can only delay: where another process
    # has the cores, a hundredfold.
    with threadpool_limits(1):
        between = LinearNDInterpolator(np.argwhere(known), picture[known].astype(np.float64))
        found = between(np.argwhere(~known))
    # Places on the border may fall outside all triangles by a rounding: they get the mean colour.
    found = np.where(np.isnan(found), picture.mean((0, 1)), found)
    result[~known] = found.astype(np.float32).round()  # a half that is off by a rounding is a half
    return result


@functools.lru_cache(maxsize=8)
def _kept(shape: tuple[int, int], share: float, seed: int) -> Array:
    count = math.prod(shape)
    chosen = np.random.default_rng(seed).choice(count, int(count * share), replace=False)
    mask = np.zeros(count, dtype=bool)
    mask[chosen] = True
    return mask.reshape(shape)


def _scores(
    model: Callable[[Tensor], Any],
    x: Tensor,
    pictures: list[Array],
    target: int | str | None,
    objective: Objective,
    accuracy: bool,
    batch_size: int,
) -> Array:
    batch = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
    batch = (batch.to(x.dtype) / 255).to(x.device)
    with TorchState(), torch.no_grad():
        scorer = Scorer(model, batch[-1], [target], objective)
        if accuracy:
            (chosen,) = scorer.targets
            if chosen is None:
                raise ValueError(
                    "objective must not be 'accuracy' where the model returns one number per sample"
                )
            scorer = Scorer(model, batch[-1], [None], KeptLabel(chosen))
        # Copied: a model may return a buffer of its own.
        parts = [
            scorer(part.clone())[0].to("cpu", torch.float64, copy=True)
            for part in batch.split(min(batch_size, len(batch)))
        ]
    result: Array = torch.cat(parts).numpy()
    return result
