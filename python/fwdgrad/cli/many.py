"""fwdgrad explain of several inputs: one after another, and a page of all maps."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

from fwdgrad.cli.kinds import Kind
from fwdgrad.cli.output import made_folder, say_seconds
from fwdgrad.cli.several import FOLDER, One
from fwdgrad.errors import ArgumentError, Kept, kept_warnings
from fwdgrad.explanation import Explanation
from fwdgrad.files import write_atomically
from fwdgrad.many import in_flight, waited_for
from fwdgrad.meaning import score_name
from fwdgrad.report import MARK
from fwdgrad.report.index import index_page
from fwdgrad.runner.loop import Progress
from fwdgrad.runner.workers import Workers, workers_of
from fwdgrad.telling import InputsBar, Warnings
from fwdgrad.terminal import say

_NAMED = 5  # inputs that failed for one reason, by name


def explain_all(arguments: argparse.Namespace, kind: Kind, inputs: list[One]) -> int:
    """Explains inputs one after another; what is there already is not made again.

    A failed one does not stop the others, and is named at the end. Ranks of torchrun take whole
    inputs, and rank 0 writes the index.

    Returns:
        The exit status: 1 where one failed.
    """
    output: Path = arguments.output or FOLDER
    group = arguments.group
    kind.check_model()  # what is wrong with all is told once
    _check_index(output)
    for one in inputs:  # before any is explained
        one.arguments.group, one.arguments.leads = None, True
        kind.check(one.arguments)
    todo = [one for one in inputs if arguments.overwrite or not kind.there(one.arguments)]
    there = {one.name for one in inputs} - {one.name for one in todo}
    if group is not None:
        group.barrier().wait()  # before there are new maps
        todo = todo[group.rank() :: group.size()]
    failed: dict[str, str] = {}
    done: set[str] = set()
    warnings = Warnings()
    shows = not arguments.no_progress and bool(todo)
    unit = f"{kind.what}s"

    def tell(name: str, call: Callable[[Progress], _Done], bar: InputsBar) -> None:
        lines: list[str] = []
        samples = 0
        try:
            lines, samples, kept = call(bar.within if shows else False)
        except Exception as error:
            if group is None and not (there or done) and _is_of_all(error):
                raise
            failed[name] = _reason(error, arguments)
        else:
            done.add(name)
            warnings.tell(name, kept)
        with bar.written_over():
            for line in lines:
                say(f"{name}: {line}")
        bar.step(samples)

    def end() -> None:
        known = there | done
        maps = [kind.files(one.arguments) for one in inputs if one.name in known]
        _write_index(output, maps, failed)
        _say_failed(failed)

    running: dict[str, Future[_Done]] = {}
    with made_folder(output):
        try:
            with (
                contextlib.closing(_calls(kind, todo, arguments.workers, running)) as calls,
                contextlib.closing(InputsBar(shows, len(todo), unit)) as bar,
            ):
                try:
                    for name, call in calls:
                        tell(name, call, bar)
                        running.pop(name, None)
                except KeyboardInterrupt:  # what workers have done out of turn
                    for name, future in running.items():
                        is_new = future.done() and name not in done | failed.keys()
                        if is_new and isinstance(future.exception(), Exception | None):
                            tell(name, partial(waited_for, future), bar)
                    raise
        finally:
            if group is None:
                end()
    if group is not None:
        found = _of_all_ranks((done, failed), group)
        done = {name for some, _ in found for name in some}
        failed = {name: reason for _, some in found for name, reason in some.items()}
        if not arguments.leads:
            return 1 if failed else 0
        end()
    parts = [f"{len(done)} explained"] + [f"{len(there)} there already"] * bool(there)
    parts += [f"{len(failed)} failed"] * bool(failed)
    say(f"{unit:12} {', '.join(parts)}")
    say(f"index        {output / 'index.html'}")
    say_seconds(arguments, say)
    return 1 if failed else 0


def _is_of_all(error: Exception) -> bool:
    """Whether an error of the first input is one of every other, too."""
    return isinstance(error, ArgumentError) and error.argument in ("labels", "target")


def _of_all_ranks(own: Any, group: Any) -> list[Any]:
    import torch.distributed as dist

    found: list[Any] = [None] * group.size()
    dist.all_gather_object(found, own, group)
    return found


_Done = tuple[list[str], int, Kept]  # lines of the maps, samples, and what was warned of


def explain_here(kind: Kind, one: argparse.Namespace, progress: Progress = False) -> _Done:
    """Explains an input in this process."""
    with kept_warnings() as kept:
        found = kind.run(one, progress, _say_nothing)
    lines = [
        f"{result.provenance['label']}, {score_name(result)} {result.score:.4g}, reliability "
        f"{result.reliability:.2f}{_told(result)}, {one.output}"
        for result in found
    ]
    return lines, found[0].n_samples, kept


def _told(result: Explanation) -> str:
    """After how many samples a run of --samples auto stopped, at other numbers of each input."""
    return f" after {result.n_samples} samples" if "n_samples" in result.provenance else ""


def _calls(
    kind: Kind, todo: list[One], given: int | Workers | None, running: dict[str, Future[_Done]]
) -> Generator[tuple[str, Callable[[Progress], _Done]], None, None]:
    """The inputs, each with a call that explains it or waits for the process that does.

    Those that were given to a process are put into ``running``.
    """
    workers = workers_of(given)
    if workers is None or len(todo) < 2:
        for one in todo:
            yield one.name, partial(explain_here, kind, one.arguments)
        return
    model: Any = kind  # which calls it
    with workers.open(model) as pool:

        def submitted() -> Iterator[tuple[str, Future[_Done]]]:
            for one in todo:
                running[one.name] = pool.submit(_explain_there, os.getcwd(), one.arguments)
                yield one.name, running[one.name]

        yield from in_flight(submitted(), 2 * pool.count)


def _explain_there(kind: Kind, folder: str, arguments: argparse.Namespace) -> _Done:
    """``explain_here`` in another process, where paths are of this one's folder."""
    os.chdir(folder)
    return explain_here(kind, arguments)


def _say_nothing(*_: object, **__: object) -> None:
    """Of several inputs a line each is said."""


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
        named = f"{', '.join(names[:_NAMED])}{more}: " * (len(names) > 1 or names[0] not in reason)
        say(f"fwdgrad: error: {named}{reason}", sys.stderr)


def _check_index(output: Path) -> None:
    path = output / "index.html"
    if path.exists() and MARK.encode() not in path.read_bytes()[:4096]:
        raise ValueError(
            f"--output {output} has an index.html that is no list of maps; give another --output"
        )


def _write_index(output: Path, maps: list[dict[Path, Path]], failed: dict[str, str]) -> None:
    page = index_page(maps, failed)
    if page is not None:
        write_atomically(output / "index.html", page.encode())
