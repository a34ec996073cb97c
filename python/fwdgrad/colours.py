"""The colours of all maps, which the colour-blind can tell apart, and how they are mixed."""

from __future__ import annotations

RED = (213, 62, 0)  # increases the score: vermilion, which is no green to anyone
BLUE = (0, 98, 178)  # decreases it
GREEN = (0, 145, 95)  # what a detector found

# The same in a terminal: the 6 x 6 x 6 colour cube, from faint to full.
TERMINAL_RED = (223, 216, 209, 202, 166)
TERMINAL_BLUE = (153, 111, 75, 32, 25)


def hexadecimal(colour: tuple[int, int, int]) -> str:
    """A colour as matplotlib and style sheets take it.

    >>> hexadecimal(RED)
    '#d53e00'
    """
    return "#{:02x}{:02x}{:02x}".format(*colour)
