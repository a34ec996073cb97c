"""XAITK-Saliency: our regions as its saliency generators, of classifiers and of detectors.

Its tools, which find them as plugins, then take them in place of its own ``RISEStack`` and
``DRISEStack``. Black boxes are those of SMQTK: ``ClassifyImage``, ``DetectImageObjects``.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fwdgrad.adapters.detection import Detection, Detections
from fwdgrad.advice import LOW
from fwdgrad.checks import check_integer
from fwdgrad.errors import ArgumentError, ModelError, ReliabilityWarning, warn
from fwdgrad.estimate.scores import attributions
from fwdgrad.methods import Regions
from fwdgrad.methods.base import Request
from fwdgrad.outputs import told
from fwdgrad.runner.run import run
from fwdgrad.runner.settings import Settings

_Array = np.ndarray[Any, Any]
_Images = Callable[[_Array], Tensor]  # a batch of images to float64 (batch, scores)

_OfClassifiers: Any = object
_OfDetectors: Any = object
_missing: ImportError | None = None
try:
    import xaitk_saliency as _xaitk  # type: ignore
except ImportError as error:  # raised later: SMQTK loads all plugins whenever it looks for one
    _missing = error
else:
    _OfClassifiers = _xaitk.GenerateImageClassifierBlackboxSaliency  # type: ignore
    _OfDetectors = _xaitk.GenerateObjectDetectorBlackboxSaliency  # type: ignore


class _Generator:
    """The options, and the maps of a black box that gives some scores for each image."""

    def __init__(
        self,
        n_samples: int = 1024,
        cell: int | str = "auto",
        baseline: str | float | Sequence[Any] | _Array = "blur",
        seed: int = 0,
        batch_size: int | None = None,
    ) -> None:
        """Checks each option."""
        if _missing is not None:
            raise ImportError(
                f"{type(self).__name__} is a plugin of XAITK-Saliency: pip install "
                f"'fwdgrad-kernels[xaitk]' ({_missing})"
            )
        self.n_samples = check_integer("n_samples", n_samples, 1)
        self.seed = check_integer("seed", seed, 0, 2**64 - 1)
        self.batch_size = Settings(batch_size=batch_size).batch_size
        self.cell = Regions(cell=cell).cell
        self.baseline = baseline

    @property
    def baseline(self) -> Any:
        """What is where the image is not; as the constructor has it."""
        return self._baseline

    @baseline.setter
    def baseline(self, baseline: Any) -> None:
        if isinstance(baseline, str):
            self._baseline = Regions(baseline=baseline).baseline
            return
        try:
            values = np.asarray(baseline, dtype=np.float64)
        except (TypeError, ValueError):
            values = np.array(np.nan)
        if not np.isfinite(values).all():
            raise ArgumentError(
                "baseline",
                "must be a name, a number, one for each channel or an image, of finite numbers, "
                f"got {told(repr(baseline), 80)}",
            )
        self._baseline = values.tolist()  # as JSON has it

    @property
    def fill(self) -> Any:
        """The baseline, under the name that generators of XAITK-Saliency have; None is black."""
        return self.baseline

    @fill.setter
    def fill(self, fill: Any) -> None:
        self.baseline = "black" if fill is None else fill

    def get_config(self) -> dict[str, Any]:
        """The options, as JSON has them."""
        names = ("n_samples", "cell", "baseline", "seed", "batch_size")
        return {name: getattr(self, name) for name in names}

    def _maps(
        self, image: _Array, score: _Images, names: Sequence[str], watched: Sequence[int] | None
    ) -> _Array:
        """The maps of all scores, from the same calls.

        Args:
            image: (H, W) or (H, W, C).
            score: of a batch of images.
            names: of the scores, for messages.
            watched: the scores whose maps are warned of where they are noise; None: the largest.

        Returns:
            float32 (scores, H, W), each divided by its largest value.
        """
        maps = np.zeros((len(names), *image.shape[:2]), np.float32)
        pixels = _Pixels(image)
        baseline = pixels.baseline(self.baseline)
        method = Regions(baseline, cell=self.cell)
        try:
            plan = method.plan(pixels.x, Request(self.n_samples, None, self.seed))
        except ArgumentError as error:
            if error.argument != "baseline":
                raise
            warn(f"the maps are all zero: {error}")
            return maps
        model = _Kept(lambda batch: score(pixels.images(batch)), names)
        outcome = run(plan, model, "output", ["auto"], Settings(batch_size=self.batch_size))
        assert outcome.scores is not None
        largest = outcome.scorer.targets[0] or 0
        clean, scores = model.scores[0].tolist(), model.scores[1:, None]
        assert torch.equal(scores[:, :, largest], outcome.scores[:, :, 0])  # one row a sample
        noisy = []
        for which, at_x in enumerate(clean):  # one at a time: there may be a thousand
            own = scores[:, :, which : which + 1]
            ((values, _, reliability),) = attributions(plan, own, [at_x], outcome.backend)
            heat = values.mean(0)  # channels share their draws: each has the whole
            maps[which] = heat.div_(float(heat.abs().max()) or 1.0).numpy()
            if reliability < LOW and which in ([largest] if watched is None else watched):
                noisy.append((reliability, which))
        if noisy:
            reliability, worst = min(noisy)
            warn(
                f"{len(noisy)} of {len(maps)} maps are mostly noise: that of {names[worst]} has "
                f"a reliability of {reliability:.2f}; ask for more n_samples, or a larger cell",
                ReliabilityWarning,
            )
        return maps


class ClassifierRegions(_Generator, _OfClassifiers):  # type: ignore[misc]
    """What each region of an image adds to the confidence in each class of a black box.

    All classes are explained from the same ``n_samples`` + 1 images, which the black box gets a few
    at a time. Each map is divided by its largest absolute value, as XAITK-Saliency's own are, so
    that maps of two classes are not on one scale.

    Args:
        n_samples: perturbed images that the black box is asked about; one more is the image itself.
        cell: the side of a region in pixels; "auto": the smallest with fewer regions than samples.
        baseline: what is where the image is not: "blur", "grey", "black", "white"; or in the
            image's own units a number, one for each channel, or an image. ``fill`` is the same.
        seed: of all that is drawn. The same seed gives the same maps.
        batch_size: images that the black box gets at a time; None: as many as go into 4 MiB of
            float32. One on a GPU wants more, such as 64. The maps do not depend on it.

    Raises:
        ImportError: XAITK-Saliency is not installed.
        TypeError, ValueError: naming the option, what was given and what would do.
        ModelError: from ``generate``: the black box failed, or a confidence is missing or not
            finite.

    Example:
        >>> saliency = ClassifierRegions(n_samples=512)  # doctest: +SKIP
        >>> saliency.generate(image, black_box).shape  # doctest: +SKIP
        (2, 224, 224)

    Source: see ``fwdgrad.Regions``; the interface is that of XAITK-Saliency 0.15,
    https://xaitk-saliency.readthedocs.io.
    """

    def _generate(self, ref_image: _Array, blackbox: Any) -> _Array:
        labels: list[Hashable] = list(blackbox.get_labels())
        if not labels:
            raise ModelError("the black box has no labels, so there is nothing to explain")

        def score(images: _Array) -> Tensor:
            found = list(blackbox.classify_images(images))
            _check_count(found, images)
            try:
                return torch.tensor(
                    [[float(one[label]) for label in labels] for one in found], dtype=torch.float64
                )
            except KeyError as error:
                raise ModelError(f"the black box gave no confidence in {error}") from error

        return self._maps(ref_image, score, [repr(label) for label in labels], None)


class DetectorRegions(_Generator, _OfDetectors):  # type: ignore[misc]
    """What each region of an image adds to each detection of a black box: D-RISE's score of it.

    The score of a detection in a perturbed image is the most, over all boxes that are found there,
    of IoU x cosine of the class scores x objectness, see ``fwdgrad.adapters.detection``. As in
    XAITK-Saliency's ``DRISEStack``, a box with a score in one class alone has it as its objectness,
    and others have 1; the objectness of the detections themselves is a factor that the division by
    the largest value takes out. A detection that has no area or no class score, or that is found
    in no image, has a map of zeros.

    Args:
        n_samples: perturbed images that the black box is asked about; one more is the image itself.
        cell, baseline, seed, batch_size: see ``ClassifierRegions``.

    Raises:
        ImportError, TypeError, ValueError, ModelError: see ``ClassifierRegions``.

    Example:
        >>> saliency = DetectorRegions(n_samples=512, cell=32)  # doctest: +SKIP
        >>> saliency.generate(image, bboxes, scores, black_box).shape  # doctest: +SKIP
        (3, 480, 640)

    Source: Petsiuk et al. 2021, *Black-box explanation of object detectors via saliency maps*,
    section 3.2; the interface is that of XAITK-Saliency 0.15.
    """

    def _generate(
        self,
        ref_image: _Array,
        bboxes: _Array,
        scores: _Array,
        blackbox: Any,
        objectness: _Array | None = None,
    ) -> _Array:
        wanted: dict[int, Detection] = {}
        for row, (box, own) in enumerate(zip(bboxes, scores, strict=True)):
            try:
                wanted[row] = Detection(
                    tuple(box.tolist()), int(own.argmax()), class_scores=tuple(own.tolist())
                )
            except ValueError as error:
                warn(f"the map of detection {row} is all zero: {error}")
        maps = np.zeros((len(bboxes), *ref_image.shape[:2]), np.float32)
        if wanted:
            detections = Detections(list(wanted.values()), form="yolov5")
            boxes = _Boxes(blackbox, scores.shape[1])
            names = [f"detection {row}" for row in wanted]
            maps[list(wanted)] = self._maps(
                ref_image, lambda images: detections(boxes(images)), names, range(len(names))
            )
        return maps


class _Pixels:
    """An image as values in [0, 1], and back.

    Attributes:
        x: float32 (C, H, W).
    """

    def __init__(self, image: _Array) -> None:
        if image.dtype.kind not in "buif" or not image.size:
            raise ArgumentError(
                "ref_image", f"must have numbers, got {image.dtype} of shape {image.shape}"
            )
        self._shape, self._dtype = image.shape, image.dtype
        self._black, self._white = _range_of(image)
        self.x = self._values(image)

    def _values(self, image: _Array) -> Tensor:
        planes = image[..., None] if image.ndim == 2 else image
        values = (planes.astype(np.float64) - self._black) / (self._white - self._black)
        return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1), np.float32))

    def baseline(self, given: Any) -> str | Tensor:
        """A baseline in the image's units as ``Regions`` takes it."""
        if isinstance(given, str):
            return given
        try:
            whole = np.broadcast_to(np.asarray(given, np.float64), self._shape)
        except ValueError:
            raise ArgumentError(
                "baseline",
                "must be a number, one for each channel or an image of the shape "
                f"{self._shape}, got shape {np.shape(given)}",
            ) from None
        return self._values(whole)

    def images(self, batch: Tensor) -> _Array:
        """Samples (n, C, H, W) as the black box takes images: (n, H, W) or (n, H, W, C)."""
        values = batch.mul(self._white - self._black).add_(self._black)
        if self._dtype.kind != "f":
            values = values.round_()
        found = values.permute(0, 2, 3, 1).numpy().astype(self._dtype, order="C")
        return found.reshape(len(batch), *self._shape)


