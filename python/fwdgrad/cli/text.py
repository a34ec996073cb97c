"""fwdgrad explain of a text."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fwdgrad.adapters.importing import import_named, read_labels
from fwdgrad.adapters.prepared import Adapter
from fwdgrad.adapters.strings import TextModel
from fwdgrad.adapters.text import explain_text
from fwdgrad.adapters.text_models import TEXT_MODELS, load_text_model
from fwdgrad.adapters.word_explanation import TextExplanation
from fwdgrad.advice import advice_for_words
from fwdgrad.cli.evidence import evidence_of, line_of
from fwdgrad.cli.options import method_of, method_options, run_options
from fwdgrad.cli.output import (
    check_no_input,
    check_not_of_another,
    made_folder,
    request_of,
    say_how,
)
from fwdgrad.errors import ArgumentError, Option
from fwdgrad.explaining import explain
from fwdgrad.files import write_atomically
from fwdgrad.terminal import say

_OF_PHOTOS = ("plain", "baseline", "block", "cell", "size", "fit", "engine")
_OF_STRINGS = ("labels", "mask", "split")


def explain_a_text(arguments: argparse.Namespace) -> None:
    """Explains --text, and writes files where there is an output folder."""
    for name in _OF_PHOTOS:
        if getattr(arguments, name):
            raise ArgumentError(name, "is of photos, and --text is given")
    if arguments.model is None:
        raise ValueError(
            "--text needs --model: package.module:callable from a list of strings to scores, a "
            f"file that examples/train_sentiment.py wrote, or one of {', '.join(TEXT_MODELS)}"
        )
    targets = arguments.target or ["auto"]
    if len(targets) > 1:
        raise ArgumentError("target", f"is given once for a --text, got {', '.join(targets)}")
    named = ":" in arguments.model and not os.path.isfile(arguments.model)
    of_strings = named or arguments.url is not None
    model, run = _of_strings(arguments) if of_strings else _of_embeddings(arguments)
    output, checkpoint = arguments.output, arguments.checkpoint
    request = request_of(arguments)
    if output is not None:
        page, saved = output / "words.html", output / "explanation.safetensors"
        checkpoint = checkpoint or output / "checkpoint.safetensors"
        read = {"--model": Path(arguments.model), "--checkpoint": checkpoint}
        read |= {"--labels": arguments.labels}
        check_no_input(f"--output {output}", (saved, page), read)
        if not arguments.overwrite:
            check_not_of_another({saved: [page]}, request)
    with made_folder(output) if output is not None else contextlib.nullcontext():
        result = run(targets[0], checkpoint=checkpoint, progress=not arguments.no_progress)
    explained = result.explanation
    say(result.to_terminal(), lines=True)
    say(f"class        {result.label}, {explained.objective} {explained.score:.4g}")
    if of_strings:
        say(f"meaning      {result.meaning}")
    say_how(explained, "text")
    advice = arguments.spoken(advice_for_words(result))
    of_words = f"of the {result.unit}s' scores"
    say(f"reliability  {result.reliability:.3f} {of_words}{advice and f' ({advice})'}")
    say(f"seconds      {explained.seconds:.1f}")
    if (found := evidence_of(arguments, model, result)) is not None:
        say(line_of(found))
    if output is None:
        return
    explained.provenance["request"] = request
    explained.save(saved)
    write_atomically(page, result.to_html().encode())
    if arguments.checkpoint is None:
        checkpoint.unlink(missing_ok=True)
    say(f"words        {page}")
    of_what = f"of the {result.unit}s" if of_strings else "of the embeddings"
    say(f"attribution  {saved} ({of_what}, with its standard error)")


_Run = tuple[Any, Callable[..., TextExplanation]]  # a model, and how it explains the text


def _of_strings(arguments: argparse.Namespace) -> _Run:
    """An own callable of strings."""
    if arguments.answers is not None:
        raise ArgumentError("answers", f"are for a language model, got model {arguments.model!r}")
    if arguments.method not in ("auto", "regions"):
        raise ArgumentError(
            "method",
            "must be auto or regions for a model of strings, whose words are there or not, got "
            f"{arguments.method}",
        )
    fields = method_options(arguments)
    method = method_of("regions", {"baseline": 0.0, **fields}) if fields else "auto"
    if arguments.url is not None:
        return _run(arguments, _served(arguments), method, "auto")
    found = import_named(arguments.model)
    given = {name: value for name in _OF_STRINGS if (value := getattr(arguments, name)) is not None}
    if isinstance(found, TextModel):
        for name in given:
            raise ArgumentError(name, f"must be left out: {arguments.model} is a TextModel already")
        model = found
    else:
        if isinstance(found, torch.nn.Module):
            found = found.eval()
        if "labels" in given:
            given["labels"] = read_labels(given["labels"])
        model = TextModel(found, **given)
    return _run(arguments, model, method)


def _run(
    arguments: argparse.Namespace, model: Adapter, method: Any, target: str | None = None
) -> _Run:
    options: dict[str, Any] = {**run_options(arguments), "method": method, "name": arguments.model}

    def run(wanted: str, **how: Any) -> TextExplanation:
        result = explain(model, arguments.text, target or wanted, **options, **how)
        assert isinstance(result, TextExplanation)
        return result

    return model, run


def _served(arguments: argparse.Namespace) -> Adapter:
    """The language model at --url."""
    from fwdgrad.adapters.completions import Completions

    for name in ("labels", "split"):
        if getattr(arguments, name) is not None:
            raise ArgumentError(name, "is of a callable of strings, got ", Option("url"))
    (answer,) = arguments.target or ["auto"]
    return Completions(
        arguments.url,
        arguments.model,
        answer=None if answer == "auto" else answer,
        api_key_env=arguments.api_key_env,
        mask=arguments.mask,
    )


def _of_embeddings(arguments: argparse.Namespace) -> _Run:
    """A model adapter, which gives the words' embeddings."""
    for name in _OF_STRINGS:
        if getattr(arguments, name):
            raise ArgumentError(
                name, "is of a model of strings: ", Option("model", "package.module:callable")
            )
    answers = None if arguments.answers is None else tuple(arguments.answers.split(","))
    try:
        adapter = load_text_model(arguments.model, answers)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}, nor is it package.module:callable") from None
    method, fields, options = arguments.method, method_options(arguments), run_options(arguments)
    if method in ("auto", "forward-gradient"):
        method, options["share_channels"] = "forward-gradient", True
        if not {"design", "distribution"} & fields.keys():
            fields["design"] = "hadamard"
    if method == "integrated-gradients":
        fields["baseline"] = 0.0  # black is for pictures
    options["method"] = method_of(method, fields)
    if "scale" in fields:  # of the words alone, which only explain_text knows
        options |= {"method": replace(options["method"], scale=None), "scale": fields["scale"]}

    def run(target: str, **how: Any) -> TextExplanation:
        wanted = int(target) if target.isdecimal() else target
        return explain_text(adapter, arguments.text, wanted, **options, **how)

    return adapter, run
