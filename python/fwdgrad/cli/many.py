"""fwdgrad explain of several inputs: one after another, and a page of all maps."""

from __future__ import annotations

import argparse
import sys
import traceback
from pathlib import Path

from fwdgrad.cli.kinds import Kind
from fwdgrad.cli.output import made_folder
from fwdgrad.cli.several import FOLDER, One
from fwdgrad.errors import kept_warnings
from fwdgrad.explanation import Explanation
from fwdgrad.files import write_atomically
from fwdgrad.many import InputsBar, Warnings
from fwdgrad.report import MARK
from fwdgrad.report.index import index_page
from fwdgrad.terminal import say

_NAMED = 5  # inputs that failed for one reason, by name


def explain_all(arguments: argparse.Namespace, kind: Kind, inputs: list[One]) -> int:
    """Explains inputs one after another; what is there already is not made again.

    A failed one does not stop the others, and is named at the end.

    Returns:
        The exit status: 1 where one failed.
    """
    output: Path = arguments.output or FOLDER
    _check_index(output)
    for one in inputs:  # before any is explained
        kind.check(one.arguments)
    todo = [one for one in inputs if arguments.overwrite or not kind.there(one.arguments)]
    failed: dict[str, str] = {}
    done, warnings = 0, Warnings()
    shows = not arguments.no_progress
    unit = f"{kind.what}s"
    with made_folder(output):
        try:
            with InputsBar(shows and bool(todo), len(todo), unit) as bar:
                for one in todo:
                    try:
                        with kept_warnings() as kept:
                            progress = bar.within if shows else False
                            found = kind.run(one.arguments, progress, _say_nothing)
                    except Exception as error:
                        failed[one.name] = _reason(error, arguments)
                    else:
                        done += 1
                        warnings.tell(one.name, kept)
                        with bar.written_over():
                            for result in found:
                                say(_line(one, result))
                    bar.step()
        finally:
            _write_index(output, failed)
    there = len(inputs) - len(todo)
    parts = [f"{done} explained"] + [f"{there} there already"] * bool(there)
    parts += [f"{len(failed)} failed"] * bool(failed)
    say(f"{unit:12} {', '.join(parts)}")
    say(f"index        {output / 'index.html'}")
    _say_failed(failed)
    return 1 if failed else 0


def _say_nothing(*_: object, **__: object) -> None:
    """Of several inputs a line each is said."""


def _line(one: One, result: Explanation) -> str:
    label = result.provenance["label"]
    return (
        f"{one.name}: {label}, {result.objective} {result.score:.4g}, reliability "
        f"{result.reliability:.2f}, {one.arguments.output}"
    )


def _reason(error: Exception, arguments: argparse.Namespace) -> str:
    from fwdgrad.cli import reason_of

    if arguments.debug:
        say(traceback.format_exc().rstrip(), sys.stderr, lines=True)
    return reason_of(error, arguments.spoken)


def _say_failed(failed: dict[str, str]) -> None:
    """Names what failed: inputs of one reason on one line."""
    for reason in dict.fromkeys(failed.values()):
        names = [name for name, own in failed.items() if own == reason]
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        say(f"fwdgrad: error: {', '.join(names[:_NAMED])}{more}: {reason}", sys.stderr)


def _check_index(output: Path) -> None:
    path = output / "index.html"
    if path.exists() and MARK.encode() not in path.read_bytes()[:4096]:
        raise ValueError(
            f"--output {output} has an index.html that is no list of maps; give another --output"
        )


def _write_index(output: Path, failed: dict[str, str]) -> None:
    page = index_page(output, failed)
    if page is not None:
        write_atomically(output / "index.html", page.encode())
