"""Arguments that several ops have, and one-line errors where they are not what an op takes."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fwdgrad_kernels.checks import check_integer, check_memory, check_writable
from fwdgrad_kernels.layout import is_channels_last
from fwdgrad_kernels.spec import NoiseSpec


def check_samples(first: int, count: int) -> tuple[int, int]:
    """The number of a first sample, and how many there are."""
    first = check_integer("first", first, 0, 2**63 - 1)
    return first, check_integer("count", count, 0, 2**63 - 1 - first)


def check_device(device: object) -> torch.device:
    """A device by its name; the CPU where it is None."""
    if device is not None and not isinstance(device, (str, torch.device)):
        raise TypeError(f"device must be a torch.device or a name such as 'cpu', got {device!r}")
    return torch.device("cpu" if device is None else device)


def check_clip(clip: object) -> tuple[float, float]:
    """The bounds of a clip, infinite where it is None."""
    if clip is None:
        return -math.inf, math.inf
    try:
        low, high = (float(bound) for bound in clip)  # type: ignore[attr-defined]
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"clip must be (low, high), got {clip!r}") from None
    if not low <= high:
        raise ValueError(f"clip must be (low, high) with low <= high, got {clip}")
    return low, high


def check_spec(spec: object) -> None:
    """Raises TypeError unless it is one."""
    if not isinstance(spec, NoiseSpec):
        raise TypeError(f"spec must be a NoiseSpec, got {type(spec).__name__}")


def check_destination(
    name: str, tensor: Any, shape: tuple[int, ...], like: Tensor, channels_last: bool = False
) -> None:
    """Raises unless a tensor can be written: of a shape, and of another's dtype and device."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}")
    check_memory(name, tensor)
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} must have shape {shape}, got {tuple(tensor.shape)}")
    if tensor.dtype != like.dtype:
        raise TypeError(f"{name} must have dtype {like.dtype}, got {tensor.dtype}")
    if tensor.device != like.device:
        raise ValueError(f"{name} must be on {like.device}, got {tensor.device}")
    if tensor.requires_grad:
        raise ValueError(f"{name} must not require a gradient: it is written in place")
    if not (tensor.is_contiguous() or (channels_last and is_channels_last(tensor))):
        also = " or in channels_last format" if channels_last else ""
        raise ValueError(f"{name} must be contiguous{also}, got strides {tensor.stride()}")
    check_writable(name, tensor)


def wide_of(x: Tensor) -> torch.dtype:
    """What samples of a type are computed in."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32
