"""The words of a text, and which of a tokenizer's tokens belong to each."""

from __future__ import annotations

import bisect
import sys
from collections.abc import Sequence

import regex
from torch import Tensor

from fwdgrad.errors import ArgumentError

Spans = tuple[tuple[int, int], ...]

# Whole characters up to the next boundary of a word (by the flag w, \b is Unicode's), and more of
# them after an apostrophe or hyphen between letters or digits.
_PIECE = regex.compile(
    r"(?sw)(?>\X+?\b)(?:(?<=\w)['’\-\u2010\u2011](?=\w)(?>\X+?\b))*", regex.VERSION1
)
UNSEEN = regex.compile(r"[\s\p{Cc}\p{Default_Ignorable_Code_Point}]+")


def split_words(text: str) -> Spans:
    """Splits a text into words by Unicode's rules; other signs are words of their own.

    The rules are those of Unicode Standard Annex #29, for words and for characters: an accent, a
    vowel sign or a skin tone belongs to the letter or picture before it, "3.5" is one word, every
    Chinese character is one, and so is a run of Katakana. An apostrophe or hyphen between letters
    or digits belongs to the word, which the annex leaves open. Thai, Lao, Khmer and Burmese have no
    spaces between words, and finding words takes a dictionary: here, as in the annex without one,
    they are split into letters with their marks.

    Args:
        text: any text.

    Returns:
        Start and stop of each. Between them are invisible characters alone: spaces, controls, a
        byte order mark.

    Raises:
        TypeError: it is no string, but a list of token numbers, say.
        ValueError: it has no words.

    Example:
        >>> [text[a:b] for text in ["Isn't well-made: 3.5."] for a, b in split_words(text)]
        ["Isn't", 'well-made', ':', '3.5', '.']
    """
    if not isinstance(text, str):
        kind = f"a tensor of {text.dtype}" if isinstance(text, Tensor) else type(text).__name__
        raise TypeError(
            f"text must be a string, got {kind}; noise cannot go on token numbers: give the text "
            "itself, or explain its embeddings (T, E) with fwdgrad.explain"
        )
    spans = tuple(
        piece.span() for piece in _PIECE.finditer(text) if not UNSEEN.fullmatch(piece.group())
    )
    if not spans:
        raise ArgumentError("text", f"must have at least one word, got {shortened(text)}")
    return spans


def check_length(text: str, count: int, longest: int, unit: str) -> None:
    """Raises where a text is too long for a model.

    >>> check_length("a b c", 3, longest=2, unit="words")
    Traceback (most recent call last):
    fwdgrad.errors.ArgumentError: text must have at most 2 words, got 3 in 'a b c'; give ...
    """
    if count > longest:
        raise ArgumentError(
            "text",
            f"must have at most {longest} {unit}, got {count} in {shortened(text)}; give a part "
            "of it",
        )


def words_of_tokens(
    text: str, spans: Spans, tokens: Sequence[tuple[int, int] | None]
) -> tuple[Spans, tuple[int, ...]]:
    """The words of a text as a tokenizer reads it, and the word of each token.

    Words that share a token become one, for they have one score; a word without tokens, such as a
    sign that the tokenizer leaves out, is dropped.

    Args:
        text: that was read.
        spans: its words, from ``split_words``.
        tokens: start and stop of each, in order; None for special tokens. A token may start with
            the space before its word.

    Returns:
        Start and stop of each word, none if all tokens are special; and for each token the number
        of its word, -1 for special ones.

    Example:
        >>> text = "So dull?!"
        >>> words_of_tokens(text, split_words(text), [None, (0, 2), (2, 5), (5, 7), (7, 9)])
        (((0, 2), (3, 7), (7, 9)), (-1, 0, 1, 1, 2))
    """

    def word_at(place: int) -> int:
        return max(0, bisect.bisect_right(spans, (place, sys.maxsize)) - 1)

    firsts = []  # of each token, the word that it starts in
    continued: set[int] = set()  # words that are one with the word before them
    for token in tokens:
        if token is None:
            firsts.append(-1)
            continue
        start, stop = token
        start += len(text[start:stop]) - len(text[start:stop].lstrip())
        first = word_at(start)
        continued.update(range(first + 1, word_at(stop - 1) + 1))
        firsts.append(first)
    merged: list[tuple[int, int]] = []
    merged_of = []
    for word, (start, stop) in enumerate(spans):
        if word in continued:
            merged[-1] = (merged[-1][0], stop)
        else:
            merged.append((start, stop))
        merged_of.append(len(merged) - 1)
    numbers = [merged_of[word] if word >= 0 else -1 for word in firsts]
    kept = sorted(set(numbers) - {-1})
    new = {-1: -1, **{word: i for i, word in enumerate(kept)}}
    return tuple(merged[word] for word in kept), tuple(new[word] for word in numbers)


def shortened(text: str) -> str:
    """The start of a text, as a message has it.

    >>> shortened("A fine film")
    "'A fine film'"
    """
    return repr(text) if len(text) <= 40 else f"{text[:40]!r}..."
