"""Texts as embeddings, and explanations of them word by word."""

from __future__ import annotations

import html
import math
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fwdgrad.adapters.encoded import EncodedText, TextAdapter
from fwdgrad.advice import advice_for_words, is_noise
from fwdgrad.devices import device_of, move_model
from fwdgrad.errors import ReliabilityWarning, warn
from fwdgrad.explanation import Explanation
from fwdgrad.gradients import LikelihoodRatio
from fwdgrad.methods import METHODS, source_of
from fwdgrad.saliency import Gradient, IntegratedGradients
from fwdgrad.terminal import plain
from fwdgrad_kernels.checks import check_integer

SIGMA = 0.25  # the noise's default scale, as a share of the embeddings' standard deviation
SHARED_SIGMA = 1.0  # of noise along an embedding, as a share of the embedding itself
REDUCTIONS = ("input", "norm")

_NO_WORDS = {
    "block": "the block is a span of tokens: give span, a number of tokens",
    "baseline": "the scores are gradient x embedding, or the gradient's norm: see reduce",
    "cell": "neighbouring numbers of an embedding have nothing to do with one another",
    "field": "there are no cells",
}


def explain_text(
    box: TextAdapter,
    text: str,
    target: int | str | None = "auto",
    *,
    span: int | None = None,
    sigma: float | None = None,
    shared: bool = False,
    reduce: str = "input",
    **options: Any,
) -> TextExplanation:
    """Which words of a text a classifier's score depends on, from forward calls alone.

    Noise goes on the embeddings x (T, E) of the words' tokens; special tokens and padding get
    none. With g the estimated gradient, a word's score is

        "input": the sum of g x over its tokens and their E numbers: how fast the score rises
                 as the word's embedding is drawn out; it has a sign;
        "norm":  the length of g over the same elements: how much the score depends on the word,
                 in either direction. What noise adds to the square of it, the sum of the squared
                 standard errors, is taken off.

    Args:
        box: a model of texts, e.g. ``LSTMClassifier.load(path)``.
        text: what it is to read.
        target: a class, its name, "auto" for the predicted one, or None where the model returns
            one number.
        span: tokens of the random block that alone is noisy; None: all are. Less variance at equal
            coverage, and fewer words that are disturbed at once.
        sigma: the noise's scale in the embeddings' units. Default: a quarter of the standard
            deviation of the words' embeddings.
        shared: a token's E numbers take one draw xi, and its embedding x becomes
            (1 + sigma xi) x. The scores are the same g x, of T unknowns in place of T E: far fewer
            queries will do, and law="hadamard" needs the fewest. ``sigma`` is then a share of the
            embedding: a small one gives the gradient at the text itself; the default 1, with which
            words come near to vanishing, agrees better with what leaving them out does.
            ``explanation`` is of the factors, (T,), which are all 1.
        reduce: "input" or "norm".
        **options: everything else that ``fwdgrad.explain`` takes, except block, baseline, cell
            and field: method, objective, queries, law, seed, device, checkpoint, ... Where
            ``method`` or ``saliency`` says what is made of the gradient, a word's score is the sum
            of that over its tokens; methods without noise on the input get none.

    Returns:
        Words, their scores and standard errors, and the explanation of the embeddings.

    Raises:
        TypeError, ValueError: naming the argument, what was given and what would do: token
            numbers instead of a text, an empty or over-long text, ...
        ModelError: the model failed or returned something of no use.

    Example:
        >>> from fwdgrad.adapters.lstm import LSTMClassifier
        >>> _ = torch.manual_seed(0)
        >>> box = LSTMClassifier(["a", "fine", "film"], ["bad", "good"]).eval()
        >>> explain_text(box, "A fine film!", "good", queries=64).words
        ('A', 'fine', 'film', '!')

    Source: *Is forward gradient an effective tool for explaining black-box models?*, section 4.2
    and, for spans, equation 6. It takes gradients with respect to word embeddings, and does not say
    how those of a word become one number.
    """
    for name, reason in _NO_WORDS.items():
        if name in options:
            raise TypeError(f"explain_text takes no {name}: {reason}")
    if reduce not in REDUCTIONS:
        raise ValueError(f"reduce must be 'input' or 'norm', got {reduce!r}")
    if not isinstance(shared, bool):
        raise TypeError(f"shared must be True or False, got {shared!r}")
    if shared and reduce != "input":
        raise ValueError(f"reduce must be 'input' with shared noise, got {reduce!r}")
    if isinstance(box, str) or not callable(getattr(box, "encode", None)):
        raise TypeError(
            "box must be a model of texts, such as LSTMClassifier.load(path), got "
            f"{type(box).__name__}"
        )
    if isinstance(target, (list, tuple)):
        raise TypeError(f"target must be one class, got {target!r}; call explain_text for each")
    device = options.pop("device", None)
    if device is not None:
        move_model(box, device_of(device))
    encoded = box.encode(text)
    if isinstance(target, str) and target != "auto":
        target = _class_of(box, target)
    forward, x = encoded.forward, encoded.embeddings.detach()
    free = ~encoded.frozen
    if device is not None:
        x, free = x.to(device), free.to(device)
    noisy = _settle(options, reduce)
    if sigma is None and not noisy:
        sigma = 0.0
    elif sigma is None:
        sigma = SHARED_SIGMA if shared else SIGMA * x[free].double().std(correction=0).item()
        if sigma == 0:
            raise ValueError("sigma must be given: the words' embeddings are constant")
    elif isinstance(sigma, bool) or not isinstance(sigma, (int, float)):
        raise TypeError(f"sigma must be a number, got {type(sigma).__name__}")
    elif not (math.isfinite(sigma) and (sigma > 0 or (sigma == 0 and not noisy))):
        raise ValueError(f"sigma must be positive and finite, got {sigma}")
    if span is not None:
        span = check_integer("span", span, 1, len(x))
    if shared:
        forward, x = _Drawn(forward, x), torch.ones_like(x[:, 0])
    scale = torch.zeros_like(x, dtype=torch.promote_types(x.dtype, torch.float32))
    scale[free] = sigma
    run = {
        name: options.pop(name) for name in ("checkpoint", "progress", "name") if name in options
    }
    method = options.pop("method", "likelihood-ratio")
    block = None if span is None else (span, *x.shape[1:])
    options |= {"sigma": scale if sigma else 0.0, "block": block}
    source = source_of(forward, x, method, options)
    (explanation,) = source.explanations(x, [target], **run)
    scores, errors = _reduced(explanation, encoded, reduce)
    result = TextExplanation(
        text=encoded.text,
        spans=encoded.spans,
        scores=scores,
        standard_errors=errors,
        reduce=reduce,
        label=_label(box, explanation.target),
        explanation=explanation,
    )
    if is_noise(result):  # of the words: single numbers of embeddings nearly always are
        warn(
            f"the words' scores have a reliability of {result.reliability:.2f}: "
            f"{advice_for_words(result)}",
            ReliabilityWarning,
        )
    return result


