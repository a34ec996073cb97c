"""What can go wrong that is not a wrong argument."""

from __future__ import annotations

import sys
import warnings


class ModelError(RuntimeError):
    """The model failed, or returned something that no score can be made of."""


class CheckpointError(RuntimeError):
    """A checkpoint is of another run, or damaged."""


class ReliabilityWarning(UserWarning):
    """Most of a map is noise; the message says what would leave less of it."""


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warns at the line of the caller's own that led here: the first outside this package.

    Example:
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warn("the map is noise")
        >>> str(caught[0].message)
        'the map is noise'
    """
    frame, level = sys._getframe(1), 2
    while frame.f_back and frame.f_globals.get("__name__", "").split(".")[0] == "fwdgrad":
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)
