"""What an import path of the command line names: package.module:callable."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

from fwdgrad.errors import ArgumentError


def imported(name: str) -> Any:
    """The object at package.module:attribute; the working directory is searched last.

    Raises:
        ArgumentError, ImportError: saying what is wrong with the name.

    Example:
        >>> imported("os:path.basename")("folder/file")
        'file'
    """
    module_name, colon, attribute = name.partition(":")
    if not colon or not module_name or not attribute:
        raise ArgumentError("model", f"must be package.module:callable, got {name!r}")
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
