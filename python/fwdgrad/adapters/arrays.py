"""Adapters for models of NumPy arrays: scikit-learn estimators and ONNX models."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fwdgrad.errors import ModelError

_TYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
}
_ALL_TYPES = {
    **_TYPES,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}
_SESSION_OPTIONS = (
    "enable_cpu_mem_arena",
    "enable_mem_pattern",
    "execution_mode",
    "graph_optimization_level",
    "inter_op_num_threads",
    "intra_op_num_threads",
)
_METHODS = ("predict_proba", "decision_function", "predict")


class NumpyModel:
    """A function of NumPy arrays as a model for ``fwdgrad.explain``.

    Samples on the CPU are given to the function without a copy; it may overwrite them.

    Args:
        function: from an array (batch, ...) to scores (batch, classes) or (batch,), or to labels
            for ``KeptLabel`` and ``LabelDistance``: scikit-learn's ``predict_proba``, say.
        dtype: what the function wants, such as "float64"; None: what the input has.
        flat: whether it wants a table (batch, features), whatever the input's shape.

    Raises:
        TypeError: naming the argument.

    Example:
        >>> import fwdgrad
        >>> model = NumpyModel(lambda rows: rows @ np.array([1.0, -2.0, 0.0, 0.0]), flat=True)
        >>> method = fwdgrad.ForwardGradient(scale=1.0, design="hadamard")
        >>> fwdgrad.explain(model, torch.zeros(2, 2), method=method, n_samples=64).attribution
        tensor([[ 1., -2.],
                [ 0.,  0.]])
    """

    def __init__(
        self, function: Callable[[Any], Any], *, dtype: Any = None, flat: bool = False
    ) -> None:
        """Checks the function."""
        if not callable(function):
            methods = [name for name in _METHODS if callable(getattr(function, name, None))]
            hint = f"; give its {' or '.join(methods)}" if methods else ""
            raise TypeError(f"function must be callable, got {type(function).__name__}{hint}")
        if isinstance(function, type):
            raise TypeError(f"function must be a function, got the class {function.__name__}")
        self.function, self.flat = function, flat
        self.dtype = None if dtype is None else np.dtype(dtype)

    def __call__(self, batch: Tensor) -> Any:
        """Samples (batch, ...) to scores, or to labels as they are."""
        rows = _array(batch, self.dtype)
        found = self.function(rows.reshape(len(rows), -1) if self.flat else rows)
        if hasattr(found, "toarray"):  # sparse
            found = found.toarray()
        if hasattr(found, "to_numpy"):  # a data frame
            found = found.to_numpy()
        return _scores(found)


class OnnxModel:
    """An ONNX model, run by ONNX Runtime, as a model for ``fwdgrad.explain``.

    Samples on the CPU are given to it without a copy. It can be pickled, as other processes need
    it: with the model's bytes, or the path to its file.

    Args:
        model: a file, its bytes, or an ``onnxruntime.InferenceSession``.
        input: the name of the input that is explained; None where there is one.
        output: the name of the output; None where there is one.
        fixed: the values of all other inputs, by name. Where an input's first axis is open, as that
            of the batch is, the value is of one sample and is repeated for each; its own axis of
            length 1 for the batch may be left out. Other values are given as they are.
        providers: ONNX Runtime's execution providers; None: the CPU.
        threads: that share a call; None: as many as torch has. A session has its own.

    Raises:
        TypeError, ValueError: naming the argument, what was given and what would do: an unknown
            name, an input that takes no floating numbers, ...
        ImportError: onnxruntime is not installed.
        ModelError: at a call, the input does not fit.
    """

    def __init__(
        self,
        model: Any,
        *,
        input: str | None = None,
        output: str | None = None,
        fixed: Mapping[str, Any] | None = None,
        providers: list[str] | None = None,
        threads: int | None = None,
    ) -> None:
        """Loads the model and checks names and types."""
        self.session = _session(
            model, providers, {} if threads is None else {"intra_op_num_threads": threads}
        )
        self.as_torch = threads is None and model is not self.session
        # By which a checkpoint recognises the model: its bytes, where they are known, and the rest.
        digest = hashlib.sha256(_bytes_of(model))
        inputs = {node.name: node for node in self.session.get_inputs()}
        outputs = {node.name: node for node in self.session.get_outputs()}
        for name in fixed or {}:
            if name not in inputs:
                raise ValueError(f"fixed must name inputs of the model, {_names(inputs)}: {name!r}")
        self.fixed = {name: _fixed(inputs[name], value) for name, value in (fixed or {}).items()}
        free = {name: node for name, node in inputs.items() if name not in self.fixed}
        chosen = _choose("input", input, free)
        others = sorted(set(free) - {chosen})
        if others:
            raise ValueError(f"fixed must give a value for {_names(others)}, got none")
        self.input, self.output = free[chosen], outputs[_choose("output", output, outputs)]
        if self.input.type not in _TYPES:
            raise TypeError(
                f"input {chosen!r} must take floating numbers, and takes {self.input.type}: noise "
                "cannot go on token numbers or bytes; give a model of embeddings or pixels"
            )
        self.dtype = _TYPES[self.input.type]
        digest.update(repr((self.input.name, self.output.name)).encode())
        for name, values in sorted(self.fixed.items()):
            digest.update(f"{name} {values.dtype} {values.shape}".encode() + values.tobytes())
        self.model_digest = digest.hexdigest()
        batch = (self.input.shape or [None])[0]
        self._repeated = [
            name for name, value in self.fixed.items() if _is_per_sample(inputs[name], value, batch)
        ]

    def __getstate__(self) -> dict[str, Any]:
        """What makes it again: the model, the session's options, names and values of inputs.

        Raises:
            TypeError: the session does not know what it was made of.
        """
        made_of = _made_of(self.session)
        if made_of is None:
            raise TypeError("a session without its model cannot be pickled: give OnnxModel bytes")
        options = self.session.get_session_options()
        return {
            "model": made_of if isinstance(made_of, bytes) else os.path.abspath(made_of),
            "providers": self.session.get_providers(),
            # Another process may have another part of the processors.
            "options": {
                name: getattr(options, name)
                for name in _SESSION_OPTIONS
                if not (name == "intra_op_num_threads" and self.as_torch)
            },
            "names": {"input": self.input.name, "output": self.output.name, "fixed": self.fixed},
            "digest": self.model_digest,
            "as_torch": self.as_torch,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Loads the model again.

        Raises:
            ValueError: its file is not there any more, or has changed.
        """
        session = _session(state["model"], state["providers"], state["options"])
        OnnxModel.__init__(self, session, **state["names"])
        self.as_torch = state["as_torch"]
        if self.model_digest != state["digest"]:
            raise ValueError(f"model {state['model']} has changed since it was loaded first")

    def __call__(self, batch: Tensor) -> Any:
        """Samples (batch, ...) to scores (batch, classes) or (batch,), or to labels as they are."""
        rows, shape = _array(batch, self.dtype), self.input.shape
        if shape is not None and (
            len(shape) != rows.ndim
            or any(
                isinstance(want, int) and want != have
                for want, have in zip(shape[1:], rows.shape[1:], strict=True)
            )
        ):
            raise ModelError(
                f"the ONNX model's input {self.input.name!r} is of shape {tuple(shape)}, got a "
                f"batch of shape {rows.shape}"
            )
        size = shape[0] if shape and isinstance(shape[0], int) else len(rows)
        found = [self._run(rows[at : at + size], size) for at in range(0, len(rows), size)]
        if isinstance(found[0], list):
            return [label for some in found for label in some]
        return torch.cat(found) if len(found) > 1 else found[0]

    def _run(self, rows: Any, size: int) -> Any:
        """Scores of up to ``size`` rows, which is what the model takes: the last is repeated."""
        missing = size - len(rows)
        if missing:
            rows = np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)])
        values = self.fixed | {
            name: np.repeat(self.fixed[name], len(rows), axis=0) for name in self._repeated
        }
        try:
            (found,) = self.session.run([self.output.name], {self.input.name: rows, **values})
        except Exception as error:
            reason = " ".join(str(error).split())
            raise ModelError(f"ONNX Runtime failed on a batch of {rows.shape}: {reason}") from error
        if isinstance(found, list) and found and isinstance(found[0], dict):  # a classifier's map
            found = np.array([list(one.values()) for one in found])
        return _scores(found)[: size - missing]


