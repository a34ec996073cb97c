"""fwdgrad explain of rows of a table."""

from __future__ import annotations

import argparse
import contextlib
import csv
import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fwdgrad.adapters.importing import import_named, read_labels
from fwdgrad.adapters.table_explanation import TableExplanation
from fwdgrad.adapters.tables import TableModel
from fwdgrad.advice import advice_for_words
from fwdgrad.cli.evidence import evidence_of, line_of
from fwdgrad.cli.kinds import Kind, Say
from fwdgrad.cli.options import in_or_out, run_options
from fwdgrad.cli.output import made_folder, say_how, say_seconds
from fwdgrad.errors import ArgumentError, ArgumentTypeError, Option
from fwdgrad.explaining import explain
from fwdgrad.explanation import Explanation
from fwdgrad.files import write_atomically
from fwdgrad.runner.fingerprint import parameters_digest
from fwdgrad.runner.loop import Progress

_OF_OTHERS = (
    "answers", "api_key_env", "mask", "split", "url", "plain", "baseline", "block", "cell", "size",
    "fit", "engine", "watch",
)  # fmt: skip
OF_ROWS = ("background", "groups", "categories")


class Rows(Kind):
    """How rows of a table are explained."""

    what = "row"

    def __init__(self, arguments: argparse.Namespace) -> None:
        """Checks the options, and reads the tables."""
        super().__init__(arguments)
        for name in _OF_OTHERS:
            if getattr(arguments, name):
                raise ArgumentError(name, "does not go with ", Option("table"))
        if arguments.background is None or arguments.model is None:
            raise ValueError(
                "--table needs --background, a CSV file of the model's data, and --model "
                "package.module:callable"
            )
        self._method = in_or_out(arguments, "with ", Option("table"))
        self._background, self.table = _tables(arguments.background, arguments.table)
        texts = list(dict.fromkeys(arguments.target or ["auto"]))
        self._targets: list[int | str | None] = [
            int(one) if one.isdecimal() else one for one in texts
        ]

    @functools.cached_property
    def model(self) -> Any:  # type: ignore[override]
        """The model of tables, loaded when it is first asked for."""
        labels = self.arguments.labels
        return TableModel(
            import_named(self.arguments.model),
            self._background,
            groups=_named_columns("groups", self.arguments.groups),
            categories=_named_columns("categories", self.arguments.categories),
            max_background=self.arguments.max_background,
            labels=None if labels is None else list(read_labels(labels)),
        )

    @functools.cached_property
    def parameters(self) -> str:  # type: ignore[override]
        """The digest of the model's parameters, and the rows of its background."""
        background: bytes = self.arguments.background.read_bytes()
        known = parameters_digest(self.model.predict) or ""
        return known + hashlib.sha256(background).hexdigest()

    def _row(self, one: argparse.Namespace) -> Any:
        number = getattr(one, "number", 0)
        return self.table.iloc[number : number + 1]

    def files(self, one: argparse.Namespace) -> dict[Path, Path]:
        """The maps of a row, each with its page."""
        output = one.output
        if output is None:
            return {}
        ends = [""] if len(self._targets) == 1 else [f"-{target}" for target in self._targets]
        return {output / f"explanation{end}.safetensors": output / f"row{end}.html" for end in ends}

    def content(self, one: argparse.Namespace) -> bytes:
        """The row; 4.0 is 4, since other rows tell which of them a column has."""
        row = self._row(one).astype(object).iloc[0]
        values = [
            int(value) if isinstance(value, float) and value.is_integer() else value
            for value in row.tolist()
        ]
        return repr(list(zip(row.index, values, strict=True))).encode()

    def read(self, one: argparse.Namespace) -> dict[str, Path | None]:
        """The two tables."""
        return {"--table": one.table, "--background": one.background}

    def check_model(self) -> None:
        """Raises where the model will not do for any row, or the table has other columns."""
        super().check_model()
        with _of_table():
            self.model.columns.values_of(self.table.iloc[0])

    def options(self) -> dict[str, Any]:
        """The arguments of ``fwdgrad.explain``, the method among them."""
        return {**run_options(self.arguments), "method": self._method}

    def run(self, one: argparse.Namespace, progress: Progress, say: Say) -> list[Explanation]:
        """Explains a row, and writes its files where there is an output folder."""
        self.check_model()
        checkpoint, output = self.check(one), one.output

        def run() -> Any:
            return explain(
                self.model,
                self._row(one),
                self._targets,
                method=self._method,
                checkpoint=checkpoint,
                progress=progress,
                name=one.model,
                **run_options(one),
            )

        with made_folder(output if one.leads else None), _of_table():
            results = self.kept_by(checkpoint, one, run)
        if not one.leads:
            return [result.explanation for result in results]
        _tell(results, one, self.model, say)
        for result, (saved, page) in zip(results, self.files(one).items(), strict=False):
            label = result.label or "the model's output"
            self.save(result.explanation, saved, label, one)
            write_atomically(page, result.to_html().encode())
            say(f"page         {page}")
            say(f"attribution  {saved} (of the features, with its standard error)")
            self.report_of_features(one, result, label, saved, say, len(results))
        say_seconds(one, say, results[0].explanation)
        if output is not None and one.checkpoint is None and checkpoint is not None:
            checkpoint.unlink(missing_ok=True)
        return [result.explanation for result in results]


@contextlib.contextmanager
def _of_table() -> Iterator[None]:
    """What is wrong with a row x is wrong with --table."""
    try:
        yield
    except (ArgumentError, ArgumentTypeError) as error:
        if error.argument != "x":
            raise
        raise type(error)("table", *error.args[0].parts[1:]) from None


def _tell(
    results: list[TableExplanation], arguments: argparse.Namespace, model: Any, say: Say
) -> None:
    for result in results:
        say(result, lines=True)
        if more := arguments.spoken(advice_for_words(result)):
            say(f"reliability  {result.reliability:.3f} ({more})")
        if (found := evidence_of(arguments, model, result)) is not None:
            say(line_of(found))
    say_how(results[0].explanation, "row", say)


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
    table = read("table", row, dtype=words)
    for name in table.columns.difference(list(words)):  # a word in a row is of that row alone
        if not pandas.api.types.is_numeric_dtype(table[name]):
            numbers = pandas.to_numeric(table[name], errors="coerce").astype(object)
            table[name] = numbers.where(numbers.notna(), table[name])
    for option, path, found in (("background", background, rows), ("table", row, table)):
        if not len(found):
            raise ArgumentError(option, f"{path} has a header and no rows")
    return rows, table


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
