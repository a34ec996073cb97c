"""Models behind the Open Inference Protocol, version 2 over HTTP: KServe, Triton, MLServer."""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fwdgrad.adapters.http import RequestModel, in_json
from fwdgrad.adapters.http_client import Client, Useless
from fwdgrad.errors import ArgumentError, Message, ModelError, Option
from fwdgrad.outputs import told

if TYPE_CHECKING:
    import httpx2

# The protocol's names, and what their bytes are: little-endian.
_TYPES = {
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
    "INT8": "<i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "UINT8": "<u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
}
_OF_TENSORS = {torch.float16: "FP16", torch.float64: "FP64"}  # all else goes as FP32
_LENGTH = "Inference-Header-Content-Length"  # of the JSON, where tensors' bytes follow it


class OpenInference(RequestModel):
    """A model that a server offers by the Open Inference Protocol v2: KServe, Triton, MLServer.

    The model's metadata tell the names, shapes and types of its input and output; what they leave
    out (MLServer's often do) takes a default or is to be given. Failures are as ``HttpModel`` has
    them.

    Args:
        url: of the server, such as ``"http://localhost:8000"``; ``/v2/models/...`` is added.
        model: its name there.
        input_name: of the input that is explained; None where there is one.
        output_name: of the scores; None where there is one. Of scikit-learn in MLServer it is
            ``"predict_proba"``.
        binary: whether tensors go as bytes, and not as numbers in JSON: faster, and an extension
            that Triton has and MLServer has not.
        datatype: of the input, such as ``"FP32"``; None: what the metadata say. Integers take
            the nearest to each value.
        version: of the model; None: the server's choice.
        labels, batch_size, max_missing: see ``HttpModel``.
        **options: concurrency, timeout, retries, rate, headers, headers_from, and those of
            ``httpx2.Client``, see ``HttpModel``.

    Attributes:
        metadata: what the server says of the model.

    Raises:
        ImportError: httpx2 is not installed.
        TypeError, ValueError: naming the argument, what was given and what would do.
        ModelError: the server does not answer, or has no such model.

    Example:
        A server of the sum of three numbers, made here of a function:

        >>> import httpx2
        >>> def answer(request):
        ...     if request.method == "GET":
        ...         tensor = {"name": "x", "datatype": "FP32", "shape": [-1, 3]}
        ...         return httpx2.Response(200, json={"inputs": [tensor], "outputs": []})
        ...     (sent,) = json.loads(request.content)["inputs"]
        ...     sums = np.reshape(sent["data"], sent["shape"]).sum(1)
        ...     found = {"name": "y", "datatype": "FP64", "shape": [len(sums)]}
        ...     return httpx2.Response(200, json={"outputs": [{**found, "data": sums.tolist()}]})
        >>> server = httpx2.MockTransport(answer)
        >>> OpenInference("http://model.test", "sum", transport=server)(torch.ones(2, 3))
        tensor([3., 3.], dtype=torch.float64)

    Source: *Open Inference Protocol*, https://github.com/kserve/open-inference-protocol, its REST
    part and its extension for binary tensors.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        input_name: str | None = None,
        output_name: str | None = None,
        binary: bool = False,
        datatype: str | None = None,
        version: str | None = None,
        labels: Sequence[str] | None = None,
        batch_size: int | None = None,
        max_missing: float = 0.1,
        **options: Any,
    ) -> None:
        """Asks the server for the model's metadata."""
        super().__init__(
            Client(url, **options), labels=labels, batch_size=batch_size, max_missing=max_missing
        )
        place = f"/v2/models/{urllib.parse.quote(model, safe='')}"
        if version is not None:
            place += f"/versions/{urllib.parse.quote(str(version), safe='')}"
        self.metadata = self.client.send(_metadata, method="GET", path=place)
        self.path = place + "/infer"
        self.binary = binary
        inputs, outputs = (_by_name(self.metadata, kind) for kind in ("inputs", "outputs"))
        self.input_name = _chosen("input_name", input_name, inputs) or "input-0"
        self.output_name = _chosen("output_name", output_name, outputs)
        known = inputs.get(self.input_name, {})
        self.datatype = known.get("datatype") if datatype is None else datatype
        if self.datatype is not None and self.datatype not in _TYPES:
            raise ArgumentError(
                "datatype",
                f"must be one of {', '.join(_TYPES)}, got {self.datatype!r}"
                + (f" of the model's input {self.input_name!r}" if datatype is None else ""),
            )
        self._shape = known.get("shape")
        if batch_size is None and self._shape and self._shape[0] == 1:
            self.batch_size = 1

    def _asked(self, samples: Tensor) -> Tensor:
        try:
            return super()._asked(samples)
        except ModelError as error:
            if not self.binary or self._columns is not None:
                raise
            hint = "; a server without the extension for bytes, such as MLServer, needs "
            raise ModelError(Message(error, hint, Option("binary", False))) from None

    def encoded(self, samples: Tensor) -> tuple[bytes, dict[str, str]]:
        """A request for their scores."""
        self._check_shape(tuple(samples.shape))
        datatype = self.datatype or _OF_TENSORS.get(samples.dtype, "FP32")
        kind = np.dtype(_TYPES[datatype])
        values = samples.double().numpy() if kind.kind in "iu" else samples.float().numpy()
        if kind.kind in "iu":
            bounds = np.iinfo(kind)
            values = values.round().clip(bounds.min, bounds.max)
        elif samples.dtype == torch.float64:
            values = samples.numpy()
        values = np.ascontiguousarray(values.astype(kind))
        sent: dict[str, Any] = {
            "name": self.input_name, "shape": list(values.shape), "datatype": datatype
        }  # fmt: skip
        body: dict[str, Any] = {"inputs": [sent]}
        if self.output_name is not None:
            body["outputs"] = [{"name": self.output_name}]
        if not self.binary:
            sent["data"] = values.reshape(-1).tolist()
            return in_json(body)
        sent["parameters"] = {"binary_data_size": values.nbytes}
        if self.output_name is None:
            body["parameters"] = {"binary_data_output": True}
        else:
            body["outputs"][0]["parameters"] = {"binary_data": True}
        start = json.dumps(body).encode()
        headers = {"Content-Type": "application/octet-stream", _LENGTH: str(len(start))}
        return start + values.tobytes(), headers

    def decoded(self, response: httpx2.Response, samples: int) -> Tensor:
        """The scores in an answer: numbers in JSON, or bytes after it."""
        length = response.headers.get(_LENGTH)
        if length is None:
            found, rest = Client.json(response), b""
        else:
            content = response.content
            found, rest = json.loads(content[: int(length)]), content[int(length) :]
        outputs = found["outputs"]
        names = [one["name"] for one in outputs]
        if self.output_name is None and len(names) != 1:
            raise ModelError(
                f"{self.client.shown} returned {', '.join(map(str, names))}: give output_name="
            )
        wanted = names[0] if self.output_name is None else self.output_name
        if wanted not in names:
            raise Useless(f"has no output {wanted!r}, but {told(', '.join(map(str, names)), 100)}")
        for one in outputs:
            size = (one.get("parameters") or {}).get("binary_data_size")
            data, rest = (None, rest) if size is None else (rest[:size], rest[size:])
            if one["name"] == wanted:
                return _tensor(one, data)
        raise AssertionError  # it is among the names

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        """Raises where samples do not fit into the model's input."""
        wanted = self._shape
        if not wanted:
            return
        fits = len(wanted) == len(shape) and all(
            one in (-1, None, other) for one, other in zip(wanted[1:], shape[1:], strict=True)
        )
        if not fits:
            raise ModelError(
                f"its input {self.input_name!r} takes {tuple(wanted)}, the batch first (-1 is any "
                f"number), got {shape}"
            )


