"""What ranks of a run do: rank 0, which hands out the work, and the others."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from fwdgrad.errors import CheckpointError, Message, ModelError
from fwdgrad.interrupts import Interrupts
from fwdgrad.outputs import cause
from fwdgrad.runner.links import BYE, FAILED, OBJECT, OVER, SCORES, WORK, Link, bytes_of, object_of
from fwdgrad.runner.work import Found
from fwdgrad.runner.workers import Pool, Shared, Threads

QUEUED = 2  # ranges that a rank has: the one it is at, and the next
_GRACE_SECONDS = 10.0  # for the others to hear that it is over ...
_WORD_SECONDS = 1.0  # ... and, of a rank that is interrupted, for rank 0 to say why

_PLAIN = (ModelError, CheckpointError, ValueError, TypeError)  # whose messages need no type

Compare = Callable[[list[Any]], str]


class RanksDifferError(ValueError):
    """Ranks do not have the same input, seed, model or options."""


class _InterruptedError(ModelError):
    """A rank was interrupted."""


_TOLD: dict[str, type[Exception]] = {  # errors that rank 0 tells as what they are
    "checkpoint": CheckpointError, "differ": RanksDifferError, "value": ValueError,
    "model": ModelError,
}  # fmt: skip


class RankZero:
    """Rank 0's end: a thread listens to each other rank, and one calls the model.

    Args:
        group: over gloo.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        """Starts to listen."""
        self._links = [Link(group, rank) for rank in range(1, group.size())]
        self._said: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
        # What each rank has to do, in its order.
        self._handed: list[deque[Future[Found]]] = [deque() for _ in range(group.size())]
        self._lock = threading.Lock()
        self._first: ModelError | None = None  # of the failures of ranks
        self._is_over = False
        self._threads = [
            threading.Thread(target=self._listen, args=(link,), daemon=True) for link in self._links
        ]
        for thread in self._threads:
            thread.start()

    def _listen(self, link: Link) -> None:
        rank = link.rank
        try:
            while True:
                kind, (count, signs, inside), body = link.receive()
                if kind == SCORES:
                    scores = body.view(torch.float64).reshape(count, signs, -1)
                    seen = None if inside < 0 else torch.tensor(bool(inside))
                    self._handed[rank].popleft().set_result((scores, seen))
                elif kind == OBJECT:
                    self._said.put((rank, object_of(body)))
                elif kind == FAILED:
                    text, is_interrupted = object_of(body)
                    self._fail(rank, (_InterruptedError if is_interrupted else ModelError)(text))
                elif kind == BYE:
                    return
        except RuntimeError as error:
            self._fail(rank, _ended(rank, error))

    def _fail(self, rank: int, error: ModelError) -> None:
        with self._lock:
            self._first = self._first or error
            waiting, self._handed[rank] = self._handed[rank], deque()
        for future in waiting:
            future.set_exception(error)
        self._said.put((rank, error))

    def agree(self, own: tuple[Any, ...], compare: Compare) -> Any:
        """See ``Ranks.agree``; what a rank gives ends with its own."""
        given = {0: own}
        while len(given) <= len(self._links):
            rank, said = self._said.get()
            if isinstance(said, ModelError):
                raise said
            given[rank] = said
        if text := compare([given[rank] for rank in range(len(given))]):
            raise RanksDifferError(text)
        self._tell(OBJECT, own[-1])
        return own[-1]

    def _tell(self, kind: int, value: Any) -> None:
        for link in self._links:
            with contextlib.suppress(RuntimeError):  # which its listener hears of
                link.send(kind, body=bytes_of(value))

    @contextlib.contextmanager
    def open(self, model: Callable[..., Any]) -> Iterator[Pool]:
        """The pool of all ranks, this one's model in a thread."""
        with Threads(1).open(model) as own:
            yield _RankPool(self, own, len(self._handed))

    def submit(self, own: Pool, call: Callable[..., Any], arguments: Any) -> Future[Any]:
        """Gives a range of samples to the rank that has the fewest."""
        future: Future[Found] = Future()
        with self._lock:
            if self._first is not None:
                future.set_exception(self._first)
                return future
            rank = min(range(len(self._handed)), key=lambda one: len(self._handed[one]))
            self._handed[rank].append(future)
        if rank == 0:
            return own.submit(self._own, _as_here(), call, arguments)
        future.set_running_or_notify_cancel()
        _, *numbers = arguments  # the work itself each rank has made
        with contextlib.suppress(RuntimeError):  # which its listener hears of
            self._links[rank - 1].send(WORK, *numbers)
        return future

    def _own(self, model: Any, within: Any, call: Callable[..., Any], arguments: Any) -> Any:
        """What this rank's thread does."""
        try:
            with within():
                return call(model, *arguments)
        except Exception as error:
            failure = ModelError(_said_of(0, error))
            with self._lock:
                self._first = self._first or failure
            raise failure from error.__cause__ or error
        finally:
            self._handed[0].popleft()

    def spread(self, scores: Tensor) -> None:
        """Gives the others all scores, and ends their work."""
        self._is_over, scores = True, scores.cpu()
        for link in self._links:
            with contextlib.suppress(RuntimeError):  # of one that has ended since
                link.send(OVER, *scores.shape, body=scores)

    def failed(self, error: BaseException, kept: str) -> None:
        """Tells the others; raises where another rank is why this one was interrupted."""
        is_interrupted = isinstance(error, KeyboardInterrupt)
        failure = None if isinstance(self._first, _InterruptedError) else self._first
        why = error
        if is_interrupted and failure is not None:
            why = ModelError(Message(failure, kept))
        if not self._is_over:
            self._is_over = True
            of_rank = self._first is not None and isinstance(why, ModelError)
            is_named = of_rank or isinstance(why, RanksDifferError)
            text = Message(why) if is_named else _said_of(0, why)
            kind = next((name for name, known in _TOLD.items() if isinstance(why, known)), "model")
            self._tell(FAILED, (kind, text, failure is not None))
        with contextlib.suppress(KeyboardInterrupt):  # of torchrun: what there is to say is known
            self._join(_WORD_SECONDS if is_interrupted else _GRACE_SECONDS)
        if why is not error:
            raise why from None

    def close(self) -> None:
        """Waits for the others to have all scores."""
        self._join(_GRACE_SECONDS)

    def _join(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))


