"""The command line's options, known without torch."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import fwdgrad
from fwdgrad.adapters.decoding import FORMATS, MAX_PIXELS
from fwdgrad.cli.choices import (
    BASELINES,
    CONTROL_VARIATES,
    DESIGNS,
    DISTRIBUTIONS,
    ENGINES,
    FITS,
    METHODS,
    MODELS,
    OBJECTIVES,
    SPLITS,
    TEXT_MODELS,
    VALUES,
)
from fwdgrad.errors import Option, did_you_mean
from fwdgrad.terminal import say


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage, and what may have been meant."""

    def __init__(self, **options: Any) -> None:
        """Takes no option by its beginning: --sample may be meant for another one."""
        super().__init__(**options, allow_abbrev=False)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            error.message += did_you_mean(str(value), action.choices or (), str)
            raise

    def error(self, message: str) -> NoReturn:
        say(f"fwdgrad: error: {message} (see {self.prog} --help)", sys.stderr)
        sys.exit(2)


class _Commands(_Parser):
    commands: dict[str, _Parser]

    def parse_args(self, argv: Sequence[str]) -> argparse.Namespace:  # type: ignore[override]
        """As argparse has it, and the nearest of a command's options where one is unknown."""
        arguments, unknown = self.parse_known_args(argv)
        if unknown:
            command = self.commands[arguments.command]
            given = next((part for part in unknown if part[:1] == "-"), "").partition("=")[0]
            hint = did_you_mean(given, command._option_string_actions, str)
            command.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
        return arguments

    def written(self, command: str, option: Option) -> str:
        """An option of a message as a command has it, or explain, or else Python.

        Example:
            >>> parser = make_parser()
            >>> parser.written("evaluate", Option("batch_size", 1))
            '--batch-size 1'
            >>> parser.written("evaluate", Option("antithetic", False))
            '--no-antithetic'
            >>> parser.written("explain", Option("saliency"))
            'saliency'
        """
        name = {"features": "cell", "address": "ray"}.get(option.name, option.name)
        for parser in (self.commands[command], self.commands["explain"]):
            for action in parser._actions:
                if action.dest == name and action.option_strings:
                    return _as_given(action.option_strings, option.value)
        return str(option)


def _as_given(names: Sequence[str], value: tuple[Any, ...]) -> str:
    """An option of the command line and its value; a switch has two names."""
    values = value[0] if value and isinstance(value[0], tuple) else value
    if values in ((True,), (False,)) and len(names) > 1:
        return names[0] if values[0] else names[1]
    return " ".join([names[0], *map(str, values)])