def _fixed(node: Any, value: Any) -> Any:
    """The value of another input as an array of its type, with as many axes."""
    values = np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value)
    wanted = _ALL_TYPES.get(node.type)
    if wanted is not None and np.can_cast(values.dtype, wanted, "same_kind"):
        values = values.astype(wanted)
    if node.shape and len(node.shape) == values.ndim + 1 and not isinstance(node.shape[0], int):
        return values[None]
    return values


def _is_per_sample(node: Any, value: Any, batch: Any) -> bool:
    """Whether the value of another input is to be repeated for each sample.

    Args:
        node: of the model; an open axis has a name, or None.
        value: as an array.
        batch: the first axis of the explained input.
    """
    if not node.shape or value.ndim != len(node.shape) or value.shape[0] != 1:
        return False
    first = node.shape[0]
    if isinstance(first, int) or (isinstance(first, str) and isinstance(batch, str)):
        return bool(first == batch)
    return True


def _array(batch: Tensor, dtype: Any) -> Any:
    """The samples as an array, of their own memory where that is possible."""
    batch = batch.detach().cpu()
    if batch.dtype == torch.bfloat16:  # which NumPy lacks
        batch = batch.float()
    rows = batch.numpy()
    return rows if dtype is None else np.ascontiguousarray(rows, dtype=dtype)