class _RankPool:
    def __init__(self, end: RankZero, own: Pool, ranks: int) -> None:
        self.count = QUEUED * ranks
        self._end, self._own = end, own

    def share(self, value: Any) -> Shared:
        return self._own.share(value)

    def submit(self, call: Callable[..., Any], *arguments: Any) -> Future[Any]:
        return self._end.submit(self._own, call, arguments)


class Others:
    """The end of another rank: a thread listens to rank 0.

    Args:
        group: over gloo.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        """Starts to listen."""
        self._rank, self._link = group.rank(), Link(group, 0)
        self._heard: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._word: Exception | None = None  # of rank 0, why all is over ...
        self._is_failure = False  # ... and whether a rank has failed, not only been interrupted
        self._is_over = False
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        try:
            while not self._is_over:
                kind, numbers, body = self._link.receive()
                if kind == WORK:
                    self._heard.put((kind, numbers))
                    continue
                if kind == OBJECT:
                    self._heard.put((kind, object_of(body)))
                    continue
                with self._lock:
                    self._is_over = True
                    if kind == FAILED:
                        name, text, self._is_failure = object_of(body)
                        self._word = _TOLD[name](text)
                    self._link.send(BYE)
                self._heard.put((kind, (numbers, body)))
            self._link.wait()
        except RuntimeError as error:
            if not self._is_over:
                # Also where torchrun, which sees it as well, interrupts this one before it is told.
                self._word, self._is_failure = _ended(0, error), True
                self._heard.put((FAILED, None))

    def _next(self) -> tuple[int, Any]:
        heard = self._heard.get()
        if self._word is not None:  # whatever else there is to do
            raise self._word
        return heard

    def _send(self, kind: int, *numbers: int, body: Tensor) -> None:
        with self._lock, contextlib.suppress(RuntimeError):  # which the listener hears of
            if not self._is_over:
                self._link.send(kind, *numbers, body=body)

    def agree(self, own: tuple[Any, ...], compare: Compare) -> Any:
        """See ``Ranks.agree``."""
        self._send(OBJECT, body=bytes_of(own))
        return self._next()[1]

    def serve(self, score: Callable[[int, int, int], Found]) -> Tensor:
        """See ``Ranks.serve``."""
        with Interrupts() as interrupts:
            while True:
                interrupts.let_through()
                kind, value = self._next()
                if kind == OVER:
                    shape, body = value
                    found: Tensor = body.view(torch.float64).reshape(shape)
                    return found
                first, count, batch = value
                scores, inside = score(first, count, batch)
                interrupts.open = False  # a message is not broken off
                seen = -1 if inside is None else int(inside)
                self._send(SCORES, count, scores.shape[1], seen, body=scores)

    def failed(self, error: BaseException, kept: str) -> None:
        """Tells rank 0, and raises what rank 0 says of it, which names what is kept."""
        is_interrupted = isinstance(error, KeyboardInterrupt)
        seconds = _WORD_SECONDS if is_interrupted else None
        if self._word is None:
            self._send(FAILED, body=bytes_of((_said_of(self._rank, error), is_interrupted)))
        else:
            seconds = _GRACE_SECONDS  # Python aborts where it ends while a thread is within gloo
        try:
            self._thread.join(seconds)
        except KeyboardInterrupt:  # of torchrun
            self._thread.join(_WORD_SECONDS)
        is_why = self._is_failure if is_interrupted else isinstance(error, ModelError)
        if is_why and self._word is not None and self._word is not error:
            raise self._word from error.__cause__

    def close(self) -> None:
        """Waits until rank 0 has heard that this one knows all scores."""
        self._thread.join(_GRACE_SECONDS)


def _ended(rank: int, error: RuntimeError) -> ModelError:
    """A link's error in words."""
    if "timed out" in str(error).lower():
        return ModelError(f"no word from rank {rank} within the timeout of the group")
    return ModelError(f"rank {rank} has ended, killed or crashed")


def _said_of(rank: int, error: BaseException) -> Message:
    """An error of a rank, which is named."""
    if isinstance(error, KeyboardInterrupt):
        by = f" by {error}" if str(error) else ""
        return Message(f"rank {rank} was interrupted{by}")
    return Message(f"rank {rank}: ", error if isinstance(error, _PLAIN) else cause(error))


def _as_here() -> Callable[[], contextlib.ExitStack]:
    """Has another thread call a model as this one would: torch keeps these for each thread."""
    has_gpu = torch.cuda.is_initialized()
    device = torch.cuda.current_device() if has_gpu else None
    casts = [
        (kind, torch.get_autocast_dtype(kind))
        for kind in ("cpu", "cuda")
        if torch.is_autocast_enabled(kind)
    ]

    def enter() -> contextlib.ExitStack:
        stack = contextlib.ExitStack()
        if device is not None:
            stack.enter_context(torch.cuda.device(device))
        for kind, dtype in casts:
            stack.enter_context(torch.autocast(kind, dtype=dtype))
        return stack

    return enter
