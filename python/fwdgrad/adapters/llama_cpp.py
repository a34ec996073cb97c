"""A language model in llama.cpp as a classifier of texts: quantised, and without a gradient."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fwdgrad.adapters.encoded import EncodedText
from fwdgrad.adapters.language import (
    PROMPT,
    answer_tokens,
    around,
    check_answers,
    prompted,
    smollm2_file,
    smollm2_tokenizer,
)
from fwdgrad.checks import check_integer
from fwdgrad.errors import ModelError


class LlamaCppModel:
    """A language model in llama.cpp as a classifier of texts, its answers the classes.

    It is ``LanguageModel`` without a gradient: embeddings to log-probabilities. Weights stay as the
    file has them (SmolLM2's have 4 bits), so scores differ a little from those of the same weights
    in floating point. The prompt before the text is decoded once.

    Args:
        path: the model, a gguf file.
        tokenizer: its fast tokenizer of ``transformers``, which tells where tokens start.
        answers, prompt, longest: see ``LanguageModel``.
        threads: of llama.cpp.

    Raises:
        TypeError, ValueError: naming the argument, what was given and what would do.
        ImportError: llama-cpp-python or gguf is not installed.
        ModelError: llama.cpp cannot load the file.

    Source: *Is forward gradient an effective tool for explaining black-box models?*, section 4.3.
    """

    name = "llama.cpp"

    def __init__(
        self,
        path: str | os.PathLike[str],
        tokenizer: Any,
        answers: Sequence[str] = ("negative", "positive"),
        *,
        prompt: str = PROMPT,
        longest: int = 256,
        threads: int = 1,
    ) -> None:
        """Loads the model."""
        self._model = self._context = None
        library, gguf = _packages()
        self._library = library
        self.tokenizer, self.longest = tokenizer, longest
        self.before, self.after = around(tokenizer, prompt)
        self.labels = check_answers(answers)
        self.answers = answer_tokens(tokenizer, self.labels)
        threads = check_integer("threads", threads, 1)
        if not os.path.isfile(path):
            raise FileNotFoundError(f"model {os.fspath(path)} does not exist as a file")
        self._embeddings = _token_embeddings(gguf, path)
        library.llama_log_set(_silent(library), None)
        library.llama_backend_init()
        options = library.llama_model_default_params()
        options.use_extra_bufts = False  # repacked weights crash on embeddings as input
        self._model = library.llama_model_load_from_file(os.fsencode(path), options)
        if not self._model:
            raise ModelError(f"llama.cpp cannot load {os.fspath(path)}")
        vocabulary = library.llama_model_get_vocab(self._model)
        self._tokens: int = library.llama_vocab_n_tokens(vocabulary)
        longest_answer = max(map(len, self.answers))
        room = len(self.before) + longest + len(self.after) + longest_answer
        options = library.llama_context_default_params()
        options.n_ctx = options.n_batch = options.n_ubatch = room
        options.n_threads = options.n_threads_batch = threads
        options.type_k = options.type_v = 0  # float32: the cache adds no rounding of its own
        self._context = library.llama_init_from_model(self._model, options)
        if not self._context:
            self.close()
            raise ModelError(f"llama.cpp cannot make a context of {room} tokens")
        self._batch = library.llama_batch_init(room, self._embeddings.shape[1], 1)
        self._decoded: Tensor | None = None  # the prompt's start, as it is in the cache

    def __call__(self, embeddings: Tensor) -> Tensor:
        """Embeddings (batch, T, E) of one prompted text to log-probabilities (batch, answers)."""
        return torch.stack([self._scores(sample) for sample in embeddings.detach().float().cpu()])

    def _scores(self, sample: Tensor) -> Tensor:
        # The start is always decoded by itself, so that scores do not depend on earlier calls.
        start = min(len(self.before), len(sample) - 1)
        memory = self._library.llama_get_memory(self._context)
        if self._decoded is not None and torch.equal(self._decoded, sample[:start]):
            self._library.llama_memory_seq_rm(memory, 0, start, -1)
        else:
            self._library.llama_memory_clear(memory, True)
            self._decoded = None
            if start:
                self._decode(sample[:start], 0)
            self._decoded = sample[:start].clone()
        last = self._decode(sample[start:], start)[-1]
        scores = torch.empty(len(self.answers), dtype=torch.float64)
        for i, tokens in enumerate(self.answers):
            score = last[tokens[0]]
            if len(tokens) > 1:
                rest = self._decode(self._embeddings[tokens[:-1]], len(sample), every=True)
                score = score + rest[torch.arange(len(tokens) - 1), tokens[1:]].sum()
                self._library.llama_memory_seq_rm(memory, 0, len(sample), -1)
            scores[i] = score
        return scores

    def _decode(self, rows: Tensor, position: int, every: bool = False) -> Tensor:
        """Log-probabilities of all tokens after the last row, or after every row: float64."""
        batch, count = self._batch, len(rows)
        values = np.ascontiguousarray(rows.numpy(), dtype=np.float32)
        np.ctypeslib.as_array(batch.embd, (count, values.shape[1]))[:] = values
        batch.n_tokens = count
        for i in range(count):
            batch.pos[i], batch.n_seq_id[i] = position + i, 1
            batch.seq_id[i][0] = 0
            batch.logits[i] = every or i + 1 == count
        status = self._library.llama_decode(self._context, batch)
        if status != 0:
            raise ModelError(f"llama.cpp failed to decode {count} tokens: status {status}")
        wanted = range(count) if every else (count - 1,)
        logits = [
            np.ctypeslib.as_array(
                self._library.llama_get_logits_ith(self._context, i), (self._tokens,)
            ).astype(np.float64)
            for i in wanted
        ]
        return torch.from_numpy(np.stack(logits)).log_softmax(1)

    def encode(self, text: str) -> EncodedText:
        """A text's words, and the tokens and embeddings of the whole prompt.

        Raises:
            TypeError: it is no string.
            ValueError: it is empty, or has more tokens than ``longest``.
        """
        spans, numbers, word_of = prompted(
            self.tokenizer, self.before, text, self.after, self.longest
        )
        return EncodedText(text, spans, word_of, self._embeddings[numbers], self)

    @classmethod
    def smollm2(
        cls, answers: Sequence[str] = ("negative", "positive"), **options: Any
    ) -> LlamaCppModel:
        """SmolLM2-135M-Instruct with its weights from an installed package; no download.

        Args:
            answers: see ``LanguageModel``.
            **options: prompt, longest and threads.

        Raises:
            ImportError: a package is not installed.
        """
        return cls(smollm2_file(), smollm2_tokenizer(), answers, **options)

    def close(self) -> None:
        """Frees llama.cpp's memory; a second call does nothing."""
        if self._context:
            if hasattr(self, "_batch"):
                self._library.llama_batch_free(self._batch)
            self._library.llama_free(self._context)
            self._context = None
        if self._model:
            self._library.llama_model_free(self._model)
            self._model = None

    def __enter__(self) -> LlamaCppModel:
        """Is closed at the end of ``with``."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes it."""
        self.close()

    def __del__(self) -> None:
        """Closes it."""
        with contextlib.suppress(Exception):  # at the end of an interpreter its modules are gone
            self.close()


def _packages() -> tuple[Any, Any]:
    try:
        import gguf
        import llama_cpp.llama_cpp as library
    except ImportError as error:
        raise ImportError(
            f"llama.cpp needs {error.name}: pip install 'fwdgrad-kernels[llama-cpp]'"
        ) from None
    return library, gguf


_CALLBACKS: list[Any] = []  # kept alive, for llama.cpp has their address


def _silent(library: Any) -> Any:
    """A log callback that prints nothing."""
    if not _CALLBACKS:
        _CALLBACKS.append(library.llama_log_callback(lambda *_: None))
    return _CALLBACKS[0]


def _token_embeddings(gguf: Any, path: str | os.PathLike[str]) -> Tensor:
    """The embeddings of all tokens, (tokens, E), dequantised."""
    for tensor in gguf.GGUFReader(os.fspath(path)).tensors:
        if tensor.name == "token_embd.weight":
            values = gguf.dequantize(tensor.data, tensor.tensor_type)
            return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
    raise ModelError(f"{os.fspath(path)} has no token embeddings")
