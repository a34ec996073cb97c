"""Model adapters for texts by their name, or from their file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from fwdgrad.adapters.encoded import TextAdapter
from fwdgrad.adapters.language import LanguageModel
from fwdgrad.adapters.llama_cpp import LlamaCppModel
from fwdgrad.adapters.lstm import LSTMClassifier
from fwdgrad.adapters.minilm import MiniLMClassifier
from fwdgrad.errors import ArgumentError
from fwdgrad.files import kind_of

TEXT_MODELS = ("smollm2", "smollm2-llama.cpp")


def load_text_model(name: str, answers: Sequence[str] | None = None) -> TextAdapter:
    """Loads a model adapter for texts by its name, or from the file that its ``save`` wrote.

    Args:
        name: one of ``TEXT_MODELS``, or a path.
        answers: of a language model, which become its classes.

    Raises:
        FileNotFoundError, ValueError, ImportError: saying what is wrong with the name.
    """
    if name in TEXT_MODELS:
        choices = tuple(answers or ("negative", "positive"))
        if name == "smollm2":
            return LanguageModel.smollm2(choices)
        return LlamaCppModel.smollm2(choices)
    if answers is not None:
        raise ArgumentError("answers", f"are for a language model, got model {name!r}")
    if not os.path.isfile(name):
        raise FileNotFoundError(
            f"model must be a file that a text model's save wrote or one of "
            f"{', '.join(TEXT_MODELS)}, got {name!r}: there is no such file"
        )
    kinds: dict[str, Any] = {"lstm": LSTMClassifier, "minilm": MiniLMClassifier}
    kind = kind_of(name)
    if kind not in kinds:
        raise ArgumentError("model", f"{name} is no text model's file, or damaged")
    model: TextAdapter = kinds[kind].load(name)
    return model
