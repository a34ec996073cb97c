"""fwdgrad explain of photos."""

from __future__ import annotations

import argparse
import contextlib
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fwdgrad.adapters.engines import engine_of
from fwdgrad.adapters.images import MODELS, ImageClassifier, load_classifier
from fwdgrad.adapters.photos import Photo, read_photo
from fwdgrad.adapters.picture_explanation import told
from fwdgrad.advice import advice, try_another
from fwdgrad.cli.engine import on_asked_engine
from fwdgrad.cli.evidence import evidence_of, line_of
from fwdgrad.cli.heatmap import heatmap, panels_of
from fwdgrad.cli.kinds import Kind, Say
from fwdgrad.cli.many import explain_all
from fwdgrad.cli.options import photo_options
from fwdgrad.cli.output import (
    check_drawing,
    check_labels,
    check_of_one_photo,
    made_folder,
    peak_memory,
    request_of,
    say_how,
    say_seconds,
    set_threads,
    set_workers,
)
from fwdgrad.cli.ranks import ranks_of
from fwdgrad.cli.reporting import write_report_of
from fwdgrad.cli.several import inputs_of, what_is_given
from fwdgrad.cli.table import OF_ROWS, Rows
from fwdgrad.cli.text import Texts
from fwdgrad.errors import ArgumentError, Message, ModelError, Option, warn
from fwdgrad.explaining import explanations
from fwdgrad.explanation import Explanation
from fwdgrad.failing import is_of_shapes, wants_channels_last
from fwdgrad.files import write_atomically
from fwdgrad.meaning import score_name
from fwdgrad.names import found_by
from fwdgrad.objectives import kind_of
from fwdgrad.outputs import floating, tensor_of
from fwdgrad.runner.fingerprint import models_of
from fwdgrad.runner.loop import Progress
from fwdgrad.scorer import module_of
from fwdgrad.terminal import say

_DRAWN = 640  # pixels of a photo's longer side that are kept to draw it, on 573 or, wide, on 1164


def _photo(arguments: argparse.Namespace, size: int) -> Photo:
    fit: Any = arguments.fit or ("crop" if arguments.model in MODELS else None)
    return read_photo(arguments.photo, size, fit, arguments.max_pixels, _DRAWN)


def _how_cut(photo: Photo) -> str:
    """What of a photo is explained."""
    size = f"{photo.width} x {photo.height} pixels"
    if photo.fit == "crop":
        return f"its centre, {photo.share:.0%} of its {size}; --fit pad takes all of it"
    if photo.width == photo.height:
        return f"all of its {size}"
    how = "with grey beside it" if photo.fit == "pad" else "stretched to a square"
    return f"all of its {size}, {how}"


def _most_probable(outputs: Any, adapter: ImageClassifier) -> str | None:
    """The five most probable classes, where there are classes."""
    kind = kind_of(outputs)
    if kind == "number":
        return None
    row = floating(tensor_of(outputs, None)).double().cpu()[0]
    row = row.softmax(0) if kind == "scores" else row
    values, classes = row.topk(min(5, len(row)))
    return ", ".join(
        f"{adapter.label(c)} {value:.3g}"
        for c, value in zip(classes.tolist(), values.tolist(), strict=True)
    )


