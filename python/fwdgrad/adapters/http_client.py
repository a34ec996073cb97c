"""Requests to a server: retried, held to a rate, and failures told in a line without secrets.

The client is httpx2, by which httpx is carried on. A library for retries would be no shorter: what
a failure means depends on which requests went well before, and a server that asks one request to
wait asks all of them.
"""

from __future__ import annotations

import dataclasses
import datetime
import email.utils
import json
import random
import re
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from fwdgrad.adapters.http_arguments import (
    checked_headers,
    checked_url,
    from_environment,
    positive,
    secrets_of,
)
from fwdgrad.checks import check_integer
from fwdgrad.errors import Message, ModelError, Option
from fwdgrad.outputs import told
from fwdgrad.terminal import plain

if TYPE_CHECKING:
    import httpx2

T = TypeVar("T")

_AGAIN = {408, 425, 429}  # and 5xx but 501: another try may do
_OF_ALL = {401, 403, 404, 405, 407, 410, 413, 414, 415, 501}  # every request would have it
_FIRST_WAIT, _LONGEST_WAIT = 0.05, 30.0  # seconds before another try; each is three times as long
_LONGEST_HOLD = 300.0  # seconds that a server may ask for
_HINTS = {
    401: "give the key as headers_from={'Authorization': 'Bearer $NAME'}, NAME being a variable of "
    "the environment",
    403: "the key in headers_from may not use it",
    404: "look at the path of url, and at the model's name",
    405: "look at the path of url",
    500: "look at the server's log, and at what it was sent",
}


class Missing(Exception):
    """One request failed for good, others went well; its text says why."""


class Useless(Exception):
    """An answer that no scores can be read from; its text says why."""


@dataclasses.dataclass(frozen=True)
class _Failure:
    """Why a request failed.

    Attributes:
        reason: what the server did, in words.
        text: what it said, which may differ each time.
        hint: what would do.
        again: whether another try may go well.
        of_all: whether every request would fail, so that there is no use to go on without it.
        hold: seconds that the server asks to wait.
        limited: whether it says that there were too many requests.
    """

    reason: str
    text: str = ""
    hint: str | Message = ""
    again: bool = False
    of_all: bool = False
    hold: float = 0.0
    limited: bool = False


