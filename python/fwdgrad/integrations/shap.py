"""SHAP: our explanations as its own, which its plots draw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fwdgrad.errors import ArgumentError, ArgumentTypeError
from fwdgrad.explanation import Explanation
from fwdgrad.inputs import is_of_pixels
from fwdgrad_kernels import Labels

_NAMES = ("feature_names", "names", "words")  # as a result that is shown calls its features
_DATA = ("data", "values")


def to_shap(explanation: Any, feature_names: Sequence[str] | None = None) -> Any:
    """An explanation as a ``shap.Explanation``, with its standard errors.

    Of a vector there is a value for each element, for ``shap.plots.bar`` and ``waterfall``; where a
    mask made features of several elements (``Labels``), for each of these. A result that is shown
    feature by feature (words of a text, columns of a table) has its scores and names. A picture
    (C, H, W) comes with channels last, as ``shap.plots.image`` takes it: of several channels that
    share their draws each has its part of what all add. Anything else keeps its shape.

    ``base_values`` is the score less the sum of the values, so that a waterfall ends at the score.
    It is the score without the features only where the values add up to it: of a path
    (integrated gradients), or of a score that is additive. A gradient without a baseline is per
    unit of the input and no share of the score, which a waterfall does not say.

    Args:
        explanation: an ``Explanation``, or a result that is shown, which has ``explanation``,
            ``scores`` and ``standard_errors``.
        feature_names: of a vector or of features; None: those of the result, where it has some.

    Returns:
        A ``shap.Explanation`` with ``values``, ``base_values``, ``data``, ``error_std``,
        ``feature_names`` and ``compute_time``; a score per value, no matrix of several inputs.

    Raises:
        ImportError: SHAP is not installed.
        TypeError, ValueError: it is no explanation, or has another number of features.

    Example:
        >>> import fwdgrad
        >>> model = lambda batch: batch @ torch.tensor([1.0, -2.0])
        >>> e = fwdgrad.explain(model, torch.tensor([3.0, 1.0]), method="gradient-x-input")
        >>> to_shap(e, ["height", "weight"]).values.tolist()  # doctest: +SKIP
        [3.0, -2.0]

    Source: the interface is that of SHAP, https://shap.readthedocs.io.
    """
    try:
        import shap  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError as error:
        raise ImportError(
            f"to_shap needs SHAP: pip install 'fwdgrad-kernels[shap]' ({error})"
        ) from None
    data: Any
    names: list[Any] | None
    if not hasattr(explanation, "scores"):  # shown as a picture, say
        explanation = getattr(explanation, "explanation", explanation)
    if isinstance(explanation, Explanation):
        whole, names = explanation, None
        values, errors, data = _of_map(explanation)
    elif isinstance(getattr(explanation, "explanation", None), Explanation):
        whole = explanation.explanation
        values = explanation.scores.detach().double()
        errors = explanation.standard_errors.detach().double()
        names = _list(explanation, _NAMES)
        data = _list(explanation, _DATA) or names
    else:
        raise ArgumentTypeError(
            "explanation", f"must be an explanation, got {type(explanation).__name__}"
        )
    names = names if feature_names is None else [str(name) for name in feature_names]
    if names is not None and (values.dim() != 1 or len(names) != len(values)):
        raise ArgumentError(
            "feature_names",
            f"must name each of the values, of shape {tuple(values.shape)}, got {len(names)}",
        )
    return shap.Explanation(
        values=_array(values),
        base_values=whole.score - float(values.sum()),
        data=_array(data) if isinstance(data, Tensor) else np.array(data, dtype=object),
        error_std=_array(errors),
        feature_names=names,
        compute_time=whole.seconds,
    )


def _of_map(e: Explanation) -> tuple[Tensor, Tensor, Tensor]:
    """Values, their errors and the data of a map."""
    values, errors, data = (
        one.detach().double() for one in (e.attribution, e.standard_error, e.input)
    )
    if values.dim() == 3 and len(values) in (1, 3) and is_of_pixels(e.input):
        share = e.over_planes(torch.ones_like(values)) / len(values)  # 1 where none is shared
        return (values * share).movedim(0, -1), (errors * share).movedim(0, -1), data.movedim(0, -1)
    if values.dim() == 1 and isinstance(e.features, Labels):
        # All elements of a feature have what it has.
        labels = e.features.mask.long().to(values.device).expand(values.shape)
        count = e.features.count
        first = torch.full((count,), len(values), device=values.device)
        first.scatter_reduce_(0, labels, torch.arange(len(values), device=values.device), "amin")
        sums = data.new_zeros(count).index_add_(0, labels, data)
        return values[first], errors[first], sums / labels.bincount(minlength=count)
    return values, errors, data


def _list(result: Any, attributes: tuple[str, ...]) -> list[Any] | None:
    """The first of these attributes that a result has."""
    for name in attributes:
        found = getattr(result, name, None)
        if found is not None and not callable(found):
            return [str(one) if name in _NAMES else one for one in found]
    return None


def _array(values: Tensor) -> Any:
    return values.cpu().numpy().copy()