def _settle(options: dict[str, Any], reduce: str) -> bool:
    """Checks method and saliency, and gives them what texts need; whether there is noise."""
    method = options.get("method", "likelihood-ratio")
    chosen = METHODS.get(method)
    if chosen is None:
        return True  # which explain says
    if method == "adaptgrad":
        raise ValueError(
            "method must be another than 'adaptgrad', whose scale keeps values within their "
            "bounds: embeddings have none; use 'smoothgrad'"
        )
    if callable(chosen.options):
        raise ValueError(
            f"method must be another than {method!r}, which is for pictures; use 'likelihood-ratio'"
        )
    saliency = options.get("saliency") or chosen.options.get("saliency")
    if method == "integrated-gradients" and "saliency" not in options:
        saliency = IntegratedGradients(0.0, steps=50)  # black is for pictures
    if saliency is not None:
        options["saliency"] = saliency
        if reduce == "norm" and type(saliency) is not Gradient:
            raise ValueError(f"reduce must be 'input' with saliency {saliency!r}, got 'norm'")
    return chosen.source is LikelihoodRatio or "sigma" in chosen.options


class _Drawn(torch.nn.Module):
    """A model of factors (batch, T), by which the embeddings (T, E) are drawn out."""

    def __init__(self, forward: Callable[[Tensor], Any], embeddings: Tensor) -> None:
        """Is in training mode where the model is."""
        super().__init__()
        self.inner, self.embeddings = forward, embeddings
        self.training = getattr(forward, "training", False)

    def forward(self, factors: Tensor) -> Any:
        """What the model makes of the embeddings times their factors."""
        return self.inner(factors[..., None] * self.embeddings)