def make_parser() -> _Commands:
    """The parser of all commands."""
    parser = _Commands(
        prog="fwdgrad",
        description="Explain a model's decision from forward calls alone.",
    )
    parser.add_argument("--version", action="version", version=f"fwdgrad {fwdgrad.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)
    _add_explain(commands)
    _add_evaluate(commands)
    commands.add_parser("methods", help="the methods, their options and papers")
    commands.add_parser("info", help="versions, backends, SIMD level, threads")
    parser.commands = commands.choices
    for name, command in parser.commands.items():
        if name in ("explain", "evaluate"):
            _add_common(command.add_argument)
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _add_explain(commands: Any) -> None:
    explain = commands.add_parser(
        "explain",
        help="which parts of a photo, or words of a text, a model's decision depends on",
        description="By default, blurs random regions of the photo and estimates what each adds "
        "to the score; with --text, leaves random words of the text out, or adds noise to their "
        "embeddings where the model takes these.",
    )
    add = explain.add_argument
    add(
        "photo",
        type=file_named,
        nargs="*",
        help=f"pictures ({', '.join(FORMATS)}), or a folder of them; of several each gets a "
        "folder in --output, with index.html of all; what is there is not made again",
    )
    add("--inputs", type=file_named, metavar="FILE", help="a file of names of photos, one a "
        "line; - is standard input")  # fmt: skip
    add("--text", help="a sentence, instead of a photo; - reads it from standard input")
    add("--texts", type=file_named, metavar="FILE", help="a file of sentences, one a line; "
        "- is standard input")  # fmt: skip
    add(
        "--model",
        help=f"of photos: {', '.join(MODELS)} (default), or package.module:callable or "
        "file.py:callable from (batch, 3, size, size), RGB in [0, 1], to logits (batch, classes); "
        "of texts: such a callable from a list of strings to scores (batch, classes), a file that "
        f"examples/train_sentiment.py wrote, or {', '.join(TEXT_MODELS)}",
    )
    add(
        "--split",
        choices=SPLITS,
        help="what of a text is in or out, of an own callable (default: auto, words, or the "
        "sentences of a long text)",
    )
    add(
        "--url",
        help="of a text: an OpenAI-compatible server, http://localhost:8000/v1 say: which words "
        "raise the log-probability of an answer, --target or the model's own; --model is its name "
        "there",
    )
    add("--api-key-env", metavar="NAME", help="the variable of the environment with --url's key")
    add("--mask", help="what a word that is out is replaced by, [MASK] say (default: left out)")
    add("--answers", metavar="A,B", help="a language model's (default: negative,positive)")
    add("--size", type=int, help="of the pictures that an own callable takes (default: 224)")
    add(
        "--fit",
        choices=FITS,
        help="how the photo becomes a square: its centre, as for ImageNet; all of it, with grey "
        "beside it; or all of it, stretched (default: crop; an own callable's size stays as it is)",
    )
    add("--target", action="append", help="class number, class name, or auto, the predicted class "
        "(default); given again: several maps from the same forward calls")  # fmt: skip
    add(
        "--objective",
        default="auto",
        choices=OBJECTIVES,
        help="what is explained: output or logit, as it is; sigmoid, of the class's own; the "
        "others by the softmax; auto (default): values in [0, 1] and single numbers as they are, "
        "else the probability",
    )
    add("--samples", dest="n_samples", type=_samples, metavar="N|auto", help="perturbed inputs "
        "that the model is called on; a pair counts two (default: 1024, or what the method needs); "
        "auto: from 128 on as many as make the map sure")  # fmt: skip
    add("--reliability", type=float, help="of the map, at which --samples auto stops "
        "(default: 0.9)")  # fmt: skip
    add("--max-samples", type=int, metavar="N", help="at which --samples auto stops at the latest "
        "(default: 4096)")  # fmt: skip
    add("--watch", action="store_true", help="of a photo: draw heatmap.png at each look of "
        "--samples auto, too: an open viewer shows it get surer")  # fmt: skip
    _add_method(explain)
    _add_table(explain)
    add("--seed", type=int, default=0, help="of the random draws (default: 0)")
    add("--memory", help="budget such as 1GiB, instead of --batch-size")
    add("--output", type=Path, help="folder for the files (default: PHOTO-explanation, "
        "of several inputs explanations)")  # fmt: skip
    add("--overwrite", action="store_true", help="replace another run's files in --output, too")
    add(
        "--checkpoint",
        type=Path,
        help="file to continue from (default: checkpoint.safetensors in the output folder)",
    )
    add("--workers", type=int, metavar="N", help="local processes, which share out the inputs, or "
        "the samples of a single one (default: none)")  # fmt: skip
    add("--ray", metavar="ADDRESS", help="of a cluster of Ray, host:port or auto, whose actors "
        "--workers are then; --output must be a folder that its machines share")  # fmt: skip
    add("--report", action="store_true", help="write report.html, too: what was found "
        "and how far to trust it, in plain English, and a check of it by deletion and insertion, "
        "which takes a fifth as many forward calls as the map")  # fmt: skip
    add("--no-progress", action="store_true", help="no bar")
    add("--no-evidence", action="store_true", help="do not look for the part that is enough, which "
        "takes about twenty forward calls more")  # fmt: skip


def _add_method(explain: argparse.ArgumentParser) -> None:
    add = explain.add_argument_group(
        "the method", "fwdgrad methods lists each with its options; others are refused."
    ).add_argument
    add(
        "--method",
        default="auto",
        choices=["auto", *METHODS],
        metavar="NAME",
        help="default: auto, which is regions of photos and of texts that an own callable takes, "
        "else forward-gradient",
    )
    add("--plain", action="store_true", help="the paper's: forward-gradient without pairs")
    add(
        "--baseline",
        choices=BASELINES,
        help="what hidden regions become, where a path starts, or what noise moves towards "
        "(default: of regions blur, of integrated-gradients black)",
    )
    add(
        "--cell",
        type=int,
        help="side of the cells in pixels: of regions (default: the smallest that the samples can "
        "tell apart), or of forward-gradient, whose noise is then one draw in each cell and "
        "colour, on a grid that every sample shifts",
    )
    add("--scale", type=float, help="of the noise (default: a fifth of the input's range)")
    add("--distribution", choices=DISTRIBUTIONS, help="of the noise (default: normal)")
    add(
        "--design", choices=DESIGNS, help="of the samples (default: independent; of texts hadamard)"
    )
    add("--block", type=int, nargs="+", help="side, or height and width, of a random block that "
        "alone is noisy")  # fmt: skip
    add(
        "--antithetic",
        action=argparse.BooleanOptionalAction,
        help="evaluate each sample with both signs of its noise (default: of forward-gradient yes)",
    )
    add("--control-variate", choices=CONTROL_VARIATES, help="of samples without pairs")
    add("--steps", type=int, help="points on the path (default: 50)")
    add("--clip", type=float, nargs=2, metavar=("LOW", "HIGH"), help="clamp samples to a range")


def _add_table(explain: argparse.ArgumentParser) -> None:
    add = explain.add_argument_group(
        "rows of tables",
        "--model is package.module:callable or file.py:callable, from a DataFrame to scores.",
    ).add_argument
    add("--table", type=file_named, metavar="ROW.CSV", help="a row with a header, instead of a "
        "photo, or many")  # fmt: skip
    add("--background", type=file_named, metavar="ROWS.CSV", help="rows of the data, from which "
        "columns that are out take their values")  # fmt: skip
    add("--max-background", type=int, default=100, help="rows of it that are used (default: 100)")
    add("--group", dest="groups", action="append", metavar="NAME=A,B", help="columns that are in "
        "or out together, place=lat,lon say; repeatable")  # fmt: skip
    add("--category", dest="categories", action="append", metavar="NAME=A,B", help="the same of "
        "one-hot columns: the one that is set is shown as the value; repeatable")  # fmt: skip
    add("--value", choices=VALUES, help="of coalitions (default: banzhaf)")


def _add_evaluate(commands: Any) -> None:
    evaluate = commands.add_parser(
        "evaluate",
        help="how good a map of fwdgrad explain is: deletion, insertion, sparseness, localization",
        description="Measures how the score changes as pixels are deleted, and as they are "
        "inserted into a blurred picture, in the map's order.",
    )
    add = evaluate.add_argument
    add("map", type=Path, metavar="MAP", help="explanation.safetensors of fwdgrad explain")
    add("--model", default=MODELS[0], help=f"the one that was explained (default: {MODELS[0]})")
    add(
        "--objective",
        choices=OBJECTIVES[1:],
        help="the score that is measured (default: the one that was explained)",
    )
    add("--steps", type=int, help="of the curves (default: 224, at most the map's pixels)")
    add(
        "--fill",
        type=_levels,
        metavar="V[,V,V]",
        help="what deleted pixels become, one number or one for each colour (default: what the "
        "model's normalisation maps to zero; 0.5 for an own callable)",
    )
    add("--mask", type=Path, help="a picture of the photo's size, opaque on transparent or white "
        "on black where the object is")  # fmt: skip
    add("--report", type=Path, help="write a page: what was found and how far to trust it, in "
        "plain English, with the curves beside those of an order drawn by chance")  # fmt: skip


def _add_common(add: Any) -> None:
    add("--labels", metavar="FILE|A,B", help="a text file of class names, one a line, or the names")
    add("--batch-size", type=int, help="inputs per forward call")
    add(
        "--max-pixels",
        type=int,
        default=MAX_PIXELS,
        help=f"refuse pictures that take the memory of more (default: {MAX_PIXELS})",
    )
    add("--threads", type=int, help="of the model and of the kernels")
    add(
        "--engine",
        choices=ENGINES,
        help=f"what calls {MODELS[0]}: auto (default) is ONNX Runtime where it is installed and "
        "the method needs forward calls alone, several times as fast on a CPU; else torch",
    )
    add(
        "--device",
        metavar="cpu|cuda",
        help="where the model is called: a module is moved there, a function is given its batch "
        "there (default: cpu)",
    )


def file_named(text: str) -> Path:
    """A file that is read.

    Raises:
        argparse.ArgumentTypeError: it is an address, of which a path would not keep the slashes.

    Example:
        >>> file_named("https://example.org/cat.jpg")
        Traceback (most recent call last):
        argparse.ArgumentTypeError: https://example.org/cat.jpg is an address, and files alone are \
read: download it first
    """
    if "://" in text:
        raise argparse.ArgumentTypeError(
            f"{text} is an address, and files alone are read: download it first"
        )
    return Path(text)


def _samples(text: str) -> int | str:
    """How many samples: a number or auto."""
    try:
        return text if text == "auto" else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number or auto, got {text!r}") from None


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
