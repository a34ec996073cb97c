"""What can go wrong, and messages that name options: as Python has them, or the command line."""

from __future__ import annotations

import contextlib
import contextvars
import difflib
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator


class Option(str):
    """An argument in a message: its name, or the name and a value to give it.

    Example:
        >>> Option("n_samples"), Option("batch_size", 1)
        ('n_samples', 'batch_size=1')
    """

    name: str
    value: tuple[object, ...]  # empty, or the one value

    def __new__(cls, name: str, *value: object) -> Option:
        """Writes it as Python has it."""
        self = super().__new__(cls, f"{name}={value[0]!r}" if value else name)
        self.name, self.value = name, value
        return self


class Message(str):
    """A text that knows the options in it.

    Args:
        parts: texts, ``Option``s, other messages, and errors, whose message is taken.

    Example:
        >>> message = Message("too few; ask for more ", Option("n_samples"))
        >>> message
        'too few; ask for more n_samples'
        >>> Message(ValueError(message), ", say").spoken(lambda option: f"--{option.name}")
        'too few; ask for more --n_samples, say'
    """

    parts: tuple[str, ...]

    def __new__(cls, *parts: object) -> Message:
        """Joins the parts."""
        known: list[str] = []
        for part in parts:
            if isinstance(part, BaseException) and part.args[:1] and isinstance(part.args[0], cls):
                part = part.args[0]
            part = part if isinstance(part, str) else str(part)
            known += part.parts if isinstance(part, Message) else [part]
        self = super().__new__(cls, "".join(known))
        self.parts = tuple(known)
        return self

    def spoken(self, option: Callable[[Option], str]) -> str:
        """The text with every option written by a function."""
        return "".join(option(part) if isinstance(part, Option) else part for part in self.parts)


class _OfArgument(Exception):
    def __init__(self, argument: str, *parts: object) -> None:
        super().__init__(Message(Option(argument), " " if parts else "", *parts))
        self.argument = argument

    def __reduce__(self) -> tuple[object, ...]:
        return _again, (type(self), self.args, self.argument)


def _again(kind: type[_OfArgument], args: tuple[object, ...], argument: str) -> _OfArgument:
    """An error that came from another process, with the options in its message."""
    error = kind.__new__(kind, *args)
    error.argument = argument
    return error


class ArgumentError(_OfArgument, ValueError):
    """An argument has a value that will not do.

    Args:
        argument: its name.
        parts: the rest of the message, see ``Message``.

    Example:
        >>> raise ArgumentError("n_samples", "must be even, got 3; or give ", Option("paired", 0))
        Traceback (most recent call last):
        fwdgrad.errors.ArgumentError: n_samples must be even, got 3; or give paired=0
    """


class ArgumentTypeError(_OfArgument, TypeError):
    """An argument has a type that will not do; see ``ArgumentError``."""


class ModelError(RuntimeError):
    """The model failed, or returned something that no score can be made of."""


class CheckpointError(RuntimeError):
    """A checkpoint is of another run, or damaged."""


class ReliabilityWarning(UserWarning):
    """Most of a map is noise, or it shows little; the message says what would help."""


def said_first(before: str, error: Exception) -> Exception:
    """The error with some words before its message: which of several inputs it is of, say.

    Returns:
        The same error; another one where its message cannot be changed.

    Example:
        >>> said_first("input 3", ArgumentError("x", "must be finite"))
        ArgumentError('input 3: x must be finite')
    """
    text = str(error)
    error.args = (Message(f"{before}: ", error),)
    if str(error).startswith(before):
        return error
    # A KeyError's text has quotes, and an OSError's is made of its parts.
    return RuntimeError(f"{before}: {type(error).__name__}: {text}")


def did_you_mean(given: str, names: Iterable[str], shown: Callable[[str], str] = repr) -> str:
    """The end of a message that a name is unknown: the nearest known one; nothing without any.

    Example:
        >>> did_you_mean("regoins", ["gradient", "regions"]), did_you_mean("x", ["regions"])
        ("; did you mean 'regions'?", '')
    """
    near = difflib.get_close_matches(given, list(names), 1)
    return f"; did you mean {shown(near[0])}?" if near else ""


Kept = list[tuple[str, type[Warning]]]
_kept: contextvars.ContextVar[Kept | None] = contextvars.ContextVar("kept", default=None)


@contextlib.contextmanager
def kept_warnings() -> Iterator[Kept]:
    """Keeps what this package warns of in the block, in this thread, for others to tell.

    >>> with kept_warnings() as kept:
    ...     warn("the map is noise")
    >>> kept
    [('the map is noise', <class 'UserWarning'>)]
    """
    kept: Kept = []
    token = _kept.set(kept)
    try:
        yield kept
    finally:
        _kept.reset(token)


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warns at the line of the caller's own that led here: the first outside this package.

    Example:
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warn(Message("the map is noise: ask for more ", Option("n_samples")))
        >>> Message(caught[0].message).parts
        ('the map is noise: ask for more ', 'n_samples')
    """
    if (kept := _kept.get()) is not None:
        kept.append((message, category))
        return
    frame, level = sys._getframe(1), 2
    while frame.f_back and frame.f_globals.get("__name__", "").split(".")[0] == "fwdgrad":
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)