def _reduced(explanation: Explanation, encoded: EncodedText, reduce: str) -> tuple[Tensor, Tensor]:
    """A score for each word and its standard error, by the propagation of errors.

    The noise of different elements is independent, so their errors are taken as uncorrelated.
    """

    def rows(tensor: Tensor) -> Tensor:  # (T, E), or (T, 1) of shared noise
        return tensor.double().cpu().reshape(len(tensor), -1)

    gradient, variance = rows(explanation.attribution), rows(explanation.standard_error).square()
    factor = rows(explanation.input) if reduce == "input" else gradient
    if type(explanation.settings["saliency"]) is not Gradient:
        factor = torch.ones_like(gradient)
    tokens = torch.tensor(encoded.word_of)
    free = tokens >= 0

    def over_words(values: Tensor) -> Tensor:
        sums = torch.zeros(len(encoded.spans), dtype=torch.float64)
        return sums.index_add_(0, tokens[free], values.sum(1)[free])

    scores = over_words(gradient * factor)
    errors = over_words(variance * factor.square()).sqrt()
    if reduce == "norm":
        errors = (errors / scores.sqrt()).masked_fill(scores == 0, 0)
        scores = (scores - over_words(variance.nan_to_num(0))).clamp(min=0).sqrt()
    return scores, errors