def _metadata(response: httpx2.Response) -> dict[str, Any]:
    found = Client.json(response)
    if not isinstance(found, dict):
        raise Useless("answered what is no metadata of a model")
    return found


def _by_name(metadata: dict[str, Any], kind: str) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in metadata.get(kind) or []}


def _chosen(argument: str, name: str | None, known: dict[str, Any]) -> str | None:
    """The tensor that is meant; None where nothing says."""
    if (len(known) > 1) if name is None else (known and name not in known):
        raise ArgumentError(argument, f"must be one of {told(', '.join(known), 200)}, got {name!r}")
    return name if name is not None else next(iter(known), None)


def _tensor(output: dict[str, Any], data: bytes | None) -> Tensor:
    """An output's numbers."""
    datatype, shape = output["datatype"], output["shape"]
    if datatype == "BF16" and data is not None:
        wide = np.frombuffer(data, "<u2").astype("<u4") << 16
        return torch.from_numpy(wide.view("<f4").reshape(shape).astype(np.float32))
    if datatype not in _TYPES:
        raise Useless(f"has an output of {datatype}, which are no scores: give output_name=")
    kind = np.dtype(_TYPES[datatype])
    found = np.frombuffer(data, kind) if data is not None else np.asarray(output["data"], kind)
    return torch.from_numpy(found.reshape(shape).astype(kind.newbyteorder("=")))
