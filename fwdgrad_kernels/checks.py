"""What must hold of a tensor before its memory is read or written, and one-line errors where not.

A kernel gets an address and believes it: memory that is not there is found here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd import forward_ad

import fwdgrad_kernels  # of which a part needs this file

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)  # of samples, as in csrc


def check_integer(name: str, value: Any, low: int, high: int | None = None) -> int:
    """A whole number in low .. high, of Python's or NumPy's kinds, as an int."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an integer, got {' '.join(repr(value).split()):.80}")
    number = value if isinstance(value, int) else int(value)  # torch.compile's stay symbolic
    if number < low and high is None:
        raise ValueError(f"{name} must be at least {low}, got {number}")
    if high is not None and not low <= number <= high:
        raise ValueError(f"{name} must lie in {low} .. {high}, got {number}")
    return number


_is_wrapped: Any = torch._C._functorch.is_functorch_wrapped_tensor
_transforms: Any = torch._C._functorch.peek_interpreter_stack
_modes: Any = torch._C._len_torch_dispatch_stack


def _span(tensor: Tensor) -> int:
    """How many elements lie between the first and the end of the last."""
    if not tensor.numel() or tensor.is_contiguous():
        return tensor.numel()
    return 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))


def _has_address(tensor: Tensor) -> bool:
    """Not so for meta and fake tensors, nor while torch traces."""
    return not torch.compiler.is_compiling() and tensor.untyped_storage().device.type != "meta"


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is its memory and nothing else, and nothing listens to torch's calls."""
    return (
        type(tensor) is Tensor
        and not torch.compiler.is_compiling()
        and not tensor.is_meta
        and not tensor.is_neg()  # its memory has the other sign
        and not _is_wrapped(tensor)
        and not _modes()
    )


def constant(tensor: Tensor) -> Tensor:
    """The tensor apart from its graph; inside of torch.func, which would follow that, as it is."""
    return tensor if _transforms() is not None else tensor.detach()


def unwrapped(tensor: Tensor) -> Tensor:
    """A new tensor as a constant inside of torch.func, too, which wraps what is made there."""
    while not torch.compiler.is_compiling() and _is_wrapped(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor


def check_memory(name: str, tensor: Tensor) -> None:
    """Raises where a tensor is not dense, or its memory is not there, or torch.func follows it.

    Raises:
        TypeError: a sparse or nested tensor.
        ValueError: its storage is smaller than the tensor, which ``resize_`` can make it.
        NotImplementedError: a derivative or a batch of torch.func would be lost without a word.
    """
    if torch.compiler.is_compiling():
        return
    followed = _is_wrapped(tensor)
    if not followed and forward_ad._current_level >= 0:
        followed = forward_ad.unpack_dual(tensor).tangent is not None
    if followed:
        raise NotImplementedError(
            f"{name} must not be followed by torch.func (grad, jvp, vmap) or by forward-mode "
            "differentiation: the kernels have no rule for them; apply these to the model alone"
        )
    if tensor.layout != torch.strided or tensor.is_nested:
        kind = "a nested tensor" if tensor.is_nested else tensor.layout
        raise TypeError(f"{name} must be a dense tensor, got {kind}; to_dense() would make one")
    if not _has_address(tensor):
        return
    there = tensor.untyped_storage().nbytes()
    needed = (tensor.storage_offset() + _span(tensor)) * tensor.element_size()
    if there < needed and tensor.numel():
        raise ValueError(
            f"{name} must have its memory, got a storage of {there} bytes where the tensor needs "
            f"{needed}: it was freed or resized"
        )


def check_floating(name: str, tensor: object) -> Tensor:
    """A tensor of a type that is computed in, with its memory; raises as ``check_memory`` does."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}")
    if tensor.dtype not in DTYPES:
        raise TypeError(f"{name} must be float32, float64, float16 or bfloat16, got {tensor.dtype}")
    check_memory(name, tensor)
    return tensor


def check_writable(name: str, tensor: Tensor) -> None:
    """Raises ValueError where memory may be read only, a file mapped so for one, or is negated."""
    if not _has_address(tensor):
        return
    if tensor.is_neg():
        raise ValueError(f"{name} must not be a negative view; resolve_neg() makes a copy")
    if tensor.device.type != "cpu" or not tensor.data_ptr():
        return
    if not fwdgrad_kernels.native.is_writable(tensor):
        raise ValueError(f"{name} must be writable, got read-only memory; clone() makes a copy")


def check_alike(**tensors: object) -> None:
    """Raises TypeError where some tensors are fake, which have no values, and others are not."""
    if torch.compiler.is_compiling():
        return
    given = {name: isinstance(t, FakeTensor) for name, t in tensors.items() if t is not None}
    if any(given.values()) and not all(given.values()):
        names = [next(name for name in given if given[name] is kind) for kind in (True, False)]
        raise TypeError("{1} must be a fake tensor where {0} is one".format(*names))


def check_bytes(count: int, each: int, what: str) -> None:
    """Raises ValueError where a count of things is more than can be addressed."""
    if count * each > 2**63 - 1:
        raise ValueError(f"count must be at most {(2**63 - 1) // each} for {what}, got {count}")


def overlap(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors can share memory: their ranges of addresses meet."""
    if not a.numel() or not b.numel() or not (_has_address(a) and _has_address(b)):
        return False
    a0, b0 = a.data_ptr(), b.data_ptr()
    if not a0 or not b0:  # of a type that wraps tensors
        return False
    if a0 < b0:  # the one that starts first must end before the other
        return b0 < a0 + _span(a) * a.element_size()
    return a0 < b0 + _span(b) * b.element_size()