def _scores(found: Any) -> Any:
    """Numbers as a tensor; names as a list."""
    values = np.asarray(found)
    if values.dtype.kind in "US" or (
        values.dtype.kind == "O" and all(isinstance(value, str) for value in values.flat)
    ):
        return [str(value) for value in values.reshape(-1)]
    if values.dtype.kind not in "fiub":
        raise ModelError(
            f"the model must return numbers or labels, got {type(found).__name__} of {values.dtype}"
        )
    return torch.from_numpy(np.array(values))  # the model may keep its own


def _session(model: Any, providers: list[str] | None, options: Mapping[str, Any]) -> Any:
    """A session of a model with some options; a session as it is."""
    try:
        import onnxruntime
    except ImportError:
        raise ImportError(
            "OnnxModel needs onnxruntime: pip install 'fwdgrad-kernels[arrays]'"
        ) from None
    if isinstance(model, onnxruntime.InferenceSession):
        return model
    if isinstance(model, (str, os.PathLike)):
        model = os.fspath(model)
        if not os.path.isfile(model):
            raise FileNotFoundError(f"model {model} does not exist as a file")
    elif not isinstance(model, bytes):
        raise TypeError(f"model must be a path, bytes or a session, got {type(model).__name__}")
    wanted = onnxruntime.SessionOptions()
    for name, value in {"intra_op_num_threads": torch.get_num_threads(), **options}.items():
        setattr(wanted, name, value)
    # On a busy machine threads that spin wait for each other's turns.
    wanted.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers = providers or ["CPUExecutionProvider"]
    try:
        return onnxruntime.InferenceSession(model, wanted, providers=providers)
    except Exception as error:
        name = model if isinstance(model, str) else f"of {len(model)} bytes"
        reason = " ".join(str(error).split())
        raise ValueError(f"model {name} cannot be loaded by ONNX Runtime: {reason}") from None


def _made_of(session: Any) -> Any:
    """The bytes or the path that a session was made of; None where it does not keep them."""
    own = (getattr(session, name, None) for name in ("_model_bytes", "_model_path"))
    return next((one for one in own if one), None)


def _bytes_of(model: Any) -> bytes:
    """A model's bytes; none where a session does not keep them."""
    if not isinstance(model, (str, os.PathLike, bytes)):
        model = _made_of(model) or b""
    if isinstance(model, bytes):
        return model
    try:
        with open(model, "rb") as file:
            return file.read()
    except OSError:  # it has been removed since
        return b""


def _names(nodes: Any) -> str:
    return ", ".join(map(repr, nodes))


def _choose(argument: str, name: str | None, nodes: Mapping[str, Any]) -> str:
    if name is None and len(nodes) == 1:
        return next(iter(nodes))
    if name is None or name not in nodes:
        raise ValueError(f"{argument} must be one of {_names(nodes)}, got {name!r}")
    return name
