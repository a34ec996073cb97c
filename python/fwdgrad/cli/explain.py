"""fwdgrad explain of a photo."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from fwdgrad.adapters.images import MODELS, ImageClassifier, load_classifier
from fwdgrad.adapters.photos import Photo, read_photo
from fwdgrad.adapters.picture_explanation import draw_on_photo, told
from fwdgrad.advice import advice
from fwdgrad.cli.options import photo_options
from fwdgrad.cli.output import (
    check_labels,
    check_no_input,
    check_not_of_another,
    check_of_one_photo,
    made_folder,
    peak_memory,
    request_of,
    say_how,
    set_threads,
)
from fwdgrad.cli.table import explain_a_table
from fwdgrad.cli.text import explain_a_text
from fwdgrad.errors import ArgumentError, CheckpointError, Message, ModelError, Option, warn
from fwdgrad.explaining import explanations
from fwdgrad.explanation import Explanation
from fwdgrad.files import write_atomically
from fwdgrad.objectives import kind_of
from fwdgrad.outputs import floating, tensor_of
from fwdgrad.runner.fingerprint import models_of
from fwdgrad.scorer import is_of_shapes, module_of
from fwdgrad.terminal import plain, say

_DRAWN = 1024  # pixels of a photo's longer side that are kept to draw it


def _targets(arguments: argparse.Namespace, adapter: ImageClassifier) -> list[int | str | None]:
    """The classes by their numbers, "auto" as it is, none of them twice."""
    found: list[int | str | None] = []
    for text in arguments.target or ["auto"]:
        if not text.strip():
            raise ArgumentError("target", "must be a class's number, its name or auto, got nothing")
        try:
            found.append(text if text == "auto" else int(text))
        except ValueError:
            found.append(adapter.find(text))
    return list(dict.fromkeys(found))


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


def explain(arguments: argparse.Namespace) -> None:
    """Explains the photo or the text, and writes files."""
    set_threads(arguments)
    if arguments.table is not None:
        return explain_a_table(arguments)
    if (arguments.photo is None) == (arguments.text is None):
        raise ValueError("give a photo or --text, and one of them")
    for name in ("background", "groups", "categories"):
        if getattr(arguments, name) is not None:
            raise ArgumentError(name, "is of rows of tables: give ", Option("table"))
    if arguments.text is not None:
        return explain_a_text(arguments)
    for name in ("answers", "api_key_env", "mask", "split", "url"):
        if getattr(arguments, name) is not None:
            raise ArgumentError(name, "is of --text")
    arguments.model = arguments.model or next(iter(MODELS))
    request = request_of(arguments)
    size = 224 if arguments.size is None else arguments.size
    if size < 8:
        raise ArgumentError("size", f"must be at least 8 pixels, got {size}")
    if arguments.size is not None and arguments.model in MODELS:
        raise ArgumentError(
            "size", f"is for a callable of your own; {arguments.model} has its own size"
        )
    adapter = load_classifier(arguments.model, size, arguments.labels)
    photo = _photo(arguments, adapter.size)
    targets = _targets(arguments, adapter)
    options = photo_options(arguments)
    output = arguments.output or Path(f"{arguments.photo.stem}-explanation")
    ends = [""] if len(targets) == 1 else [f"-{target}" for target in targets]
    maps = {output / f"explanation{end}.safetensors": output / f"heatmap{end}.png" for end in ends}
    checkpoint = arguments.checkpoint or output / "checkpoint.safetensors"
    read = {"the photo": arguments.photo, "--labels": arguments.labels}
    check_no_input(
        f"--output {output}", (*maps, *maps.values()), {**read, "--checkpoint": checkpoint}
    )
    if not arguments.overwrite:
        check_not_of_another({saved: [drawn] for saved, drawn in maps.items()}, request)
        check_of_one_photo(output, maps, request)
    probable: str | None = None

    def at_photo(outputs: Any) -> None:
        nonlocal probable
        if arguments.labels is not None:
            check_labels(arguments, adapter, outputs)
        probable = _most_probable(outputs, adapter)

    def run() -> list[Explanation]:
        return explanations(
            adapter.forward,
            photo.pixels,
            targets,
            checkpoint=checkpoint,
            progress=not arguments.no_progress,
            name=adapter.name,
            at_input=at_photo,
            **options,
        )

    _warn_of_training(adapter)
    with made_folder(output), _size_told(arguments, size):
        try:
            results = run()
        except CheckpointError as error:
            if arguments.checkpoint is not None or "of another run" not in str(error):
                raise
            if not arguments.overwrite:
                raise CheckpointError(
                    Message(error, ", by --output or --checkpoint; --overwrite starts afresh")
                ) from None
            checkpoint.unlink()
            results = run()
    for result, (saved, drawn) in zip(results, maps.items(), strict=True):
        # A mask of the photo is cut as it was.
        result.provenance["photo"] = {
            "name": arguments.photo.name,
            "width": photo.width,
            "height": photo.height,
            "fit": photo.fit,
        }
        result.provenance["picture"] = told(photo.cut, photo.width, photo.height)
        result.provenance["label"] = adapter.label(result.target)
        result.provenance["request"] = request
        result.save(saved)
        _draw(
            result,
            photo,
            drawn,
            f"{adapter.label(result.target)}: {result.objective} {result.score:.3g}",
            f"red increases the score, blue decreases it; reliability {result.reliability:.2f}",
        )
    if arguments.checkpoint is None:
        checkpoint.unlink(missing_ok=True)
    say(f"photo        {_how_cut(photo)}")
    if probable:
        say(f"probable     {probable}")
    say_how(results[0], "photo")
    for result, (saved, drawn) in zip(results, maps.items(), strict=True):
        say(f"class        {adapter.label(result.target)}, {result.objective} {result.score:.4g}")
        if result.convergence_delta is not None:
            say(f"convergence  delta {result.convergence_delta:.3g}: the map's sum less the change "
                "of the score from the baseline")  # fmt: skip
        say(f"reliability  {result.reliability:.3f} ({arguments.spoken(advice(result))})")
        say(f"heatmap      {drawn}")
        say(f"attribution  {saved} (with its standard error)")
    say(f"seconds      {results[0].seconds:.1f}")
    say(f"peak memory  {peak_memory()}, the model's and Python's own included")


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
        if arguments.model in MODELS or not at_photo:
            raise
        raise ModelError(
            Message(error, f"; the pictures are {size} x {size}, and --size gives others")
        ) from error


def _draw(result: Explanation, photo: Photo, path: Path, *title: str) -> None:
    """Draws the whole photo, a frame around what the model saw, and beside it the map on it."""
    import io

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    assert photo.whole is not None
    figure = Figure(figsize=(8, 4.6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    whole, heat = figure.subplots(1, 2)
    whole.imshow(photo.whole, extent=(0, photo.width, photo.height, 0))
    whole.set_axis_off()
    left, top, right, bottom = photo.cut.box
    if photo.share < 1:
        for colour, line in (("black", "-"), ("white", "--")):  # to be seen on any photo
            sides = right - left, bottom - top
            whole.add_patch(Rectangle((left, top), *sides, fill=False, ec=colour, ls=line))
    draw_on_photo(result, photo.whole, photo.cut, (photo.width, photo.height), heat)
    figure.suptitle("\n".join(map(plain, title)), parse_math=False)  # a name is no formula
    content = io.BytesIO()
    figure.savefig(content, format="png")
    write_atomically(path, content.getvalue())