@dataclass(eq=False)
class TextExplanation:
    """Which words of a text a score depends on.

    Attributes:
        text: what was explained.
        spans: where each word starts and stops in it.
        scores: (W,), float64: a word's share, see ``explain_text``.
        standard_errors: (W,): of each; NaN where ``explanation`` has none.
        reduce: "input" (scores have a sign) or "norm".
        label: the class that was explained, in words.
        explanation: of the embeddings.
    """

    text: str
    spans: tuple[tuple[int, int], ...]
    scores: Tensor
    standard_errors: Tensor
    reduce: str
    label: str
    explanation: Explanation

    @property
    def words(self) -> tuple[str, ...]:
        """The words as they stand in the text."""
        return tuple(self.text[start:stop] for start, stop in self.spans)

    @property
    def reliability(self) -> float:
        """Would other noise give the same scores? 1 - mean squared error / variance over words.

        It is measured on the words: ``explanation.reliability``, of single numbers of embeddings,
        is far lower. Negative values come out as 0; NaN for a single word.
        """
        if len(self.scores) < 2:
            return math.nan
        share = self.standard_errors.square().mean() / self.scores.var()
        return (1 - share).clamp(min=0).item()

    @property
    def strengths(self) -> Tensor:
        """The scores as shares of the largest, in -1 .. 1."""
        top = self.scores.abs().max()
        return self.scores / top if top > 0 else torch.zeros_like(self.scores)

    def __repr__(self) -> str:
        """One line that says what it is."""
        return (
            f"TextExplanation({self._headline()}, {len(self.spans)} words, "
            f"{self.explanation.queries} queries, reliability {self.reliability:.2f})"
        )

    def __str__(self) -> str:
        """A headline and the marked text, coloured where a terminal reads it."""
        reliability = f"reliability {self.reliability:.2f}"
        return f"{self._headline()}; {reliability}\n{self.to_terminal()}"

    def _headline(self) -> str:
        return f"{plain(self.label)}: {self.explanation.objective} {self.explanation.score:.4g}"

    def to_terminal(self, colour: bool | None = None) -> str:
        """The text with its words marked: red speaks for the class, blue against it.

        Args:
            colour: True for colours of the 256-colour palette; False for one to three signs after
                a word, such as ``great(+++)``; None for colours where standard output is a terminal
                that has them and NO_COLOR is not set.

        Returns:
            The text; what a terminal would obey in it is written out.
        """
        if colour is None:
            colour = (
                not os.environ.get("NO_COLOR")
                and os.environ.get("TERM") != "dumb"
                and sys.stdout is not None
                and sys.stdout.isatty()
            )
        return self._marked(_shown, _in_colour if colour else _with_signs)

    def to_html(self) -> str:
        """A page of its own with the words coloured: red speaks for the class, blue against it.

        Each word's score and standard error show under the pointer. Whatever the text and the
        labels contain is escaped.

        Returns:
            A complete HTML document that refers to nothing outside itself.
        """

        def safe(text: str) -> str:
            return html.escape(_shown(text))

        numbers = iter(zip(self.scores.tolist(), self.standard_errors.tolist(), strict=True))

        def mark(word: str, strength: float) -> str:
            score, error = next(numbers)
            colour = "255,60,60" if strength > 0 else "60,120,255"
            return (
                f'<span title="{score:+.3g} ± {error:.2g}" '
                f'style="background:rgba({colour},{0.7 * abs(strength):.2f})">{word}</span>'
            )

        return (
            '<!DOCTYPE html>\n<html><head><meta charset="utf-8"><title>Explanation</title>\n'
            "<style>body{background:#fff;color:#111;font:18px/1.7 sans-serif;max-width:45em;"
            "margin:2em auto}span{border-radius:3px}.text{white-space:pre-wrap}"
            ".note{color:#555;font-size:14px}</style></head>\n"
            f'<body><h1 dir="auto">{html.escape(self._headline())}</h1>\n'
            f'<p class="text" dir="auto">{self._marked(safe, mark)}</p>\n'
            f'<p class="note">{_legend(self.reduce)} '
            f"{self.explanation.queries} queries, reliability {self.reliability:.2f}.</p>"
            "</body></html>\n"
        )

    def _marked(self, safe: Callable[[str], str], mark: Callable[[str, float], str]) -> str:
        """The text with ``mark`` applied to its words and ``safe`` to everything."""
        parts, last = [], 0
        for (start, stop), strength in zip(self.spans, self.strengths.tolist(), strict=True):
            parts += [safe(self.text[last:start]), mark(safe(self.text[start:stop]), strength)]
            last = stop
        return "".join([*parts, safe(self.text[last:])])


def _legend(reduce: str) -> str:
    if reduce == "norm":
        return "The redder a word, the more the score depends on it."
    return "Red speaks for the class, blue against it."


# Backgrounds of the 6 x 6 x 6 colour cube, from faint to full.
_RED = (224, 217, 210, 203, 196)
_BLUE = (189, 147, 105, 63, 21)


def _in_colour(word: str, strength: float) -> str:
    level = round(5 * abs(strength))
    if not level:
        return word
    background = (_RED if strength > 0 else _BLUE)[level - 1]
    letters = 231 if strength < 0 and level > 2 else 16
    return f"\x1b[38;5;{letters};48;5;{background}m{word}\x1b[0m"


def _with_signs(word: str, strength: float) -> str:
    signs = ("+" if strength > 0 else "-") * round(3 * abs(strength))
    return f"{word}({signs})" if signs else word


def _shown(text: str) -> str:
    """The text itself, without what would drive a terminal or turn a page's words around."""
    return plain(text, lines=True)


def _label(box: TextAdapter, target: int | None) -> str:
    if target is None:
        return "the model's output"
    if box.labels is None or target >= len(box.labels):
        return f"class {target}"
    return box.labels[target]


def _class_of(box: TextAdapter, name: str) -> int:
    if box.labels is None:
        raise ValueError(f"target must be a number: {box.name}'s classes have no names: {name!r}")
    if name not in box.labels:
        raise ValueError(f"target must be one of {', '.join(box.labels)}, got {name!r}")
    return box.labels.index(name)
