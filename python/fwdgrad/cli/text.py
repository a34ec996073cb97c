"""fwdgrad explain of texts."""

from __future__ import annotations

import argparse
import functools
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
from fwdgrad.cli.kinds import Kind, Say
from fwdgrad.cli.options import in_or_out, method_of, method_options, run_options
from fwdgrad.cli.output import made_folder, say_how, say_seconds
from fwdgrad.errors import ArgumentError, Option, did_you_mean
from fwdgrad.explaining import explain
from fwdgrad.explanation import Explanation
from fwdgrad.files import write_atomically
from fwdgrad.meaning import score_name
from fwdgrad.runner.loop import Progress

_OF_PHOTOS = ("plain", "baseline", "block", "cell", "size", "fit", "engine", "watch")
_OF_NOISE = ("auto", "forward-gradient")
_OF_STRINGS = ("labels", "mask", "split")


class Texts(Kind):
    """How texts are explained."""

    what = "text"

    def __init__(self, arguments: argparse.Namespace) -> None:
        """Checks the options."""
        super().__init__(arguments)
        for name in _OF_PHOTOS:
            if getattr(arguments, name):
                raise ArgumentError(name, f"is of photos, and {_given(arguments)} is given")
        if arguments.model is None:
            raise ValueError(
                f"{_given(arguments)} needs --model: package.module:callable or file.py:callable "
                "from a list of strings to scores, a file that examples/train_sentiment.py wrote, "
                f"or one of {', '.join(TEXT_MODELS)}"
            )
        self.targets = arguments.target or ["auto"]
        if len(self.targets) > 1:
            listed = ", ".join(self.targets)
            raise ArgumentError("target", f"is given once for a --text, got {listed}")
        named = ":" in arguments.model and not os.path.isfile(arguments.model)
        self._of_strings = named or arguments.url is not None

    @functools.cached_property
    def _model_and_run(self) -> tuple[Any, Callable[..., TextExplanation]]:
        return (_of_strings if self._of_strings else _of_embeddings)(self.arguments)

    @property
    def model(self) -> Any:  # type: ignore[override]
        """What texts are given to, loaded when it is first asked for."""
        return self._model_and_run[0]

    def files(self, one: argparse.Namespace) -> dict[Path, Path]:
        """The map of a text, with its page."""
        output = one.output
        return {output / "explanation.safetensors": output / "words.html"} if output else {}

    def content(self, one: argparse.Namespace) -> bytes:
        """The text."""
        return one.text.encode(errors="surrogatepass")  # type: ignore[no-any-return]

    def read(self, one: argparse.Namespace) -> dict[str, Path | None]:
        """The model's file, where it is one, and the names of classes."""
        return {"--model": Path(one.model), "--labels": one.labels}

    def options(self) -> dict[str, Any]:
        """The arguments of ``fwdgrad.explain``, the method among them."""
        method = (_method_of_strings if self._of_strings else _method_of_embeddings)(self.arguments)
        return {**run_options(self.arguments), "method": method}

    def run(self, one: argparse.Namespace, progress: Progress, say: Say) -> list[Explanation]:
        """Explains a text, and writes its files where there is an output folder."""
        run, checkpoint, output = self._model_and_run[1], self.check(one), one.output
        with made_folder(output if one.leads else None):
            result = self.kept_by(
                checkpoint, one,
                lambda: run(one.text, self.targets[0], checkpoint=checkpoint, progress=progress),
            )  # fmt: skip
        explained = result.explanation
        if not one.leads:
            return [explained]
        say(result.to_terminal(), lines=True)
        say(f"class        {result.label}, {score_name(explained)} {explained.score:.4g}")
        if self._of_strings:
            say(f"meaning      {result.meaning}")
        say_how(explained, "text", say)
        advice = one.spoken(advice_for_words(result))
        of_words = f"of the {result.unit}s' scores"
        say(f"reliability  {result.reliability:.3f} {of_words}{advice and f' ({advice})'}")
        if (found := evidence_of(one, self.model, result)) is not None:
            say(line_of(found))
        for saved, page in self.files(one).items():
            self.save(explained, saved, result.label, one)
            write_atomically(page, result.to_html().encode())
            if one.checkpoint is None and checkpoint is not None:
                checkpoint.unlink(missing_ok=True)
            say(f"words        {page}")
            of_what = f"of the {result.unit}s" if self._of_strings else "of the embeddings"
            say(f"attribution  {saved} ({of_what}, with its standard error)")
            self.report_of_features(one, result, result.label, saved, say, 1)
        say_seconds(one, say, explained)
        return [explained]


def _given(arguments: argparse.Namespace) -> str:
    return "--text" if arguments.text is not None else "--texts"


_Run = tuple[Any, Callable[..., TextExplanation]]  # a model, and how it explains a text


def _method_of_strings(arguments: argparse.Namespace) -> Any:
    return in_or_out(arguments, "for a model of strings, whose words are there or not")


def _method_of_embeddings(arguments: argparse.Namespace) -> Any:
    method, fields = arguments.method, method_options(arguments)
    if method in _OF_NOISE:
        method = "forward-gradient"
        if not {"design", "distribution"} & fields.keys():
            fields["design"] = "hadamard"
    if method == "integrated-gradients":
        fields["baseline"] = 0.0  # black is for pictures
    return method_of(method, fields)


def _of_strings(arguments: argparse.Namespace) -> _Run:
    """An own callable of strings."""
    if arguments.answers is not None:
        raise ArgumentError("answers", f"are for a language model, got model {arguments.model!r}")
    method = _method_of_strings(arguments)
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

    def run(text: str, wanted: str, **how: Any) -> TextExplanation:
        result = explain(model, text, target or wanted, **options, **how)
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
                name, "is of a model of strings: ", Option("model", "file.py:callable")
            )
    answers = None if arguments.answers is None else tuple(arguments.answers.split(","))
    try:
        adapter = load_text_model(arguments.model, answers)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error}, nor is it package.module:callable or file.py:callable"
            + did_you_mean(arguments.model, TEXT_MODELS)
        ) from None
    options = run_options(arguments)
    if options.pop("workers") is not None and arguments.text is not None:
        raise ArgumentError("workers", "are of several texts where a model takes embeddings")
    if arguments.method in _OF_NOISE:
        options["share_channels"] = True
    options["method"] = method = _method_of_embeddings(arguments)
    if arguments.scale is not None:  # of the words alone, which only explain_text knows
        options |= {"method": replace(method, scale=None), "scale": arguments.scale}

    def run(text: str, target: str, **how: Any) -> TextExplanation:
        wanted = int(target) if target.isdecimal() else target
        return explain_text(adapter, text, wanted, **options, **how)

    return adapter, run
