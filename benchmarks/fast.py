"""An image classifier by ONNX Runtime: a forward call in a fifth of torch's time on one thread.

    from fast import fast
    model = fast(efficientnet_lite0())

For benchmarks that only call a model. What it gives has no gradient: the classifier itself has.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path

import data
import torch
from torch import Tensor

from fwdgrad.adapters.images import ImageClassifier

TOGETHER = (
    4  # pictures in a call of the runtime: more are slower, their activations leave the cache
)
TOLERANCE = 1e-3


def fast(classifier: ImageClassifier) -> Callable[[Tensor], Tensor]:
    """The classifier's scores by ONNX Runtime, on one thread.

    The network is exported once, to onnx/ in the cache folder, under its name and torch's version.

    Args:
        classifier: its ``forward`` is a module.

    Returns:
        Takes (batch, 3, size, size) on the CPU, any batch; returns (batch, classes).

    Raises:
        ValueError: its scores are not those of torch, on noise, to a thousandth.
    """
    import onnxruntime  # of the extra 'arrays'

    path = data.cache_folder() / "onnx" / f"{classifier.name}-torch{torch.__version__}.onnx"
    if not path.exists():
        _export(classifier, path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def scores(batch: Tensor) -> Tensor:
        pieces = [session.run(None, {"x": piece.numpy()})[0] for piece in batch.split(TOGETHER)]
        return torch.cat([torch.from_numpy(piece) for piece in pieces])

    size, generator = classifier.size, torch.manual_seed(0)
    noise = torch.rand(TOGETHER + 1, 3, size, size, generator=generator)
    with torch.no_grad():
        apart = float((scores(noise) - classifier.forward(noise.clone())).abs().max())
    if not apart <= TOLERANCE:
        name = classifier.name
        raise ValueError(f"{path} is not {name}: scores differ by {apart:.2g}; delete it")
    return scores


def _export(classifier: ImageClassifier, path: Path) -> None:
    """Writes the network aside, then renames it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(f".{os.getpid()}.part")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter by tracing is the older of two
        torch.onnx.export(
            classifier.forward,
            (torch.rand(1, 3, classifier.size, classifier.size),),
            aside,
            dynamo=False,
            input_names=["x"],
            output_names=["scores"],
            dynamic_axes={"x": {0: "batch"}, "scores": {0: "batch"}},
        )
    aside.replace(path)
