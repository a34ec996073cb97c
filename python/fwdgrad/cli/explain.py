"""fwdgrad explain of a photo."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import fwdgrad
from fwdgrad.boxes.images import MODELS, ImageClassifier, load_classifier, load_photo, photo_size
from fwdgrad.cli.options import photo_options
from fwdgrad.cli.output import advice, check_labels, made_folder, peak_memory, set_threads
from fwdgrad.cli.text import explain_a_text
from fwdgrad.explanation import Explanation
from fwdgrad.stream import write_atomically
from fwdgrad.terminal import plain, say


def _target(arguments: argparse.Namespace, box: ImageClassifier) -> int | str:
    text: str = arguments.target
    if not text.strip():
        raise ValueError("--target must be a class's number, its name or auto, got nothing")
    if text == "auto":
        return text
    try:
        return int(text)
    except ValueError:
        return box.find(text)


def explain(arguments: argparse.Namespace) -> None:
    """Explains the photo or the text, and writes files."""
    set_threads(arguments)
    if (arguments.photo is None) == (arguments.text is None):
        raise ValueError("give a photo or --text, and one of them")
    if arguments.text is not None:
        return explain_a_text(arguments)
    if "answers" in arguments:
        raise ValueError("--answers is of --text")
    arguments.model = arguments.model or next(iter(MODELS))
    size: int = vars(arguments).get("size", 224)
    if size < 8:
        raise ValueError(f"--size must be at least 8 pixels, got {size}")
    if "size" in arguments and arguments.model in MODELS:
        raise ValueError(
            f"--size is for a callable of your own; {arguments.model} has its own size"
        )
    box = load_classifier(arguments.model, size, arguments.labels)
    x = load_photo(arguments.photo, box.size)
    width, height = photo_size(arguments.photo)
    target = _target(arguments, box)
    options = photo_options(arguments, x)
    if arguments.labels is not None:
        with torch.no_grad():
            check_labels(arguments, box, box.forward(x[None].clone()))
    output: Path = vars(arguments).get("output", Path(f"{arguments.photo.stem}-explanation"))
    own_checkpoint = options.pop("checkpoint", None)
    checkpoint = Path(own_checkpoint or output / "checkpoint.safetensors")
    with made_folder(output):
        result = fwdgrad.explain(
            box.forward,
            x,
            target=target,
            checkpoint=checkpoint,
            progress=not arguments.no_progress,
            **options,
        )
    # A mask of the photo is cut as it was.
    result.provenance["photo"] = {"name": arguments.photo.name, "width": width, "height": height}
    saved, picture = output / "explanation.safetensors", output / "heatmap.png"
    result.save(saved)
    _draw(
        result,
        picture,
        f"{box.label(result.target)}: {result.objective} {result.score:.3g}",
        f"red speaks for it, blue against; reliability {result.reliability:.2f}",
    )
    if own_checkpoint is None:
        checkpoint.unlink(missing_ok=True)
    say(f"class        {box.label(result.target)}, {result.objective} {result.score:.4g}")
    itself = 1 if arguments.labels is None else 2
    say(f"queries      {result.queries} on copies and {itself} on the photo itself")
    if result.delta is not None:
        say(f"delta        {result.delta:.3g}: the map's sum less the change from the baseline")
    say(f"reliability  {result.reliability:.3f} ({advice(result)})")
    say(f"seconds      {result.seconds:.1f}")
    say(f"peak memory  {peak_memory()}, the model's and Python's own included")
    say(f"heatmap      {picture}")
    say(f"attribution  {saved} (with its standard error)")


def _draw(result: Explanation, path: Path, *title: str) -> None:
    import io

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    photo, heat = figure.subplots(1, 2)
    photo.imshow(result.input.permute(1, 2, 0).clamp(0, 1).numpy())
    photo.set_axis_off()
    result.plot(heat)
    figure.suptitle("\n".join(map(plain, title)), parse_math=False)  # a name is no formula
    content = io.BytesIO()
    figure.savefig(content, format="png")
    write_atomically(path, content.getvalue())
