"""What calls the built-in network: torch, or ONNX Runtime, which on a CPU is several times as fast.

ONNX Runtime gives no gradient and has no parameters to add noise to: methods that take them need
torch.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fwdgrad.adapters.arrays import OnnxModel
from fwdgrad.adapters.efficientnet import efficientnet_onnx
from fwdgrad.adapters.images import ImageClassifier
from fwdgrad.checks import check_choice
from fwdgrad.errors import ArgumentError, ModelError

ENGINES = ("auto", "onnxruntime", "torch")
_MOST_APART = 1e-3  # of the largest answer


def on_engine(
    classifier: ImageClassifier, engine: str, pixels: Tensor, why_torch: str | None = None
) -> tuple[ImageClassifier, str]:
    """The built-in classifier, called by the engine that is asked for.

    ONNX Runtime is taken where its answers for a picture are torch's to a thousandth of the largest
    one. A checkpoint has one engine's scores and is refused to the other.

    Args:
        classifier: of ``fwdgrad.adapters.images.MODELS``, in torch.
        engine: one of ``ENGINES``; "auto" is ONNX Runtime where it can be used, else torch.
        pixels: the picture, (3, size, size).
        why_torch: why a run needs torch; None: it does not.

    Returns:
        The classifier, and what its engine is, in words.

    Raises:
        ArgumentError: ONNX Runtime is asked for and cannot be used, saying why.

    Example:
        >>> from fwdgrad.adapters.images import efficientnet_lite0
        >>> grey = torch.full((3, 224, 224), 0.5)
        >>> fast, said = on_engine(efficientnet_lite0(), "auto", grey)
        >>> print(said)
        ONNX Runtime ... (answers as torch's to ...e-0...)
    """
    check_choice("engine", engine, ENGINES)
    if engine == "torch":
        return classifier, "torch (as asked for)"
    if why_torch is None:
        try:
            return _by_onnx_runtime(classifier, pixels)
        except (ImportError, ValueError, ModelError) as error:
            why_torch = str(error)
    if engine == "onnxruntime":
        raise ArgumentError("engine", f"cannot be onnxruntime: {why_torch}")
    return classifier, f"torch ({why_torch})"


def engine_of(said: str) -> str:
    """Which of ``ENGINES`` the words of ``on_engine`` are of.

    >>> engine_of("ONNX Runtime 1.23 (answers as torch's to 3e-07)"), engine_of("torch (as asked)")
    ('onnxruntime', 'torch')
    """
    return "torch" if said.startswith("torch") else "onnxruntime"


def _by_onnx_runtime(classifier: ImageClassifier, pixels: Tensor) -> tuple[ImageClassifier, str]:
    try:
        import onnxruntime
    except ImportError:
        raise ImportError("ONNX Runtime is not there: pip install onnxruntime") from None
    network: Any = classifier.forward
    model = OnnxModel(efficientnet_onnx(network.network, classifier.size))
    with torch.no_grad():
        answers, torch_s = model(pixels[None]), network(pixels[None].clone())
    apart = float((answers - torch_s).abs().max() / torch_s.abs().max())
    if not apart <= _MOST_APART:
        raise ModelError(f"ONNX Runtime's answers differ from torch's by {apart:.1g}")
    return (
        replace(classifier, forward=model),
        f"ONNX Runtime {onnxruntime.__version__} (answers as torch's to {apart:.1g})",
    )
