"""The command line: fwdgrad explain, fwdgrad methods, fwdgrad info."""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import math
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch

import fwdgrad
import fwdgrad_kernels
from fwdgrad.boxes.images import MODELS, ImageClassifier, load_classifier, load_photo
from fwdgrad.boxes.text import TEXT_MODELS, explain_text, load_text_box
from fwdgrad.explanation import Explanation
from fwdgrad.methods import FAMILIES
from fwdgrad.saliency import blurred
from fwdgrad.stream import write_atomically
from fwdgrad_kernels import cuda, native, triton

_TELLING = (ValueError, TypeError, OSError, RuntimeError, ImportError)
BASELINES = ("grey", "black", "white", "blur", "none")


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"fwdgrad: error: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="fwdgrad",
        description="Explain a model's decision from forward calls alone.",
    )
    parser.add_argument("--version", action="version", version=f"fwdgrad {fwdgrad.__version__}")
    commands = parser.add_subparsers(dest="command", required=True)

    explain = commands.add_parser(
        "explain",
        help="which parts of a photo, or words of a text, a model's decision depends on",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        description="Blends the photo with a baseline by random smooth fields and sums what that "
        "does to the score. --plain instead adds pixel noise: the forward gradient paper's own "
        "estimator. --method takes another, from the model's own gradient. With --text, noise goes "
        "on the words' embeddings.",
    )
    add = explain.add_argument
    add("photo", type=Path, nargs="?", help="any picture that Pillow reads")
    add("--text", help="a sentence, instead of a photo")
    add(
        "--model",
        default=None,
        metavar="MODEL",
        help=f"of photos: {', '.join(MODELS)} (default), or package.module:callable from (batch, "
        "3, size, size), RGB in [0, 1], to logits (batch, classes); of texts: a file that "
        f"examples/train_sentiment.py wrote, or {', '.join(TEXT_MODELS)}",
    )
    add(
        "--answers",
        default=argparse.SUPPRESS,
        metavar="A,B",
        help="of a language model: what it may say of the text (default: negative,positive)",
    )
    add(
        "--method",
        default="likelihood-ratio",
        choices=list(fwdgrad.METHODS),
        metavar="METHOD",
        help="see fwdgrad methods",
    )
    add(
        "--size",
        type=int,
        default=argparse.SUPPRESS,
        help="of the pictures that an own callable takes (default: 224)",
    )
    add("--labels", type=Path, help="text file of class names, one a line")
    add("--target", default="auto", help="class number, class name, or auto: the predicted class")
    add(
        "--objective",
        default="probability",
        choices=fwdgrad.OBJECTIVES,
        help="what is explained; all but logit take the softmax of the model's output",
    )
    add(
        "--queries",
        type=int,
        default=argparse.SUPPRESS,
        help="calls of the model on copies (default: 1024; what the method needs with others)",
    )
    add(
        "--plain",
        action="store_true",
        help="pixel noise, no pairs, no cells: the paper's plain estimator, blockwise with --block",
    )
    add(
        "--baseline",
        choices=BASELINES,
        default=argparse.SUPPRESS,
        help="what the photo is blended with (default: grey; none: noise is added)",
    )
    add(
        "--law",
        default=argparse.SUPPRESS,
        choices=fwdgrad_kernels.LAWS,
        help="of the noise (default: hadamard; with --plain and other methods normal)",
    )
    add(
        "--sigma",
        type=float,
        default=argparse.SUPPRESS,
        help="strength of the blend (default: 0.8), or scale of added noise, pixels being in "
        "[0, 1] (default: a fifth of the photo's range)",
    )
    add(
        "--block",
        type=int,
        nargs="+",
        default=argparse.SUPPRESS,
        metavar="PIXELS",
        help="side of a random block that alone is noisy, or height and width (default: none)",
    )
    add(
        "--cell",
        type=int,
        default=argparse.SUPPRESS,
        metavar="PIXELS",
        help="side of the cells that move together (default: a seventh of the size)",
    )
    add(
        "--field",
        choices=fwdgrad_kernels.FIELDS,
        default=argparse.SUPPRESS,
        help="(default: bilinear)",
    )
    add(
        "--shared",
        action=argparse.BooleanOptionalAction,
        default=argparse.SUPPRESS,
        help="the same noise on all colours (default: yes; with --plain no)",
    )
    add(
        "--antithetic",
        action=argparse.BooleanOptionalAction,
        default=argparse.SUPPRESS,
        help="ask each copy with both signs of its noise (default: yes; with --plain no)",
    )
    add(
        "--control",
        choices=[c for c in fwdgrad.CONTROLS if c],
        default=None,
        help="control variate for copies without pairs",
    )
    add("--seed", type=int, default=0)
    add("--batch-size", type=int, default=None, help="copies per forward call")
    add("--memory", default=None, help="budget such as 1GiB, instead of --batch-size")
    add("--threads", type=int, default=None, help="of torch and of the kernels")
    add(
        "--output",
        type=Path,
        default=argparse.SUPPRESS,
        help="folder for the files (default: the photo's name and -explanation)",
    )
    add(
        "--checkpoint",
        type=Path,
        default=argparse.SUPPRESS,
        help="file to go on from (default: checkpoint.safetensors in the output folder)",
    )
    add("--no-progress", action="store_true", help="no bar")
    add("--debug", action="store_true", help="show the traceback of an error")

    methods = commands.add_parser(
        "methods", help="what can be combined, with the papers' equations"
    )
    methods.add_argument("--debug", action="store_true", help="show the traceback of an error")

    info = commands.add_parser("info", help="versions, backends, SIMD level, threads")
    info.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _info() -> None:
    import platform

    print(f"fwdgrad     {fwdgrad.__version__}")
    print(f"torch       {torch.__version__}, Python {platform.python_version()}")
    on_gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    if native.missing():
        print(f"cpu         missing: {native.missing()}")
    else:
        assert native.module is not None
        threads = "OpenMP" if native.module.openmp else "built without OpenMP: one thread"
        print(f"cpu         ready: {native.module.simd_level()}, {threads}")
    if cuda.module is not None:
        built = f"built for {cuda.module.architectures}"
        why = cuda.missing()
        print(f"cuda        {f'{built}, missing: {why}' if why else f'ready: {built}; {on_gpu}'}")
    else:
        print(f"cuda        missing: {cuda.missing()}")
    if triton.missing():
        print(f"triton      missing: {triton.missing()}")
    else:
        version = importlib.metadata.version("triton")
        print(f"triton      ready: Triton {version}, {on_gpu or 'interpreter'}")
    print("reference   ready: plain PyTorch, any device, slow")
    devices = ["cpu"] + ["cuda"] * torch.cuda.is_available()
    for device in devices:
        try:
            used = fwdgrad_kernels.backend_for(torch.device(device))
        except RuntimeError as error:
            used = f"none: {error}"
        print(f"in use      {used} on {device}")
    print(f"threads     {torch.get_num_threads()}")