def _range_of(image: _Array) -> tuple[float, float]:
    """Black and white: 0 and 1, 255 or 65,535; of other values their own limits."""
    low, high = float(image.min()), float(image.max())
    if not np.isfinite([low, high]).all():
        raise ArgumentError("ref_image", f"must be finite, got values from {low} to {high}")
    tops = {"b": (1.0,), "f": (1.0, 255.0)}.get(image.dtype.kind, (255.0, 65535.0))
    if image.dtype == np.uint16:
        tops = (65535.0,)
    for top in tops:
        if low >= 0 and high <= top:
            return 0.0, top
    return low, max(high, low + 1)


class _Kept:
    """A model that keeps what it returned: the scores of the image and of each sample."""

    def __init__(self, model: Callable[[Tensor], Tensor], names: Sequence[str]) -> None:
        self._model, self._names, self._rows = model, names, [torch.empty(0, len(names))]

    def __call__(self, batch: Tensor) -> Tensor:
        rows = self._model(batch).double()
        if not bool(torch.isfinite(rows).all()):
            which = int((~torch.isfinite(rows)).any(0).nonzero()[0])
            raise ModelError(f"the black box's score of {self._names[which]} is not finite")
        self._rows.append(rows)
        return rows

    @property
    def scores(self) -> Tensor:
        """Float64 (1 + samples, scores)."""
        return torch.cat(self._rows[1:])


