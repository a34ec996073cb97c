"""Writes an ONNX model, without torch's exporter and without the package onnx.

A model is a message of Protocol Buffers: fields, each a number and a value. What is here is what a
network of float32 with one input and one output needs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_IR, _OPSET = 8, 13  # which ONNX Runtime has read since 1.10, of 2021
_FLOAT = 1  # TensorProto.FLOAT
_KINDS = {float: (2, 1), int: (3, 2), list: (8, 7)}  # AttributeProto: of a value its field and type


def onnx_model(
    nodes: Sequence[bytes],
    weights: Mapping[str, Any],
    input: tuple[str, Sequence[int | str]],
    output: tuple[str, Sequence[int | str]],
) -> bytes:
    """The bytes of a model.

    Args:
        nodes: of ``onnx_node``, in the order of their calls.
        weights: arrays by the names that nodes know them by; they are written as float32.
        input: its name and shape; an axis that is a name is open.
        output: the same.

    Returns:
        What ``onnxruntime.InferenceSession`` takes.

    Example:
        >>> double = [onnx_node("Mul", ["x", "two"], "y")]
        >>> len(onnx_model(double, {"two": [2.0]}, ("x", ["batch"]), ("y", ["batch"])))
        96
    """
    graph = [_field(1, node) for node in nodes]
    graph.append(_field(2, "network"))
    for name, values in weights.items():
        array = np.asarray(values, dtype="<f4")
        shape = b"".join(_field(1, size) for size in array.shape)
        tensor = shape + _field(2, _FLOAT) + _field(8, name) + _field(9, array.tobytes())
        graph.append(_field(5, tensor))
    graph += [_field(11, _value(*input)), _field(12, _value(*output))]
    return _field(1, _IR) + _field(7, b"".join(graph)) + _field(8, _field(2, _OPSET))


def onnx_node(operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> bytes:
    """One operator's call.

    Args:
        operator: of ONNX's standard ones, such as "Conv".
        inputs: names of weights, of the model's input or of other nodes' outputs.
        output: the name of what it gives.
        **attributes: integers, floats or lists of integers.
    """
    parts = [_field(1, name) for name in inputs]
    parts += [_field(2, output), _field(4, operator)]
    for name, value in attributes.items():
        field, kind = _KINDS[type(value)]
        values = value if isinstance(value, list) else [value]
        held = b"".join(_field(field, one) for one in values)
        parts.append(_field(5, _field(1, name) + held + _field(20, kind)))
    return b"".join(parts)


def _value(name: str, shape: Sequence[int | str]) -> bytes:
    """A ValueInfoProto of float32."""
    axes = [_field(2 if isinstance(size, str) else 1, size) for size in shape]
    tensor = _field(1, _FLOAT) + _field(2, b"".join(_field(1, axis) for axis in axes))
    return _field(1, name) + _field(2, _field(1, tensor))


def _field(number: int, value: bytes | str | int | float) -> bytes:
    """A field of a message: integers as varints, floats in four bytes, all else by its length."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    if isinstance(value, float):
        return _varint(number << 3 | 5) + np.asarray(value, dtype="<f4").tobytes()
    held = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(held)) + held


def _varint(value: int) -> bytes:
    """An integer from 0 in groups of seven bits, the lowest first."""
    held = bytearray()
    while value > 127:
        held.append(value & 127 | 128)
        value >>= 7
    return bytes([*held, value])
