"""Which method explains an input where none was named."""

from __future__ import annotations

from torch import Tensor

from fwdgrad.errors import warn
from fwdgrad.inputs import is_of_pixels
from fwdgrad.methods.base import Method
from fwdgrad.methods.forward_gradient import ForwardGradient
from fwdgrad.methods.regions import SIDE, Regions, is_batch_of_one


def choose(x: Tensor) -> tuple[Method, str]:
    """The method for an input, and why; nothing but its shape and range decides.

    A picture is (1 or 3, H, W), 16 pixels a side at least, with values in [0, 1]. A warning says
    where another input looks like one, with the line that takes it as one.

    Example:
        >>> import torch
        >>> choose(torch.zeros(20))[1]
        'x of shape (20,) is no picture'
        >>> choose(torch.rand(3, 32, 32))[0]
        Regions(baseline='blur', cell='auto', antithetic=False, axes=None, directions=None)
    """
    shape = tuple(x.shape)
    is_sized = x.dim() == 3 and shape[0] in (1, 3) and min(shape[1:]) >= SIDE
    if is_sized and is_of_pixels(x):
        return Regions(), f"x of shape {shape} with values in [0, 1] is taken for a picture"
    found = _like_a_picture(x)
    if found is None:
        return ForwardGradient(), f"x of shape {shape} is no picture"
    why, line = found
    warn(
        f"x of shape {shape} {why}, so it is not taken for a picture: each of its numbers gets "
        "noise of its own (method='forward-gradient'), and a map of many numbers takes very many "
        f"samples. If it is a picture, its regions need few: {line}"
    )
    return ForwardGradient(), f"x of shape {shape} {why}, so it is not taken for a picture"


def _like_a_picture(x: Tensor) -> tuple[str, str] | None:
    """Why something that may be a picture is not taken for one, and the line that takes it."""
    if is_batch_of_one(x):
        return "seems to have a batch axis", "explain(model, x[0], method='regions')"
    if x.dim() not in (2, 3):
        return None
    sides = [side >= SIDE for side in x.shape]
    named = "method='regions')"
    if x.dim() == 2:  # of embeddings some are negative
        line = f"explain(lambda batch: model(batch[:, 0]), x[None], {named}"
        return ("has no channels", line) if all(sides) and bool(x.min() >= 0) else None
    if all(sides[1:]) and len(x) in (1, 3):
        low, high = float(x.min()), float(x.max())
        line = f"explain(model, x, {named}"
        if low >= 0 and 32 < high <= 255:
            line += f"; where the model takes [0, 1], explain(model, x / 255, {named}"
        return f"has values outside [0, 1], {low:.3g} to {high:.3g}", line
    if all(sides[:2]) and x.shape[2] <= 4:
        change = "lambda batch: model(batch.permute(0, 2, 3, 1))"
        return (
            "has its channels last",
            f"explain({change}, torch.as_tensor(x).permute(2, 0, 1), {named}",
        )
    if all(sides[1:]):
        return f"has {len(x)} channels", f"explain(model, x, {named}"
    return None
