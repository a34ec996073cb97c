"""A model's output as a tensor with a row for each sample, or what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fwdgrad.errors import ModelError

_LABELS = (
    "the model returned {}: labels, which are no scores. Give its predict_proba, where it has one, "
    "or return floating numbers; or explain labels by objective=KeptLabel(target) or "
    "LabelDistance(target, taxonomy)"
)


def told(value: object, most: int = 400) -> str:
    """A message or a value's text on one line, cut off where it is long.

    >>> told(ValueError("two\\n  lines"))
    'two lines'
    """
    try:
        text = " ".join(str(value).split())
    except Exception:  # of an exception's own __str__, say
        return "(its text cannot be had)"
    return text if len(text) <= most else text[:most] + " ..."


def cause(error: BaseException) -> str:
    """An exception's kind and text on one line.

    >>> cause(KeyError("layer")), cause(AssertionError())
    ("KeyError: 'layer'", 'AssertionError')
    """
    text = told(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = told(error, most=10_000).lower()
    return isinstance(error, RuntimeError) and (
        "out of memory" in text or "can't allocate memory" in text or "not enough memory" in text
    )


def tensor_of(
    outputs: Any,
    batch: int | None,
    source: str = "model",
    differentiable: bool = False,
    axes: int | None = None,
) -> Tensor:
    """The output as a dense tensor of real numbers that has the right batch.

    Args:
        outputs: a tensor, also a sparse or quantized one; or what NumPy makes an array of: an
            array, a list, a pandas Series, a sparse matrix of SciPy.
        batch: how many rows it must have, where that is to be checked. Of one sample a model may
            return a number alone.
        source: "model", whose output may have two axes, or "objective", whose has one.
        differentiable: whether it may carry a gradient graph.
        axes: how many it may have at most, where an objective takes others.

    Raises:
        ModelError: in one line, with what would do.

    Example:
        >>> tensor_of([[0.5, 2.0]], 1)
        tensor([[0.5000, 2.0000]], dtype=torch.float64)
        >>> tensor_of(0.5, 1)
        tensor([0.5000], dtype=torch.float64)
    """
    tensor = (
        _dense(outputs, source) if isinstance(outputs, Tensor) else _from_numpy(outputs, source)
    )
    if tensor.requires_grad and not differentiable:
        raise ModelError(
            f"the {source} returned a tensor with a gradient graph, though it is called under "
            "torch.no_grad(); remove enable_grad from it, or return output.detach()"
        )
    if batch == 1 and tensor.dim() == 0 and source == "model":
        tensor = tensor.reshape(1)
    if batch is not None and (tensor.dim() == 0 or tensor.shape[0] != batch):
        raise ModelError(
            f"the {source} returned shape {tuple(tensor.shape)} for a batch of {batch}; the "
            "first axis must be the batch"
        )
    if tensor.is_complex():
        raise ModelError(f"the {source} must return real numbers, got {tensor.dtype}")
    if tensor.dtype == torch.bool and source == "model" and axes is None:
        raise ModelError(
            "the model must return scores, got torch.bool, which only says yes or no; return what "
            "is compared, or numbers, e.g. lambda batch: model(batch).double()"
        )
    most = axes or (1 if source == "objective" else 2)
    if tensor.dim() > most or not tensor.numel():
        expected = "one score per sample," if source == "objective" else "(batch, classes) or"
        hint = f"; give {_objective_for(tensor)}" if source == "model" else ""
        raise ModelError(
            f"the {source} must return {expected} (batch,), got shape {tuple(tensor.shape)}{hint}"
        )
    return tensor


def floating(values: Tensor) -> Tensor:
    """Numbers in a type to compute in: float32 of half precision, float64 of integers.

    >>> floating(torch.tensor([1, 2])).dtype
    torch.float64
    """
    if values.dtype in (torch.float32, torch.float64):
        return values
    return values.float() if values.is_floating_point() else values.double()


def check_no_labels(tensor: Tensor) -> None:
    """Raises where one integer for each sample is a label rather than a score.

    >>> check_no_labels(torch.tensor([0.5]))
    """
    if tensor.shape[1:].numel() == 1 and not tensor.is_floating_point():
        raise ModelError(_LABELS.format(f"integers of shape {tuple(tensor.shape)}"))


def _dense(tensor: Tensor, source: str) -> Tensor:
    if tensor.is_meta or type(tensor).__name__ == "FakeTensor":
        raise ModelError(
            f"the {source} returned a tensor without values, as on the meta device; move the "
            "model to another device, e.g. model.to_empty(device='cpu'), and load its weights"
        )
    if tensor.is_nested:
        raise ModelError(
            f"the {source} returned a nested tensor, whose rows may differ in length; wrap it, "
            "e.g. lambda batch: model(batch).to_padded_tensor(0.0)"
        )
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    return tensor if tensor.layout == torch.strided else tensor.to_dense()


def _from_numpy(outputs: Any, source: str) -> Tensor:
    values = _array(outputs)
    if values is not None and values.ndim and values.dtype.kind in "OUST":
        names = [value for value in values.reshape(-1).tolist() if isinstance(value, str)]
        if names and source == "model":
            raise ModelError(_LABELS.format(f"names such as {told(repr(names[0]), 40)}"))
        values = _floats(values)
    if values is None or values.dtype.kind not in "fiubc":
        raise ModelError(
            f"the {source} must return a tensor or an array, got {_kind(outputs)}; {_hint(outputs)}"
        )
    if values.dtype.kind == "f" and values.dtype.itemsize > 8:  # which torch has not
        values = values.astype(np.float64)
    # Copied: the model may keep its own, and torch wants native byte order and positive strides.
    return torch.from_numpy(np.array(values, dtype=values.dtype.newbyteorder("="), order="C"))


def _floats(values: Any) -> Any:
    """Numbers that are kept as objects, as a column of pandas may; None where there are others."""
    if values.dtype.kind != "O" or any(value is None for value in values.flat):
        return None
    try:
        return values.astype(np.float64)
    except Exception:  # whatever an object's __float__ raises
        return None


def _array(outputs: Any) -> Any:
    """The array that NumPy makes of it; None where that has no rows."""
    if isinstance(outputs, (str, bytes, Mapping, Iterator)) or _has(outputs, "_fields"):
        return None
    if isinstance(outputs, (list, tuple)) and any(
        isinstance(part, Tensor) and part.dim() for part in outputs
    ):
        return None  # several outputs, or a tensor for each sample: only the author can tell
    try:
        if _has(outputs, "toarray"):  # a sparse matrix
            outputs = outputs.toarray()
        if isinstance(outputs, np.ma.MaskedArray):
            return np.ma.filled(outputs.astype(np.float64), np.nan)  # type: ignore[no-untyped-call]
        return np.asarray(outputs)
    except Exception:  # rows of several lengths; a tensor of another device or with a graph
        return None


def _has(outputs: Any, name: str) -> bool:
    """``hasattr`` that is false for any error, which an own ``__getattr__`` may raise."""
    try:
        getattr(outputs, name)
    except Exception:
        return False
    return True


def _kind(outputs: Any) -> str:
    name = type(outputs).__name__
    if isinstance(outputs, Mapping):
        keys = told(", ".join(map(repr, outputs)), 100)
        return f"{name} with the keys {keys}" if keys else f"an empty {name}"
    return f"{name} of {outputs.dtype}" if isinstance(outputs, np.ndarray) else name


_ANY = "an objective that makes one score per sample of it"
_SEGMENT = "fwdgrad.tasks.Segment(label)"
_DETECTIONS = "fwdgrad.adapters.detection.Detections.of(model(x[None]))"


def _objective_for(tensor: Tensor) -> str:
    """Which objective takes a tensor of that many axes."""
    if tensor.dim() == 4:
        return f"{_ANY}: of (batch, classes, height, width) {_SEGMENT}"
    if tensor.dim() == 3 and not tensor.is_floating_point():
        return f"{_ANY}: of labels (batch, height, width) {_SEGMENT}"
    if tensor.dim() == 3:
        return (
            f"{_ANY}: of (batch, tokens, vocabulary) fwdgrad.tasks.NextToken(token), of boxes "
            f"{_DETECTIONS}, of a map (batch, height, width) fwdgrad.tasks.Segment(1)"
        )
    return _ANY


def _is_of_boxes(outputs: Any) -> bool:
    """Whether an output seems to be a detector's."""
    one = outputs[0] if isinstance(outputs, (list, tuple)) and outputs else outputs
    if isinstance(one, (list, tuple)) and one and isinstance(one[0], (list, tuple)):
        return len(one[0]) == 3  # (box, label, score)
    names = ("boxes", "pred_boxes")
    return any(name in one if isinstance(one, Mapping) else _has(one, name) for name in names)


