"""The command line: fwdgrad explain, fwdgrad info."""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import math
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch

import fwdgrad
import fwdgrad_kernels
from fwdgrad.boxes.images import MODELS, ImageClassifier, load_classifier, load_photo
from fwdgrad.explanation import Explanation
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
        help="which parts of a photo a classifier's decision depends on",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        description="Blends the photo with a baseline by random smooth fields and sums what that "
        "does to the score. --plain instead adds pixel noise: the forward gradient paper's own "
        "estimator.",
    )
    add = explain.add_argument
    add("photo", type=Path, help="any picture that Pillow reads")
    add(
        "--model",
        default="efficientnet-lite0",
        metavar="MODEL",
        help=f"{', '.join(MODELS)}, or package.module:callable from (batch, 3, size, size), RGB in "
        "[0, 1], to logits (batch, classes)",
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
    add("--queries", type=int, default=1024, help="forward calls on noisy copies")
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
        choices=[law for law in fwdgrad_kernels.LAWS if law != "uniform"],
        help="of the noise (default: hadamard; with --plain normal)",
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
        options["baseline"] = fill[baseline] if baseline in fill else _blurred(x)
        options.setdefault("sigma", 0.8)
    for name in ("objective", "queries", "control", "seed", "batch_size", "memory"):
        options[name] = given[name]
    return options


def _blurred(x: torch.Tensor) -> torch.Tensor:
    """The photo under a Gaussian of a twentieth of its side: no detail, the same colours."""
    sigma = max(1.0, x.shape[-1] / 20)
    reach = min(int(3 * sigma), x.shape[-1] - 1, x.shape[-2] - 1)
    offsets = torch.arange(-reach, reach + 1, dtype=x.dtype)
    weights = torch.exp(-(offsets**2) / (2 * sigma**2))
    weights /= weights.sum()
    padded = torch.nn.functional.pad(x[:, None], [reach] * 4, mode="reflect")
    across = torch.nn.functional.conv2d(padded, weights[None, None, None, :])
    return torch.nn.functional.conv2d(across, weights[None, None, :, None])[:, 0]


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
    is_new = not output.exists()
    try:  # before the run rather than after it
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output):
            pass
    except OSError as error:
        raise ValueError(f"--output {output} cannot be written to: {error.strerror}") from None
    try:
        result = fwdgrad.explain(
            box.forward,
            x,
            target=target,
            checkpoint=checkpoint,
            progress=not arguments.no_progress,
            **options,
        )
    except BaseException:
        if is_new:
            with contextlib.suppress(OSError):  # which it is where there is a checkpoint in it
                output.rmdir()
        raise
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
    print(f"queries      {result.queries} on noisy copies and 1 on the photo itself")
    print(f"reliability  {result.reliability:.3f} ({_advice(result)})")
    print(f"seconds      {result.seconds:.1f}")
    print(f"peak memory  {_peak_memory()}, the model's and Python's own included")
    print(f"heatmap      {picture}")
    print(f"attribution  {saved} (with its standard error)")


def _advice(result: Explanation) -> str:
    if math.isnan(result.reliability):
        kept = ("law", "block", "cell", "field", "shared")
        spec = fwdgrad_kernels.NoiseSpec(
            tuple(result.input.shape), **{name: result.settings[name] for name in kept}
        )
        least = 2 * spec.group * (2 if result.settings["antithetic"] else 1)
        return f"no two halves of the run to compare: that takes --queries {least} or more"
    if result.reliability >= 0.8:
        return "other noise would give much the same map"
    return "much of the map is noise: ask for more --queries, a larger --cell or a --block"


def _draw(result: Explanation, path: Path, title: str) -> None:
    import io

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from fwdgrad.stream import write_atomically

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
        _info() if arguments.command == "info" else _explain(arguments)
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