class Client:
    """Sends requests to one server, from several threads at a time.

    Args:
        url: where to, http:// or https://.
        headers: for every request; they may be secrets.
        headers_from: headers whose values name variables of the environment, as in
            ``{"Authorization": "Bearer $API_KEY"}``.
        concurrency: connections at most.
        timeout: seconds that a server may be silent.
        retries: further tries after a failure that may pass.
        rate: requests a second at most; None: no limit.
        **options: of ``httpx2.Client``: ``verify=ssl.create_default_context(cafile=...)``,
            ``proxy=``, ``auth=``, ``http2=``, ``trust_env=``, ...

    Attributes:
        shown: the URL without its query, for messages.

    Raises:
        ImportError: httpx2 is not installed.
        TypeError, ValueError: naming the argument; values of headers are not shown.

    Example:
        >>> import httpx2
        >>> server = httpx2.MockTransport(lambda request: httpx2.Response(200, json=[1, 2]))
        >>> client = Client("http://model.test/scores?key=secret", transport=server)
        >>> client, client.send(Client.json)
        (Client('http://model.test/scores'), [1, 2])
    """

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        headers_from: Mapping[str, str] | None = None,
        concurrency: int = 4,
        timeout: float = 30.0,
        retries: int = 5,
        rate: float | None = None,
        **options: Any,
    ) -> None:
        """Makes the connections' pool; nothing is sent."""
        try:
            import httpx2
        except ImportError:
            raise ImportError(
                "a model behind HTTP needs httpx2: pip install 'fwdgrad-kernels[http]'"
            ) from None
        self._errors = httpx2
        self._url = checked_url(url)
        self.shown = str(self._url.copy_with(query=None, fragment=None))
        self.concurrency = check_integer("concurrency", concurrency, 1)
        self.retries = check_integer("retries", retries, 0)
        self.timeout = positive("timeout", timeout)
        self.rate = None if rate is None else positive("rate", rate)
        values = checked_headers("headers", headers)
        values |= checked_headers("headers_from", from_environment(headers_from))
        self._secrets = secrets_of(values, self._url, options)
        limits = httpx2.Limits(
            max_connections=self.concurrency, max_keepalive_connections=self.concurrency
        )
        waits = httpx2.Timeout(self.timeout, pool=None)
        self._http = httpx2.Client(headers=values, timeout=waits, limits=limits, **options)
        weakref.finalize(self, self._http.close)
        self._pace = _Pace(self.rate)
        self._lock = threading.Lock()
        self._answered = False  # whether there ever was an answer of any kind
        self._proven = -1  # samples of the largest request that went well
        self._good = 0  # requests that went well
        self._random = random.Random()  # of one's own: the run may rely on others

    def __repr__(self) -> str:
        """Without query and headers."""
        return f"Client({self.shown!r})"

    def send(
        self,
        read: Callable[[httpx2.Response], T],
        *,
        method: str = "POST",
        path: str = "",
        content: bytes = b"",
        headers: Mapping[str, str] | None = None,
        rows: int = 0,
    ) -> T:
        """Sends a request until it goes well or has failed for good.

        Args:
            read: what is made of the response; raises ``Useless`` where that fails.
            method: of the request.
            path: added to that of the URL.
            content: the body.
            headers: beside those of all requests.
            rows: samples in it; where no request with as many has gone well yet, a failure is
                taken for one that every request would have.

        Raises:
            ModelError: every request would fail: what happened, and what would do.
            Missing: this one failed for good, and others go well.
        """
        url = self._url.copy_with(path=self._url.path.rstrip("/") + path) if path else self._url
        tries = waits = 0
        while True:
            good_before = self._good
            self._pace.wait()
            failure = self._attempt(read, rows, method, url, content, headers)
            if not isinstance(failure, _Failure):
                return failure
            with self._lock:
                proven, others_go_well = rows <= self._proven, self._good > good_before
            # A server that lets others through and asks this one to come again is not failing.
            tries += not (failure.limited and others_go_well)
            if failure.again and tries <= self.retries:
                if failure.hold:
                    self._pace.hold(failure.hold)
                else:
                    longest = min(_FIRST_WAIT * 3**waits, _LONGEST_WAIT)
                    time.sleep(longest * self._random.uniform(0.5, 1.5))
                waits += 1
                continue
            if proven and not failure.of_all:
                raise Missing(failure.reason)
            times = f" ({tries} times)" if tries > 1 else ""
            text = f": {failure.text}" if failure.text else ""
            hint = Message("; ", failure.hint) if failure.hint else ""
            raise ModelError(Message(f"{self.shown} {failure.reason}{times}{text}", hint))

    def _attempt(
        self,
        read: Callable[[httpx2.Response], T],
        rows: int,
        method: str,
        url: httpx2.URL,
        content: bytes,
        headers: Mapping[str, str] | None,
    ) -> T | _Failure:
        try:
            response = self._http.request(method, url, content=content, headers=headers)
        except self._errors.RequestError as error:
            return self._of_transport(error, rows)
        self._answered = True
        if not response.is_success:
            return self._of_status(response, rows, len(content))
        try:
            found = read(response)
        except Useless as error:
            proven = rows <= self._proven
            hint = Message("a server of single samples needs ", Option("batch_size", 1))
            return _Failure(self.hidden(str(error)), "", hint if rows > 1 else "", again=proven)
        with self._lock:
            self._proven = max(self._proven, rows)
            self._good += 1
        return found

    def _of_transport(self, error: httpx2.RequestError, rows: int) -> _Failure:
        """What is said of an error without a response."""
        http, text = self._errors, self.hidden(told(error, 150))
        if "CERTIFICATE_VERIFY_FAILED" in text:
            return _Failure(
                "has a certificate that is not trusted",
                text,
                "give verify=ssl.create_default_context(cafile=...) with the authority's",
                of_all=True,
            )
        hint: str
        if isinstance(error, (http.ConnectError, http.ConnectTimeout, http.ProxyError)):
            # A server that is started again comes back.
            hint = "look at the host and port of url, and whether the server runs"
            return _Failure("cannot be reached", text, hint, again=self._answered, of_all=True)
        if isinstance(error, (http.LocalProtocolError, http.UnsupportedProtocol)):
            return _Failure("cannot be sent the request", text, of_all=True)
        if isinstance(error, http.TimeoutException):
            fewer = Message(" or a smaller ", Option("batch_size")) if rows > 1 else ""
            hint = Message("give a longer ", Option("timeout"), fewer)
            return _Failure(f"did not answer within {self.timeout:g} s", "", hint, again=True)
        if isinstance(error, http.DecodingError):
            return _Failure("sent an answer that cannot be decompressed", again=True)
        return _Failure("closed the connection in the middle of an answer", again=True)

    def _of_status(self, response: httpx2.Response, rows: int, size: int) -> _Failure:
        """What is said of a response that is no success."""
        status = response.status_code
        reason = f"answered {status} {response.reason_phrase}".rstrip()
        if response.is_redirect:
            where = self._url.join(response.headers.get("location", "")).copy_with(query=None)
            return _Failure(reason, "", f"give url={str(where)!r}", of_all=True)
        text = self._excerpt(response)
        hint: str = _HINTS.get(500 if status in (400, 422) and rows == 1 else status, "")
        if status == 413:
            fewer = Message("give ", Option("batch_size", max(1, rows // 2)), ", say")
            hint = fewer if rows > 1 else "send less of a sample: a JPEG or a smaller picture, say"
            reason += f" to a body of {size:,} bytes"
        elif rows > 1 and not hint:
            hint = Message("a server of single samples needs ", Option("batch_size", 1))
        hold = _retry_after(response.headers.get("retry-after"))
        if hold > _LONGEST_HOLD:
            hint = "run it again then; checkpoint= keeps the scores until then"
            return _Failure(f"{reason} and asks to wait {hold:.0f} s", "", hint, of_all=True)
        if status == 429:
            hint = Message("give fewer requests a second by ", Option("rate"))
        again = status in _AGAIN or (status >= 500 and status != 501)
        return _Failure(reason, text, hint, again, status in _OF_ALL, hold, status == 429)

    @staticmethod
    def json(response: httpx2.Response) -> Any:
        """What a response has in JSON.

        Raises:
            Useless: it is none.
        """
        try:
            return json.loads(response.content)
        except ValueError:  # of the text or of its encoding
            start = response.content[:60].decode(errors="replace")
            raise Useless(f"answered what is no JSON: {plain(start)!r}") from None

    def hidden(self, text: str) -> str:
        """A text with a mark in place of every secret that it has."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return plain(text)

    def _excerpt(self, response: httpx2.Response) -> str:
        if "html" in response.headers.get("content-type", ""):
            return ""
        return told(self.hidden(response.text[:10_000]), 120)


class _Pace:
    """When a request may start: so many a second, and none while the server asks to wait."""

    def __init__(self, rate: float | None) -> None:
        self._gap = 0.0 if rate is None else 1 / rate
        self._next = 0.0
        self._lock = threading.Lock()

    def wait(self) -> None:
        with self._lock:
            now = time.monotonic()
            start = max(now, self._next)
            self._next = start + self._gap
        if start > now:
            time.sleep(start - now)

    def hold(self, seconds: float) -> None:
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)


def _retry_after(value: str | None) -> float:
    """Seconds that a server asks to wait, from a number or a date; 0 where it does not.

    >>> _retry_after("1.5"), _retry_after("Wed, 21 Oct 2015 07:28:00 GMT"), _retry_after("soon")
    (1.5, 0.0, 0.0)
    """
    if value is None:
        return 0.0
    if re.fullmatch(r"\d+(\.\d+)?", value.strip()):
        return float(value)
    try:
        date = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    now = datetime.datetime.now(datetime.timezone.utc)
    if date.tzinfo is None:  # "-0000" says that the zone is unknown
        date = date.replace(tzinfo=datetime.timezone.utc)
    return max(0.0, (date - now).total_seconds())