def _hint(outputs: Any) -> str:
    """What would make scores of an output of that kind."""
    if _is_of_boxes(outputs):
        return f"of what a detector returns give objective={_DETECTIONS}"
    own = f"or give {_ANY}"
    if isinstance(outputs, Mapping) and outputs:
        keys = list(outputs)
        key = "logits" if "logits" in keys else keys[0]
        # What transformers returns is known by its attributes.
        named = isinstance(key, str) and _has(outputs, key) and not hasattr(dict, key)
        part = f"model(batch).{key}" if named else f"model(batch)[{key!r}]"
        return f"wrap the model, e.g. lambda batch: {part}, {own}"
    fields = getattr(outputs, "_fields", ())[:1] if isinstance(outputs, tuple) else ()
    for name in (*fields, "logits"):
        if _has(outputs, name):
            return f"wrap the model, e.g. lambda batch: model(batch).{name}, {own}"
    if isinstance(outputs, (list, tuple)) and outputs and isinstance(outputs[0], Tensor):
        if outputs[0].dim() < 2 and isinstance(outputs, list):
            return f"wrap the model, e.g. lambda batch: torch.stack(model(batch)), {own}"
        return f"wrap the model, e.g. lambda batch: model(batch)[0], {own}"
    if isinstance(outputs, Iterator):
        return "return a list or an array"
    if _has(outputs, "__await__"):
        return "wrap it, e.g. lambda batch: asyncio.run(model(batch))"
    if outputs is None:
        return "let it return its scores"
    if isinstance(outputs, str):
        return (
            "give an objective such as TextAnswer, and return a list with an answer for each sample"
        )
    if isinstance(outputs, (list, tuple)):
        return "make rows of as many numbers of it, " + own
    return f"give {_ANY}"
