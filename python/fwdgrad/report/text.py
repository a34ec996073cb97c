"""Text on a report's page: escaped, and values of settings in a few words."""

from __future__ import annotations

import dataclasses
import html
from typing import Any

from torch import Tensor

from fwdgrad.terminal import plain


def escape(text: object) -> str:
    """Text as a page shows it, on one line: no markup, nothing that turns its direction.

    >>> escape("a < b")
    'a &lt; b'
    """
    return html.escape(plain(text))


def tied(text: str) -> str:
    """A sentence, escaped, in which no number stands on another line than its unit.

    >>> tied("5 % & 1 percentage point") == "5\u00a0% &amp; 1 percentage point"
    True
    """
    return escape(text).replace(" %", "\u00a0%")


def shown(value: Any) -> str:
    """A setting's value in a few words.

    >>> shown((1, None, True)), shown({"width": 3})
    ('(1, none, yes)', 'width 3')
    """
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {shown(one)}" for name, one in value.items())
    if isinstance(value, (tuple, list)):
        return f"({', '.join(map(shown, value))})"
    if dataclasses.is_dataclass(value):
        names = [f.name for f in dataclasses.fields(value) if f.init and f.repr]
        pairs = ", ".join(f"{name}={shown(getattr(value, name))}" for name in names)
        return f"{type(value).__name__}({pairs})"
    if value is None or isinstance(value, bool):
        return "none" if value is None else "yes" if value else "no"
    return str(value)
