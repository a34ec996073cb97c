"""Workers: where a model is called when several calls run at once."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import queue
import shutil
import signal
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Future
from typing import Any, Protocol, runtime_checkable

import torch

from fwdgrad.checks import check_integer
from fwdgrad.errors import ArgumentTypeError, ModelError
from fwdgrad.outputs import cause, told


class Shared(Protocol):
    """A value that many calls need, and that goes to each worker once."""

    def get(self) -> Any:
        """The value, in a worker."""


class Pool(Protocol):
    """Workers that have a model.

    Attributes:
        count: calls in flight that keep all of them busy.
    """

    count: int

    def share(self, value: Any) -> Shared:
        """Makes a value known to all workers."""

    def submit(self, call: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Has a worker do ``call(model, *arguments)``."""


@runtime_checkable
class Workers(Protocol):
    """Where a model is called: threads, processes, other machines.

    ``explain(..., workers=)`` takes one. What a run asks of it are the scores of ranges of samples,
    which are kept by the samples' numbers: they may come in any order.
    """

    def open(self, model: Callable[..., Any]) -> contextlib.AbstractContextManager[Pool]:
        """Brings a model to the workers; at the end they are gone, also in the middle of a call."""


def workers_of(given: Any) -> Workers | None:
    """What the argument ``workers`` names: a number is of local processes.

    Raises:
        TypeError, ValueError: it is neither a number from 1 nor a ``Workers``.

    Example:
        >>> workers_of(4)
        Processes(count=4)
    """
    if given is None or (isinstance(given, Workers) and not isinstance(given, type)):
        return given
    if isinstance(given, bool) or not hasattr(given, "__index__"):
        raise ArgumentTypeError(
            "workers",
            "must be a number of processes, or a value such as Threads(4) of "
            f"fwdgrad.runner.workers, got {told(repr(given), 80)}",
        )
    return Processes(check_integer("workers", given, 1))


def result_of(future: Future[Any]) -> Any:
    """What a worker found; waits for it.

    Raises:
        ModelError: the worker has ended.
    """
    try:
        return future.result()
    except BrokenExecutor as error:
        raise ModelError("a worker has ended in the middle of a call, killed or crashed") from error


_MOST_SHARED = 5  # values that a process keeps, the model among them
_SHARED: OrderedDict[Any, Any] = OrderedDict()
_lock = threading.Lock()


def read_once(key: Any, read: Callable[[], Any]) -> Any:
    """A shared value in another process, which keeps the last few that were asked for.

    >>> read_once("three", lambda: 3), read_once("three", lambda: 4)
    (3, 3)
    """
    with _lock:
        if key not in _SHARED:
            _SHARED[key] = read()
        _SHARED.move_to_end(key)
        while len(_SHARED) > _MOST_SHARED:
            _SHARED.popitem(last=False)
        return _SHARED[key]


# ---- threads ---------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Several:
    count: int

    def __post_init__(self) -> None:
        """Checks the number."""
        check_integer("count", self.count, 1)


@dataclasses.dataclass(frozen=True)
class Threads(_Several):
    """Threads of this process: for a model that waits, for a server say.

    Args:
        count: how many.

    Example:
        >>> with Threads(2).open(abs) as pool:
        ...     pool.submit(lambda model, number: model(number), -3).result()
        3
    """

    @contextlib.contextmanager
    def open(self, model: Callable[..., Any]) -> Iterator[Pool]:
        """Starts the threads."""
        pool = _ThreadPool(self.count, model)
        try:
            yield pool
        finally:
            pool.close()


@dataclasses.dataclass(frozen=True)
class _Here:
    """A shared value of the same process."""

    value: Any

    def get(self) -> Any:
        return self.value


class _ThreadPool:
    """Daemon threads: one that hangs in a request does not keep the process from ending."""

    def __init__(self, count: int, model: Callable[..., Any]) -> None:
        self.count = count
        self._model = model
        self._tasks: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for number in range(count):
            threading.Thread(target=self._work, name=f"fwdgrad-{number}", daemon=True).start()

    def share(self, value: Any) -> Shared:
        return _Here(value)

    def submit(self, call: Callable[..., Any], *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self._tasks.put((future, call, arguments))
        return future

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            future, call, arguments = task
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(call(self._model, *arguments))
            except BaseException as error:  # whoever waits for it is to know
                future.set_exception(error)
            del task, future

    def close(self) -> None:
        for _ in range(self.count):
            self._tasks.put(None)


# ---- processes -------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Processes(_Several):
    """Processes of this machine: for a model that torch's threads do not speed up.

    The model is sent to each once, by cloudpickle, so that it may be a lambda or stand in a
    notebook. Each process gets its part of torch's threads.

    Args:
        count: how many.

    Example:
        >>> with Processes(1).open(abs) as pool:  # doctest: +SKIP
        ...     pool.submit(lambda model, number: model(number), -3).result()
        3
    """

    @contextlib.contextmanager
    def open(self, model: Callable[..., Any]) -> Iterator[Pool]:
        """Starts the processes.

        Raises:
            ImportError: loky is not installed.
            ModelError: the model cannot be sent to another process.
        """
        try:
            import cloudpickle  # noqa: F401
            from loky import ProcessPoolExecutor
        except ImportError:
            raise ImportError("workers need loky: pip install 'fwdgrad-kernels[workers]'") from None
        threads = max(1, torch.get_num_threads() // self.count)
        executor = ProcessPoolExecutor(self.count, env={"OMP_NUM_THREADS": str(threads)})
        folder = tempfile.mkdtemp(prefix="fwdgrad-")
        try:
            # One call waits for each process, so that none waits for the next.
            yield _ProcessPool(2 * self.count, model, executor, folder)
        finally:
            executor.shutdown(wait=True, kill_workers=True)
            shutil.rmtree(folder, ignore_errors=True)


class _ProcessPool:
    def __init__(self, count: int, model: Any, executor: Any, folder: str) -> None:
        self.count = count
        self._executor, self._folder, self._shared = executor, folder, 0
        try:
            self._model = self.share(model)
        except Exception as error:
            raise ModelError(
                f"the model cannot be sent to another process: {cause(error)}; threads of this one "
                "need no sending: workers=Threads(2) of fwdgrad.runner.workers"
            ) from error

    def share(self, value: Any) -> Shared:
        import cloudpickle

        self._shared += 1
        path = os.path.join(self._folder, str(self._shared))
        with open(path, "wb") as file:
            cloudpickle.dump(value, file)
        return _InFile(path)

    def submit(self, call: Callable[..., Any], *arguments: Any) -> Future[Any]:
        try:
            found: Future[Any] = self._executor.submit(_call, self._model, call, arguments)
        except BrokenExecutor as error:  # a process has ended since
            found = Future()
            found.set_exception(error)
        return found


@dataclasses.dataclass(frozen=True)
class _InFile:
    """A shared value in a file, which a process reads once."""

    path: str

    def get(self) -> Any:
        return read_once(self.path, self._read)

    def _read(self) -> Any:
        import cloudpickle

        with open(self.path, "rb") as file:
            return cloudpickle.load(file)


@functools.cache
def _begin() -> None:
    """What a process does first: Ctrl-C is for the one that started it, and it ends with that."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _call(model: Shared, call: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """What a process does for ``submit``."""
    _begin()
    try:
        own = model.get()
    except Exception as error:
        raise ModelError(f"a worker cannot load the model: {cause(error)}") from error
    return call(own, *arguments)
