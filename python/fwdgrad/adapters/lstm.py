"""A small classifier of texts: a bidirectional LSTM over words, with attention."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fwdgrad.adapters.encoded import EncodedText
from fwdgrad.adapters.weights import load_model, save_model
from fwdgrad.adapters.words import UNSEEN, check_length, split_words
from fwdgrad.errors import warn
from fwdgrad.names import check_different


def normal_words(text: str) -> list[str]:
    """A text's words in the form of a vocabulary: in lower case, with straight apostrophes.

    Letters and their accents are one character where Unicode has one (its form NFC), and invisible
    characters, such as a soft hyphen, are left out.

    >>> normal_words("Isn’t it")
    ["isn't", 'it']
    """
    words = (text[start:stop].lower().replace("’", "'") for start, stop in split_words(text))
    return [unicodedata.normalize("NFC", UNSEEN.sub("", word)) for word in words]


class LSTMClassifier(torch.nn.Module):
    """An attention-based bidirectional LSTM over its own word embeddings; a ``TextAdapter``.

    With H (T, hidden) the sum of both directions' states, a word's weight is
    a = softmax(tanh(H) w), and the scores are linear in tanh(sum_t a_t H_t).

    Args:
        vocabulary: the words it knows, in lower case; all others share one embedding.
        labels: the classes' names.
        width: of the embeddings, E.
        hidden: of the LSTM's states, in each direction.
        dropout: in training, on the embeddings and before the last layer.
        longest: words that a text may have.

    Raises:
        TypeError, ValueError: vocabulary or labels are no lists of different strings, or too few.

    Example:
        >>> model = LSTMClassifier(["a", "fine", "film"], ["bad", "good"]).eval()
        >>> encoded = model.encode("A fine film!")
        >>> encoded.embeddings.shape
        torch.Size([4, 64])
        >>> encoded.forward(encoded.embeddings[None]).shape
        torch.Size([1, 2])

    Source: Zhou and others, *Attention-based bidirectional long short-term memory networks for
    relation classification*, ACL 2016; the kind of model that *Is forward gradient an effective
    tool for explaining black-box models?* explains in section 4.2, there over GloVe embeddings.
    """

    name = "lstm"
    explained_as = "probability"

    def __init__(
        self,
        vocabulary: Sequence[str],
        labels: Sequence[str],
        *,
        width: int = 64,
        hidden: int = 64,
        dropout: float = 0.5,
        longest: int = 256,
    ) -> None:
        """Starts from random weights."""
        super().__init__()
        self.vocabulary = check_different("vocabulary", vocabulary, 1)
        self.labels = check_different("labels", labels, 2)
        self.settings = {"width": width, "hidden": hidden, "dropout": dropout, "longest": longest}
        self.longest = longest
        self._index = {word: 1 + i for i, word in enumerate(self.vocabulary)}
        self.embedding = torch.nn.Embedding(1 + len(self.vocabulary), width)
        self.lstm = torch.nn.LSTM(width, hidden, batch_first=True, bidirectional=True)
        self.attention = torch.nn.Linear(hidden, 1, bias=False)
        self.classes = torch.nn.Linear(hidden, len(self.labels))
        self.dropout = torch.nn.Dropout(dropout)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Embeddings (batch, T, E) of texts of T words each to scores (batch, classes)."""
        states, _ = self.lstm(self.dropout(embeddings))
        states = states.unflatten(2, (2, -1)).sum(2)
        weights = self.attention(states.tanh()).softmax(1)
        scores: Tensor = self.classes(self.dropout((weights * states).sum(1).tanh()))
        return scores

    def tokens(self, text: str) -> list[int]:
        """The numbers of a text's words in the vocabulary, from 1; 0 for one that it lacks.

        >>> LSTMClassifier(["fine", "isn't"], ["bad", "good"]).tokens("Isn’t it fine")
        [2, 0, 1]
        """
        return [self._index.get(word, 0) for word in normal_words(text)]

    def encode(self, text: str) -> EncodedText:
        """A text's words and their embeddings.

        Raises:
            TypeError: it is no string.
            ValueError: it is empty, or longer than ``longest``.
        """
        spans = split_words(text)
        check_length(text, len(spans), self.longest, "words")
        numbers = torch.tensor(self.tokens(text), device=self.embedding.weight.device)
        unknown = int((numbers == 0).sum())
        if 2 * unknown > len(spans):
            warn(
                f"{unknown} of {len(spans)} words are not in the model's vocabulary: they are all "
                "the same to it"
            )
        embeddings = self.embedding(numbers).detach()
        return EncodedText(text, spans, tuple(range(len(spans))), embeddings, self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes weights, vocabulary and labels into one safetensors file, whole or not at all.

        Raises:
            OSError: it cannot be written.
        """
        about = {"vocabulary": self.vocabulary, "labels": self.labels, **self.settings}
        save_model(path, "lstm", self, about)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LSTMClassifier:
        """Reads what ``save`` wrote; the model is in evaluation mode.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is damaged, or another kind of file.
        """

        def make(about: dict[str, Any], weights: dict[str, Tensor]) -> LSTMClassifier:
            model = cls(**about)
            model.load_state_dict(weights)
            return model.eval()

        return load_model(path, "lstm", "LSTMClassifier", make)
