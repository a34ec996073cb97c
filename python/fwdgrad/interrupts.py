"""Signals: held while a step must not be broken off, and turned into ``Ended``."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any

# Windows has no SIGHUP, and its SIGTERM cannot be caught.
_ENDING = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


class Ended(KeyboardInterrupt):
    """A signal asked the process to end.

    Args:
        number: the signal's.
    """

    def __init__(self, number: int) -> None:
        """Keeps the number."""
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP raise ``Ended`` in the block, where nothing else was to happen to them.

    Python handles signals in the main thread alone; in another thread nothing is changed.
    """

    def end(number: int, frame: FrameType | None) -> None:
        raise Ended(number)

    changed = []
    try:
        if threading.current_thread() is threading.main_thread():
            for number in _ENDING:
                if signal.getsignal(number) is signal.SIG_DFL:  # nohup has SIGHUP ignored
                    changed.append(number)
                    signal.signal(number, end)
        yield
    finally:
        for number in changed:
            signal.signal(number, signal.SIG_DFL)


class Interrupts:
    """A block that Ctrl-C, and whatever else ends the process by a handler, cannot break off.

    What arrives in the block waits until its end, or until ``let_through``. Only signals that
    Python handles are held; SIGKILL and a SIGTERM without a handler end the process at once.

    Attributes:
        open: whether signals come through; set to False to hold them again. A plain attribute,
            since Python looks for signals at calls: no second one comes through between an
            ``except`` and the assignment.
    """

    def __init__(self) -> None:
        """Nothing is held yet."""
        self.open = True
        self._handlers: dict[int, Callable[[int, FrameType | None], Any]] = {}
        self._waiting: list[int] = []

    def __enter__(self) -> Interrupts:
        """Holds signals from here on."""
        if threading.current_thread() is threading.main_thread():
            for number in _ENDING:
                handler = signal.getsignal(number)
                if callable(handler):
                    self._handlers[number] = handler
                    signal.signal(number, self._arrive)
        self.open = False
        return self

    def _arrive(self, number: int, frame: FrameType | None) -> None:
        if self.open:
            self._handlers[number](number, frame)
        else:
            self._waiting.append(number)

    def let_through(self) -> None:
        """Hands on what waits, and lets signals through until ``open`` is set to False."""
        self.open = True
        while self._waiting:
            number = self._waiting.pop(0)
            self._handlers[number](number, None)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Hands on what waits, unless the block ends by a signal already."""
        # First, so that a handler which an interrupt leaves in its place hands on what comes.
        self.open = True
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if kind is None or not issubclass(kind, KeyboardInterrupt):
            self.let_through()