class _Boxes:
    """What a detector finds, as ``Detections`` reads it: rows of box, objectness, class scores.

    The order of the classes is that of the first box that is found, as in XAITK-Saliency.
    """

    def __init__(self, detector: Any, classes: int) -> None:
        self._detector, self._classes = detector, classes
        self._labels: dict[Hashable, None] = {}  # in order

    def __call__(self, images: _Array) -> Tensor:
        found = [
            [self._row(box, scores) for box, scores in one]
            for one in self._detector.detect_objects(images)
        ]
        _check_count(found, images)
        most = max(map(len, found))
        rows = torch.zeros(len(found), most, 5 + self._classes, dtype=torch.float64)
        for into, one in zip(rows, found, strict=True):
            if one:
                into[: len(one)] = torch.tensor(one, dtype=torch.float64)
        return rows

    def _row(self, box: Any, scores: dict[Hashable, float]) -> list[float]:
        self._labels = self._labels or dict.fromkeys(scores)
        if len(self._labels) != self._classes or not scores.keys() <= self._labels.keys():
            raise ModelError(
                "the scores of the detections have a column for each of "
                f"{self._classes} classes, and the black box told {len(self._labels)} in its "
                f"first box, {told(list(self._labels), 100)}, and now {told(list(scores), 100)}"
            )
        values = [float(scores.get(label, 0.0)) for label in self._labels]
        positive = [value for value in values if value > 0]
        objectness = positive[0] if len(positive) == 1 else 1.0
        (left, top), (right, bottom) = box.min_vertex.tolist(), box.max_vertex.tolist()
        sides = [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
        return [*sides, objectness, *values]


def _check_count(found: list[Any], images: _Array) -> None:
    if len(found) != len(images):
        raise ModelError(f"the black box gave {len(found)} results for {len(images)} images")