class Photos(Kind):
    """How photos are explained."""

    what = "photo"

    def __init__(self, arguments: argparse.Namespace) -> None:
        """Checks the options."""
        super().__init__(arguments)
        for name in ("answers", "api_key_env", "mask", "split", "url"):
            if getattr(arguments, name) is not None:
                raise ArgumentError(name, "is of --text")
        if arguments.watch and arguments.n_samples != "auto":
            raise ArgumentError("watch", "needs ", Option("n_samples", "auto"))
        arguments.model = arguments.model or next(iter(MODELS))
        size = 224 if arguments.size is None else arguments.size
        if size < 8:
            raise ArgumentError("size", f"must be at least 8 pixels, got {size}")
        if arguments.size is not None and arguments.model in MODELS:
            raise ArgumentError(
                "size", f"is for a callable of your own; {arguments.model} has its own size"
            )
        self._size = size
        self._taken: tuple[ImageClassifier, str | None] | None = None

    @functools.cached_property
    def adapter(self) -> ImageClassifier:
        """The model, loaded when it is first asked for."""
        found = load_classifier(self.arguments.model, self._size, self.arguments.labels)
        _warn_of_training(found)
        return found

    @property
    def model(self) -> Any:  # type: ignore[override]
        """What is called, and what its parameters are read of."""
        return self.adapter.forward

    def _on_engine(self, pixels: Tensor, method: Any) -> tuple[ImageClassifier, str | None]:
        """The model on its engine, which the first photo settles, and what to say of that."""
        if self._taken is None:
            self._taken = on_asked_engine(self.arguments, self.adapter, pixels, method)
        return self._taken

    @functools.cached_property
    def _targets(self) -> list[int | str | None]:
        """The classes by their numbers, "auto" as it is, none of them twice."""

        def class_of(text: str) -> int | str:
            if not text.strip():
                raise ArgumentError(
                    "target", "must be a class's number, its name or auto, got nothing"
                )
            try:
                return text if text == "auto" else int(text)
            except ValueError:
                return self.adapter.find(text)

        return list(dict.fromkeys(found_by(class_of, self.arguments.target or ["auto"])))

    def files(self, one: argparse.Namespace) -> dict[Path, Path]:
        """The maps that are written of a photo, each with its picture."""
        output = self.output(one)
        targets = self._targets
        ends = [""] if len(targets) == 1 else [f"-{target}" for target in targets]
        return {
            output / f"explanation{end}.safetensors": output / f"heatmap{end}.png" for end in ends
        }

    def output(self, one: argparse.Namespace) -> Path:
        """The folder of a photo's files, which always are written."""
        found: Path = one.output or Path(f"{one.photo.stem}-explanation")
        return found

    def content(self, one: argparse.Namespace) -> bytes:
        """What is explained: the photo's file."""
        found: bytes = one.photo.read_bytes()
        return found

    def read(self, one: argparse.Namespace) -> dict[str, Path | None]:
        """The photo and the names of classes."""
        return {"the photo": one.photo, "--labels": one.labels}

    def differs(self, one: argparse.Namespace, known: Mapping[str, Any]) -> str:
        """What another request a map is of; "auto" leaves the engine open, so that either does."""
        found, made = super().differs(one, known), known.get("engine")
        if found or made is None or one.engine in (None, "auto", engine_of(made)):
            return found
        return f"of --engine {engine_of(made)}"

    def options(self) -> dict[str, Any]:
        """The arguments of ``fwdgrad.explain``, the method among them."""
        return photo_options(self.arguments)

    def check_options(self) -> None:
        """Raises where an option will not do, or a picture cannot be drawn."""
        super().check_options()
        check_drawing("heatmap.png, a photo's picture,")

    def check_model(self) -> None:
        """Raises where the model will not do, or knows no class of a name."""
        super().check_model()
        _ = self._targets

    def check(self, one: argparse.Namespace) -> Path:
        """Raises where what is written would take another's place; returns the checkpoint."""
        checkpoint = super().check(one)
        assert checkpoint is not None  # there always is a folder
        if one.leads and not one.overwrite:
            check_of_one_photo(self.output(one), self.files(one), request_of(one))
        return checkpoint

    def run(self, one: argparse.Namespace, progress: Progress, say: Say) -> list[Explanation]:
        """Explains a photo and writes its files."""
        photo = _photo(one, self.adapter.size)
        targets, options = self._targets, photo_options(one)
        checkpoint = self.check(one)
        adapter, engine = self._on_engine(photo.pixels, options["method"])
        probable: str | None = None

        def at_photo(outputs: Any) -> None:
            nonlocal probable
            if one.labels is not None:
                check_labels(one, adapter, outputs)
            probable = _most_probable(outputs, adapter)

        def draw(found: list[Explanation]) -> None:
            for result, drawn in zip(found, self.files(one).values(), strict=True):
                write_atomically(drawn, heatmap(result, photo, adapter.label(result.target)))

        output, reports = self.output(one), self.reports(one)
        watches = one.watch and one.leads and not self.there(one)

        def run() -> list[Explanation]:
            return explanations(
                adapter.forward,
                photo.pixels,
                targets,
                checkpoint=checkpoint,
                progress=progress,
                on_look=draw if watches else None,
                name=adapter.name,
                at_input=at_photo,
                about={"engine": engine_of(engine)} if engine else None,
                **options,
            )

        with made_folder(output if one.leads else None), _size_told(one, self._size):
            results = self.kept_by(checkpoint, one, run)
        if not one.leads:
            return results
        parts = []
        for result, (saved, drawn) in zip(results, self.files(one).items(), strict=True):
            # A mask of the photo is cut as it was.
            result.provenance["photo"] = {
                "name": one.photo.name,
                "width": photo.width,
                "height": photo.height,
                "fit": photo.fit,
            }
            result.provenance["picture"] = told(photo.cut, photo.width, photo.height)
            if engine:
                result.provenance["engine"] = engine
            parts.append(evidence_of(one, adapter, result))
            self.save(result, saved, adapter.label(result.target), one)
            write_atomically(drawn, heatmap(result, photo, adapter.label(result.target), parts[-1]))
        checks = [self.reported(functools.partial(
                      write_report_of, path, one, adapter, result, panels_of(photo), saved,
                      len(targets),
                  )) for result, (saved, path) in zip(results, reports.items(), strict=True)
                  if one.report]  # fmt: skip
        if one.checkpoint is None:
            checkpoint.unlink(missing_ok=True)
        say(f"photo        {_how_cut(photo)}")
        if probable:
            say(f"probable     {probable}")
        if engine:
            say(f"engine       {engine}")
        say_how(results[0], "photo", say)
        files = self.files(one).items()
        for i, (result, found, (saved, drawn)) in enumerate(
            zip(results, parts, files, strict=True)
        ):
            label = adapter.label(result.target)
            say(f"class        {label}, {score_name(result)} {result.score:.4g}")
            if result.convergence_delta is not None:
                say(f"convergence  delta {result.convergence_delta:.3g}: the map's sum less the "
                    "change of the score from the baseline")  # fmt: skip
            say(f"reliability  {result.reliability:.3f} ({one.spoken(advice(result))})")
            if found is not None:
                say(line_of(found))
            if careful := try_another(result):
                say(f"careful      {one.spoken(careful)}")
            say(f"heatmap      {drawn}")
            say(f"attribution  {saved} (with its standard error)")
            if checks and (check := checks[i]) is not None:
                say(f"report       {reports[saved]} ({check.calls} forward calls checked it)")
        say(f"peak memory  {peak_memory()}, the model's and Python's own included")
        say_seconds(one, say, results[0])
        return results


