"""What the command line names: an object by its import path, class names in a file."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from pathlib import Path
from typing import Any

from fwdgrad.errors import ArgumentError


def import_named(name: str, others: str = "") -> Any:
    """Imports an object by its path; nothing is unpickled.

    Args:
        name: package.module:name, the working directory is searched last; after the colon there
            may be attributes of attributes.
        others: what else the name may be, for an error: "efficientnet-lite0 or ", say.

    Raises:
        ArgumentError, ImportError: saying what is wrong with the name.

    Example:
        >>> import_named("math:sqrt")(4.0)
        2.0
    """
    module_name, colon, attribute = name.partition(":")
    if not colon or not module_name or not attribute:
        raise ArgumentError("model", f"must be {others}package.module:callable, got {name!r}")
    # A downloaded folder may have a PIL.py: import the installed modules before its own.
    for installed in ("PIL.Image", "matplotlib.figure", "matplotlib.backends.backend_agg"):
        with contextlib.suppress(ImportError):
            importlib.import_module(installed)
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        is_file = module_name.endswith(".py")
        hint = f"; of a file give {module_name[:-3]}:{attribute}" if is_file else ""
        raise ImportError(f"model {name!r}: {error}{hint}") from error
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            where = getattr(module, "__file__", None) or "Python itself"
            raise ArgumentError("model", f"{name!r}: {module_name} of {where} has no {attribute!r}")
        found = getattr(found, part)
    return found


def read_labels(path: Path) -> tuple[str, ...]:
    """The names of classes in a text file, one a line.

    Raises:
        ArgumentError: it cannot be read, or is no text.
    """
    try:
        return tuple(path.read_text(encoding="utf-8-sig").rstrip("\n").split("\n"))
    except OSError as error:
        raise ArgumentError("labels", f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ArgumentError("labels", f"{path} is no text file: {error}") from None
