"""The command line: fwdgrad explain, evaluate, methods and info."""

from __future__ import annotations

import argparse
import atexit
import contextlib
import functools
import gc
import importlib
import os
import shlex
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence

from fwdgrad.cli.parser import make_parser
from fwdgrad.errors import Message, ReliabilityWarning
from fwdgrad.interrupts import Ended, ended_by_signals
from fwdgrad.terminal import say

_TELLING = (ValueError, TypeError, OSError, RuntimeError, ImportError)
_MODULES = {"methods": "info"}  # where a command is, if not in the module of its name


def _command(name: str) -> Callable[[argparse.Namespace], int | None]:
    """What runs a command; only now is torch imported."""
    module = importlib.import_module(f"fwdgrad.cli.{_MODULES.get(name, name)}")
    found: Callable[[argparse.Namespace], int | None] = getattr(module, name)
    return found


def reason_of(error: Exception, spoken: Callable[..., str]) -> str:
    """An error's message on one line, with its kind where the message alone does not tell."""
    text = spoken(error)
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        text = spoken(os.fsdecode(error.filename), ": ", error.strerror)
    if not text or not isinstance(error, _TELLING):  # a KeyError's text is only the key
        text = f"{type(error).__name__}: {text}"
    return text


def _by(error: KeyboardInterrupt) -> str:
    return f" by {error}" if isinstance(error, Ended) else ""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    began = time.perf_counter()
    argv = sys.argv[1:] if argv is None else argv
    # Python's last collection of garbage takes most of a second where torch is loaded.
    atexit.register(gc.freeze)
    parser = make_parser()
    arguments = parser.parse_args(argv)
    # Of several ranks of torchrun rank 0 alone says what is to be said.
    arguments.leads = os.environ.get("RANK", "0") == "0"
    arguments.began = began
    arguments.line = shlex.join(["fwdgrad", *argv])
    written = functools.partial(parser.written, arguments.command)

    def spoken(*parts: object) -> str:
        """A message on one line, with the options in it as the command line has them."""
        return " ".join(Message(*parts).spoken(written).split())

    def warn(message: object, category: type[Warning], *_: object, **__: object) -> None:
        # Of which the results say themselves; and one of several ranks is enough.
        if arguments.leads and not issubclass(category, ReliabilityWarning):
            say(f"fwdgrad: warning: {spoken(message)}", sys.stderr)

    arguments.spoken = spoken
    show = warnings.showwarning
    warnings.showwarning = warn
    try:
        with ended_by_signals():
            return _command(arguments.command)(arguments) or 0
    except BrokenPipeError:  # the reader of our output has left
        sys.stdout = None  # type: ignore[assignment]
        return 0
    except KeyboardInterrupt as error:
        again = "goes on from here" if arguments.command == "explain" else "starts anew"
        with contextlib.suppress(OSError):  # the terminal may be gone
            if arguments.leads:
                say(f"fwdgrad: interrupted{_by(error)}; the same command {again}", sys.stderr)
        return 128 + getattr(error, "number", signal.SIGINT)
    except Exception as error:
        if getattr(arguments, "group", None) is not None and hasattr(signal, "SIGTERM"):
            # torchrun ends all ranks where one has failed: this one's status stays its own.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if arguments.debug:
            say(traceback.format_exc().rstrip(), sys.stderr, lines=True)
            return 1
        say(f"fwdgrad: error: {reason_of(error, spoken)}", sys.stderr)
        return 1
    finally:
        warnings.showwarning = show
