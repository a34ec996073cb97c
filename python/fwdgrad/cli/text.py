"""fwdgrad explain of a text."""

from __future__ import annotations

import argparse
import contextlib
from dataclasses import replace
from pathlib import Path

from fwdgrad.adapters.text import explain_text
from fwdgrad.adapters.text_models import TEXT_MODELS, load_text_model
from fwdgrad.advice import advice_for_words
from fwdgrad.cli.options import method_of, method_options, run_options
from fwdgrad.cli.output import (
    check_no_input,
    check_not_of_another,
    made_folder,
    request_of,
    say_how,
)
from fwdgrad.errors import ArgumentError
from fwdgrad.files import write_atomically
from fwdgrad.terminal import say

_OF_PHOTOS = ("plain", "baseline", "block", "cell", "size", "labels", "fit")


def explain_a_text(arguments: argparse.Namespace) -> None:
    """Explains --text, and writes files where there is an output folder."""
    for name in _OF_PHOTOS:
        if getattr(arguments, name):
            raise ArgumentError(name, "is of photos, and --text is given")
    if arguments.model is None:
        raise ValueError(
            "--text needs --model: a file that examples/train_sentiment.py wrote, or one of "
            f"{', '.join(TEXT_MODELS)}"
        )
    answers = None if arguments.answers is None else tuple(arguments.answers.split(","))
    adapter = load_text_model(arguments.model, answers)
    targets = arguments.target or ["auto"]
    if len(targets) > 1:
        raise ArgumentError("target", f"is given once for a --text, got {', '.join(targets)}")
    target: int | str = int(targets[0]) if targets[0].isdecimal() else targets[0]
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
    output, checkpoint = arguments.output, arguments.checkpoint
    request = request_of(arguments)
    if output is not None:
        page, saved = output / "words.html", output / "explanation.safetensors"
        checkpoint = checkpoint or output / "checkpoint.safetensors"
        read = {"--model": Path(arguments.model), "--checkpoint": checkpoint}
        check_no_input(f"--output {output}", (saved, page), read)
        if not arguments.overwrite:
            check_not_of_another({saved: [page]}, request)
    with made_folder(output) if output is not None else contextlib.nullcontext():
        result = explain_text(
            adapter,
            arguments.text,
            target,
            checkpoint=checkpoint,
            progress=not arguments.no_progress,
            **options,
        )
    of_embeddings = result.explanation
    say(result.to_terminal(), lines=True)
    say(f"class        {result.label}, {of_embeddings.objective} {of_embeddings.score:.4g}")
    say_how(of_embeddings, "text")
    advice = arguments.spoken(advice_for_words(result))
    say(f"reliability  {result.reliability:.3f} of the words' scores{advice and f' ({advice})'}")
    say(f"seconds      {of_embeddings.seconds:.1f}")
    if output is None:
        return
    of_embeddings.provenance["request"] = request
    of_embeddings.save(saved)
    write_atomically(page, result.to_html().encode())
    if arguments.checkpoint is None:
        checkpoint.unlink(missing_ok=True)
    say(f"words        {page}")
    say(f"attribution  {saved} (of the embeddings, with its standard error)")
