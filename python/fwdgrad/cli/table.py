"""fwdgrad explain of a row of a table."""

from __future__ import annotations

import argparse
import contextlib
import csv
from pathlib import Path
from typing import Any

from fwdgrad.adapters.importing import import_named
from fwdgrad.adapters.table_explanation import TableExplanation
from fwdgrad.adapters.tables import TableModel
from fwdgrad.advice import advice_for_words
from fwdgrad.cli.options import method_of, method_options, run_options
from fwdgrad.cli.output import (
    check_no_input,
    check_not_of_another,
    made_folder,
    request_of,
    say_how,
)
from fwdgrad.errors import ArgumentError, Option
from fwdgrad.explaining import explain
from fwdgrad.files import write_atomically
from fwdgrad.terminal import say

_OF_OTHERS = (
    "photo", "text", "answers", "api_key_env", "mask", "split", "url", "plain", "baseline", "block",
    "cell", "size", "fit",
)  # fmt: skip


def explain_a_table(arguments: argparse.Namespace) -> None:
    """Explains the row in --table, and writes files where there is an output folder."""
    for name in _OF_OTHERS:
        if getattr(arguments, name):
            raise ArgumentError(name, "is of photos or texts, and --table is given")
    if arguments.background is None or arguments.model is None:
        raise ValueError(
            "--table needs --background, a CSV file of the model's data, and --model "
            "package.module:callable"
        )
    method = _method(arguments)
    background, row = _tables(arguments.background, arguments.table)
    model: Any = TableModel(
        import_named(arguments.model),
        background,
        groups=_named_columns("groups", arguments.groups),
        categories=_named_columns("categories", arguments.categories),
        max_background=arguments.max_background,
        labels=_labels(arguments.labels),
    )
    texts = list(dict.fromkeys(arguments.target or ["auto"]))
    targets: list[int | str | None] = [int(one) if one.isdecimal() else one for one in texts]
    output, checkpoint = arguments.output, arguments.checkpoint
    request = request_of(arguments)
    ends = [""] if len(targets) == 1 else [f"-{target}" for target in targets]
    files: dict[Path, Path] = {}
    if output is not None:
        files = {
            output / f"explanation{end}.safetensors": output / f"row{end}.html" for end in ends
        }
        checkpoint = checkpoint or output / "checkpoint.safetensors"
        read = {"--table": arguments.table, "--background": arguments.background}
        check_no_input(
            f"--output {output}", (*files, *files.values()), {**read, "--checkpoint": checkpoint}
        )
        if not arguments.overwrite:
            check_not_of_another({saved: [page] for saved, page in files.items()}, request)
    with made_folder(output) if output is not None else contextlib.nullcontext():
        try:
            results: Any = explain(
                model,
                row,
                targets,
                method=method,
                checkpoint=checkpoint,
                progress=not arguments.no_progress,
                name=arguments.model,
                **run_options(arguments),
            )
        except ArgumentError as error:
            if error.argument != "x":
                raise
            raise ArgumentError("table", *error.args[0].parts[1:]) from None
    _tell(results, arguments)
    for result, (saved, page) in zip(results, files.items(), strict=False):
        result.explanation.provenance["request"] = request
        result.explanation.save(saved)
        write_atomically(page, result.to_html().encode())
        say(f"page         {page}")
        say(f"attribution  {saved} (of the features, with its standard error)")
    if output is not None and arguments.checkpoint is None:
        checkpoint.unlink(missing_ok=True)


def _tell(results: list[TableExplanation], arguments: argparse.Namespace) -> None:
    for result in results:
        say(result, lines=True)
        if more := arguments.spoken(advice_for_words(result)):
            say(f"reliability  {result.reliability:.3f} ({more})")
    say_how(results[0].explanation, "row")
    say(f"seconds      {results[0].explanation.seconds:.1f}")


def _method(arguments: argparse.Namespace) -> Any:
    """The method with its options; a feature that is out is 0."""
    name, fields = arguments.method, method_options(arguments)
    if name == "auto" and fields:
        name = "coalitions" if "value" in fields else "regions"
    if name not in ("auto", "coalitions", "regions"):
        raise ArgumentError(
            "method", "must be auto, coalitions or regions with ", Option("table"), f", got {name}"
        )
    return name if name == "auto" else method_of(name, {**fields, "baseline": 0.0})


def _tables(background: Path, row: Path) -> tuple[Any, Any]:
    """The two CSV files; what the background has as words, the row has, too."""
    try:
        import pandas  # type: ignore[import-untyped]
    except ImportError:
        raise ImportError("--table needs pandas: pip install 'fwdgrad-kernels[tables]'") from None

    def read(option: str, path: Path, **options: Any) -> Any:
        try:
            return pandas.read_csv(path, **options)
        except OSError as error:
            raise ArgumentError(option, f"{path} cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise ArgumentError(option, f"{path} is no CSV file with a header: {error}") from None

    rows = read("background", background)
    words = {
        name: str for name in rows.columns if not pandas.api.types.is_numeric_dtype(rows[name])
    }
    return rows, read("table", row, dtype=words)


def _named_columns(argument: str, given: list[str] | None) -> dict[str, list[str]]:
    """Of each NAME=COLUMN,COLUMN the columns by the name.

    Example:
        >>> _named_columns("groups", ["place=lat, lon", 'price="net, EUR"'])
        {'place': ['lat', 'lon'], 'price': ['net, EUR']}
    """
    found: dict[str, list[str]] = {}
    for text in given or ():
        name, _, listed = text.partition("=")
        try:
            columns = next(csv.reader([listed], skipinitialspace=True))
        except csv.Error:  # a new line
            columns = []
        if not (name.strip() and columns):
            raise ArgumentError(
                argument, f"must be a name and its columns, place=lat,lon say, got {text!r}"
            )
        if name.strip() in found:
            raise ArgumentError(
                argument, f"must have names of their own, got {name.strip()!r} twice"
            )
        found[name.strip()] = columns
    return found


def _labels(path: Path | None) -> list[str] | None:
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8-sig").rstrip("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ArgumentError("labels", f"{path} cannot be read: {error}") from None
