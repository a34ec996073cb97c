"""Where the parts of a text are: its words, sentences, characters, or what a caller names."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import Any

import regex

from fwdgrad.adapters.words import UNSEEN, Spans, shortened, split_words
from fwdgrad.errors import ArgumentError, ArgumentTypeError
from fwdgrad.outputs import cause, told

Split = str | Callable[[str], Any] | Iterable[Any]

SPLITS = ("auto", "words", "sentences", "characters")
MANY_WORDS = 200  # of a text with more, "auto" takes the sentences ...
LEAST_SENTENCES = 3  # ... if it has as many: fewer would say too little

# The rules of Unicode Standard Annex #29 for sentences, by their numbers there. After each sign
# there may be marks that belong to it (SB5).
_MARKS = r"[\p{SB=Extend}\p{SB=Format}]*+"
_BREAK = r"(?:\r\n|[\r\n\p{SB=Sep}])"  # SB3, SB4
_REST = rf"(?:\p{{SB=Close}}{_MARKS})*+(?:\p{{SB=Sp}}{_MARKS})*+"  # SB9, SB10
_GOES_ON = r"(?![\p{SB=SContinue}\p{SB=STerm}\p{SB=ATerm}])"  # SB8a
_LETTERS = r"\p{SB=OLetter}\p{SB=Upper}\p{SB=Lower}"
_LOWER = rf"(?![^{_LETTERS}\r\n\p{{SB=Sep}}\p{{SB=STerm}}\p{{SB=ATerm}}]*\p{{SB=Lower}})"  # SB8
_INITIALS = (  # SB7
    rf"(?!(?<=[\p{{SB=Upper}}\p{{SB=Lower}}]{_MARKS[:-1]})\p{{SB=ATerm}}{_MARKS}\p{{SB=Upper}})"
)
_END = regex.compile(
    rf"{_BREAK}"
    rf"|\p{{SB=STerm}}{_MARKS}{_REST}(?:{_BREAK}|{_GOES_ON})"
    rf"|{_INITIALS}\p{{SB=ATerm}}{_MARKS}(?!\p{{SB=Numeric}})"  # SB6
    rf"{_REST}(?:{_BREAK}|{_GOES_ON}{_LOWER})",
    regex.VERSION1,
)
_CHARACTER = regex.compile(r"\X", regex.VERSION1)


def split_sentences(text: str) -> Spans:
    """Splits a text into sentences by the rules of Unicode Standard Annex #29.

    Full stops, question marks and exclamation marks of all scripts end a sentence, and so does a
    line break. "3.5", "U.S." before a small letter and "e.g. this" go on; a name after "Mr. "
    begins a sentence, for these rules know no abbreviations.

    Args:
        text: any text.

    Returns:
        Start and stop of each, without the white space around it.

    Raises:
        ArgumentError: it has none.

    Example:
        >>> text = "It costs 3.5 dollars (why?). Really! “No.” he said."
        >>> [text[a:b] for a, b in split_sentences(text)]
        ['It costs 3.5 dollars (why?).', 'Really!', '“No.” he said.']
    """
    spans, start = [], 0
    for stop in [*(found.end() for found in _END.finditer(text)), len(text)]:
        spans.append(seen(text, start, stop))
        start = stop
    return _some(text, spans, "sentence")


def split_characters(text: str) -> Spans:
    """Splits a text into characters as people see them: letters with marks, whole emoji.

    Args:
        text: any text.

    Returns:
        Start and stop of each that can be seen.

    Raises:
        ArgumentError: it has none.

    Example:
        >>> text = "né 👍🏽"
        >>> [text[a:b] for a, b in split_characters(text)]
        ['n', 'é', '👍🏽']
    """
    found = _CHARACTER.finditer(text)
    spans = [one.span() for one in found if not UNSEEN.fullmatch(one.group())]
    return _some(text, spans, "character")


def split_text(text: str, split: Split) -> tuple[Spans, str]:
    """The parts of a text, and what one is called.

    Args:
        text: any text.
        split: one of ``SPLITS``, a function from the text to spans, or the spans themselves: start
            and stop of each part, in order.

    Raises:
        TypeError, ValueError: naming the argument.

    Example:
        >>> split_text("So dull!", "auto")
        (((0, 2), (3, 7), (7, 8)), 'word')
        >>> split_text("So dull!", [(3, 7)])
        (((3, 7),), 'span')
    """
    if split == "auto":
        words = split_words(text)
        if len(words) > MANY_WORDS:
            sentences = split_sentences(text)
            if len(sentences) >= LEAST_SENTENCES:
                return sentences, "sentence"
        return words, "word"
    if isinstance(split, str):
        kinds = {
            "words": split_words,
            "sentences": split_sentences,
            "characters": split_characters,
        }
        return kinds[split](text), split.removesuffix("s")
    given: Any = split
    if callable(split):
        try:
            given = split(text)
        except Exception as error:
            raise ArgumentError("split", f"failed on the text: {cause(error)}") from error
    return _checked(text, given), "span"


def check_split(split: Any) -> Split:
    """A split as it is given, with spans as tuples; raises where it is none.

    >>> check_split("sentence")
    Traceback (most recent call last):
    fwdgrad.errors.ArgumentError: split must be one of auto, words, sentences, characters, a \
function from a text to spans, or spans (start, stop), got 'sentence'
    """
    if isinstance(split, str):
        is_right = split in SPLITS
    else:
        is_right = callable(split) or isinstance(split, Iterable)
    if not is_right:
        raise ArgumentError(
            "split",
            f"must be one of {', '.join(SPLITS)}, a function from a text to spans, or spans "
            f"(start, stop), got {told(repr(split), 80)}",
        )
    found: Split = split if callable(split) or isinstance(split, str) else tuple(split)
    return found


def _checked(text: str, given: Any) -> Spans:
    """Spans of a caller's own."""
    spans: list[tuple[int, int]] = []
    try:
        for start, stop in given:
            spans.append((operator.index(start), operator.index(stop)))
    except (TypeError, ValueError):
        raise ArgumentTypeError(
            "split",
            f"must give spans (start, stop), whole numbers, got {told(repr(given), 80)}",
        ) from None
    if not spans:
        raise ArgumentError("split", f"must give at least one span of {shortened(text)}, got none")
    last = 0
    for start, stop in spans:
        if not last <= start < stop <= len(text):
            raise ArgumentError(
                "split",
                "must give spans in order that do not overlap and are not empty, within 0 .. "
                f"{len(text)}, got {(start, stop)}" + (f" after {last}" if start < last else ""),
            )
        last = stop
    return tuple(spans)


def seen(text: str, start: int, stop: int) -> tuple[int, int]:
    """A span without what cannot be seen at its ends.

    >>> seen("So  dull!", 2, 9)
    (4, 9)
    """
    part = text[start:stop]
    before = UNSEEN.match(part)
    start += before.end() if before else 0
    after = _UNSEEN_END.search(text, start, stop)
    return start, after.start() if after else stop


_UNSEEN_END = regex.compile(rf"{UNSEEN.pattern}\Z", regex.VERSION1)


def _some(text: str, spans: Iterable[tuple[int, int]], unit: str) -> Spans:
    found = tuple((start, stop) for start, stop in spans if start < stop)
    if not found:
        raise ArgumentError("text", f"must have at least one {unit}, got {shortened(text)}")
    return found