def _options(arguments: argparse.Namespace, size: int, x: torch.Tensor) -> dict[str, Any]:
    """The estimator's options: a preset, and what was given on the command line."""
    options: dict[str, Any]
    if arguments.method != "likelihood-ratio":
        return _method_options(arguments)
    if arguments.plain:
        options = {"antithetic": False}
    else:
        cell = max(1, size // 7)
        options = {"law": "hadamard", "cell": cell, "field": "bilinear", "shared": True}
    given = vars(arguments)
    for name in ("law", "sigma", "cell", "field", "shared", "antithetic", "checkpoint"):
        if name in given:
            options[name] = given[name]
    if "block" in given:
        block = given["block"]
        options["block"] = block[0] if len(block) == 1 else tuple(block)
    baseline = given.get("baseline", "none" if arguments.plain else "grey")
    if baseline != "none":
        fill = {"grey": 0.5, "black": 0.0, "white": 1.0}
        options["baseline"] = (
            fill[baseline] if baseline in fill else blurred(x, max(1.0, size / 20))
        )
        options.setdefault("sigma", 0.8)
    options["control"] = arguments.control
    return {**options, **_always(arguments)}


def _always(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options that every method has."""
    names = ("method", "objective", "queries", "seed", "batch_size", "memory", "checkpoint")
    return {name: vars(arguments)[name] for name in names if name in arguments}


def _method_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options of a method that asks the model for its gradient: its own, and what was given."""
    given = vars(arguments)
    if arguments.plain or arguments.control is not None:
        what = "--plain" if arguments.plain else "--control"
        raise ValueError(f"{what} is of --method likelihood-ratio, got --method {arguments.method}")
    names = ("law", "sigma", "cell", "field", "shared", "antithetic")
    options = {name: given[name] for name in names if name in given}
    if "block" in given:
        options["block"] = tuple(given["block"]) if len(given["block"]) > 1 else given["block"][0]
    if "baseline" in given:
        if arguments.method != "integrated-gradients":
            raise ValueError(
                "--baseline is of --method likelihood-ratio and integrated-gradients, got --method "
                f"{arguments.method}"
            )
        start: dict[str, str | float] = {"grey": 0.5, "black": 0.0, "white": 1.0, "blur": "blurred"}
        if arguments.baseline not in start:
            raise ValueError("--baseline must not be none on a path: it starts there")
        options["saliency"] = fwdgrad.IntegratedGradients(start[arguments.baseline], steps=50)
    return {**options, **_always(arguments)}


def _peak_memory() -> str:
    try:
        import resource
    except ImportError:  # Windows
        return "unknown"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return f"{peak * (1 if sys.platform == 'darwin' else 1024) / 2**20:.0f} MiB"


def _target(arguments: argparse.Namespace, box: ImageClassifier) -> int | str:
    text: str = arguments.target
    if text == "auto":
        return text
    try:
        target = int(text)
    except ValueError:
        return box.find(text)
    if arguments.labels is not None and box.labels is not None and target >= len(box.labels):
        raise ValueError(
            f"labels {arguments.labels} names {len(box.labels)} classes; target {target} needs at "
            f"least {target + 1}"
        )
    return target


def _explain(arguments: argparse.Namespace) -> None:
    if arguments.threads is not None:
        if arguments.threads < 1:
            raise ValueError(f"--threads must be at least 1, got {arguments.threads}")
        torch.set_num_threads(arguments.threads)
    if (arguments.photo is None) == (arguments.text is None):
        raise ValueError("give a photo or --text, and one of them")
    if arguments.text is not None:
        return _explain_text(arguments)
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
    target = _target(arguments, box)
    options = _options(arguments, box.size, x)
    output: Path = vars(arguments).get("output", Path(f"{arguments.photo.stem}-explanation"))
    own_checkpoint = options.pop("checkpoint", None)
    checkpoint = Path(own_checkpoint or output / "checkpoint.safetensors")
    with _folder(output):
        result = fwdgrad.explain(
            box.forward,
            x,
            target=target,
            checkpoint=checkpoint,
            progress=not arguments.no_progress,
            **options,
        )
    saved, picture = output / "explanation.safetensors", output / "heatmap.png"
    result.save(saved)
    title = (
        f"{box.label(result.target)}: {result.objective} {result.score:.3g}\n"
        f"red speaks for it, blue against; reliability {result.reliability:.2f}"
    )
    _draw(result, picture, title)
    if own_checkpoint is None:
        checkpoint.unlink(missing_ok=True)
    print(f"class        {box.label(result.target)}, {result.objective} {result.score:.4g}")
    print(f"queries      {result.queries} on copies and 1 on the photo itself")
    if result.delta is not None:
        print(f"delta        {result.delta:.3g}: the map's sum less the change from the baseline")
    print(f"reliability  {result.reliability:.3f} ({_advice(result)})")
    print(f"seconds      {result.seconds:.1f}")
    print(f"peak memory  {_peak_memory()}, the model's and Python's own included")
    print(f"heatmap      {picture}")
    print(f"attribution  {saved} (with its standard error)")


@contextlib.contextmanager
def _folder(output: Path) -> Iterator[None]:
    """The output folder, seen to be written to before a run; gone again where that fails."""
    is_new = not output.exists()
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output):
            pass
    except OSError as error:
        raise ValueError(f"--output {output} cannot be written to: {error.strerror}") from None
    try:
        yield
    except BaseException:
        if is_new:
            with contextlib.suppress(OSError):  # which it is where there is a checkpoint in it
                output.rmdir()
        raise


_OF_PHOTOS = ("plain", "control", "baseline", "block", "cell", "field", "size", "labels")


def _explain_text(arguments: argparse.Namespace) -> None:
    given = vars(arguments)
    for name in _OF_PHOTOS:
        if given.get(name):
            raise ValueError(f"--{name} is of photos, and --text is given")
    if arguments.model is None:
        raise ValueError(
            f"--text needs --model: a file that examples/train_sentiment.py wrote, or one of "
            f"{', '.join(TEXT_MODELS)}"
        )
    answers = tuple(given["answers"].split(",")) if "answers" in given else None
    box = load_text_box(arguments.model, answers)
    target: int | str = arguments.target
    if isinstance(target, str) and target.isdecimal():
        target = int(target)
    names = ("law", "sigma", "shared", "antithetic")
    options = {name: given[name] for name in names if name in given} | _always(arguments)
    if arguments.method == "likelihood-ratio" and "shared" not in given:
        options |= {"shared": True, "law": given.get("law", "hadamard")}
    output: Path | None = given.get("output")
    with _folder(output) if output is not None else contextlib.nullcontext():
        if output is not None:
            options.setdefault("checkpoint", output / "checkpoint.safetensors")
        result = explain_text(
            box, arguments.text, target, progress=not arguments.no_progress, **options
        )
    print(result.to_terminal())
    print(f"class        {result.label}, {result.explanation.objective} "
          f"{result.explanation.score:.4g}")  # fmt: skip
    print(f"queries      {result.explanation.queries} on copies and 1 on the text itself")
    advice = f" ({_too_few(result.explanation)})" if math.isnan(result.reliability) else ""
    print(f"reliability  {result.reliability:.3f} of the words' scores{advice}")
    print(f"seconds      {result.explanation.seconds:.1f}")
    if output is None:
        return
    page, saved = output / "words.html", output / "explanation.safetensors"
    write_atomically(page, result.to_html().encode())
    result.explanation.save(saved)
    if "checkpoint" not in given:
        (output / "checkpoint.safetensors").unlink(missing_ok=True)
    print(f"words        {page}")
    print(f"attribution  {saved} (of the embeddings, with its standard error)")


def _methods() -> None:
    """Every method, and the families that they are put together from."""
    width = max(map(len, fwdgrad.METHODS))
    print("methods (--method; fwdgrad.explain(method=...))")
    for name, method in fwdgrad.METHODS.items():
        print(f"  {name:{width}}  {method.line} [{method.equation}]")
    for title, rows in FAMILIES.items():
        print(f"\n{title}")
        for name, line in rows.items():
            print(f"  {name:{width}}  {line}")


def _too_few(result: Explanation) -> str:
    kept = ("law", "block", "cell", "field", "shared")
    spec = fwdgrad_kernels.NoiseSpec(
        tuple(result.input.shape), **{name: result.settings[name] for name in kept}
    )
    least = 2 * spec.group * (2 if result.settings["antithetic"] else 1)
    return f"no two halves of the run to compare: that takes --queries {least} or more"


def _advice(result: Explanation) -> str:
    if math.isnan(result.reliability):
        return _too_few(result)
    if result.reliability >= 0.8:
        return "other noise would give much the same map"
    if result.settings["method"] != "likelihood-ratio":
        return "much of the map is noise: ask for more --queries"
    return "much of the map is noise: ask for more --queries, a larger --cell or a --block"


def _draw(result: Explanation, path: Path, title: str) -> None:
    import io

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    photo, heat = figure.subplots(1, 2)
    photo.imshow(result.input.permute(1, 2, 0).clamp(0, 1).numpy())
    photo.set_axis_off()
    result.plot(heat)
    figure.suptitle(title)
    content = io.BytesIO()
    figure.savefig(content, format="png")
    write_atomically(path, content.getvalue())


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    arguments = _parser().parse_args(argv)
    show = warnings.showwarning
    warnings.showwarning = lambda message, *rest, **more: print(
        f"fwdgrad: warning: {message}", file=sys.stderr
    )
    try:
        {"info": lambda _: _info(), "methods": lambda _: _methods(), "explain": _explain}[
            arguments.command
        ](arguments)
    except BrokenPipeError:  # the reader of our output has left
        sys.stdout = None  # type: ignore[assignment]
        return 0
    except KeyboardInterrupt:
        print("fwdgrad: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except Exception as error:
        if arguments.debug:
            raise
        text = " ".join(str(error).split())
        if not text or not isinstance(error, _TELLING):  # a KeyError's text is only the key
            text = f"{type(error).__name__}: {text}"
        print(f"fwdgrad: error: {text}", file=sys.stderr)
        return 1
    finally:
        warnings.showwarning = show
    return 0


if __name__ == "__main__":
    sys.exit(main())
