"""Which words make a classifier of texts call a review good? A model that takes strings.

    python examples/explain_sentence.py
    python examples/explain_sentence.py --text "Not dull." --mask "[MASK]" --page words.html

The model is a pipeline of scikit-learn's, tf-idf and a logistic regression, trained here in a
moment on the reviews below. It is called on lists of texts and nothing else is known of it: a
function that sends them to a server is explained in the same way, and so is a text-classification
pipeline of Hugging Face, TextModel(pipeline("text-classification", top_k=None)). Everything runs
offline with this package:

    pip install 'fwdgrad-kernels[arrays]'
"""

from __future__ import annotations

import argparse
from pathlib import Path

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline

import fwdgrad
from fwdgrad.adapters.strings import TextModel

GOOD = (
    "A warm and funny film with a brilliant cast.",
    "Beautifully shot, and moving to the very end.",
    "The best comedy of the year: fresh, clever and kind.",
    "A gripping plot, told with wit and real feeling.",
    "Two wonderful actors and a smart script make it a delight.",
    "It is charming from the first scene to the last.",
    "A brilliant, moving portrait of a family.",
    "Funny, honest and superbly acted.",
    "I loved every minute of this clever thriller.",
    "The music is wonderful and the ending is a joy.",
    "A smart and gripping film that never loses its warmth.",
    "Not a weak scene in it: a delight.",
)
BAD = (
    "A dull, lifeless mess that wastes its cast.",
    "The plot is silly and the jokes are stale.",
    "Far too long, and boring from the first scene to the last.",
    "The worst comedy of the year: loud, lazy and mean.",
    "Two good actors cannot save a clumsy script.",
    "It is predictable, and the ending is a joke.",
    "A boring story, told without wit or feeling.",
    "Lazy, noisy and badly acted.",
    "I was bored by every minute of this silly thriller.",
    "The music is awful and the pace is slow.",
    "A stale and clumsy film that never comes to life.",
    "Not a single laugh in it: a waste of time.",
)
TEXT = "The plot is silly and a little slow, but the cast is brilliant and the ending moving."


def trained() -> Pipeline:
    """The classifier, from strings to the classes bad and good."""
    pipeline = make_pipeline(TfidfVectorizer(stop_words="english"), LogisticRegression(C=10.0))
    return pipeline.fit([*GOOD, *BAD], ["good"] * len(GOOD) + ["bad"] * len(BAD))


def main() -> None:
    """Prints the text with its words coloured, and each word's score."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", default=TEXT)
    parser.add_argument("--target", default="good", choices=("good", "bad"))
    parser.add_argument("--mask", help="what a word that is out is replaced by; default: left out")
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--page", type=Path, help="write the coloured text as a page")
    arguments = parser.parse_args()
    try:
        model = TextModel(trained(), mask=arguments.mask)
        words = fwdgrad.explain(
            model, arguments.text, arguments.target, n_samples=arguments.samples
        )
    except ValueError as error:  # a text without words, say
        parser.error(str(error))
    print(words)
    rows = zip(words.words, words.scores.tolist(), words.standard_errors.tolist(), strict=True)
    for word, score, error in sorted(rows, key=lambda row: -abs(row[1]))[:8]:
        print(f"  {word:12} {score:+.3f} +- {error:.3f}")
    if arguments.page is not None:
        arguments.page.write_text(words.to_html(), encoding="utf-8")


if __name__ == "__main__":
    main()
