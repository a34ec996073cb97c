"""The command line: fwdgrad explain, evaluate, methods and info."""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib.metadata
import math
import os
import re
import shlex
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch

import fwdgrad
import fwdgrad_kernels
from fwdgrad.boxes.images import (
    MODELS,
    ImageClassifier,
    load_classifier,
    load_mask,
    load_photo,
    photo_size,
)
from fwdgrad.boxes.text import TEXT_MODELS, explain_text, load_text_box
from fwdgrad.explanation import Explanation, is_of_pixels
from fwdgrad.methods import FAMILIES, light_blur, smallest_cell
from fwdgrad.metrics import (
    Curve,
    deletion,
    gini,
    information_curve,
    insertion,
    pointing_game,
    share_inside,
)
from fwdgrad.metrics.maps import heatmap_of
from fwdgrad.objectives import outputs_at, resolve_target, scores_of
from fwdgrad.report import Number, report
from fwdgrad.stream import DEFAULT_BYTES, process_memory, write_atomically
from fwdgrad_kernels import cuda, native, triton

_TELLING = (ValueError, TypeError, OSError, RuntimeError, ImportError)
BASELINES = ("grey", "black", "white", "blurred", "none")
_FILLS = {"grey": 0.5, "black": 0.0, "white": 1.0}


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
        description="Blurs random regions of the photo, smoothly, and sums what that does to the "
        "score. --plain instead adds pixel noise: the forward gradient paper's own estimator. "
        "--method takes another, from the model's own gradient. With --text, noise goes on the "
        "words' embeddings.",
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
        default="auto",
        choices=["auto", *fwdgrad.METHODS],
        metavar="METHOD",
        help="see fwdgrad methods; auto: regions of photos, likelihood-ratio of texts",
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
        help="calls of the model on copies; of integrated-gradients without noise the points on "
        "the path (default: 1024; what the method needs with others)",
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
        help="what the photo is blended with: grey, black, white, blurred, or none, where noise is "
        "added (default: of regions blurred, of integrated-gradients black)",
    )
    add(
        "--law",
        default=argparse.SUPPRESS,
        choices=fwdgrad_kernels.LAWS,
        help="of the noise (default: of regions hadamard, of other methods normal)",
    )
    add(
        "--sigma",
        type=float,
        default=argparse.SUPPRESS,
        help="strength of the blend (default: 0.5), or scale of added noise, pixels being in "
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
        help="side of the cells that move together (default: as small as one group of "
        "orthogonal directions within the queries allows)",
    )
    add(
        "--field",
        choices=fwdgrad_kernels.FIELDS,
        default=argparse.SUPPRESS,
        help="between cells (default: of regions bilinear)",
    )
    add(
        "--shared",
        action=argparse.BooleanOptionalAction,
        default=argparse.SUPPRESS,
        help="the same noise on all colours (default: of regions yes)",
    )
    add(
        "--antithetic",
        action=argparse.BooleanOptionalAction,
        default=argparse.SUPPRESS,
        help="ask each copy with both signs of its noise (default: of likelihood-ratio yes)",
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

    _add_evaluate(commands)

    methods = commands.add_parser(
        "methods", help="what can be combined, with the papers' equations"
    )
    methods.add_argument("--debug", action="store_true", help="show the traceback of an error")

    info = commands.add_parser("info", help="versions, backends, SIMD level, threads")
    info.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _add_evaluate(commands: Any) -> None:
    evaluate = commands.add_parser(
        "evaluate",
        help="how good a map of fwdgrad explain is: deletion, insertion, sparseness, localization",
        description="Asks the model how its score changes as pixels are blotted out, and as they "
        "are put into a blur, in the map's order.",
    )
    add = evaluate.add_argument
    add("map", type=Path, metavar="MAP", help="explanation.safetensors of fwdgrad explain")
    add(
        "--model",
        default=next(iter(MODELS)),
        metavar="MODEL",
        help=f"the one that was explained: {', '.join(MODELS)} (default) or "
        "package.module:callable",
    )
    add("--labels", type=Path, help="text file of class names, one a line")
    add(
        "--objective",
        choices=fwdgrad.OBJECTIVES,
        help="the score that is followed (default: the one that was explained)",
    )
    add(
        "--steps",
        type=int,
        help="of the curves (default: 224, or the map's pixels where those are fewer)",
    )
    add(
        "--fill",
        type=_levels,
        metavar="V[,V,V]",
        help="what blotted-out pixels become, one number or one for each colour (default: what "
        "the model's normalisation maps to zero; 0.5 for an own callable)",
    )
    add(
        "--mask",
        type=Path,
        metavar="FILE",
        help="a picture of the photo's size, opaque on transparent or white on black where the "
        "object is",
    )
    add("--report", type=Path, metavar="FILE", help="write a page of pictures, curves and numbers")
    add("--batch-size", type=int, help="pictures per forward call")
    add("--threads", type=int, help="of torch and of the kernels")
    add("--debug", action="store_true", help="show the traceback of an error")


def _levels(text: str) -> float | torch.Tensor:
    """A fill: a number, or several that commas part."""
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = [math.nan]
    if not all(map(math.isfinite, values)):
        raise argparse.ArgumentTypeError(
            f"must be a number, or one for each colour such as 0.5,0.5,0.5, got {text!r}"
        )
    return values[0] if len(values) == 1 else torch.tensor(values)


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


def _options(arguments: argparse.Namespace, x: torch.Tensor) -> dict[str, Any]:
    """What was given on the command line, as the method's options."""
    given = vars(arguments)
    if arguments.method == "auto":
        arguments.method = "likelihood-ratio" if arguments.plain else "regions"
    _check_noise(arguments)
    of_regions = arguments.method == "regions"
    if not of_regions and arguments.method != "likelihood-ratio":
        return _method_options(arguments)
    if arguments.plain and of_regions:
        raise ValueError("--plain is of --method likelihood-ratio, got --method regions")
    options = ({"antithetic": False} if arguments.plain else {}) | _noise_options(given)
    baseline = given.get("baseline")
    if baseline == "none" and of_regions:
        options |= {"baseline": None, "position": 1.0, "sigma": given.get("sigma")}
    elif baseline == "blurred" and not of_regions:
        options["baseline"] = light_blur(x)
    elif baseline in _FILLS:
        options["baseline"] = _FILLS[baseline]
    if arguments.control is not None:
        options["control"] = arguments.control
    return {**options, **_always(arguments)}


def _noise_options(given: dict[str, Any]) -> dict[str, Any]:
    """What was given of the noise on a photo."""
    names = ("law", "sigma", "cell", "field", "shared", "antithetic")
    options = {name: given[name] for name in names if name in given}
    if "block" in given:
        block = given["block"]
        options["block"] = block[0] if len(block) == 1 else tuple(block)
    return options


def _check_noise(arguments: argparse.Namespace) -> None:
    """Refuses options of noise on the input, or of cells, where there are none."""
    given, method = vars(arguments), fwdgrad.METHODS[arguments.method]
    noisy = callable(method.options) or "sigma" in method.options or given.get("sigma")
    if not (noisy or method.source is fwdgrad.LikelihoodRatio):
        for name in ("law", "block", "cell", "field", "shared"):
            if name in given:
                raise ValueError(
                    f"--{name} is of noise on the input, and --method {arguments.method} has none: "
                    "give --sigma"
                )
    if "field" in given and arguments.method != "regions" and given.get("cell", 1) == 1:
        raise ValueError("--field is between cells, and there are none: give --cell")


def _steps(arguments: argparse.Namespace) -> int:
    """How many points integrated gradients take on the path."""
    given = vars(arguments)
    return given["queries"] if "queries" in given and not given.get("sigma") else 50


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
    options = _noise_options(given)
    if arguments.method == "integrated-gradients":
        baseline = given.get("baseline", "black")
        if baseline == "none":
            raise ValueError("--baseline must not be none on a path: it starts there")
        options["saliency"] = fwdgrad.IntegratedGradients(baseline, steps=_steps(arguments))
    elif "baseline" in given:
        raise ValueError(
            "--baseline is of --method likelihood-ratio and integrated-gradients, got --method "
            f"{arguments.method}"
        )
    return {**options, **_always(arguments)}


def _peak_memory() -> str:
    peak = process_memory("VmHWM")  # on Linux; its getrusage has the parent's peak in it
    if not peak:
        try:
            import resource
        except ImportError:  # Windows
            return "unknown"
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        peak *= 1 if sys.platform == "darwin" else 1024
    return f"{peak / 2**20:.0f} MiB"


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


def _check_labels(arguments: argparse.Namespace, box: ImageClassifier, outputs: Any) -> None:
    """Raises where --labels names another number of classes than the model's output has."""
    shape = tuple(getattr(outputs, "shape", ()))
    if len(shape) == 2 and box.labels is not None and shape[1] != len(box.labels):
        raise ValueError(
            f"--labels {arguments.labels} must name {shape[1]} classes, as many as the model has, "
            f"got {len(box.labels)}"
        )


def _set_threads(arguments: argparse.Namespace) -> None:
    if arguments.threads is not None:
        # Where there are no more threads to be had, OpenMP crashes.
        most = 8 * (os.cpu_count() or 1)
        if not 1 <= arguments.threads <= most:
            raise ValueError(f"--threads must be from 1 to {most} here, got {arguments.threads}")
        torch.set_num_threads(arguments.threads)


def _explain(arguments: argparse.Namespace) -> None:
    _set_threads(arguments)
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
    width, height = photo_size(arguments.photo)
    target = _target(arguments, box)
    options = _options(arguments, x)
    if arguments.labels is not None:
        with torch.no_grad():
            _check_labels(arguments, box, box.forward(x[None].clone()))
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
    # A mask of the photo is cut as it was.
    result.provenance["photo"] = {"name": arguments.photo.name, "width": width, "height": height}
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
    itself = 1 if arguments.labels is None else 2
    print(f"queries      {result.queries} on copies and {itself} on the photo itself")
    if result.delta is not None:
        print(f"delta        {result.delta:.3g}: the map's sum less the change from the baseline")
    print(f"reliability  {result.reliability:.3f} ({_advice(result)})")
    print(f"seconds      {result.seconds:.1f}")
    print(f"peak memory  {_peak_memory()}, the model's and Python's own included")
    print(f"heatmap      {picture}")
    print(f"attribution  {saved} (with its standard error)")


def _evaluate(arguments: argparse.Namespace) -> None:
    _set_threads(arguments)
    if arguments.map.is_dir():
        raise ValueError(
            f"MAP must be a file, such as {arguments.map / 'explanation.safetensors'}, got a folder"
        )
    result = Explanation.load(arguments.map)
    x = result.input
    if x.dim() != 3 or x.shape[0] not in (1, 3):
        raise ValueError(
            f"{arguments.map} is of an input of shape {tuple(x.shape)}, and evaluate takes those "
            "of pictures, (3, H, W); fwdgrad.metrics in Python takes a text's and any other"
        )
    if result.objective not in fwdgrad.OBJECTIVES:
        raise ValueError(
            f"{arguments.map} explains {result.objective}, a callable that its file does not have; "
            "fwdgrad.metrics.deletion(..., objective=...) in Python takes it"
        )
    try:
        heatmap_of(result, x.shape)
    except ValueError as error:
        raise ValueError(f"{arguments.map} cannot be measured: {error}") from None
    box = load_classifier(arguments.model, x.shape[-1], arguments.labels)
    mask = None
    if arguments.mask is not None:
        photo = result.provenance.get("photo")
        size = photo and (photo["width"], photo["height"])
        mask = load_mask(arguments.mask, (x.shape[1], x.shape[2]), size)
    if arguments.report is not None:
        _check_writable(arguments.report)
    _check_same_model(arguments, result, box)
    objective = arguments.objective or result.objective
    fill, why = _fill(arguments, x, box)
    options: dict[str, Any] = {"steps": arguments.steps, "fill": fill, "objective": objective}
    options["batch_size"] = arguments.batch_size
    if arguments.batch_size is None:
        options["batch_size"] = max(1, DEFAULT_BYTES["cpu"] // (x.numel() * x.element_size()))
    deleted, inserted = (
        follow(box.forward, x, result, result.target, **options) for follow in (deletion, insertion)
    )
    numbers = [Number("model", box.name), *_known(result, box)]
    numbers += [
        Number("curves of", objective, f"in {len(deleted.scores) - 1} steps"),
        Number("fill", ", ".join(f"{v:.4g}" for v in torch.as_tensor(fill).reshape(-1)), why),
        *_measured(result, deleted, inserted, mask),
        _information(result, box, objective, options["batch_size"]),
    ]
    width = max(len(number.name) for number in numbers)
    for name, value, note in numbers:
        print(f"{name:{width}}  {value}" + (f" ({note})" if note else ""))
    if arguments.report is not None:
        page = report(
            result,
            box.label(result.target),
            numbers,
            deleted,
            inserted,
            followed=objective,
            mask=mask,
            command=arguments.line,
            model=arguments.model,
            saved=str(arguments.map),
        )
        write_atomically(arguments.report, page.encode())
        print(f"{'report':{width}}  {arguments.report}")


def _known(result: Explanation, box: ImageClassifier) -> list[Number]:
    """What a map's file says of it, a line each."""
    return [
        Number("class", box.label(result.target)),
        Number("objective", result.objective),
        Number("score", f"{result.score:.4g}"),
        Number("queries", str(result.queries)),
        Number("reliability", f"{result.reliability:.3f}", _advice(result)),
        Number("seconds", f"{result.seconds:.1f}"),
    ]


def _measured(
    result: Explanation, deleted: Curve, inserted: Curve, mask: torch.Tensor | None
) -> list[Number]:
    """What was measured of a map, a line each."""
    numbers = [
        Number("deletion", f"{deleted.auc:.4f}", "low is good"),
        Number("insertion", f"{inserted.auc:.4f}", "high is good"),
        Number("insertion - deletion", f"{inserted.auc - deleted.auc:.4f}", "high is good"),
        Number("gini", f"{gini(result):.4f}", "0: all pixels alike; near 1: a single one"),
    ]
    if mask is not None:
        near, exact = (
            "hit" if pointing_game(result, mask, tolerance) else "miss" for tolerance in (15, 0)
        )
        share = float(mask.double().mean())
        numbers += [
            Number("pointing game", near, f"15 pixels beside the object count; {exact} without"),
            Number("share inside", f"{share_inside(result, mask):.4f}", f"by chance {share:.4f}"),
        ]
    return numbers


def _information(
    result: Explanation, box: ImageClassifier, objective: str, batch_size: int
) -> Number:
    name, x, target = "information", result.input, result.target
    options: dict[str, Any] = {"objective": objective, "batch_size": batch_size}
    try:
        curve = information_curve(box.forward, x, result, target, **options)
    except (ImportError, ValueError) as error:
        return Number(name, "none", str(error))
    return Number(name, f"{curve.auc:.4f}", "the score over the picture's bytes; high is good")


def _fill(
    arguments: argparse.Namespace, x: torch.Tensor, box: ImageClassifier
) -> tuple[float | torch.Tensor, str]:
    """What blotted-out pixels become, and why."""
    if arguments.fill is not None:
        given = torch.as_tensor(arguments.fill)
        if is_of_pixels(x) and not is_of_pixels(given):
            raise ValueError(
                "--fill must be from 0 to 1, as the pixels are, got "
                f"{', '.join(f'{value:g}' for value in given.reshape(-1).tolist())}"
            )
        return arguments.fill, "as given"
    if box.zero is not None:
        zero = torch.tensor(box.zero) if isinstance(box.zero, tuple) else box.zero
        return zero, "what the model's normalisation maps to zero"
    if bool(x.min() < 0) or bool(x.max() > 1):
        return 0.0, "the input lies outside [0, 1]: taken for normalised; see --fill"
    return 0.5, "grey: if your model's normalisation maps another value to zero, give it by --fill"


def _check_same_model(
    arguments: argparse.Namespace, result: Explanation, box: ImageClassifier
) -> None:
    """Raises where the model's score at the input is not the one that was explained."""
    with torch.no_grad():
        outputs = outputs_at(box.forward, result.input)
    if arguments.labels is not None:
        _check_labels(arguments, box, outputs)
    try:
        target = resolve_target(result.target, outputs, result.objective, batch=1)
        score = float(scores_of(outputs, result.objective, target, 1))
    except (TypeError, ValueError, fwdgrad.ModelError) as error:
        raise ValueError(
            f"--model {box.name} is not the one that {arguments.map} explains: {error}; give "
            "the --model that explain had"
        ) from None
    if not math.isclose(score, result.score, rel_tol=1e-3, abs_tol=1e-6):
        raise ValueError(
            f"--model {box.name} is not the one that {arguments.map} explains: its "
            f"{result.objective} of {box.label(result.target)} is {score:.6g}, and the explained "
            f"one {result.score:.6g}; give the --model that explain had"
        )


def _check_writable(path: Path) -> None:
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ValueError(f"--report {path} cannot be written to: {error.strerror}") from None


@contextlib.contextmanager
def _folder(output: Path) -> Iterator[None]:
    """The output folder, seen to be written to before a run; gone again where that fails."""
    is_new = not output.exists()
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output):
            pass
    except OSError as error:
        why = "it must be a folder" if output.is_file() else error.strerror
        raise ValueError(f"--output {output} cannot be written to: {why}") from None
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
    if arguments.method == "auto":
        arguments.method = "likelihood-ratio"
    _check_noise(arguments)
    options = {name: given[name] for name in names if name in given} | _always(arguments)
    if arguments.method == "integrated-gradients":
        options["saliency"] = fwdgrad.IntegratedGradients(0.0, steps=_steps(arguments))
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
    words = len(result.words)
    advice = f" ({_why_nan(result.explanation, words)})" if math.isnan(result.reliability) else ""
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


def _why_nan(result: Explanation, words: int | None = None) -> str:
    """Why there is no reliability, of a map or of the scores of so many words."""
    saliency = result.settings["saliency"]
    if words is not None and isinstance(saliency, fwdgrad.VarGrad):
        return "it is told by the words' standard errors, and VarGrad has none"
    if words == 1:
        return "a single word has none to compare it with"
    kept = ("law", "block", "cell", "field", "shared", "shift")
    spec = fwdgrad_kernels.NoiseSpec(
        tuple(result.input.shape),
        **{name: result.settings[name] for name in kept if name in result.settings},
    )
    unit = math.lcm(spec.group, getattr(saliency, "steps", None) or 1)
    least = 2 * unit * (2 if result.settings["antithetic"] else 1)
    if result.queries >= least:
        return "it is the same everywhere, by half of the run at least"
    return f"no two halves of the run to compare: that takes --queries {least} or more"


def _advice(result: Explanation) -> str:
    if math.isnan(result.reliability):
        return _why_nan(result)
    if result.reliability >= 0.8:
        return "other noise would give much the same map"
    if result.settings["method"] != "likelihood-ratio":
        return "much of the map is noise: ask for more --queries"
    if result.settings.get("position", 1) != 1:  # regions: more queries make finer ones, at first
        cell = result.settings["cell"]
        more = " or more --queries" if cell <= smallest_cell(tuple(result.input.shape)) else ""
        return f"much of the detail is noise: a --cell above {cell}{more} would leave less of it"
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


def _spoken(message: object) -> str:
    """A message on one line, with the options in it as the command line has them."""
    text = " ".join(str(message).split()).replace("antithetic=False", "--no-antithetic")
    text = text.replace("objective must be 'logit'", "--objective must be logit")
    text = text.replace("baseline must be given", "--baseline must be given")
    text = text.replace("0.5 is grey", "grey, say")
    return re.sub(r"\b(control|method|objective)='([\w-]+)'", r"--\1 \2", text)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    arguments = _parser().parse_args(argv)
    arguments.line = shlex.join(["fwdgrad", *argv])
    show = warnings.showwarning
    warnings.showwarning = lambda message, *rest, **more: print(
        f"fwdgrad: warning: {_spoken(message)}", file=sys.stderr
    )
    try:
        {
            "info": lambda _: _info(),
            "methods": lambda _: _methods(),
            "explain": _explain,
            "evaluate": _evaluate,
        }[arguments.command](arguments)
    except BrokenPipeError:  # the reader of our output has left
        sys.stdout = None  # type: ignore[assignment]
        return 0
    except KeyboardInterrupt:
        again = "goes on from here" if arguments.command == "explain" else "starts anew"
        print(f"fwdgrad: interrupted; the same command {again}", file=sys.stderr)
        return 130
    except Exception as error:
        if arguments.debug:
            raise
        text = _spoken(error)
        if not text or not isinstance(error, _TELLING):  # a KeyError's text is only the key
            text = f"{type(error).__name__}: {text}"
        print(f"fwdgrad: error: {text}", file=sys.stderr)
        return 1
    finally:
        warnings.showwarning = show
    return 0


if __name__ == "__main__":
    sys.exit(main())
