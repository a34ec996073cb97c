"""Models of pictures in any form: tensors, arrays, Pillow's pictures; in any range and layout."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fwdgrad.adapters.cropping import Cut
from fwdgrad.adapters.images import Named
from fwdgrad.adapters.picture_explanation import PictureExplanation, told
from fwdgrad.adapters.pixels import cut_out, pillow_pictures, read_any, size_of, to_bytes
from fwdgrad.adapters.prepared import Prepared
from fwdgrad.errors import ArgumentError, ArgumentTypeError, ModelError
from fwdgrad.explanation import Explanation
from fwdgrad.methods import choose
from fwdgrad.names import check_labels
from fwdgrad.scorer import check_model, outputs_at
from fwdgrad.torch_state import TorchState

_CENTRE = 0.875  # the share of the shorter side that the usual ImageNet crop keeps
_FITS = ("whole", "centre", "pad")


class ImageModel(Named):
    """Any model of pictures, and photos as they are: the map comes back in the photo's own pixels.

    ``fwdgrad.explain(ImageModel(model), photo)`` takes a path, a picture of Pillow, or an array or
    a tensor, (H, W), (H, W, C) or (C, H, W), in 0..1 or 0..255, and returns a
    ``PictureExplanation``. Noise goes on the picture that the model sees, in [0, 1]; each sample is
    then given to the model as it wants it. The model's output may be scores (batch, classes) or
    (batch,), something with ``logits`` as models of transformers return, or a list of label and
    score dicts for each picture, as their pipelines do.

    Args:
        model: a callable of a batch of pictures.
        input: what it is called on: "tensor" (torch), "numpy", or "pil": a list of Pillow's RGB
            pictures.
        layout: of a batch of tensors or arrays: "CHW" for (batch, C, H, W), "HWC" for (batch, H, W,
            C) as Keras has it.
        range: what black and white are to the model: (0, 1), (0, 255), (-1, 1), ...
        mean: a number or one for each channel, in the units of ``range``, that is taken off.
        std: what it is divided by, then.
        size: of the pictures that the model takes: (height, width), or one number for squares.
            None: the photo's own size.
        fit: "whole": all of the photo is scaled to that size, whatever its shape; "centre": the
            largest part of that shape in its middle; "pad": all of it in its own shape, with grey
            beside it. A photo of the size already is taken as it is.
        share: of the sides that is kept, as timm's crop_pct; None: all, of "centre" 0.875.
        channels: 3; or 1 of a model of grey pictures.
        labels: the classes' names. None: the model's own attribute, if it has one; a model that
            returns labels tells them itself, sorted, and is called once more where it takes
            Pillow's pictures.
        dtype: of the numbers in the batch; None: float32.
        name: of the model, for messages.

    Raises:
        TypeError, ValueError: naming the argument, what was given and what would do.

    Example:
        A model of (batch, H, W, C) in 0..255 that looks at the left of pictures of 16 x 32:

        >>> import fwdgrad
        >>> left = lambda batch: batch[:, :, :16].mean((1, 2, 3)) / 255
        >>> model = ImageModel(left, input="numpy", layout="HWC", range=(0, 255), size=(16, 32))
        >>> photo = np.zeros((40, 60, 3), np.uint8)
        >>> photo[10:30, 20:40] = 200
        >>> method = fwdgrad.Regions("black", cell=4)
        >>> e = fwdgrad.explain(model, photo, method=method, n_samples=64)
        >>> e.heatmap().shape, bool(e.heatmap()[20, 25] > 5 * e.heatmap()[20, 35].abs())
        (torch.Size([40, 60]), True)
    """

    def __init__(
        self,
        model: Callable[[Any], Any],
        *,
        input: str = "tensor",
        layout: str = "CHW",
        range: tuple[float, float] = (0, 1),
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        size: int | tuple[int, int] | None = None,
        fit: str = "whole",
        share: float | None = None,
        channels: int = 3,
        labels: Sequence[str] | None = None,
        dtype: Any = None,
        name: str = "the model",
    ) -> None:
        """Checks each argument."""
        check_model(model)
        for argument, value, known in (
            ("input", input, ("tensor", "numpy", "pil")),
            ("layout", layout, ("CHW", "HWC")),
            ("fit", fit, _FITS),
            ("channels", channels, (3, 1)),
        ):
            if value not in known:
                listed = " or ".join(map(repr, known))
                raise ArgumentError(argument, f"must be {listed}, got {value!r}")
        self.forward, self.input, self.layout, self.fit = model, input, layout, fit
        self.channels, self.name = channels, name
        self.labels = None if labels is None else check_labels("labels", labels)
        own = getattr(model, "labels", None)
        if labels is None and isinstance(own, (list, tuple)):
            self.labels = tuple(map(str, own))
        if hasattr(model, "explained_as"):  # by a model's own word what "auto" explains
            self.explained_as = model.explained_as
        self.size = _size(size)
        if share is not None and not (isinstance(share, (int, float)) and 0 < share <= 1):
            raise ArgumentError("share", f"must be above 0 and at most 1, got {share!r}")
        self.share = share or (_CENTRE if fit == "centre" else 1.0)
        if share is not None and fit == "pad":
            raise ArgumentError("share", "is of fit='whole' or 'centre', got 'pad'")
        if fit != "whole" and self.size is None:
            raise ArgumentError("size", f"must be given with fit={fit!r}: what the model takes")
        if input == "pil":
            for argument, is_own in (
                ("mean", mean is not None), ("std", std is not None), ("dtype", dtype is not None),
                ("range", tuple(range) != (0, 1)), ("layout", layout != "CHW"),
            ):  # fmt: skip
                if is_own:
                    raise ArgumentError(
                        argument, "is of tensors and arrays, and input='pil' gives pictures"
                    )
        self.dtype = _dtype(dtype)
        low, high = _range(range)
        self.limits = low, high
        # Of pixels in [0, 1] the model gets pixel * factor + offset, for each channel.
        scale = _channels("std", 1.0 if std is None else std, channels)
        if not bool((scale > 0).all()):
            raise ArgumentError("std", f"must be above 0, got {std}")
        self._factor = (high - low) / scale
        self._offset = (low - _channels("mean", 0.0 if mean is None else mean, channels)) / scale
        self._is_plain = bool((self._factor == 1).all() and (self._offset == 0).all())

    @classmethod
    def from_timm(
        cls, config: Mapping[str, Any], model: Callable[[Any], Any], **others: Any
    ) -> ImageModel:
        """A model of timm by its data config.

        Args:
            config: from ``timm.data.resolve_model_data_config(model)``: its input_size, mean, std,
                crop_pct and crop_mode are read. Scaling is bicubic, whatever it says.
            model: in evaluation mode.
            **others: of ``ImageModel``, such as labels.

        Raises:
            TypeError, ValueError: naming what is missing or not known.

        Example:
            >>> config = {"input_size": (3, 224, 192), "mean": (0.5,) * 3, "std": (0.5,) * 3}
            >>> ImageModel.from_timm(config, torch.nn.Flatten()).size
            (224, 192)
        """
        if not isinstance(config, Mapping) or "input_size" not in config:
            given = ", ".join(config) if isinstance(config, Mapping) else type(config).__name__
            raise ArgumentError(
                "config",
                "must be what timm.data.resolve_model_data_config(model) returns, with input_size, "
                f"got {given}",
            )
        channels, height, width = config["input_size"]
        mode = config.get("crop_mode", "center")
        fits = {"center": "centre", "squash": "whole", "border": "pad"}
        if mode not in fits:
            raise ArgumentError("config", f"must have a crop_mode of {', '.join(fits)}: {mode!r}")
        share = None if mode == "border" else config.get("crop_pct") or _CENTRE
        own: dict[str, Any] = {
            "mean": config.get("mean"),
            "std": config.get("std"),
            "size": (height, width),
        }
        own |= {"fit": fits[mode], "share": share, "channels": channels}
        return cls(model, **(own | others))

    @classmethod
    def from_transformers(cls, model: Any, processor: Any = None, **others: Any) -> ImageModel:
        """A classifier of transformers by its image processor; or an image pipeline, by both.

        The model is called on tensors, which is faster than a pipeline, and has a gradient.

        Args:
            model: a model for image classification, or a pipeline.
            processor: of the model. Scaling is bicubic, whatever it says.
            **others: of ``ImageModel``; ``size``, where the processor leaves the shape open.

        Raises:
            TypeError, ValueError: naming what is missing or not known.
        """
        if processor is None:
            processor, model = (
                getattr(model, "image_processor", None),
                getattr(model, "model", model),
            )
        if processor is None:
            raise ArgumentTypeError("processor", "must be the model's image processor, got None")
        own = _of_processor(processor, others)
        names = getattr(getattr(model, "config", None), "id2label", None) or {}
        own["labels"] = [names[i] for i in sorted(names)] or None
        return cls(model, **(own | others))

    def __call__(self, batch: Tensor) -> Any:
        """The model's scores of pictures (batch, C, H, W) in [0, 1]."""
        given = pillow_pictures(batch) if self.input == "pil" else self._numbers(batch)
        return self._read(self.forward(given), len(batch))

    def prepare(self, x: Any) -> Prepared:
        """What is run for a photo; see ``fwdgrad.explain``.

        Raises:
            TypeError, ValueError, FileNotFoundError: it is no picture.
        """
        picture = read_any(x)
        width, height = size_of(picture)
        cut = self._cut(width, height)
        pixels = cut_out(picture, cut, self.channels)
        if self.input == "pil" and self.labels is None:  # a class may be asked for by its name
            with TorchState(), torch.no_grad():
                outputs_at(self, pixels)
        photo, about = to_bytes(picture), {"picture": told(cut, width, height)}

        def show(explanation: Explanation) -> PictureExplanation:
            own = explanation.provenance.get("label")  # a detection's
            label = str(own) if own else self.label(explanation.target)
            explanation.provenance["label"] = label
            return PictureExplanation(explanation, photo, cut, label)

        method, why = choose(pixels)
        return Prepared(pixels, self, show, method, why, about=about)

    def _cut(self, width: int, height: int) -> Cut:
        """What of a photo the model sees."""
        whole = (0.0, 0.0, float(width), float(height))
        if self.size is None or self.size == (height, width):
            return Cut(whole, (width, height), (width, height))
        high, wide = self.size
        if self.fit == "pad":
            factor = min(wide / width, high / height)
            scaled = max(1, round(width * factor)), max(1, round(height * factor))
            return Cut(whole, scaled, (wide, high))
        sides = width * self.share, height * self.share
        if self.fit == "centre":
            factor = min(width / wide, height / high) * self.share
            sides = wide * factor, high * factor
        left, top = (width - sides[0]) / 2, (height - sides[1]) / 2
        box = (left, top, left + sides[0], top + sides[1])
        return Cut(box, (wide, high), (wide, high))

    def _numbers(self, batch: Tensor) -> Any:
        """Pictures in [0, 1] as numbers of the model's range, layout and type."""
        if not self._is_plain:
            # Kept on its device: a GPU is not waited for again.
            self._factor, self._offset = self._factor.to(batch), self._offset.to(batch)
            batch = batch.mul(self._factor).add_(self._offset)
        kind = getattr(torch, self.dtype)
        if not kind.is_floating_point:
            limits = torch.iinfo(kind)
            batch = batch.round().clamp_(limits.min, min(limits.max, 2**24))
        batch = batch.to(kind)
        if self.layout == "HWC":
            batch = batch.permute(0, 2, 3, 1).contiguous()
        return batch.detach().cpu().numpy() if self.input == "numpy" else batch

    def _read(self, found: Any, count: int) -> Any:
        """Scores of what the model returned; what is not known as it is."""
        found = getattr(found, "logits", found)
        if count == 1 and isinstance(found, list) and found and _is_answer(found[0]):
            found = [found]
        if not (isinstance(found, (list, tuple)) and found) or not all(
            isinstance(row, (list, tuple)) and row and all(map(_is_answer, row)) for row in found
        ):
            return found
        if self.labels is None:
            self.labels = tuple(sorted({str(one["label"]) for one in found[0]}))
        rows = [{str(one["label"]): float(one["score"]) for one in row} for row in found]
        for row in rows:
            if set(row) != set(self.labels):
                missing = sorted(set(self.labels) - set(row))
                what = f"no score of {missing[0]!r}" if missing else "a label that is not in labels"
                raise ModelError(
                    f"the model returned {what}, and {len(row)} labels of {len(self.labels)}; let "
                    "it return all of them for each picture: of a pipeline give top_k=10**6"
                )
        return torch.tensor([[row[name] for name in self.labels] for row in rows]).double()


