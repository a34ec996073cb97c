"""Models behind HTTP: a request for each micro-batch, in whatever JSON the server speaks."""

from __future__ import annotations

import base64
import collections
import io
import json
import math
import sys
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fwdgrad.adapters.http_client import Client, Missing, Useless
from fwdgrad.checks import check_integer, check_number
from fwdgrad.errors import ArgumentError, Message, ModelError, Option
from fwdgrad.names import ClassNames, check_labels
from fwdgrad.outputs import cause, tensor_of, told
from fwdgrad.terminal import say

if TYPE_CHECKING:
    import httpx2


class RequestModel:
    """A model whose micro-batches are requests; several threads may call it at a time.

    What a request is and how its answer is read, ``encoded`` and ``decoded`` say.

    Args:
        client: sends them.
        labels: the classes' names, in their order, to name a target by.
        batch_size: samples in a request at most; None: all that a call has.
        max_missing: the share of samples that may go without scores.

    Attributes:
        concurrency: requests at a time.
        batch_size: samples in a request at most; 0: all that a call has.
        failures: how many samples have no scores, by the reason: their requests failed for good.
    """

    def __init__(
        self,
        client: Client,
        *,
        labels: Sequence[str] | None = None,
        batch_size: int | None = None,
        max_missing: float = 0.1,
    ) -> None:
        """Checks the options."""
        self.client, self.concurrency = client, client.concurrency
        self.labels = None if labels is None else check_labels("labels", labels)
        self.batch_size = 0 if batch_size is None else check_integer("batch_size", batch_size, 1)
        self.max_missing = check_number("max_missing", max_missing)
        if not 0 <= self.max_missing <= 1:
            raise ArgumentError("max_missing", f"must lie in 0 .. 1, got {max_missing}")
        self.failures: collections.Counter[str] = collections.Counter()
        self._lock = threading.Lock()
        self._columns: torch.Size | None = None  # the axes of an answer after the samples'

    def __repr__(self) -> str:
        """Without query and headers."""
        return f"{type(self).__name__}({self.client.shown!r})"

    def encoded(self, samples: Tensor) -> tuple[bytes, dict[str, str]]:
        """The body and the headers of a request."""
        raise NotImplementedError

    def decoded(self, response: httpx2.Response, samples: int) -> Any:
        """The scores in an answer; an error says that they cannot be read."""
        raise NotImplementedError

    def __call__(self, batch: Tensor) -> Tensor:
        """Samples (batch, ...) to scores (batch, classes) or (batch,); NaN where there are none.

        Raises:
            ModelError: a request failed, and every other would.
        """
        rows = batch.detach().cpu()
        return torch.cat([self._asked(part) for part in rows.split(self.batch_size or len(rows))])

    def _asked(self, samples: Tensor) -> Tensor:
        content, headers = self.encoded(samples)
        try:
            found = self.client.send(
                lambda response: self._scores(response, len(samples)),
                path=self.path,
                content=content,
                headers=headers,
                rows=len(samples),
            )
        except Missing as reason:
            assert self._columns is not None  # other requests went well
            found = torch.full((len(samples), *self._columns), math.nan, dtype=torch.float64)
            self._note(str(reason), len(samples))
        return found

    path = ""
    _unread = "what cannot be read"

    def _scores(self, response: httpx2.Response, samples: int) -> Tensor:
        try:
            found = tensor_of(self.decoded(response, samples), None)
        except Useless:
            raise
        except Exception as error:
            start = told(self.client.hidden(response.text[:200]), 80)
            raise Useless(f"answered {self._unread} ({cause(error)}): {start}") from None
        if found.dim() == 0:
            found = found.reshape(1)
        if len(found) != samples:
            hint = Message("; give ", Option("batch_size", 1)) if samples > 1 else ""
            raise ModelError(
                Message(
                    f"{self.client.shown} gave {len(found)} rows of scores for {samples} "
                    f"sample{'s' * (samples > 1)}: an answer must have a row for each",
                    hint,
                )
            )
        if self._columns not in (None, found.shape[1:]):
            raise Useless(f"gave scores of another shape than before: {told(found.shape)}")
        self._columns = found.shape[1:]
        if found.is_floating_point():
            bad = int((~found.isfinite()).reshape(samples, -1).any(1).sum())
            if bad:
                self._note("gave scores that are not finite", bad)
        return found

    def _note(self, reason: str, samples: int) -> None:
        with self._lock:
            self.failures[reason] += samples

    def find(self, name: str) -> int:
        """The class of a name.

        Raises:
            ValueError: no class has it, or several have.
        """
        if self.labels is None:
            raise ArgumentError("target", f"must be a number without labels=, got {name!r}")
        return ClassNames(self.labels).find(name, "target", "the model")

    def announce(self, n_samples: int, batch_size: int = 0, is_most: bool = False) -> None:
        """Says on standard error how many requests that many samples take.

        Args:
            n_samples: of the run.
            batch_size: samples in a micro-batch, where the run has it.
            is_most: whether the run may end with fewer.
        """
        sizes = [size for size in (self.batch_size, batch_size) if size]
        requests = -(-n_samples // min(sizes, default=1))
        most = "at most " if is_most or not sizes else ""
        text = f"{most}{requests:,} requests to {self.client.shown}, {self.concurrency} at a time"
        if self.client.rate is not None:
            text += f", at least {requests / self.client.rate:,.0f} s at that rate"
        say(text, sys.stderr)


class HttpModel(RequestModel):
    """A model behind HTTP that takes and returns JSON, through two functions.

    A request that fails is tried again: after a growing wait, or the one that the server asks for
    (``Retry-After``). One that fails for good leaves its samples without scores, and the run goes
    on; ``failures`` counts why. What every request would meet (no server, no such path, a wrong
    key, an answer that ``decode`` cannot read) ends the run at once.

    Args:
        url: where requests are posted to.
        encode: from samples (batch, ...) on the CPU to what JSON has: ``lambda batch:
            {"images": [picture_png(row) for row in batch]}``. Several threads call it.
        decode: from the answer's JSON to scores (batch, classes) or (batch,).
        labels: the classes' names, in their order, to name a target by.
        batch_size: samples in a request at most; None: as many as the run has in a micro-batch.
        concurrency: requests at a time.
        timeout: seconds that the server may be silent.
        retries: further tries of a request.
        rate: requests a second at most; None: no limit.
        max_missing: the share of samples that may go without scores.
        headers: of every request.
        headers_from: headers with variables of the environment in them, as in
            ``{"Authorization": "Bearer $API_KEY"}``. Neither these nor ``headers`` are shown or
            written to a file. A key in ``url`` is not shown by this class, but a proxy or a log
            of httpx2 may.
        **options: of ``httpx2.Client``: ``verify=ssl.create_default_context(cafile=...)``,
            ``proxy=``, ``auth=``, ``http2=``, ...

    Raises:
        ImportError: httpx2 is not installed.
        TypeError, ValueError: naming the argument, what was given and what would do.

    Example:
        A server that adds up each row's numbers, made here of a function:

        >>> import fwdgrad, httpx2
        >>> def answer(request):
        ...     rows = json.loads(request.content)["rows"]
        ...     return httpx2.Response(200, json={"scores": [sum(row) for row in rows]})
        >>> model = HttpModel(
        ...     "http://model.test/score",
        ...     encode=lambda batch: {"rows": batch.tolist()},
        ...     decode=lambda found: found["scores"],
        ...     transport=httpx2.MockTransport(answer),
        ... )
        >>> method = fwdgrad.ForwardGradient(scale=1.0, design="hadamard")
        >>> fwdgrad.explain(model, torch.zeros(3), method=method, n_samples=64).attribution
        tensor([1., 1., 1.])
    """

    _unread = "what decode cannot read"

    def __init__(
        self,
        url: str,
        *,
        encode: Callable[[Tensor], Any],
        decode: Callable[[Any], Any],
        labels: Sequence[str] | None = None,
        batch_size: int | None = None,
        max_missing: float = 0.1,
        **options: Any,
    ) -> None:
        """Checks the arguments; nothing is sent."""
        for name, function in (("encode", encode), ("decode", decode)):
            if not callable(function):
                raise TypeError(f"{name} must be a function, got {type(function).__name__}")
        super().__init__(
            Client(url, **options), labels=labels, batch_size=batch_size, max_missing=max_missing
        )
        self._encode, self._decode = encode, decode

    def encoded(self, samples: Tensor) -> tuple[bytes, dict[str, str]]:
        """What ``encode`` makes of them, in JSON."""
        return in_json(self._encode(samples))

    def decoded(self, response: httpx2.Response, samples: int) -> Any:
        """What ``decode`` makes of the answer."""
        return self._decode(Client.json(response))


def in_json(value: Any) -> tuple[bytes, dict[str, str]]:
    """A body in JSON and its header.

    >>> in_json({"rows": [[0.5]]})
    (b'{"rows": [[0.5]]}', {'Content-Type': 'application/json'})
    """
    try:
        return json.dumps(value).encode(), {"Content-Type": "application/json"}
    except TypeError as error:
        text = f"encode must return what JSON has: {error}; give tensor.tolist()"
        raise TypeError(text) from None


def picture_png(row: Tensor) -> str:
    """A picture as PNG in base64: 256 levels a pixel, nothing lost beyond.

    Args:
        row: (1 or 3, H, W), values in [0, 1].

    Example:
        >>> picture_png(torch.zeros(3, 8, 8))[:8]
        'iVBORw0K'
    """
    return _picture(row, "PNG")


def picture_jpeg(row: Tensor, quality: int = 95) -> str:
    """A picture as JPEG in base64: smaller than PNG, and what it loses disturbs each sample.

    Args:
        row: (1 or 3, H, W), values in [0, 1].
        quality: 1 .. 100, as Pillow has it.

    Example:
        >>> picture_jpeg(torch.zeros(3, 8, 8))[:4]
        '/9j/'
    """
    return _picture(row, "JPEG", quality=quality)


def _picture(row: Tensor, kind: str, **options: Any) -> str:
    try:
        from PIL import Image
    except ImportError:
        raise ImportError("a picture needs Pillow: pip install 'fwdgrad-kernels[image]'") from None
    if row.dim() != 3 or row.shape[0] not in (1, 3):
        raise ArgumentError(
            "row", f"must be one picture (1 or 3, H, W) of a batch, got {tuple(row.shape)}"
        )
    levels = row.detach().float().clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0)
    file = io.BytesIO()
    Image.fromarray(levels.squeeze(2).cpu().numpy()).save(file, kind, **options)
    return base64.b64encode(file.getvalue()).decode()
