"""Text for a terminal: what others wrote is shown as text and never obeyed."""

from __future__ import annotations

import re
import sys
from typing import TextIO

# Controls of both ranges (C0, C1), what breaks a line, what overrides the direction of writing, and
# halves of surrogate pairs. Joiners and plain marks of direction stay: several scripts need them.
_OBEYED = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_COLOURS = re.compile("(\x1b\\[[0-9;]*m)")


def plain(text: object, *, lines: bool = False) -> str:
    r"""A text on one line, with what a terminal or a page would obey written out.

    Args:
        text: anything; a class name, a message, a path.
        lines: whether it is a text of its own, whose line breaks and tabulators stay.

    Returns:
        The text, controls, line breaks and marks of direction as escapes.

    Example:
        >>> print(plain("cat\x1b[2J\u202e"))
        cat\x1b[2J\u202e
    """
    return _OBEYED.sub(
        lambda found: found[0] if lines and found[0] in "\n\t" else _escaped(found), str(text)
    )


def styled(text: str) -> str:
    r"""Several lines with colours, and nothing else that a terminal would obey.

    >>> styled("\x1b[31mred\x1b[0m\n\x1b]0;title\x07")
    '\x1b[31mred\x1b[0m\n\\x1b]0;title\\x07'
    """
    return "".join(
        part if i % 2 else plain(part, lines=True) for i, part in enumerate(_COLOURS.split(text))
    )


def say(text: object, file: TextIO | None = None, *, lines: bool = False) -> None:
    """Prints a line, the only way in which the command line prints.

    Args:
        text: of the line.
        file: where to; standard output where None.
        lines: whether it is several lines, coloured perhaps, that we have put together.
    """
    file = sys.stdout if file is None else file
    shown = styled(str(text)) if lines else plain(text)
    coding = getattr(file, "encoding", None) or "utf-8"
    print(shown.encode(coding, "backslashreplace").decode(coding), file=file)


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()
