"""Classes by their names; a class may have several, separated by commas, as in WordNet."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from fwdgrad.errors import ArgumentError
from fwdgrad.outputs import told


def split_names(label: str) -> list[str]:
    """The names in a label, the first one first.

    >>> split_names("tench, Tinca tinca")
    ['tench', 'Tinca tinca']
    """
    return [part.strip() for part in label.split(",") if part.strip()]


def listed(names: Iterable[Any], most: int = 5) -> str:
    """The first few of many names, and how many more there are.

    >>> listed(["a", "b", "c", "d"], 2)
    "'a', 'b' and 2 more"
    """
    shown = [told(repr(name), 60) for name in names]
    more = f" and {len(shown) - most} more" if len(shown) > most else ""
    return ", ".join(shown[:most]) + more


def found_by(find: Callable[[str], Any], names: Iterable[str]) -> list[Any]:
    """What each of several names is of; where some are of nothing, one error lists them all.

    >>> found_by(lambda name: ClassNames(["cat", "dog"]).find(name, "target", "pets"), ["dog"])
    [1]
    """
    found, errors = [], {}
    for name in names:
        try:
            found.append(find(name))
        except ArgumentError as error:
            errors[name] = error
    if not errors:
        return found
    first = next(iter(errors.values()))
    if len(errors) == 1:
        raise first
    rest = first.args[0].parts[2:]
    raise ArgumentError(
        first.argument, f"must name classes, and {len(errors)} do not: {listed(errors)}; ", *rest
    ) from None


def check_labels(argument: str, labels: Any, count: int | None = None) -> tuple[str, ...]:
    """A list of strings, one for each class, as a tuple; errors name ``argument``.

    >>> check_labels("labels", ["cat"], 2)
    Traceback (most recent call last):
    ValueError: labels must be 2, one for each class, got 1
    """
    if isinstance(labels, str) or not isinstance(labels, Iterable):
        raise TypeError(f"{argument} must be a list of strings, got {labels!r}")
    found = tuple(labels)
    for i, label in enumerate(found):
        if not isinstance(label, str):
            raise TypeError(f"{argument} must be a list of strings, got {label!r} at place {i}")
    if not found:
        raise ValueError(f"{argument} must have at least one entry, got none")
    if count not in (None, len(found)):
        raise ValueError(f"{argument} must be {count}, one for each class, got {len(found)}")
    return found


def check_different(argument: str, names: Any, least: int) -> tuple[str, ...]:
    """A list of at least ``least`` different strings, as a tuple; errors name ``argument``.

    >>> check_different("labels", ["cat", "cat"], 2)
    Traceback (most recent call last):
    ValueError: labels must differ, got 'cat' twice
    """
    found = check_labels(argument, names)
    if len(found) < least:
        raise ValueError(f"{argument} must be {least} or more, got {list(found)}")
    if len(set(found)) < len(found):
        again = next(name for i, name in enumerate(found) if name in found[:i])
        raise ValueError(f"{argument} must differ, got {again!r} twice")
    return found


class ClassNames:
    """Finds classes by one of their names, or by all of them at once, in any case.

    Args:
        labels: a string for each class: its names, separated by commas.
        keys: further names, one for each class, such as WordNet's identifiers.

    Example:
        >>> names = ClassNames(["tench, Tinca tinca", "crane", "crane, lifting device"])
        >>> names.find("Tinca Tinca", "target", "the model"), names.classes("crane")
        (0, (1, 2))
    """

    def __init__(self, labels: Sequence[str], keys: Sequence[str] = ()) -> None:
        """Indexes every name."""
        self._first = [(split_names(label) or [label])[0] for label in labels]
        classes: dict[str, dict[int, None]] = {}
        for i, label in enumerate(labels):
            for name in (*split_names(label), label, *keys[i : i + 1]):
                classes.setdefault(_plain(name), {})[i] = None
        self._classes = {name: tuple(found) for name, found in classes.items()}

    def classes(self, name: str) -> tuple[int, ...]:
        """All classes that have a name; none where it is unknown."""
        return self._classes.get(_plain(name), ())

    def find(self, name: str, argument: str, owner: str) -> int:
        """The one class that has a name.

        Args:
            name: of the class.
            argument: the name's own name in an error.
            owner: of the classes, for an error: "the model", say.

        Raises:
            ValueError: no class has it (the message lists similar names), or several have.
        """
        found = self.classes(name)
        if len(found) == 1:
            return found[0]
        if found:
            raise ArgumentError(
                argument,
                f"{name!r} is the name of classes {', '.join(map(str, found))}; give the number",
            )
        raise ArgumentError(argument, f"{name!r} is no class of {owner}{self.hint(name)}")

    def hint(self, name: str) -> str:
        """Similar names, as the end of a message that a name is unknown; "" without any."""
        wanted = _plain(name)
        holders: set[tuple[bool, int]] = set()  # those with it as a word of its own come first
        for known, found in self._classes.items():
            if wanted in known:
                holders |= {(wanted not in re.split(r"\W+", known), i) for i in found}
        order = dict.fromkeys(i for _, i in sorted(holders))
        close = [f"{self._first[i]} ({i})" for i in list(order)[:5]]
        if not close:
            near = difflib.get_close_matches(wanted, self._classes, n=3)
            close = [f"{known} ({self._classes[known][0]})" for known in near]
        return f"; perhaps {', '.join(close)}" if close else ""


def _plain(name: str) -> str:
    return name.strip().casefold()
