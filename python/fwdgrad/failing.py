"""What may be wrong with a model that fails, or gives no number, at the input itself."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from torch import Tensor

from fwdgrad.errors import ModelError
from fwdgrad.outputs import cause, tensor_of

_OF_DTYPES = re.compile(
    r"dtype|data ?type|scalar type|(Double|Half|Float)Tensor|Input type \(", re.I
)
_OF_SHAPES = re.compile(r"shape|size|dim|mat1|channels|broadcast|stride|axis|out of range", re.I)
_OF_TENSORS = re.compile(r"'Tensor' object has no attribute '(\w+)'")


def is_of_shapes(error: BaseException | None) -> bool:
    """Whether an error seems to say that an input has the wrong shape.

    >>> is_of_shapes(RuntimeError("mat1 and mat2 shapes cannot be multiplied (1x4 and 5x2)"))
    True
    """
    return error is not None and _OF_SHAPES.search(cause(error)) is not None


def wants_channels_last(error: BaseException | None, shape: tuple[int, ...]) -> bool:
    """Whether an error seems to say that a model takes pictures with their channels last.

    Args:
        error: of a model that was given pictures (C, H, W).
        shape: of such a picture.

    Example:
        >>> error = ValueError("matmul: size 224 is different from 3")
        >>> wants_channels_last(error, (3, 224, 224))
        True
    """
    if error is None or len(shape) != 3 or shape[0] not in (1, 3) or shape[2] <= 4:
        return False
    channels, width = shape[0], shape[2]
    # "expected (None, 299, 299, 3)"; "got 224 channels"
    parts = ["channels.last", rf"\b(\d+), *\1, *{channels}\b", rf"got {width} channels"]
    if channels == 3:  # "size 3 is different from 224", "size 224 ...", "(3) must match ... (224)"
        parts.append(rf"\b3 is different from {width}\b|\(3\) must match \D*\({width}\)")
        parts.append(rf"(?<!\d){width}\D{{1,40}}3(?!\d)")
    return re.search("|".join(parts), cause(error), re.I) is not None


def what_may_help(error: BaseException, x: Tensor) -> str:
    """The end of a message that a model failed on a batch of the input alone, or nothing."""
    if wants_channels_last(error, tuple(x.shape)):
        return (
            " (if it takes channels last, (batch, height, width, channels), wrap it: "
            "lambda batch: model(batch.permute(0, 2, 3, 1)))"
        )
    text = cause(error)
    if _OF_DTYPES.search(text):
        return f" (the batch has x's dtype, {x.dtype}: convert x, e.g. x.float())"
    if (missing := _OF_TENSORS.search(text)) and hasattr(np.ndarray, missing[1]):
        return (
            " (the batch is a tensor: give a function of NumPy arrays as "
            "fwdgrad.adapters.arrays.NumpyModel(function))"
        )
    return " (x is one input, without a batch axis)" if is_of_shapes(error) else ""


def why_not_finite(model: Any, outputs: Any, x: Tensor, score: float) -> str:
    """That the score at the input is no number, whose doing that is, and what to check.

    Args:
        model: an adapter's has in ``called_on`` what it was given in the place of x.
        outputs: what it returned.
        x: the input.
        score: NaN or infinite.

    Example:
        >>> import torch
        >>> why_not_finite(None, torch.tensor([[0.5]]), torch.zeros(2), torch.inf)
        'the score at the input itself is inf, and the model returned finite numbers: the \
objective made it of them'
    """
    message = f"the score at the input itself is {score}"
    try:
        bad = tensor_of(outputs, None, differentiable=True).detach()
        bad = bad[~bad.isfinite()]
    except ModelError:  # an objective takes what is no tensor
        return message
    if not len(bad):
        return f"{message}, and the model returned finite numbers: the objective made it of them"
    low, high = (f"{float(end):.3g}" for end in x.aminmax())
    given = getattr(model, "called_on", f"x, {x.dtype} {tuple(x.shape)} from {low} to {high}")
    return (
        f"{message}: the model returned {float(bad[0])} for {given}; call it on that alone, and "
        "check that its weights are loaded, that it takes such values (missing ones, another "
        "range) and that its dtype does not overflow"
    )
