"""A text as embeddings, and the interface of model adapters for texts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class EncodedText:
    """A text as a model takes it: an embedding for each token, and the word it belongs to.

    Attributes:
        text: what was read.
        spans: where each word starts and stops in it, in order.
        word_of: for each token the number of its word; -1 for special tokens and padding, which
            get no noise.
        embeddings: (T, E), floating: a row for each token.
        forward: takes embeddings (batch, T, E) of this text; returns (batch, classes).

    Raises:
        TypeError, ValueError: naming the field, what was given and what would do.
    """

    text: str
    spans: tuple[tuple[int, int], ...]
    word_of: tuple[int, ...]
    embeddings: Tensor
    forward: Callable[[Tensor], Any]

    def __post_init__(self) -> None:
        """Checks that tokens, words and embeddings belong together."""
        x = self.embeddings
        if not isinstance(x, Tensor) or not x.is_floating_point():
            kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise TypeError(
                f"embeddings must be a floating tensor (T, E), got {kind}; noise cannot go on "
                "token numbers: give what the model's embedding layer makes of them"
            )
        if x.dim() != 2 or len(x) != len(self.word_of):
            raise ValueError(
                f"embeddings must be (T, E) with a row for each of {len(self.word_of)} tokens, "
                f"got shape {tuple(x.shape)}"
            )
        words = set(self.word_of) - {-1}
        if not words or words != set(range(len(self.spans))):
            raise ValueError(
                f"word_of must give every one of {len(self.spans)} words a token, and -1 to "
                f"special tokens, got {self.word_of}"
            )

    @property
    def words(self) -> tuple[str, ...]:
        """The words as they stand in the text."""
        return tuple(self.text[start:stop] for start, stop in self.spans)

    @property
    def frozen(self) -> Tensor:
        """(T,), True for special tokens and padding."""
        return torch.tensor(self.word_of, device=self.embeddings.device) < 0


class TextAdapter(Protocol):
    """A classifier of texts that can be called on embeddings."""

    @property
    def name(self) -> str:
        """The model's name."""

    @property
    def labels(self) -> tuple[str, ...] | None:
        """The classes' names, where they are known."""

    def encode(self, text: str) -> EncodedText:
        """A text's words, tokens and embeddings, and the model that takes the embeddings."""
