"""Makes imagenet_hypernyms.txt: the hypernyms of ImageNet's classes in WordNet.

    python -m fwdgrad.adapters.make_imagenet_hypernyms data.noun synsets.txt >hypernyms.txt

data.noun is WordNet 3.0's (Debian: wordnet-base; 3.1 has other identifiers), synsets.txt lists the
identifiers of the classes, one a line (timm: data/_info/imagenet_synsets.txt).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

_POINTERS = ("@", "@i")  # is a kind of, is an instance of


def read_hypernyms(lines: Iterable[str]) -> dict[str, list[str]]:
    """The direct hypernyms of each synset, in WordNet's order.

    Args:
        lines: of a data.noun.

    Returns:
        Identifiers such as "n02123045" to those of the synsets that it is a kind or instance of.

    Raises:
        ValueError: a line is not of a data.noun.

    Example:
        >>> read_hypernyms(["00000002 03 n 01 thing 0 001 @ 00000001 n 0000 | that which is\\n"])
        {'n00000002': ['n00000001']}

    Source: WordNet 3.0, wndb(5WN).
    """
    parents: dict[str, list[str]] = {}
    for number, line in enumerate(lines, 1):
        if line.startswith("  ") or not line.strip():  # the licence, above the data
            continue
        try:
            parts = line.split(" | ")[0].split()
            at = 4 + 2 * int(parts[3], 16)  # behind the synset's words
            pointers = [parts[at + 1 + 4 * i :][:4] for i in range(int(parts[at]))]
            parents[f"n{parts[0]}"] = [f"n{to}" for kind, to, _, _ in pointers if kind in _POINTERS]
        except (IndexError, ValueError):
            raise ValueError(f"line {number} is not of a data.noun: {line.strip():.60}") from None
    return parents


def hypernym_table(parents: dict[str, list[str]], synsets: Iterable[str]) -> str:
    """The hypernyms of some synsets, and of all synsets above them, as text.

    Args:
        parents: direct hypernyms, see ``read_hypernyms``.
        synsets: identifiers to start from.

    Returns:
        A line for each synset, sorted by identifier: its own identifier and its hypernyms'.

    Raises:
        ValueError: an identifier is not WordNet's.

    Example:
        >>> hypernym_table({"n3": ["n1"], "n2": ["n1"], "n1": []}, ["n3"])
        'n1\\nn3 n1\\n'
    """
    found: dict[str, list[str]] = {}
    waiting = list(synsets)
    while waiting:
        synset = waiting.pop()
        if synset not in parents:
            raise ValueError(f"synset {synset!r} is not in data.noun; is it WordNet 3.0's?")
        if synset not in found:
            found[synset] = parents[synset]
            waiting += parents[synset]
    return "".join(" ".join([synset, *found[synset]]) + "\n" for synset in sorted(found))


def main(data_noun: str, synsets: str) -> None:
    """Writes the table to standard output."""
    with open(data_noun, encoding="utf-8") as lines:
        parents = read_hypernyms(lines)
    sys.stdout.write(hypernym_table(parents, Path(synsets).read_text(encoding="utf-8").split()))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(f"usage: {Path(sys.argv[0]).name} data.noun synsets.txt")
    main(*sys.argv[1:])
