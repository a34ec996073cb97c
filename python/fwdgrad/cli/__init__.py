"""The command line: fwdgrad explain, evaluate, methods and info."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import re
import shlex
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence

from fwdgrad.cli.parser import make_parser
from fwdgrad.errors import ReliabilityWarning
from fwdgrad.interrupts import Ended, ended_by_signals
from fwdgrad.terminal import say

_TELLING = (ValueError, TypeError, OSError, RuntimeError, ImportError)
_MODULES = {"methods": "info"}  # where a command is, if not in the module of its name


def _command(name: str) -> Callable[[argparse.Namespace], None]:
    """What runs a command; only now is torch imported."""
    module = importlib.import_module(f"fwdgrad.cli.{_MODULES.get(name, name)}")
    found: Callable[[argparse.Namespace], None] = getattr(module, name)
    return found


def _spoken(message: object) -> str:
    """A message on one line, with the options in it as the command line has them."""
    text = " ".join(str(message).split()).replace("antithetic=False", "--no-antithetic")
    text = text.replace("objective must be 'auto'", "--objective must be auto")
    text = text.replace("the same call goes on", "the same command goes on")
    text = text.replace("batch_size=1", "--batch-size 1")
    text = re.sub(r"(; copies leave the range of x, [^:;]*)[^;]*clip=[^;]*", r"\1", text)
    text = text.replace("baseline must be given", "--baseline must be given")
    text = text.replace("0.5 is grey", "grey, say").replace("max_pixels=", "--max-pixels ")
    text = text.replace("max_pixels must", "--max-pixels must")
    text = re.sub(r"\bdevice( must|: | ')", r"--device\1", text).replace(
        "device='cpu'", "--device cpu"
    )
    return re.sub(r"\b(control|method|objective)='([\w-]+)'", r"--\1 \2", text)


def _warn(message: object, category: type[Warning], *_: object, **__: object) -> None:
    """Says a warning, but for what the table of results says."""
    if not issubclass(category, ReliabilityWarning):
        say(f"fwdgrad: warning: {_spoken(message)}", sys.stderr)


def _by(error: KeyboardInterrupt) -> str:
    return f" by {error}" if isinstance(error, Ended) else ""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    arguments = make_parser().parse_args(argv)
    arguments.line = shlex.join(["fwdgrad", *argv])
    show = warnings.showwarning
    warnings.showwarning = _warn
    try:
        with ended_by_signals():
            _command(arguments.command)(arguments)
    except BrokenPipeError:  # the reader of our output has left
        sys.stdout = None  # type: ignore[assignment]
        return 0
    except KeyboardInterrupt as error:
        again = "goes on from here" if arguments.command == "explain" else "starts anew"
        with contextlib.suppress(OSError):  # the terminal may be gone
            say(f"fwdgrad: interrupted{_by(error)}; the same command {again}", sys.stderr)
        return 128 + getattr(error, "number", signal.SIGINT)
    except Exception as error:
        if arguments.debug:
            say(traceback.format_exc().rstrip(), sys.stderr, lines=True)
            return 1
        text = _spoken(error)
        if isinstance(error, OSError) and error.strerror and error.filename is not None:
            text = _spoken(f"{os.fsdecode(error.filename)}: {error.strerror}")
        if not text or not isinstance(error, _TELLING):  # a KeyError's text is only the key
            text = f"{type(error).__name__}: {text}"
        say(f"fwdgrad: error: {text}", sys.stderr)
        return 1
    finally:
        warnings.showwarning = show
    return 0