def explain(arguments: argparse.Namespace) -> int:
    """Explains photos, texts or rows of a table, and writes files; returns the exit status."""
    set_threads(arguments)
    set_workers(arguments)
    kinds: dict[str, type[Kind]] = {"photo": Photos, "text": Texts, "row": Rows}
    what = what_is_given(arguments)
    for name in OF_ROWS if what != "row" else ():
        if getattr(arguments, name) is not None:
            raise ArgumentError(name, "is of rows of tables: give ", Option("table"))
    with ranks_of(arguments):
        kind = kinds[what](arguments)
        kind.check_options()
        inputs = inputs_of(arguments, kind)
        if len(inputs) == 1 and inputs[0].is_alone:
            kind.run(inputs[0].arguments, not arguments.no_progress, say)
            return 0
        return explain_all(arguments, kind, inputs)


def _warn_of_training(adapter: ImageClassifier) -> None:
    """Warns where a module in training mode is found in a function, which is not put into another.

    Of a module itself, and of a method of one, the run tells.
    """
    if module_of(adapter) is None and any(
        isinstance(part, torch.nn.Module) and part.training for part in models_of(adapter.forward)
    ):
        warn(
            f"a module in {adapter.name} is in training mode: its scores may be random, and then "
            "the map has that noise in it, too; call its eval() first"
        )


@contextlib.contextmanager
def _size_told(arguments: argparse.Namespace, size: int) -> Iterator[None]:
    """Adds --size to an error of a model that seems to take pictures of another one."""
    try:
        yield
    except ModelError as error:
        at_photo = "of shape (1, " in str(error) and is_of_shapes(error.__cause__)
        of_channels = wants_channels_last(error.__cause__, (3, size, size))
        if arguments.model in MODELS or not at_photo or of_channels:
            raise
        raise ModelError(
            Message(error, f"; the pictures are {size} x {size}, and --size gives others")
        ) from error
