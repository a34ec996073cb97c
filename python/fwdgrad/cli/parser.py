"""The command line's options, known without torch."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import Any, NoReturn

import fwdgrad
from fwdgrad.adapters.decoding import FORMATS, MAX_PIXELS
from fwdgrad.cli.choices import (
    BASELINES,
    CONTROLS,
    FIELDS,
    FITS,
    LAWS,
    METHODS,
    MODELS,
    OBJECTIVES,
    TEXT_MODELS,
)
from fwdgrad.terminal import say

_DEVICE: dict[str, Any] = {
    "default": argparse.SUPPRESS,
    "metavar": "cpu|cuda",
    "help": "where the model is called: a module is moved there, and a function is given its batch "
    "there (default: cpu; a function may do as it likes)",
}


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        say(f"fwdgrad: error: {message} (see {self.prog} --help)", sys.stderr)
        sys.exit(2)


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
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
    add("photo", type=Path, nargs="?", help=f"a picture: {', '.join(FORMATS)}")
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
        choices=["auto", *METHODS],
        metavar="METHOD",
        help="see fwdgrad methods; auto: regions of photos, likelihood-ratio of texts",
    )
    add(
        "--size",
        type=int,
        default=argparse.SUPPRESS,
        help="of the pictures that an own callable takes (default: 224)",
    )
    add(
        "--fit",
        choices=FITS,
        default=argparse.SUPPRESS,
        help="how the photo becomes a square: its centre is cut out, as for ImageNet; all of it, "
        "with grey beside it; or all of it, stretched (default: crop, and of an own callable a "
        "photo of its size as it is)",
    )
    add(
        "--max-pixels",
        type=int,
        default=MAX_PIXELS,
        help="of a photo: what takes more memory than so many, by its header, is refused",
    )
    add("--labels", type=Path, help="text file of class names, one a line")
    add(
        "--target",
        action="append",
        default=argparse.SUPPRESS,
        help="class number, class name, or auto: the predicted class; given again, several maps "
        "from the same calls (default: auto)",
    )
    add(
        "--objective",
        default="auto",
        choices=OBJECTIVES,
        help="what is explained: output or logit, as it is; sigmoid, of the class's own; the "
        "others by the softmax; auto: what lies in [0, 1] and single numbers as they are, else the "
        "probability",
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
        choices=LAWS,
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
        choices=FIELDS,
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
        choices=CONTROLS,
        default=None,
        help="control variate for copies without pairs",
    )
    add("--seed", type=int, default=0)
    add("--batch-size", type=int, default=None, help="copies per forward call")
    add("--memory", default=None, help="budget such as 1GiB, instead of --batch-size")
    add("--threads", type=int, default=None, help="of torch and of the kernels")
    add("--device", **_DEVICE)
    add(
        "--output",
        type=Path,
        default=argparse.SUPPRESS,
        help="folder for the files (default: the photo's name and -explanation)",
    )
    add(
        "--overwrite",
        action="store_true",
        help="replace another run's files in the output folder, too",
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
        default=MODELS[0],
        metavar="MODEL",
        help=f"the one that was explained: {', '.join(MODELS)} (default) or "
        "package.module:callable",
    )
    add("--labels", type=Path, help="text file of class names, one a line")
    add(
        "--objective",
        choices=OBJECTIVES[1:],
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
    add(
        "--max-pixels",
        type=int,
        default=MAX_PIXELS,
        help=f"of the mask, as of explain's photo (default: {MAX_PIXELS})",
    )
    add("--report", type=Path, metavar="FILE", help="write a page of pictures, curves and numbers")
    add("--batch-size", type=int, help="pictures per forward call")
    add("--threads", type=int, help="of torch and of the kernels")
    add("--device", **_DEVICE)
    add("--debug", action="store_true", help="show the traceback of an error")


def _levels(text: str) -> float | tuple[float, ...]:
    """A fill: a number, or several that commas part."""
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = [math.nan]
    if not all(map(math.isfinite, values)):
        raise argparse.ArgumentTypeError(
            f"must be a number, or one for each colour such as 0.5,0.5,0.5, got {text!r}"
        )
    return values[0] if len(values) == 1 else tuple(values)
