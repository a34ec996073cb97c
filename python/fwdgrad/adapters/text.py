"""Explanations of texts, word by word, from noise on the embeddings of their tokens."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from fwdgrad.adapters.encoded import EncodedText, TextAdapter
from fwdgrad.adapters.word_explanation import TextExplanation
from fwdgrad.advice import advice_for_words, is_noise
from fwdgrad.checks import check_choice, check_integer
from fwdgrad.devices import device_of, move_model
from fwdgrad.errors import (
    ArgumentError,
    ArgumentTypeError,
    Message,
    Option,
    ReliabilityWarning,
    warn,
)
from fwdgrad.explaining import check_on_look, explanations
from fwdgrad.explanation import Explanation
from fwdgrad.methods import (
    AdaptGrad,
    ForwardGradient,
    FusionGrad,
    Gradient,
    IntegratedGradients,
    Method,
    NoiseGrad,
    Regions,
    SmoothGrad,
    method_of,
)
from fwdgrad.objectives import Objective
from fwdgrad.runner.loop import Progress

SCALE = 0.25  # the noise's default scale, as a share of the embeddings' standard deviation
SHARED_SCALE = 1.0  # of noise along an embedding, as a share of the embedding itself
REDUCTIONS = ("input", "norm")

_REFUSED: dict[type[Method], tuple[str, Option]] = {
    Regions: ("it blurs regions of pictures; use ", Option("method", "forward-gradient")),
    AdaptGrad: (
        "its scale keeps values within bounds, and embeddings have none; use ",
        Option("method", "smoothgrad"),
    ),
}
# Their maps are gradients, which are still to be multiplied by the embeddings.
_GRADIENTS = (Gradient, SmoothGrad, NoiseGrad, FusionGrad, ForwardGradient)


def explain_text(
    model: TextAdapter,
    text: str,
    target: int | str | None = "auto",
    *,
    method: str | Method = "forward-gradient",
    objective: Objective = "auto",
    n_samples: int | str | None = None,
    reliability: float | None = None,
    max_samples: int | None = None,
    span: int | None = None,
    scale: float | None = None,
    share_channels: bool = False,
    reduce: str = "input",
    seed: int = 0,
    batch_size: int | None = None,
    memory: int | str | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: Progress = False,
    on_look: Callable[[TextExplanation], object] | None = None,
    name: str | None = None,
    group: ProcessGroup | None = None,
    backend: str = "auto",
    device: str | torch.device | None = None,
) -> TextExplanation:
    """Explains a text word by word; by default from forward calls alone.

    Noise goes on the embeddings x (T, E) of the words' tokens; special tokens and padding get
    none. With g the estimated gradient, a word's score is

        "input": the sum of g x over its tokens and their E numbers: how fast the score rises
                 as the word's embedding is scaled up; it has a sign;
        "norm":  the length of g over the same elements: how much the score depends on the word,
                 in either direction. What noise adds to the square of it, the sum of the squared
                 standard errors, is subtracted.

    Args:
        model: a model adapter for texts, e.g. ``LSTMClassifier.load(path)``.
        text: what it reads.
        target: a class, its name, "auto" for the predicted one, or None where the model returns
            one number.
        method: a name in ``fwdgrad.methods.METHODS`` ("auto" is "forward-gradient") or one of its
            values, such as ``ForwardGradient(design="hadamard")``, without scale, block and
            baseline; not ``Regions`` or ``AdaptGrad``. Where its map is no gradient but a share of
            the score already (``GradientXInput``, ``IntegratedGradients``, ...), a word's score is
            the sum of the map over its tokens. "integrated-gradients" starts from embeddings of
            zeros.
        objective: see ``fwdgrad.explain``.
        n_samples: perturbed texts that the model is called on; None: the method's default;
            "auto": as many as make the map sure, see ``fwdgrad.explain``.
        reliability, max_samples: with "auto", see ``fwdgrad.explain``.
        span: the number of neighbouring tokens in the random block that alone gets noise
            (``ForwardGradient``); None: all tokens get some. Less variance at equal coverage, and
            fewer words that are disturbed at once.
        scale: of the noise, in the embeddings' units. None: a quarter of the standard deviation
            of the words' embeddings.
        share_channels: whether a token's E numbers share one draw xi, so that its embedding x
            becomes (1 + scale xi) x. The scores are the same g x, of T unknowns in place of T E:
            far fewer samples are enough, fewest with ``ForwardGradient(design="hadamard")``.
            ``scale`` is then a share of the embedding: a small one gives the gradient at the text
            itself; the default 1, which nearly removes words, agrees better with leaving them out.
            ``explanation`` is of the factors, (T,), which are all 1.
        reduce: "input" or "norm".
        seed: of the noise.
        batch_size: samples in one forward call; None: chosen by the run.
        memory: a budget such as "1GiB" that chooses the batch size.
        checkpoint: a file to save to and to resume from.
        progress: True for a bar on standard error, or a callable of (samples done, all).
        on_look: is given the explanation of the samples so far, see ``fwdgrad.explain``.
        name: of the model, kept in the explanation.
        group: of ``torch.distributed``, whose ranks share the work; see ``fwdgrad.explain``.
        backend: of the kernels; see ``fwdgrad_kernels.backend_for``.
        device: where to move the model and the embeddings; None: they stay where they are.

    Returns:
        Words, their scores and standard errors, and the explanation of the embeddings.

    Raises:
        TypeError, ValueError: naming the argument, what was given and what would do: token
            numbers instead of a text, an empty or over-long text, ...
        ModelError: the model failed or returned something of no use.

    Example:
        >>> from fwdgrad.adapters.lstm import LSTMClassifier
        >>> _ = torch.manual_seed(0)
        >>> model = LSTMClassifier(["a", "fine", "film"], ["bad", "good"]).eval()
        >>> explain_text(model, "A fine film!", "good", n_samples=64).words
        ('A', 'fine', 'film', '!')

    Source: *Is forward gradient an effective tool for explaining black-box models?*, section 4.2
    and, for spans, equation 6. It takes gradients with respect to word embeddings, and does not say
    how those of a word become one number.
    """
    started = time.perf_counter()
    check_on_look(on_look)
    if reduce not in REDUCTIONS:
        raise ValueError(f"reduce must be 'input' or 'norm', got {reduce!r}")
    if not isinstance(share_channels, bool):
        raise TypeError(f"share_channels must be True or False, got {share_channels!r}")
    if share_channels and reduce != "input":
        raise ValueError(f"reduce must be 'input' with share_channels=True, got {reduce!r}")
    if isinstance(model, str) or not callable(getattr(model, "encode", None)):
        raise TypeError(
            "model must be a model adapter for texts, such as LSTMClassifier.load(path), got "
            f"{type(model).__name__}"
        )
    if isinstance(target, (list, tuple)):
        raise TypeError(f"target must be one class, got {target!r}; call explain_text for each")
    method = _checked(method, reduce, scale, span)
    if device is not None:
        device = device_of(device)
        move_model(model, device)
    encoded = model.encode(text)
    if isinstance(target, str) and target != "auto":
        target = _class_of(model, target)
    forward, x = encoded.forward, encoded.embeddings.detach()
    if device is not None:
        x = x.to(device)
    free = ~encoded.frozen.to(x.device)
    noise: dict[str, Any] = {}
    if hasattr(_innermost(method), "scale"):
        scale = _scale_of(scale, x[free], share_channels)
        noise["scale"] = torch.zeros(
            x.shape[:1] if share_channels else x.shape,
            dtype=torch.promote_types(x.dtype, torch.float32),
            device=x.device,
        )
        noise["scale"][free] = scale
    if span is not None:
        span = check_integer("span", span, 1, len(x))
        noise["block"] = (span,) if share_channels else (span, x.shape[1])
    if share_channels:
        forward, x = _OfFactors(forward, x), torch.ones_like(x[:, 0])

    def shown(explanation: Explanation) -> TextExplanation:
        scores, errors = _reduced(explanation, encoded, reduce)
        return TextExplanation(
            text=encoded.text,
            spans=encoded.spans,
            scores=scores,
            standard_errors=errors,
            reduce=reduce,
            label=_label(model, explanation.target),
            explanation=explanation,
        )

    (explanation,) = explanations(
        forward, x, [target], method=_with_noise(method, noise), objective=objective,
        n_samples=n_samples, reliability=reliability, max_samples=max_samples, seed=seed,
        batch_size=batch_size, memory=memory, checkpoint=checkpoint, progress=progress, name=name,
        group=group, backend=backend, started=started,
        on_look=None if on_look is None else lambda found: on_look(shown(found[0])),
    )  # fmt: skip
    result = shown(explanation)
    if on_look is not None and (group is None or group.rank() == 0):
        on_look(result)
    if is_noise(result):  # of the words: single numbers of embeddings nearly always are
        told = f"the words' scores have a reliability of {result.reliability:.2f}: "
        warn(Message(told, advice_for_words(result)), ReliabilityWarning)
    return result


def _checked(method: str | Method, reduce: str, scale: Any, span: Any) -> Method:
    """The method as a value; raises where it does not go with a text or the other arguments."""
    if method == "integrated-gradients":
        method = IntegratedGradients(0.0)  # the default baseline, black, is for pictures
    found = method_of(method) or ForwardGradient()
    inner = _innermost(found)
    kind = type(inner).__name__
    if type(inner) in _REFUSED:
        raise ArgumentError("method", f"must not have {kind} for a text: ", *_REFUSED[type(inner)])
    for argument, field in (("scale", "scale"), ("span", "block")):
        if getattr(inner, field, None) is not None:
            raise ArgumentTypeError(
                argument,
                "must be given to explain_text, which leaves special tokens as they are, and not "
                f"as {field} of {kind}",
            )
    if getattr(inner, "baseline", None) is not None:
        raise ArgumentTypeError(
            "baseline",
            f"must be left out of {kind} for a text: scores are gradient x embedding, or the "
            "gradient's norm (reduce)",
        )
    if scale is not None and not hasattr(inner, "scale"):
        raise ArgumentTypeError(
            "scale", f"must be left out with {kind}, which puts no noise on the input"
        )
    if span is not None and not hasattr(inner, "block"):
        raise TypeError(f"span must be left out with {kind}: only ForwardGradient has blocks")
    if reduce == "norm" and type(found) not in _GRADIENTS:
        raise ValueError(f"reduce must be 'input' with {type(found).__name__}, got 'norm'")
    return found


def _innermost(method: Any) -> Method:
    """The method that gradients come from: one that wraps none."""
    while hasattr(method, "gradient"):
        method = method.gradient
    found: Method = method
    return found


def _with_noise(method: Any, noise: dict[str, Any]) -> Method:
    """The method with these fields in the innermost one."""
    if hasattr(method, "gradient"):
        noise = {"gradient": _with_noise(method.gradient, noise)}
    made: Method = dataclasses.replace(method, **noise)
    return made


def _scale_of(scale: Any, words: Tensor, share_channels: bool) -> float:
    """The noise's scale; by default one that fits the embeddings of the words' tokens."""
    if scale is None:
        if share_channels:
            return SHARED_SCALE
        found = SCALE * words.double().std(correction=0).item()
        if found == 0:
            raise ArgumentError("scale", "must be given: the words' embeddings are constant")
        return found
    if isinstance(scale, bool) or not isinstance(scale, (int, float)):
        raise ArgumentTypeError("scale", f"must be a number, got {type(scale).__name__}")
    if not (math.isfinite(scale) and scale > 0):
        raise ArgumentError("scale", f"must be positive and finite, got {scale}")
    return scale


class _OfFactors(torch.nn.Module):
    """A model of factors (batch, T), which scale the embeddings (T, E) of the tokens."""

    def __init__(self, forward: Callable[[Tensor], Any], embeddings: Tensor) -> None:
        """Is in training mode where the model is."""
        super().__init__()
        self.inner, self.embeddings = forward, embeddings
        self.training = getattr(forward, "training", False)
        self.explained_as = getattr(forward, "explained_as", None)

    def forward(self, factors: Tensor) -> Any:
        """What the model returns for the embeddings times their factors."""
        return self.inner(factors[..., None] * self.embeddings)


def _reduced(explanation: Explanation, encoded: EncodedText, reduce: str) -> tuple[Tensor, Tensor]:
    """A score for each word and its standard error, by the propagation of errors.

    The noise of different elements is independent, so their errors are taken as uncorrelated.
    """

    def rows(tensor: Tensor) -> Tensor:  # (T, E), or (T, 1) of shared draws
        return tensor.double().cpu().reshape(len(tensor), -1)

    gradient, variance = rows(explanation.attribution), rows(explanation.standard_error).square()
    factor = rows(explanation.input) if reduce == "input" else gradient
    if type(explanation.method) not in _GRADIENTS:
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


def _label(model: TextAdapter, target: int | None) -> str:
    if target is None:
        return "the model's output"
    if model.labels is None or target >= len(model.labels):
        return f"class {target}"
    return model.labels[target]


def _class_of(model: TextAdapter, name: str) -> int:
    if model.labels is None:
        raise ArgumentError(
            "target", f"must be a number: {model.name}'s classes have no names: {name!r}"
        )
    check_choice("target", name, model.labels)
    return model.labels.index(name)