def _is_answer(value: Any) -> bool:
    """Whether something is a label and its score."""
    return isinstance(value, Mapping) and set(value) == {"label", "score"}


def _size(size: Any) -> tuple[int, int] | None:
    sides = (size, size) if isinstance(size, (int, np.integer)) else size
    if sides is None:
        return None
    try:
        height, width = (int(side) for side in sides)
    except (TypeError, ValueError):
        raise ArgumentError("size", f"must be (height, width) or a number, got {size!r}") from None
    if min(height, width) < 1:
        raise ArgumentError("size", f"must be at least 1 pixel, got {size!r}")
    return height, width


def _range(given: Any) -> tuple[float, float]:
    try:
        low, high = map(float, given)
    except (TypeError, ValueError):
        low = high = math.nan
    if not low < high < math.inf or low == -math.inf:
        raise ArgumentError("range", f"must be black and white, such as (0, 255), got {given!r}")
    return low, high


def _channels(argument: str, given: Any, channels: int) -> Tensor:
    """A number for each channel: float32 (C, 1, 1)."""
    try:
        values = torch.as_tensor(given, dtype=torch.float32).reshape(-1)
    except (TypeError, ValueError, RuntimeError):
        values = torch.empty(0)
    if len(values) not in (1, channels) or not bool(torch.isfinite(values).all()):
        many = f"a number, or {channels}, one for each channel" if channels > 1 else "a number"
        raise ArgumentError(argument, f"must be {many}, got {given!r}")
    return values.expand(channels).reshape(-1, 1, 1)


