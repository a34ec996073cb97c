"""FG's experiments on photos: two networks, and the forward gradient by noisy blocks.

The paper says that a block is a tenth of the picture and that algorithm 1 takes the cross-entropy;
not how large the noise is, nor how three channels become a map. Here the noise has a deviation of
one on EfficientNet-Lite0's normalised input, and a map is the sum of the channels' sizes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from common import cached, data, keeps
from fast import fast
from torch import Tensor
from torch.nn.functional import cross_entropy

import fwdgrad
from fwdgrad.adapters.images import ImageClassifier
from fwdgrad.methods import plan_of
from fwdgrad.metrics import deletion, insertion
from fwdgrad_kernels import NoiseSpec, accumulate_, perturb

BLOCK = 71  # pixels: 71 x 71 is a tenth of 224 x 224
SCALE = 128 / 255  # of the noise, in pixels of [0, 1]
SAMPLES = 5000
TOGETHER = 50  # samples made at once
STEPS = 28  # of deletion and insertion
REGIONS = {"method": fwdgrad.Regions(), "objective": "probability"}  # explain's defaults


@dataclass(frozen=True)
class Network:
    """A classifier, fast and with a gradient.

    Attributes:
        classifier: in torch.
        scores: its scores, by ONNX Runtime where the run is not quick.
    """

    classifier: ImageClassifier
    scores: Callable[[Tensor], Tensor]


@functools.cache
def network_of(name: str) -> Network:
    classifier = data.NETWORKS[name]()
    scores = fast(classifier) if keeps() else _slow(classifier)
    return Network(classifier, scores)


def _slow(classifier: ImageClassifier) -> Callable[[Tensor], Tensor]:
    """By torch, for --quick, which keeps no export either."""

    def scores(batch: Tensor) -> Tensor:
        with torch.no_grad():
            found: Tensor = classifier.forward(batch.clone())
        return found

    return scores


@functools.cache
def picture(photo: str) -> Tensor:
    return data.photos()[photo].x


@functools.cache
def predicted(network: str, photo: str) -> int:
    return int(network_of(network).scores(picture(photo)[None]).argmax())


def vanilla(network: str, photo: str) -> Tensor:
    """The gradient of the cross-entropy itself, (3, 224, 224)."""
    target = predicted(network, photo)
    forward = network_of(network).classifier.forward
    return fwdgrad.explain(
        forward, picture(photo), target, method="gradient", objective="cross-entropy"
    ).attribution


def spec_of(seed: int, distribution: str = "normal") -> NoiseSpec:
    return NoiseSpec((3, data.SIZE, data.SIZE), distribution, scale=SCALE, block=BLOCK, seed=seed)


def losses(network: str, photo: str, seed: int, samples: int = SAMPLES) -> Tensor:
    """The cross-entropy of each sample: (samples,), all that a run has to keep."""
    model, x, target = network_of(network).scores, picture(photo), predicted(network, photo)
    spec = spec_of(seed)

    def compute() -> list[float]:
        found: list[float] = []
        for first in range(0, samples, TOGETHER):
            outputs = model(perturb(x, spec, first, min(TOGETHER, samples - first)))
            targets = torch.full((len(outputs),), target)
            found += cross_entropy(outputs, targets, reduction="none").tolist()
        return [round(loss, 6) for loss in found]

    key = {"experiment": "fg_blocks", "network": network, "photo": photo, "seed": seed}
    key |= {"samples": samples, "scale": SCALE, "block": BLOCK}
    return torch.tensor(cached(key, compute))


def gradients(
    losses: Tensor, counts: Sequence[int], seed: int, distribution: str = "normal"
) -> Iterator[Tensor]:
    """Equation 6's estimate after each count of samples, (3, 224, 224).

    Args:
        losses: of the samples, made with normal noise.
        counts: ascending.
        seed: of the run.
        distribution: another one than normal puts other noise into the same blocks: what is left
            is what the blocks alone tell.
    """
    spec = spec_of(seed, distribution)
    total, done = torch.zeros(spec.shape), 0
    for count in counts:
        accumulate_(total, losses[done:count], spec, done)
        done = count
        yield spec.gradient(total, count)


def regions(network: str, photo: str, n_samples: int, seed: int = 0) -> Tensor:
    """The map that explain makes by default: (3, 224, 224), the channels alike."""
    model, target = network_of(network).scores, predicted(network, photo)
    return fwdgrad.explain(
        model, picture(photo), target, n_samples=n_samples, seed=seed, **REGIONS
    ).attribution


def settings_of_regions(photo: str, n_samples: int) -> dict[str, Any]:
    """What such a map depends on beside the photo, for the key of a kept result."""
    x = picture(photo)
    plan = plan_of(x, method=REGIONS["method"], n_samples=n_samples, features=None, seed=0)
    away = (x - plan.baseline).abs().double().mean()
    return {**REGIONS, "n_samples": n_samples, "spec": plan.spec, "away": float(away)}


def size(gradient: Tensor) -> Tensor:
    """The map of a gradient: the sum over the channels of its sizes, (224, 224)."""
    return gradient.abs().sum(0)


def inserted(network: str, photo: str, heatmap: Tensor) -> float:
    """The area under the insertion curve: the softmax of the predicted class."""
    return _area(insertion, network, photo, heatmap)


def deleted(network: str, photo: str, heatmap: Tensor) -> float:
    """The area under the deletion curve."""
    return _area(deletion, network, photo, heatmap)


def _area(curve: Callable[..., fwdgrad.metrics.Curve], *case: object) -> float:
    network, photo, heatmap = case
    model, target = network_of(network), predicted(network, photo)
    x, steps = picture(photo), STEPS if keeps() else 4
    fill = torch.tensor(model.classifier.zero)
    return curve(model.scores, x, heatmap, target, steps=steps, fill=fill).auc
