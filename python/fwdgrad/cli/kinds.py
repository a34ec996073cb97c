"""What fwdgrad explain knows of a kind of input: photos, texts, rows of a table."""

from __future__ import annotations

import argparse
import functools
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from fwdgrad.cli.options import run_options
from fwdgrad.cli.output import check_no_input, check_not_of_another, request_of
from fwdgrad.errors import CheckpointError, Message
from fwdgrad.explanation import Explanation
from fwdgrad.many import check_options
from fwdgrad.runner.fingerprint import parameters_digest
from fwdgrad.runner.loop import Progress

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
        return checkpoint

    def differs(self, one: argparse.Namespace, known: Mapping[str, Any]) -> str:
        """What another request a map is of, in words; nothing where it is of the input's own.

        Args:
            one: the arguments of the input.
            known: the map's provenance.
        """
        return "" if known.get("request") == request_of(one) else "of another run"

    def check_options(self) -> None:
        """Raises where an option will not do for any input, or the model for any of the inputs."""
        check_options(self.options())
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

    @functools.cached_property
    def parameters(self) -> str:
        """The digest of the model's parameters, where some are found."""
        return parameters_digest(self.model) or ""

    def _digest(self, one: argparse.Namespace) -> str:
        """SHA-256 of the input and the model's parameters."""
        return hashlib.sha256(self.content(one) + self.parameters.encode()).hexdigest()

    def save(self, result: Explanation, saved: Path, label: str, one: argparse.Namespace) -> None:
        """Writes a map, with what tells whether another run would give the same one."""
        known = {"label": label, "request": request_of(one), "asked_sha256": self._digest(one)}
        result.provenance.update(known)
        result.save(saved)

    def there(self, one: argparse.Namespace) -> bool:
        """Whether a run of the same request, input and model has written all files."""
        for saved, shown in self.files(one).items():
            if not (saved.exists() and shown.exists()):
                return False
            try:
                found = Explanation.load(saved).provenance
            except (OSError, ValueError):
                return False
            if self.differs(one, found) or found.get("asked_sha256") != self._digest(one):
                return False
        return True
