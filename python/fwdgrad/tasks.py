"""Objectives for tasks other than classification: segmentation, embeddings, next tokens.

A regression needs none: a model that returns one number a sample is explained by that number, and
of several numbers ``objective="output"`` explains the one that ``target`` names. Nor do several
labels: "auto" sees that a row in [0, 1] does not sum to 1. Detectors: ``adapters.detection``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from fwdgrad.checks import check_integer
from fwdgrad.errors import ArgumentError, ArgumentTypeError, ModelError
from fwdgrad.files import digest_of
from fwdgrad.objectives import class_number, kind_of, within
from fwdgrad.outputs import floating, tensor_of, told

Values = Literal["auto", "logits", "probabilities"]
_VALUES = ("auto", "logits", "probabilities")
_TINY = 1e-6  # nearer to 0 or 1 no log-odds are taken


class Segment:
    """How sure a segmentation model is of a label, on average over some pixels.

    Args:
        label: its number. Where the model returns one map of numbers, 1 is what it finds and 0 the
            rest.
        mask: bool (H, W) of the output's size: the pixels that count. None: those that have the
            label at the input.
        score: "probability", "log-odds" (of probabilities nearer to 0 or 1 than a millionth as
            of that), or of label maps "probability" alone: the share of pixels with the label.
        values: what the model returns, "logits", whose softmax over the classes is taken, or
            "probabilities"; "auto" looks at the output at the input: maps in [0, 1] are
            probabilities, of labels that may exclude each other or not.

    The output may be (batch, classes, H, W), (batch, 1, H, W) or (batch, H, W) of floating numbers,
    label maps (batch, H, W) of integers, or a dict or an object with such "logits" or "out".

    Raises:
        TypeError, ValueError: naming the argument, what was given and what would do.

    Example:
        >>> import torch
        >>> left = torch.tensor([[True, False], [True, False]])
        >>> logits = torch.full((1, 3, 2, 2), 9.0)
        >>> Segment(2, left)(logits)
        tensor([0.3333])
        >>> Segment(2, left)(torch.tensor([[[2, 0], [1, 0]]]))  # a label map
        tensor([0.5000], dtype=torch.float64)

    Source: Vinogradova et al. 2020, *Towards interpretable semantic segmentation via
    gradient-weighted class activation mapping*, equation 2: the sum over the pixels of interest.
    """

    def __init__(
        self,
        label: int,
        mask: Any = None,
        score: str = "probability",
        values: Values = "auto",
    ) -> None:
        """Checks the options."""
        self.label = check_integer("label", class_number("label", label), 0)
        for name, value, known in (
            ("score", score, ("probability", "log-odds")),
            ("values", values, _VALUES),
        ):
            if not isinstance(value, str) or value not in known:
                raise ArgumentError(
                    name, f"must be one of {', '.join(known)}, got {told(repr(value), 80)}"
                )
        self.score, self.values = score, values
        self.mask = None if mask is None else _mask(mask)
        pixels = ""
        if self.mask is not None:
            height, width = self.mask.shape
            found = int(self.mask.sum())
            pixels = f", {found} of {height} x {width} pixels {digest_of(self.mask)[:8]}"
        kind = "" if values == "auto" else f", {values}"
        self.__qualname__ = f"Segment({self.label}{pixels}, {score}{kind})"

    def settled(self, outputs: Any, x: Tensor) -> Segment:
        """With the pixels and the kind of values that the output at the input shows.

        Raises:
            ValueError: the label is none of the model's, or no pixel has it.
        """
        maps = _maps(outputs)
        whole, kind = not maps.is_floating_point(), self.values
        if maps.dim() == 4 and not whole and self.label >= max(maps.shape[1], 2):
            raise ArgumentError(
                "label",
                f"must lie in 0 .. {max(maps.shape[1], 2) - 1}: the model returns "
                f"{tuple(maps.shape)}, got {self.label}",
            )
        if whole and self.score != "probability":
            raise ArgumentError(
                "score",
                "must be 'probability' where the model returns labels: it is the share of pixels "
                f"with the label; got {self.score!r}",
            )
        if kind == "auto":
            kind = "probabilities" if whole or within(maps) else "logits"
        mask = self.mask
        if mask is None:
            labels = _labels(maps, kind)[0]
            mask = labels == self.label
            if not bool(mask.any()):
                found = ", ".join(str(one) for one in labels.unique().tolist()[:10])
                raise ArgumentError(
                    "label",
                    f"{self.label} is that of no pixel at x; the model finds {found}: give one of "
                    "them, or the pixels as mask",
                )
        _check_size(mask, maps)
        return Segment(self.label, mask.to(maps.device), self.score, kind)

    def __call__(self, outputs: Any) -> Tensor:
        """The score of each sample: (batch,)."""
        if self.mask is None or self.values == "auto":  # called by hand
            return self.settled(outputs, torch.empty(0))(outputs)
        maps = _maps(outputs)
        _check_size(self.mask, maps)
        mask = self.mask.to(maps.device)
        if not maps.is_floating_point():
            return torch.eq(maps[:, mask], self.label).double().mean(1)
        maps = floating(maps)
        if self.values == "logits":
            if maps.shape[1] == 1:  # log-odds of 1 against 0
                maps = torch.cat([torch.zeros_like(maps), maps], 1)
            log = maps[..., mask].log_softmax(1)
            if self.score == "probability":
                return log[:, self.label].exp().mean(1)
            others = [c for c in range(log.shape[1]) if c != self.label]
            return (log[:, self.label] - log[:, others].logsumexp(1)).mean(1)
        if maps.shape[1] == 1:
            maps = torch.cat([1 - maps, maps], 1)
        values = maps[..., mask][:, self.label]
        if self.score == "log-odds":
            values = values.clamp(_TINY, 1 - _TINY).logit()
        return values.mean(1)


class Similarity:
    """The cosine of an embedding and a reference: retrieval, face matching.

    Args:
        reference: (D,), what is compared with: the embedding of another picture or of a text. Of
            several, (K, D), each is a target: ``target=[0, 1]`` gives a map each.

    The model returns embeddings (batch, D). An embedding of zeros has cosine 0.

    Raises:
        TypeError, ValueError: naming the argument, what was given and what would do.

    Example:
        >>> import torch
        >>> Similarity([3.0, 4.0])(torch.tensor([[1.0, 0.0], [6.0, 8.0]]))
        tensor([[0.6000],
                [1.0000]])
    """

    def __init__(self, reference: Any) -> None:
        """Checks the reference."""
        try:
            found = torch.as_tensor(reference).detach().double()
        except (TypeError, ValueError, RuntimeError) as error:
            raise ArgumentTypeError("reference", f"must be numbers (D,): {told(error)}") from None
        if found.dim() not in (1, 2) or not found.numel():
            raise ArgumentError(
                "reference", f"must have shape (D,) or (K, D), got {tuple(found.shape)}"
            )
        found = found.reshape(-1, found.shape[-1])
        lengths = found.norm(dim=1, keepdim=True)
        if not bool((lengths.isfinite() & (lengths > 0)).all()):
            raise ArgumentError("reference", "must be finite and not all zeros")
        self._unit = found / lengths
        self.n_targets = len(found)
        self.__qualname__ = (
            f"Similarity({' x '.join(map(str, found.shape))} numbers {digest_of(found)[:8]})"
        )

    def settled(self, outputs: Any, x: Tensor) -> Similarity:
        """Itself, where the model's embeddings have the reference's length.

        Raises:
            ValueError: they have another.
        """
        size = _rows(outputs).shape[1]
        if size != self._unit.shape[1]:
            raise ArgumentError(
                "reference",
                f"must be as long as the model's embeddings, {size}, got {self._unit.shape[1]}; "
                "give one of its own: model(other[None])[0]",
            )
        return self

    def __call__(self, outputs: Any) -> Tensor:
        """The cosines of each sample: (batch, K)."""
        rows = _rows(outputs)
        cosines: Tensor = torch.nn.functional.normalize(rows, dim=1) @ self._unit.to(rows).T
        return cosines


class NextToken:
    """The log-probability of a token that a language model continues with.

    Args:
        token: its number in the vocabulary.
        position: of the sequence, at which the next token is predicted; -1 is the last.
        values: what the model returns, "logits" or "probabilities"; "auto" looks at the output at
            the input.

    The output may be (batch, tokens, vocabulary) or (batch, vocabulary), or a dict or an object
    with such "logits".

    Raises:
        TypeError, ValueError: naming the argument, what was given and what would do.

    Example:
        >>> import torch
        >>> NextToken(1)(torch.tensor([[[9.0, 0.0], [0.0, 0.0]]])).exp()
        tensor([0.5000])
    """

    def __init__(self, token: int, position: int = -1, values: Values = "auto") -> None:
        """Checks the options."""
        self.token = check_integer("token", class_number("token", token, "a token's number"), 0)
        self.position = check_integer("position", position, -(2**31), 2**31)
        if not isinstance(values, str) or values not in _VALUES:
            raise ArgumentError(
                "values", f"must be one of {', '.join(_VALUES)}, got {told(repr(values), 80)}"
            )
        self.values = values
        kind = "" if values == "auto" else f", {values}"
        self.__qualname__ = f"NextToken({self.token}, {self.position}{kind})"

    def settled(self, outputs: Any, x: Tensor) -> NextToken:
        """With the kind of values that the output at the input shows.

        Raises:
            ValueError: the model has no such token or position.
        """
        values = _tensor(outputs, 3)
        if values.dim() < 2:
            raise ModelError(_TOKENS.format(tuple(values.shape)))
        count = values.shape[1] if values.dim() == 3 else 1
        if not -count <= self.position < count:
            raise ArgumentError(
                "position",
                f"must lie in {-count} .. {count - 1}: the model returns {tuple(values.shape)}, "
                f"got {self.position}",
            )
        if self.token >= values.shape[-1]:
            raise ArgumentError(
                "token",
                f"must lie in 0 .. {values.shape[-1] - 1}: the model returns "
                f"{tuple(values.shape)}, got {self.token}",
            )
        kind = self.values
        if kind == "auto":
            row = values[:1, self.position] if values.dim() == 3 else values[:1]
            kind = "probabilities" if kind_of(row) == "probabilities" else "logits"
        return NextToken(self.token, self.position, kind)

    def __call__(self, outputs: Any) -> Tensor:
        """The log-probability for each sample: (batch,)."""
        if self.values == "auto":  # called by hand
            return self.settled(outputs, torch.empty(0))(outputs)
        values = _tensor(outputs, 3)
        if values.dim() not in (2, 3):
            raise ModelError(_TOKENS.format(tuple(values.shape)))
        rows = floating(values[:, self.position] if values.dim() == 3 else values)
        if self.values == "logits":
            return rows.log_softmax(1)[:, self.token]
        return rows[:, self.token].clamp(torch.finfo(rows.dtype).tiny).log()


_TOKENS = (
    "the model must return (batch, tokens, vocabulary) or (batch, vocabulary) for NextToken, got {}"
)


def _tensor(outputs: Any, axes: int, names: tuple[str, ...] = ("logits",)) -> Tensor:
    """The tensor in an output, which may be a dict or an object with it."""
    for name in names:
        if isinstance(outputs, Mapping):
            if name in outputs:
                outputs = outputs[name]
                break
        elif not isinstance(outputs, (Tensor, np.ndarray)) and hasattr(outputs, name):
            outputs = getattr(outputs, name)
            break
    return tensor_of(outputs, None, differentiable=True, axes=axes)


def _rows(outputs: Any) -> Tensor:
    rows = floating(_tensor(outputs, 2, ("embeddings", "pooler_output", "image_embeds")))
    if rows.dim() != 2:
        raise ModelError(
            f"the model must return embeddings (batch, D) for Similarity, got {tuple(rows.shape)}"
        )
    return rows


def _maps(outputs: Any) -> Tensor:
    """(batch, classes, H, W) of floating numbers, or (batch, H, W) of integers."""
    maps = _tensor(outputs, 4, ("logits", "out"))
    shape = tuple(maps.shape)
    maps = maps.int() if maps.dtype == torch.bool else maps
    if maps.dim() == 3 and maps.is_floating_point():
        maps = maps[:, None]
    if maps.dim() == 4 and maps.shape[1] == 1 and not maps.is_floating_point():
        maps = maps[:, 0]
    if maps.dim() != (4 if maps.is_floating_point() else 3):
        raise ModelError(
            "the model must return (batch, classes, height, width), or (batch, height, width) of "
            f"labels, for Segment, got {maps.dtype} {shape}"
        )
    return maps


def _labels(maps: Tensor, kind: str) -> Tensor:
    """The label of each pixel: (batch, H, W)."""
    if not maps.is_floating_point():
        return maps
    if maps.shape[1] > 1:
        return maps.argmax(1)
    return (maps[:, 0] > (0.5 if kind == "probabilities" else 0.0)).long()


def _mask(mask: Any) -> Tensor:
    try:
        found = torch.as_tensor(mask).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArgumentTypeError("mask", f"must be bool (H, W): {told(error)}") from None
    if found.dim() != 2:
        raise ArgumentError("mask", f"must be bool (H, W), got shape {tuple(found.shape)}")
    if found.dtype != torch.bool:
        if not bool(((found == 0) | (found == 1)).all()):
            raise ArgumentError(
                "mask",
                f"must be bool, or 0 and 1, got {found.dtype} from {found.min()} to {found.max()}; "
                "give mask == label, say",
            )
        found = found != 0
    if not bool(found.any()):
        raise ArgumentError("mask", "must have a pixel that counts, got none")
    return found.clone()


def _check_size(mask: Tensor, maps: Tensor) -> None:
    """Raises where a mask has another size than the maps."""
    if mask.shape != maps.shape[-2:]:
        size, own = ("{} x {}".format(*one) for one in (mask.shape, maps.shape[-2:]))
        raise ArgumentError(
            "mask",
            f"must have the size of the model's output, {own} pixels, got {size}; resize it, e.g. "
            f"torch.nn.functional.interpolate(mask[None, None].float(), {tuple(maps.shape[-2:])})"
            "[0, 0] > 0.5",
        )
