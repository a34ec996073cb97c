"""Text for a terminal, in which control characters are shown as escapes and have no effect."""

from __future__ import annotations

import re
import sys
from typing import TextIO

# Controls of both ranges (C0, C1), line breaks, overrides of the direction of writing, and halves
# of surrogate pairs. Joiners and plain marks of direction stay: several scripts need them.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_COLOURS = re.compile("(\x1b\\[[0-9;]*m)")


def plain(text: object, *, lines: bool = False) -> str:
    r"""A text on one line, with control characters written as escapes.

    Args:
        text: anything: a class name, a message, a path.
        lines: whether line breaks and tabulators stay.

    Returns:
        The text, without anything that would drive a terminal or reverse a page's writing.

    Example:
        >>> print(plain("cat\x1b[2J\u202e"))
        cat\x1b[2J\u202e
    """
    return _CONTROLS.sub(
        lambda found: found[0] if lines and found[0] in "\n\t" else _escaped(found), str(text)
    )


def styled(text: str) -> str:
    r"""Several lines that keep their colours; other control characters are written as escapes.

    >>> styled("\x1b[31mred\x1b[0m\n\x1b]0;title\x07")
    '\x1b[31mred\x1b[0m\n\\x1b]0;title\\x07'
    """
    return "".join(
        part if i % 2 else plain(part, lines=True) for i, part in enumerate(_COLOURS.split(text))
    )


def say(text: object, file: TextIO | None = None, *, lines: bool = False) -> None:
    """Prints a line; the command line prints in no other way.

    Args:
        text: of the line.
        file: where to; None: standard output.
        lines: whether the text is several lines of our own, which may be coloured.
    """
    file = sys.stdout if file is None else file
    shown = styled(str(text)) if lines else plain(text)
    coding = getattr(file, "encoding", None) or "utf-8"
    print(shown.encode(coding, "backslashreplace").decode(coding), file=file)


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()
