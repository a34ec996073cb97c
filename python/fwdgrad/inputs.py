"""What may be explained, as a tensor: tensors, NumPy arrays, pictures and their files."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fwdgrad.checks import first_outside
from fwdgrad.outputs import told
from fwdgrad_kernels import DTYPES

_FILE = re.compile(r"\.[A-Za-z0-9]{2,5}$")  # how the name of a picture's file ends


def input_of(x: Any, size: int | None = None) -> Tensor:
    """An input as a dense, finite, floating tensor without a graph.

    Args:
        x: a tensor, which is not copied; a NumPy array of floating numbers in any layout; a
            picture of Pillow, or a path to one: (3, H, W) in [0, 1].
        size: of the square that is cut out of a picture's middle; None: all of it.

    Raises:
        TypeError, ValueError: what it is instead, and what would make an input of it.
        FileNotFoundError: there is no file of that path.

    Example:
        >>> import numpy as np
        >>> input_of(np.arange(3.0)[::-1])
        tensor([2., 1., 0.], dtype=torch.float64)
    """
    tensor = _tensor(x, size)
    if tensor.dtype not in DTYPES:
        raise TypeError(
            f"x must be float32, float64, float16 or bfloat16, got {tensor.dtype}; "
            f"{_cure(tensor, True)}"
        )
    if tensor.dim() == 0 or not tensor.numel():
        raise ValueError(f"x must have elements, got shape {tuple(tensor.shape)}")
    tensor = tensor.detach().as_subclass(Tensor).resolve_neg()
    bad = first_outside(tensor, torch.isfinite(tensor))
    if bad is not None:
        raise ValueError(f"x must be finite, got {bad[1]} at element {bad[0]}")
    return tensor


def is_of_pixels(x: Tensor) -> bool:
    """Whether all values lie in [0, 1], but for a rounding.

    >>> is_of_pixels(torch.tensor([0.0, 1.0005])), is_of_pixels(torch.tensor([-0.5]))
    (True, False)
    """
    return bool(((x >= -1e-3) & (x <= 1 + 1e-3)).all())


def numbers_of(value: Any) -> Any:
    """An array, or a column of a table, as a tensor; all else as it is.

    >>> import numpy as np
    >>> numbers_of(np.array([1.0, 2.0])), numbers_of(0.5)
    (tensor([1., 2.], dtype=torch.float64), 0.5)
    """
    if not isinstance(value, (Tensor, np.ndarray)) and hasattr(value, "to_numpy"):
        value = value.to_numpy()
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiu":
        return torch.from_numpy(np.array(value, dtype=np.float64))
    return value


def _tensor(x: Any, size: int | None = None) -> Tensor:
    if isinstance(x, Tensor):
        return _dense(x)
    if isinstance(x, np.ndarray):
        return _from_numpy(x)
    pillow = sys.modules.get("PIL.Image")
    if (
        isinstance(x, os.PathLike)
        or (isinstance(x, str) and (os.path.isfile(x) or _FILE.search(x)))
        or (pillow is not None and isinstance(x, pillow.Image))
    ):
        from fwdgrad.adapters.photos import photo_of

        return photo_of(x, size)
    raise TypeError(
        f"x must be a tensor, a NumPy array, or a picture or its path, got {type(x).__name__}"
        f"{_hint(x)}"
    )


def _dense(x: Tensor) -> Tensor:
    if x.is_nested:
        raise TypeError(
            "x must be a dense tensor, got a nested one; give one of its parts, e.g. x.unbind()[0]"
        )
    if x.is_quantized:
        raise TypeError(
            f"x must be float32, float64, float16 or bfloat16, got {x.dtype}; give x.dequantize()"
        )
    if x.layout != torch.strided:
        raise TypeError(f"x must be a dense tensor, got {x.layout}; give x.to_dense()")
    if x.is_meta:
        raise TypeError("x must have values, got a tensor on the meta device; make it on another")
    return x


def _from_numpy(x: np.ndarray[Any, Any]) -> Tensor:
    if x.dtype.kind not in "fiubc":
        raise TypeError(
            f"x must have floating numbers, got an array of {x.dtype}; convert what it holds, "
            "e.g. x.astype(float)"
        )
    if x.dtype.kind != "f":
        raise TypeError(f"x must have floating numbers, got {x.dtype}; {_cure(x, False)}")
    if isinstance(x, np.ma.MaskedArray) and bool(np.ma.getmaskarray(x).any()):
        raise TypeError("x must have all its values, got a masked array; give x.filled(0.0), say")
    dtype = np.dtype(np.float64) if x.dtype.itemsize > 8 else x.dtype.newbyteorder("=")
    # Copied: torch wants native byte order and no negative strides, and may write to what it has.
    return torch.from_numpy(np.array(x, dtype=dtype, order="C"))


def _cure(x: Any, is_tensor: bool) -> str:
    """What makes floating numbers of a tensor or an array of other ones."""
    name, plain = ("x", "x.float()") if is_tensor else ("torch.from_numpy(x)", "x.astype(float)")
    kind = str(x.dtype).removeprefix("torch.")
    if kind.startswith("complex"):
        return "give its parts, e.g. torch.view_as_real(x)" if is_tensor else "give x.real, say"
    if kind == "uint8" and len(x.shape) == 3 and x.shape[2] in (3, 4) and x.shape[0] > 4:
        return f"a picture of 0..255 is {name}[..., :3].permute(2, 0, 1) / 255"
    if kind == "uint8" and len(x.shape) == 2:
        return f"a picture of 0..255 is {name}[None] / 255"
    if kind == "uint8":
        return f"a picture of 0..255 is {name} / 255"
    if kind.startswith("float"):
        return f"convert it, e.g. {plain}"
    return f"convert it, e.g. {plain}, or where it is token numbers give their embeddings (T, E)"


def _hint(x: Any) -> str:
    """What would do for something that is neither a tensor nor an array nor a picture."""
    if isinstance(x, str):
        return (
            f" {told(repr(x), 40)}, which is no file; of a text explain its embeddings (T, E): "
            "fwdgrad.adapters.text.explain_text"
        )
    if isinstance(x, Mapping):
        return (
            f" with the keys {told(', '.join(map(repr, x)), 60)}; explain one of its tensors, and "
            "let the model add the others"
        )
    if isinstance(x, (list, tuple)):
        if any(isinstance(part, (Tensor, np.ndarray)) for part in x):
            return (
                "; explain one of them, and let the model add the others, e.g. "
                "lambda batch: model(batch, other.expand(len(batch), *other.shape))"
            )
        if any(isinstance(part, str) for part in x):
            return "; give one text's embeddings (T, E): fwdgrad.adapters.text.explain_text"
        return "; give torch.tensor(x)"
    if hasattr(x, "toarray"):
        return "; give x.toarray()"
    if hasattr(x, "to_numpy"):
        row = "one row's numbers, e.g. x.iloc[0]" if getattr(x, "ndim", 1) == 2 else "x"
        return f"; give {row}.to_numpy(float)"
    if isinstance(x, (int, float, complex, np.generic)) or x is None:
        return ""
    return "; make an array of it, e.g. numpy.asarray(x)" if hasattr(x, "__array__") else ""