def _dtype(dtype: Any) -> str:
    """The name of a type of torch or of NumPy."""
    name = str(dtype).removeprefix("torch.")
    if dtype is None:
        return "float32"
    if not isinstance(getattr(torch, name, None), torch.dtype):
        try:
            name = np.dtype(dtype).name
        except TypeError:
            name = ""
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype) or found.is_complex or found == torch.bool:
        raise ArgumentError("dtype", f"must be a type of numbers such as 'uint8', got {dtype!r}")
    return name


def _of_processor(processor: Any, others: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of ``ImageModel`` that an image processor of transformers has."""

    def get(name: str) -> Any:
        return getattr(processor, name, None)

    own: dict[str, Any] = {}
    size, crop = (dict(get(name) or {}) for name in ("size", "crop_size"))
    share, short = get("crop_pct"), size.get("shortest_edge")
    cropped = get("do_center_crop") and crop.get("height")
    if get("do_resize") is False and not cropped:
        pass  # the photo's own size
    elif cropped:
        own["size"] = crop["height"], crop["width"]
        before = short or size.get("height")
        own["fit"] = "centre" if short else "whole"
        own["share"] = min(1.0, crop["height"] / before) if before else None
    elif size.get("height"):
        own["size"] = size["height"], size["width"]
    elif short and share:  # ConvNeXt's: large pictures are squashed
        own |= {"size": short, "fit": "centre" if short < 384 else "whole"}
        own["share"] = share if short < 384 else None
    elif "size" not in others:
        raise ArgumentError("size", f"must be given: the processor's {size} leaves the shape open")
    low, high = 0.0, 255.0
    if get("do_rescale") is not False:
        low, high = 0.0, 255 * float(get("rescale_factor") or 1 / 255)
        if get("rescale_offset"):  # EfficientNet's
            low, high = -1.0, high - 1
    own["range"] = low, round(high, 6)
    if get("do_normalize"):
        own["mean"], own["std"] = get("image_mean"), get("image_std")
    return own
