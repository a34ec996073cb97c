"""What fwdgrad explain knows of a kind of input: photos, texts, rows of a table."""

from __future__ import annotations

import argparse
import functools
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from fwdgrad.checks import check_integer
from fwdgrad.cli.feature_report import write_report_of_features
from fwdgrad.cli.options import run_options
from fwdgrad.cli.output import check_no_input, check_not_of_another, request_of
from fwdgrad.cli.reporting import check_report, is_report
from fwdgrad.errors import ArgumentError, CheckpointError, Message, ModelError, Option, warn
from fwdgrad.explanation import Explanation
from fwdgrad.many import check_options
from fwdgrad.report.index import report_beside
from fwdgrad.runner.fingerprint import parameters_digest
from fwdgrad.runner.loop import Progress
from fwdgrad.runner.workers import workers_of

Say = Callable[..., None]  # see ``fwdgrad.terminal.say``
_Found = TypeVar("_Found")


class Kind:
    """How inputs of a kind are explained, whether one or many: the model is loaded once.

    Args:
        arguments: of the command line. What is one input's own (its photo, text or row, and its
            output folder) is in arguments of its own.

    Attributes:
        what: an input's name: photo, text or row.
        model: what is called.

    Raises:
        ValueError: an option does not go with such inputs.
    """

    what: str
    model: Any

    def __init__(self, arguments: argparse.Namespace) -> None:
        """Checks the options."""
        self.arguments = arguments

    def __getstate__(self) -> dict[str, Any]:
        """Without the model: another process loads it by its name."""
        kind = type(self)
        return {
            name: value
            for name, value in vars(self).items()
            if not isinstance(getattr(kind, name, None), functools.cached_property)
        }

    def files(self, one: argparse.Namespace) -> dict[Path, Path]:
        """The maps that are written of an input, each with its picture or page."""
        raise NotImplementedError

    def reports(self, one: argparse.Namespace) -> dict[Path, Path]:
        """Of each map that is written of an input its report, asked for or not."""
        return {saved: report_beside(saved) for saved in self.files(one)}

    def content(self, one: argparse.Namespace) -> bytes:
        """What is read of an input, and may be another while its name stays."""
        raise NotImplementedError

    def output(self, one: argparse.Namespace) -> Path | None:
        """The folder of an input's files; None where none are written."""
        found: Path | None = one.output
        return found

    def read(self, one: argparse.Namespace) -> dict[str, Path | None]:
        """The files that are read, by what they are."""
        raise NotImplementedError

    def check(self, one: argparse.Namespace) -> Path | None:
        """Raises where what is written would take another's place; returns the checkpoint."""
        checkpoint: Path | None = one.checkpoint
        output, files = self.output(one), self.files(one)
        if one.report and output is None:
            raise ArgumentError("report", "needs ", Option("output"), ", the folder of its page")
        if output is not None:
            checkpoint = checkpoint or output / "checkpoint.safetensors"
            read = {**self.read(one), "--checkpoint": checkpoint}
            check_no_input(f"--output {output}", (*files, *files.values()), read)
            if one.leads and not one.overwrite:
                # Beside a checkpoint a picture without a map is what --watch has drawn so far.
                pages = {
                    saved: [shown]
                    for saved, shown in files.items()
                    if saved.exists() or not checkpoint.exists()
                }
                check_not_of_another(pages, functools.partial(self.differs, one))
            for path in self.reports(one).values() if one.report else ():
                if path.exists():  # in a folder that is there
                    check_report(path, self.read(one), f"--report: {path}")
        return checkpoint

    def differs(self, one: argparse.Namespace, known: Mapping[str, Any]) -> str:
        """What another request a map is of, in words; nothing where it is of the input's own.

        Args:
            one: the arguments of the input.
            known: the map's provenance.
        """
        return "" if known.get("request") == request_of(one) else "of another run"

    def check_options(self) -> None:
        """Raises where an option will not do for any input, before anything is read or loaded."""
        check_options(self.options())
        workers_of(self.arguments.workers)
        for name in ("max_pixels", "max_background"):
            check_integer(name, getattr(self.arguments, name), 1)

    def check_model(self) -> None:
        """Raises where the model will not do for any of the inputs."""
        _ = self.model  # loads it

    def options(self) -> dict[str, Any]:
        """The arguments of ``fwdgrad.explain`` that are the same for every input."""
        return run_options(self.arguments)

    def run(self, one: argparse.Namespace, progress: Progress, say: Say) -> list[Explanation]:
        """Explains an input and writes its files.

        Args:
            one: the arguments of the input.
            progress: see ``fwdgrad.explain``.
            say: says a line.
        """
        raise NotImplementedError

    def kept_by(
        self, checkpoint: Path | None, one: argparse.Namespace, run: Callable[[], _Found]
    ) -> _Found:
        """What a run returns, which starts afresh with --overwrite."""
        try:
            return run()
        except CheckpointError as error:
            if one.checkpoint is not None or "of another run" not in str(error):
                raise
            if not one.overwrite:
                raise CheckpointError(
                    Message(error, ", by --output or --checkpoint; --overwrite starts afresh")
                ) from None
            if one.leads and checkpoint is not None:
                checkpoint.unlink()
            return run()

    def reported(self, write: Callable[[], _Found]) -> _Found | None:
        """What writes a report returns; None where it fails, which costs no explanation."""
        try:
            return write()
        except (ModelError, TypeError, ValueError) as error:
            warn(Message("there is no report, for what was found cannot be checked: ", error))
            return None

    def report_of_features(
        self, one: argparse.Namespace, result: Any, label: str, saved: Path, say: Say, among: int
    ) -> None:
        """Writes the report of a text or a row where one is asked for, and says so.

        Args:
            one: the arguments of the input.
            result: what ``explain`` returned.
            label: what was explained.
            saved: the explanation's file.
            say: says a line.
            among: how many explanations the same calls made.
        """
        if not one.report:
            return
        path = self.reports(one)[saved]
        found = path, one, self.model, result, label, saved, among
        checked = self.reported(functools.partial(write_report_of_features, *found))
        if checked is not None:
            say(f"report       {path} ({checked})")

    @functools.cached_property
    def parameters(self) -> str:
        """The digest of the model's parameters, where some are found."""
        return parameters_digest(self.model) or ""

    def _digest(self, one: argparse.Namespace) -> str:
        """SHA-256 of the input and the model's parameters."""
        return hashlib.sha256(self.content(one) + self.parameters.encode()).hexdigest()

    def save(self, result: Explanation, saved: Path, label: str, one: argparse.Namespace) -> None:
        """Writes a map, with what tells whether another run would give the same one.

        The report of the map that was there before is removed, where that is another one.
        """
        report = self.reports(one)[saved]
        if is_report(report) and not self._is_same(one, saved):
            report.unlink()
        known = {"label": label, "request": request_of(one), "asked_sha256": self._digest(one)}
        result.provenance.update(known)
        result.save(saved)

    def there(self, one: argparse.Namespace) -> bool:
        """Whether a run of the same request, input and model has written all files.

        Reports are among them where these are asked for.
        """
        if one.report and any(not path.exists() for path in self.reports(one).values()):
            return False
        return all(
            shown.exists() and self._is_same(one, saved) for saved, shown in self.files(one).items()
        )

    def _is_same(self, one: argparse.Namespace, saved: Path) -> bool:
        """Whether a file has the map of the same request, input and model."""
        try:
            found = Explanation.load(saved).provenance
        except (OSError, ValueError):
            return False
        return not self.differs(one, found) and found.get("asked_sha256") == self._digest(one)
