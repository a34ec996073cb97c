"""Ray: a model's calls spread over the actors of a cluster, see ``RayWorkers``."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import math
import os
import queue
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from fwdgrad.checks import check_integer
from fwdgrad.errors import ArgumentError, ArgumentTypeError, Message, ModelError, Option, warn
from fwdgrad.outputs import cause
from fwdgrad.runner.workers import read_once

_TRIES = 4  # of a call, each time in another actor where one has died
_PATIENCE = 60.0  # seconds until it is told that no actor has started
_CONNECT = 5.0  # seconds for the head of a cluster to answer


@dataclasses.dataclass(frozen=True)
class RayWorkers:
    """Actors of Ray that call a model: for ``workers=`` of ``explain``.

    The model and what a run needs are sent to an actor once, then a micro-batch is a few numbers
    there and a score a sample and target back. Samples are made in the actors, from their numbers.
    An actor that dies is replaced and its call repeated. The map has the same bits as that of one
    process, as far as the model's output has, which may depend on the number of threads: an actor
    has ``num_cpus`` of them.

    Args:
        count: of the actors. The run begins with the first that has a place in the cluster.
        address: "host:port" of the cluster's head, or "auto" for the one that this machine is in.
            None: the one that this process is connected to, or else one of this machine alone
            that is there for the run.
        num_cpus, num_gpus: that an actor takes of its machine.
        runtime_env: what is installed for the actors, as Ray describes it: ``{"working_dir": "."}``
            where the model is of a file of one's own, say.

    Raises:
        TypeError, ValueError: naming the argument.

    Example:
        >>> RayWorkers(4).count
        4

        A run: ``explain(model, x, n_samples=4096, workers=RayWorkers(4, "head:6379"))``.

    Source: https://docs.ray.io/en/latest/ray-core/actors.html.
    """

    count: int
    address: str | None = None
    num_cpus: float = 1
    num_gpus: float = 0
    runtime_env: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        """Checks each argument."""
        object.__setattr__(self, "count", check_integer("count", self.count, 1))
        for name in ("num_cpus", "num_gpus"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise ArgumentTypeError(name, f"must be a number, got {type(value).__name__}")
            if not 0 <= value < math.inf:
                raise ArgumentError(name, f"must be 0 or more, got {value}")

    @contextlib.contextmanager
    def open(self, model: Any) -> Iterator[Pool]:
        """The actors, with a model each, until the block ends.

        Raises:
            ConnectionError: there is no such cluster.
            ModelError: the model cannot be sent, or an actor cannot load it.
            ImportError: Ray is not installed.
        """
        with self._connected() as ray:
            pool = Pool(ray, self, model)
            try:
                pool.wait()
                yield pool
            finally:
                pool.close()

    @contextlib.contextmanager
    def _connected(self) -> Iterator[Any]:
        try:
            ray: Any = importlib.import_module("ray")
        except ImportError as error:
            raise ImportError(
                f"RayWorkers needs Ray: pip install 'fwdgrad-kernels[ray]' ({error})"
            ) from None
        if ray.is_initialized():
            yield ray
            return
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        with _own_handler(signal.SIGTERM):
            if self.address is None:
                cpus = math.ceil(self.count * self.num_cpus)
                with _for_children():
                    ray.init("local", num_cpus=cpus, include_dashboard=False, **quiet)
            else:
                _look_for(self.address)
                try:
                    ray.init(self.address, **quiet)
                except Exception as error:
                    if "InvalidAuthToken" in str(error.__cause__):
                        raise ConnectionError(
                            Message(
                                Option("address"),
                                f": the cluster of Ray at {self.address!r} asks for a token that "
                                "this process does not have: set RAY_AUTH_MODE=token, and the "
                                "token as Ray's page on token authentication says",
                            )
                        ) from None
                    raise ConnectionError(_no_cluster(self.address, cause(error))) from error
        try:
            yield ray
        finally:
            ray.shutdown()


class Shared:
    """A value that many calls need, which each actor reads once.

    Args:
        reference: Ray's, of the value.
    """

    def __init__(self, reference: Any) -> None:
        """Keeps the reference."""
        self._reference = reference

    def get(self) -> Any:
        """The value; in an actor its own copy."""
        ray: Any = importlib.import_module("ray")
        return read_once(self._reference, lambda: ray.get(self._reference))


class Pool:
    """Actors that have a model; a thread waits for each.

    Args:
        ray: the module, connected.
        workers: how many actors, and of what.
        model: for all of them.
    """

    def __init__(self, ray: Any, workers: RayWorkers, model: Any) -> None:
        """Asks for the actors, and waits for none."""
        self.count, self._ray, self._workers = workers.count, ray, workers
        try:
            self._model = ray.put(ray.cloudpickle.dumps(model))
        except Exception as error:
            raise ModelError(
                f"the model cannot be sent to another process: {cause(error)}"
            ) from error
        options: dict[str, Any] = {"num_cpus": workers.num_cpus, "num_gpus": workers.num_gpus}
        if workers.runtime_env is not None:
            options["runtime_env"] = dict(workers.runtime_env)
        self._kind = ray.remote(_Actor).options(**options)
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()  # actors; errors; who is lost
        self._actors: set[Any] = set()
        self._lost = 0  # actors that died before they had done anything
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(workers.count, "fwdgrad-ray")
        for _ in range(workers.count):
            self._start()

    def wait(self) -> None:
        """Waits for the first actor.

        Raises:
            ModelError: it cannot load the model, or none stays alive.
        """
        try:
            actor = self._take(_PATIENCE)
        except queue.Empty:
            w, free = self._workers, self._ray.available_resources()
            parts = [
                f"{wanted:g} {kind}s, of {there:g} there {free.get(kind, 0):g} are free"
                for kind, wanted in (("CPU", w.num_cpus), ("GPU", w.num_gpus))
                if wanted and (there := self._ray.cluster_resources().get(kind, 0)) is not None
            ]
            warn(
                f"no worker has started in {_PATIENCE:g} s, and the run waits for one: each takes "
                f"{'; '.join(parts)}"
            )
            actor = self._take()
        self._idle.put(actor)

    def share(self, value: Any) -> Shared:
        """A value that many calls need: it is sent to each machine once."""
        return Shared(self._ray.put(value))

    def submit(self, call: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """``call(model, *arguments)`` in some actor; an error of it is the future's."""
        return self._threads.submit(self._run, call, arguments)

    def close(self) -> None:
        """Ends the actors, whatever they do."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._idle.put(ModelError("the workers have been closed"))
        with self._lock:
            for actor in self._actors:
                self._ray.kill(actor)
            self._actors.clear()
        self._threads.shutdown()

    def _start(self) -> None:
        """Asks for an actor; it, or what is wrong, comes into the queue."""
        with self._lock:
            actor = self._kind.remote(self._model)
            self._actors.add(actor)
        arrived = functools.partial(self._arrived, actor)
        actor.ready.remote().future().add_done_callback(arrived)

    def _arrived(self, actor: Any, future: Future[str]) -> None:
        """In a thread of Ray's own, which must not be held up."""
        error = future.exception()
        if error is None:
            problem = future.result()
            self._idle.put(ModelError(problem) if problem else actor)
        elif "creation task" in str(error):  # this package cannot be imported there
            why = str(error).strip().splitlines()[-1]
            self._idle.put(ModelError(f"a worker cannot start: {why}"))
        else:
            self._idle.put(_Lost(actor, error))

    def _take(self, seconds: float | None = None) -> Any:
        """An actor that has nothing to do; an error stays there for all."""
        while True:
            found = self._idle.get(timeout=seconds)
            if isinstance(found, ModelError):
                self._idle.put(found)
                raise found
            if not isinstance(found, _Lost):
                return found
            self._lost += 1
            if self._lost > _TRIES * self._workers.count:
                raise ModelError(f"the workers die before they start: {_why(found.error)}")
            self._replace(found.actor)

    def _replace(self, actor: Any) -> None:
        with self._lock:
            if actor not in self._actors:  # closed
                return
            self._actors.discard(actor)
            self._ray.kill(actor)  # it may only be out of reach
        self._start()

    def _run(self, call: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        errors = self._ray.exceptions
        for _ in range(_TRIES):
            actor = self._take()
            try:
                result = self._ray.get(actor.call.remote(call, *arguments))
            except errors.RayTaskError as error:
                self._idle.put(actor)
                raise error.cause from None
            except errors.RayError as error:  # it was killed, its memory ran out, its machine died
                last = error
                self._replace(actor)
            else:
                self._idle.put(actor)
                return result
        raise ModelError(
            f"{_TRIES} workers died one after the other in the same call; where memory ran out, a "
            f"smaller batch_size needs less: {_why(last)}"
        )


@dataclasses.dataclass
class _Lost:
    """An actor that died before it was ready."""

    actor: Any
    error: BaseException


class _Actor:
    """Has a model, and calls what it is sent with it."""

    def __init__(self, model: bytes) -> None:
        self._problem = ""
        ray: Any = importlib.import_module("ray")
        try:
            self._model = ray.cloudpickle.loads(model)
        except Exception as error:
            self._problem = (
                f"a worker on {socket.gethostname()} cannot load the model: {cause(error)}; "
                "install what it needs there, or send it by RayWorkers(runtime_env=)"
            )

    def ready(self) -> str:
        """What is wrong with it; "" where nothing is."""
        return self._problem

    def call(self, call: Callable[..., Any], *arguments: Any) -> Any:
        return call(self._model, *arguments)


def _why(error: BaseException) -> str:
    """The last line of an error of Ray's, which has many."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _no_cluster(address: str, why: str) -> str:
    return Message(
        Option("address"),
        f": no cluster of Ray answers at {address!r} ({why}); start one with ray start --head, or "
        "leave ",
        Option("address"),
        " out for this machine alone",
    )


def _look_for(address: str) -> None:
    """Raises where nothing listens at host:port; Ray itself tries that for minutes."""
    host, colon, port = address.rpartition(":")
    if not colon or "/" in host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), _CONNECT).close()
    except OSError as error:
        raise ConnectionError(_no_cluster(address, error.strerror or str(error))) from None


@contextlib.contextmanager
def _own_handler(number: int) -> Iterator[None]:
    """Ray sets a handler of its own when it starts; afterwards there is the one of before."""
    handler = signal.getsignal(number)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread() and handler is not None:
            signal.signal(number, handler)


@contextlib.contextmanager
def _for_children() -> Iterator[None]:
    """An environment in which Ray's processes find the modules of this one, and tell nobody."""
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    given = {"PYTHONPATH": path, "RAY_USAGE_STATS_ENABLED": "0"}
    before = {name: os.environ.get(name) for name in given}
    os.environ.update(given)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
