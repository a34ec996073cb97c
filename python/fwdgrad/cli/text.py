"""fwdgrad explain of a text."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path

import fwdgrad
from fwdgrad.adapters.text import explain_text
from fwdgrad.adapters.text_models import TEXT_MODELS, load_text_model
from fwdgrad.advice import advice_for_words
from fwdgrad.cli.options import check_noise, common_options, path_steps
from fwdgrad.cli.output import (
    check_no_input,
    check_not_of_another,
    decision,
    made_folder,
    option,
    request_of,
)
from fwdgrad.files import write_atomically
from fwdgrad.terminal import say

_OF_PHOTOS = ("plain", "control", "baseline", "block", "cell", "field", "size", "labels", "fit")


def explain_a_text(arguments: argparse.Namespace) -> None:
    """Explains --text, and writes files where there is an output folder."""
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
    box = load_text_model(arguments.model, answers)
    targets: list[str] = given.get("target", ["auto"])
    if len(targets) > 1:
        raise ValueError(f"--target is given once for a --text, got {', '.join(targets)}")
    target: int | str = int(targets[0]) if targets[0].isdecimal() else targets[0]
    names = ("law", "sigma", "shared", "antithetic")
    if arguments.method == "auto":
        arguments.method = "likelihood-ratio"
    check_noise(arguments)
    options = {name: given[name] for name in names if name in given} | common_options(arguments)
    if arguments.method == "integrated-gradients":
        options["saliency"] = fwdgrad.IntegratedGradients(0.0, steps=path_steps(arguments))
    if arguments.method == "likelihood-ratio" and "shared" not in given:
        options |= {"shared": True, "law": given.get("law", "hadamard")}
    output: Path | None = given.get("output")
    request = request_of(arguments)
    if output is not None:
        page, saved = output / "words.html", output / "explanation.safetensors"
        options.setdefault("checkpoint", output / "checkpoint.safetensors")
        read = {"--model": Path(arguments.model), "--checkpoint": Path(options["checkpoint"])}
        check_no_input(f"--output {output}", (saved, page), read)
        if not arguments.overwrite:
            check_not_of_another({saved: [page]}, request)
    with made_folder(output) if output is not None else contextlib.nullcontext():
        result = explain_text(
            box, arguments.text, target, progress=not arguments.no_progress, **options
        )
    say(result.to_terminal(), lines=True)
    say(f"class        {result.label}, {result.explanation.objective} "
          f"{result.explanation.score:.4g}")  # fmt: skip
    if decided := decision(result.explanation):
        say(f"objective    {result.explanation.objective} ({decided})")
    say(f"queries      {result.explanation.queries} on copies and 1 on the text itself")
    advice = advice_for_words(result, option)
    say(f"reliability  {result.reliability:.3f} of the words' scores{advice and f' ({advice})'}")
    say(f"seconds      {result.explanation.seconds:.1f}")
    if output is None:
        return
    result.explanation.provenance["request"] = request
    result.explanation.save(saved)
    write_atomically(page, result.to_html().encode())
    if "checkpoint" not in given:
        (output / "checkpoint.safetensors").unlink(missing_ok=True)
    say(f"words        {page}")
    say(f"attribution  {saved} (of the embeddings, with its standard error)")
