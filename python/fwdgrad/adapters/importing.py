"""What the command line names: an object by its import path, class names in a file."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from fwdgrad.errors import ArgumentError, Message, Option, did_you_mean
from fwdgrad.outputs import cause


def import_named(name: str, known: Collection[str] = ()) -> Any:
    """Imports an object by its path; nothing is unpickled.

    Args:
        name: package.module:name, the working directory is searched last, or file.py:name; after
            the colon there may be attributes of attributes.
        known: names of other models that the caller has, for an error.

    Raises:
        ArgumentError, ImportError: saying what is wrong with the name.

    Example:
        >>> import_named("math:sqrt")(4.0)
        2.0
    """
    module_name, _, attribute = name.rpartition(":")  # in C:\\models.py:score the last one
    if not module_name or not attribute:
        others = f"{', '.join(known)} or " if known else ""
        raise ArgumentError(
            "model",
            f"must be {others}package.module:callable or file.py:callable, got {name!r}"
            + did_you_mean(name, known),
        )
    # A downloaded folder may have a PIL.py: import the installed modules before its own.
    for installed in ("PIL.Image", "matplotlib.figure", "matplotlib.backends.backend_agg"):
        with contextlib.suppress(ImportError):
            importlib.import_module(installed)
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        is_file = module_name.endswith(".py")
        module = _module_in(Path(module_name)) if is_file else importlib.import_module(module_name)
    except ArgumentError:
        raise
    except Exception as error:  # whatever the module's own code raises
        model = Message(Option("model"), f" {name!r}")
        if not isinstance(error, ModuleNotFoundError):
            raise ImportError(Message(model, f" cannot be imported: {cause(error)}")) from error
        own = error.name == module_name or module_name.startswith(f"{error.name}.")
        where = "; modules are looked for in the current folder, too" * own
        raise ImportError(Message(model, f": {error}{where}")) from error
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            file = getattr(module, "__file__", None) or "Python itself"
            where = "the file" if is_file else f"{module_name} of {file}"
            hint = did_you_mean(part, (known for known in dir(found) if known[0] != "_"))
            raise ArgumentError("model", f"{name!r}: {where} has no {attribute!r}{hint}")
        found = getattr(found, part)
    return found


def _module_in(path: Path) -> Any:
    """The module in a file, by its name, so that other processes find it as well."""
    file = path.resolve()
    if not file.is_file():
        raise ArgumentError("model", f"has a file that does not exist: {path}")
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
    module = importlib.import_module(file.stem)
    found = getattr(module, "__file__", None) or "Python itself"
    if not os.path.exists(found) or not file.samefile(found):
        raise ArgumentError(
            "model", f"cannot be in {path}: {file.stem!r} is the module of {found}; rename the file"
        )
    return module


def read_labels(given: str | os.PathLike[str]) -> tuple[str, ...]:
    """The names of classes: in a text file, one a line, or themselves with commas between them.

    Raises:
        ArgumentError: the file cannot be read, or is no text.

    Example:
        >>> read_labels("bad, good")
        ('bad', 'good')
    """
    path = Path(given)
    try:
        return tuple(path.read_text(encoding="utf-8-sig").rstrip("\n").split("\n"))
    except OSError as error:
        names = tuple(name.strip() for name in str(given).split(","))
        if len(names) > 1 and all(names) and not path.exists():
            return names
        hint = "" if path.exists() else "; names have commas between them: bad,good"
        raise ArgumentError("labels", f"{path} cannot be read: {error.strerror}{hint}") from None
    except UnicodeDecodeError as error:
        raise ArgumentError("labels", f"{path} is no text file: {error}") from None
