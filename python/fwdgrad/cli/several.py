"""Which inputs fwdgrad explain is given: one alone, or several, each with a folder of its own."""

from __future__ import annotations

import argparse
import os
import sys
from argparse import ArgumentTypeError
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fwdgrad.cli.kinds import Kind
from fwdgrad.cli.parser import file_named
from fwdgrad.errors import ArgumentError
from fwdgrad.names import listed

FOLDER = Path("explanations")  # of several inputs, where none is given
_ENDINGS = (
    *(".png", ".jpg", ".jpeg", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".avif"),
    *(".pbm", ".pgm", ".ppm", ".jp2", ".j2k"),
)


@dataclass(frozen=True)
class One:
    """An input.

    Attributes:
        name: what messages call it.
        arguments: the command line's, with the input's own in their place.
        is_alone: whether it was given as one: its files have no folder of their own in --output.
    """

    name: str
    arguments: argparse.Namespace
    is_alone: bool = False


def what_is_given(arguments: argparse.Namespace) -> str:
    """The kind of the inputs: photo, text or row."""
    given = {
        "photo": bool(arguments.photo) or arguments.inputs is not None,
        "text": arguments.text is not None or arguments.texts is not None,
        "row": arguments.table is not None,
    }
    kinds = [kind for kind, is_given in given.items() if is_given]
    both = arguments.text is not None and arguments.texts is not None
    if len(kinds) != 1 or both:
        raise ValueError(
            "give a photo or --text, or photos, --inputs, --texts or --table, and one of them"
        )
    return kinds[0]


def inputs_of(arguments: argparse.Namespace, kind: Kind) -> list[One]:
    """The inputs, one or several.

    Raises:
        ValueError, OSError: a name does not exist, two inputs would have one folder, or there are
            none.
    """
    given: list[dict[str, Any]]
    if kind.what == "photo":
        paths = list(dict.fromkeys(_photos(arguments)))
        alone = len(paths) == 1 and [*arguments.photo] == paths
        given = [{"photo": path} for path in paths]
        places = [(str(path), path.stem) for path in paths]
    elif kind.what == "text":
        alone = arguments.texts is None
        lines = {0: _text(arguments)} if alone else _lines(arguments, "texts")
        given = [{"text": line} for line in lines.values()]
        places = [(f"{arguments.texts}:{number}", f"text-{number:04}") for number in lines]
    else:
        table = kind.table  # type: ignore[attr-defined]
        alone = len(table) <= 1
        given = [{}] if alone else [{"number": i} for i in range(len(table))]
        places = [(f"row {i + 1}", f"row-{i + 1:04}") for i in range(len(given))]
    if alone:
        own = {"photo": None, **given[0]}
        return [One("", argparse.Namespace(**{**vars(arguments), **own}), True)]
    if arguments.checkpoint is not None:
        raise ArgumentError("checkpoint", "is of one input; of several each has its own")
    _check_places(places)
    output = arguments.output or FOLDER
    # Whole inputs go to workers, not samples of one.
    of_all = {**vars(arguments), "photo": None, "workers": None}
    return [
        One(name, argparse.Namespace(**{**of_all, **own, "output": output / stem}))
        for own, (name, stem) in zip(given, places, strict=True)
    ]


def _photos(arguments: argparse.Namespace) -> Iterator[Path]:
    """The files that are named, and those in folders that are."""
    named: list[Path] = [*arguments.photo]
    if arguments.inputs is not None:
        try:
            named += map(file_named, _lines(arguments, "inputs").values())
        except ArgumentTypeError as error:
            raise ArgumentError("inputs", f"{arguments.inputs}: {error}") from None
    if lacking := [path for path in named if not path.exists()]:
        which = f"photo {lacking[0]} does not exist"
        if lacking[1:]:
            which = f"{len(lacking)} photos do not exist: {listed(map(str, lacking))}"
        which += "; nothing was explained" * (len(named) > 1)
        hint = "; for a sentence give --text" * all(map(_like_words, lacking))
        raise FileNotFoundError(which + hint)
    if tables := [path for path in named if path.suffix.lower() == ".csv"]:
        raise ValueError(f"photo {tables[0]} is a table: for its rows give --table")
    for path in named:
        if not path.is_dir():
            yield path
            continue
        found = [
            one
            for one in sorted(path.iterdir())
            if one.suffix.lower() in _ENDINGS and not one.name.startswith(".") and one.is_file()
        ]
        if not found:
            raise ValueError(
                f"photo {path} is a folder without pictures ({', '.join(_ENDINGS)}); name the files"
            )
        yield from found


def _like_words(path: Path) -> bool:
    """Whether a name that is no file's may be a sentence, or a word of one."""
    return path.suffix.lower() not in (*_ENDINGS, ".csv") and (" " in str(path) or not path.suffix)


def _text(arguments: argparse.Namespace) -> str:
    """The text that is given, or all of standard input, without the end of its last line."""
    text: str = arguments.text
    return _read(arguments, "text").rstrip("\r\n") if text == "-" else text


def _read(arguments: argparse.Namespace, option: str) -> str:
    """The text in the file of an option, or in standard input where that is "-"."""
    path = Path(getattr(arguments, option))
    if str(path) == "-" and arguments.group is not None:
        raise ArgumentError(option, "cannot be -, standard input, of several ranks; give a file")
    try:
        content = path.read_bytes() if str(path) != "-" else sys.stdin.buffer.read()
        return content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no text in UTF-8"
        raise ArgumentError(option, f"{path} cannot be read: {why}") from None


def _lines(arguments: argparse.Namespace, option: str) -> dict[int, str]:
    """The lines of an option's file by their numbers, but for empty ones."""
    path, text = getattr(arguments, option), _read(arguments, option)
    lines = enumerate(text.split("\n"), 1)
    found = {number: line.strip("\r") for number, line in lines if line.strip()}
    if not found:
        raise ArgumentError(option, f"{path} has no line with anything in it")
    return found


def _check_places(places: list[tuple[str, str]]) -> None:
    """Raises where two inputs would write to one folder; some systems take A for a."""
    owner: dict[str, str] = {}
    for name, stem in places:
        other = owner.setdefault(os.path.normcase(stem).casefold(), name)
        if other is not name:
            raise ValueError(
                f"{other} and {name} would both write to the folder {stem}: rename one of them, or "
                "explain them in two runs, each with its own --output"
            )
