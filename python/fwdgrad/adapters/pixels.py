"""Pictures as people have them: files, Pillow's, arrays and tensors of any layout and range."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fwdgrad.adapters.cropping import Cut, scaled
from fwdgrad.adapters.photos import picture_of
from fwdgrad.errors import ArgumentError, ArgumentTypeError

if TYPE_CHECKING:
    from PIL import Image

_LIGHT = (0.299, 0.587, 0.114)  # of red, green and blue in grey: ITU-R BT.601, as Pillow has it
_KNOWN = "a path, a picture of Pillow, or an array or tensor (H, W), (H, W, C) or (C, H, W)"


def read_any(x: Any) -> Tensor | Image.Image:
    """A picture upright and without transparency: of Pillow in RGB, or a tensor.

    Args:
        x: a path, a picture of Pillow, or an array or a tensor: (H, W), (H, W, C) or (C, H, W) of
            1 to 4 channels, the second and the fourth of which is opacity and is laid on white.
            Integers are 0..255 (of 16 bits 0..65535), and floats too where one is above 1.

    Returns:
        Pillow's; or float32 (1 or 3, H, W) in [0, 1] of an array or a tensor.

    Raises:
        TypeError, ValueError, FileNotFoundError: it is something else; what would do.

    Example:
        >>> read_any(np.full((2, 2, 3), 51, np.uint8))[:, 0, 0]
        tensor([0.2000, 0.2000, 0.2000])
        >>> read_any(np.array([[[0.0, 0.25]]])).shape
        torch.Size([1, 1, 1])
    """
    pillow = sys.modules.get("PIL.Image")
    if isinstance(x, (str, os.PathLike)) or (pillow is not None and isinstance(x, pillow.Image)):
        return picture_of(x)
    values: np.ndarray[Any, Any]
    if isinstance(x, Tensor):
        held = x.detach().cpu()
        values = (held.float() if held.dtype == torch.bfloat16 else held).numpy()
    elif isinstance(x, np.ndarray):
        values = x
    else:
        hint = "; give one of them" if isinstance(x, (list, tuple)) else ""
        raise ArgumentTypeError("x", f"must be {_KNOWN}, got {type(x).__name__}{hint}")
    is_grey = values.ndim == 2
    values = values[None] if is_grey else values
    first, last = (values.ndim == 3 and values.shape[i] in (1, 2, 3, 4) for i in (0, 2))
    if not (first or last) or values.size == 0:
        hint = "; give x[0]" if values.ndim == 4 and len(values) == 1 else ""
        raise ArgumentError("x", f"must be {_KNOWN}, got shape {tuple(x.shape)}{hint}")
    if last and not is_grey and not (first and isinstance(x, Tensor)):  # a tensor has them first
        values = np.moveaxis(values, 2, 0)
    pixels = torch.from_numpy(np.ascontiguousarray(values / _top(values), np.float32))
    pixels.clamp_(0, 1)
    if len(pixels) in (2, 4):
        pixels = pixels[:-1] * pixels[-1] + (1 - pixels[-1])
    return pixels


def _top(values: np.ndarray[Any, Any]) -> float:
    """What stands for white."""
    kind, size = values.dtype.kind, values.dtype.itemsize
    if kind not in "buif":
        raise ArgumentTypeError("x", f"must have numbers, got an array of {values.dtype}")
    low, high = float(values.min()), float(values.max())
    what = "in 0..1 or 0..255"
    if not np.isfinite([low, high]).all():
        raise ArgumentError("x", f"must be finite pixels {what}, got {low:g} to {high:g}")
    if kind == "b":
        return 1.0
    top = 1.0 if kind == "f" and high <= 1 + 1e-3 else 255.0
    if kind != "f" and size == 2 and (kind == "u" or high > 255):
        top = 65535.0
    if low < -1e-3 or high > top:
        raise ArgumentError(
            "x",
            f"must be pixels {what}, got {low:g} to {high:g}; give the picture before it is "
            "normalised: mean, std and range of the ImageModel do that",
        )
    return top


def size_of(picture: Tensor | Image.Image) -> tuple[int, int]:
    """Width and height of what ``read_any`` returns.

    >>> size_of(torch.zeros(3, 4, 5))
    (5, 4)
    """
    if isinstance(picture, Tensor):
        return picture.shape[2], picture.shape[1]
    width, height = picture.size
    return int(width), int(height)


def to_bytes(picture: Tensor | Image.Image) -> np.ndarray[Any, Any]:
    """A picture as uint8 (H, W, 3).

    >>> to_bytes(torch.ones(1, 1, 1))
    array([[[255, 255, 255]]], dtype=uint8)
    """
    if not isinstance(picture, Tensor):
        return np.array(picture)
    levels = picture.mul(255).round_().to(torch.uint8)
    return levels.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()


def cut_out(picture: Tensor | Image.Image, cut: Cut, channels: int) -> Tensor:
    """What a cut makes of a picture: float32 (channels, H, W) in [0, 1].

    Args:
        picture: see ``read_any``. A tensor of which all is taken as it is keeps its numbers; else
            it is scaled in 8 bits.
        cut: of it.
        channels: 3; or 1 of grey ones.
    """
    size = size_of(picture)
    as_it_is = cut == Cut((0.0, 0.0, float(size[0]), float(size[1])), size, size)
    if isinstance(picture, Tensor) and as_it_is:
        pixels = picture
    else:
        is_tensor = isinstance(picture, Tensor)
        whole: Any = _pillow().fromarray(to_bytes(picture)) if is_tensor else picture
        values = np.array(scaled(whole, cut.box, cut))
        pixels = torch.from_numpy(values).permute(2, 0, 1).float() / 255
    if channels == 1 and len(pixels) == 3:
        light = torch.tensor(_LIGHT)[:, None, None]
        pixels = (pixels * light).sum(0, keepdim=True).clamp_(0, 1)
    return pixels.expand(channels, -1, -1).contiguous()


def pillow_pictures(batch: Tensor) -> list[Image.Image]:
    """Pictures of Pillow of a batch (batch, 1 or 3, H, W) in [0, 1].

    >>> pillow_pictures(torch.zeros(2, 3, 4, 5))[1].size
    (5, 4)
    """
    levels = batch.detach().mul(255).round_().clamp_(0, 255).to("cpu", torch.uint8)
    rows = levels.permute(0, 2, 3, 1).contiguous().numpy()
    pillow = _pillow()
    return [pillow.fromarray(row[..., 0] if row.shape[2] == 1 else row) for row in rows]


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise ImportError(
            "scaling a picture needs Pillow: pip install 'fwdgrad-kernels[image]'"
        ) from None
    return Image
