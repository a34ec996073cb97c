"""Quantus: its metrics on maps of this library, by one function, and its maps by this library.

``quantus_metric`` calls one metric; ``explain_func`` goes into ``quantus.evaluate``.

What ``fwdgrad evaluate`` prints needs no further package, so a few metrics are here as well. Where
both have one, this is how they differ:

- Sparseness is ``gini``, after 1e-7 has been added to each element of the normalised map.
- PointingGame is ``pointing_game`` with a tolerance of 0. Of several highest pixels any may hit;
  ours takes the first.
- AttributionLocalisation is ``share_inside`` of a map that has nothing negative.
- MPRT randomises one layer after another, from the output, each from the same seed, and gives the
  signed correlation of the maps' absolute values after each (of the maps themselves with
  ``abs=False``). ``consistency`` is the mean size of the two.
- InputInvariance undoes the shift in the bias of the first layer, a convolution. Where that pads
  with zeros it makes another function of the border; ``shifted`` never does. It answers whether
  all elements agree to 1e-4; ``invariance`` gives their rank correlation. Version 0.6.0 forgets to
  shift the first element of an input, so that gradients fail; with
  ``perturb_func=lambda arr, input_shift, **_: arr + input_shift`` they do not.
- PixelFlipping is ``deletion`` without the score of the clean picture, filled with its darkest
  value. It flips the channels of a pixel one after another; ours all at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fwdgrad.integrations.captum import Attribution
from fwdgrad.methods import Gradient, method_of
from fwdgrad.methods.base import Method
from fwdgrad.objectives import class_number, kind_of
from fwdgrad.scorer import check_statistics, outputs_at


def quantus_metric(
    metric: Any,
    model: torch.nn.Module | None,
    x: Tensor,
    target: Sequence[int] | Tensor,
    explain: Callable[..., Any] | None = None,
    *,
    heatmaps: Tensor | None = None,
    masks: Tensor | None = None,
    softmax: bool | None = None,
    batch_size: int = 64,
    **options: Any,
) -> Any:
    """A metric of Quantus on maps of this library.

    Args:
        metric: a name, such as "Sparseness", "PointingGame", "MPRT", "InputInvariance" or
            "PixelFlipping", or a metric that was made already.
        model: a module; one with batch normalisation in training mode is refused. None where the
            metric uses none.
        x: inputs (n, C, H, W), (n, T, E) or (n, N), float32.
        target: the class of each, integers (n,) or (n, 1).
        explain: takes a model, one input and ``target=`` and returns a map or an ``Explanation``,
            such as ``functools.partial(fwdgrad.explain, method="gradient")``. Metrics that change
            the model or the input need it.
        heatmaps: the maps (n, ...), where they are there already; a map (H, W) stands for all
            channels.
        masks: bool (n, H, W), for the metrics of localization.
        softmax: whether the metric follows the softmax of the output. Default: as the metric
            has it, but never of what lies in [0, 1] or is one number already.
        batch_size: inputs per call.
        **options: of the metric's own constructor, where it is asked for by name.

    Returns:
        What the metric returns: mostly a list with a number for each input.

    Raises:
        ImportError: Quantus is not installed.
        TypeError, ValueError: no metric has the name, or neither maps nor ``explain`` are given, or
            softmax is asked for of probabilities.

    Example:
        >>> maps = torch.tensor([[[0.0, 0.0], [0.0, 1.0]]])
        >>> scores = quantus_metric("Sparseness", None, torch.ones(1, 1, 2, 2), [0], heatmaps=maps)
        >>> round(float(scores[0]), 3)
        0.75

    Source: Hedström et al., *Quantus: an explainable AI toolkit for responsible evaluation of
    neural network explanations and beyond*, JMLR 2023.
    """
    try:
        import quantus
        from quantus.metrics.base import Metric
    except ImportError as error:
        raise ImportError(
            f"Quantus' metrics need it: pip install 'fwdgrad-kernels[metrics]' ({error})"
        ) from None
    if isinstance(metric, str):
        found = getattr(quantus, metric, None)
        if not (isinstance(found, type) and issubclass(found, Metric)):
            raise ValueError(f"metric must be the name of a metric of Quantus, got {metric!r}")
        metric = found(**{"disable_warnings": True, **options})
    elif options:
        raise TypeError(f"options are for a metric by its name, got {sorted(options)}")
    if heatmaps is None and explain is None:
        raise ValueError("heatmaps or explain must be given")
    function = None if explain is None else _Explain(explain)
    if model is not None:
        check_statistics(model)
        softmax = _check_softmax(model, x, softmax)
    given = {} if softmax is None else {"softmax": softmax}
    before = torch.get_rng_state()  # MPRT seeds torch's generator
    try:
        return metric(
            model=model,
            x_batch=_array(x),
            y_batch=_classes(target, len(x)),
            a_batch=None if heatmaps is None else _like(_array(heatmaps), x.dim()),
            s_batch=None if masks is None else _like(masks.cpu().numpy(), x.dim()),
            channel_first=True,
            explain_func=function,
            batch_size=batch_size,
            **given,
        )
    finally:
        torch.default_generator.set_state(before)


def explain_func(
    model: Any,
    inputs: Any,
    targets: Any,
    *,
    method: str | Method = "auto",
    explained_by: str | Method | None = None,
    **options: Any,
) -> Any:
    """Maps of a batch, as ``quantus.evaluate`` and the metrics of Quantus ask for them.

    Args:
        model: a module of torch.
        inputs: (n, ...), an array or a tensor.
        targets: the class of each, (n,) or (n, 1).
        method: a method's name, see ``fwdgrad.explain``. ``quantus.evaluate`` gives the key of its
            ``xai_methods`` here.
        explained_by: the method, where that key is no method's name.
        **options: what else ``fwdgrad.explain`` takes: n_samples, features, seed, ...

    Returns:
        An array of the inputs' shape.

    Raises:
        TypeError, ValueError: naming the argument.

    Example:
        >>> model = torch.nn.Linear(2, 2, bias=False).eval()
        >>> maps = explain_func(model, np.ones((3, 2)), [0, 1, 0], method="gradient",
        ...                     objective="output")
        >>> np.array_equal(maps[1], model.weight[1].detach().numpy())
        True

        In a whole evaluation, with ``n_samples`` for every map:

        >>> metrics = {"sparse": quantus.Sparseness()}  # doctest: +SKIP
        >>> maps = {"regions": explain_func, "smoothgrad": explain_func}  # doctest: +SKIP
        >>> quantus.evaluate(metrics, maps, model, x, y,
        ...                  explain_func_kwargs={"n_samples": 256})  # doctest: +SKIP

    Source: the interface is that of Quantus, see ``quantus_metric``.
    """
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    batch = torch.as_tensor(inputs).to(like.device, like.dtype)
    options.setdefault("objective", "auto")  # as explain has it
    chosen = explained_by or method
    if method_of(chosen) == Gradient():  # it makes no samples: n_samples is of the others
        options.pop("n_samples", None)
    explainer = Attribution(model, method=chosen, **options)
    maps = explainer.attribute(batch, target=_classes(targets, len(batch)).tolist())
    return _array(maps)


def _check_softmax(model: torch.nn.Module, x: Tensor, softmax: bool | None) -> bool | None:
    """Whether Quantus is to put a softmax on the model's output; None: as the metric has it."""
    if softmax is False or isinstance([*model.modules()][-1], torch.nn.Softmax):
        return softmax  # the last module, which Quantus finds: it adds none, or takes it off
    with torch.no_grad():
        kind = kind_of(outputs_at(model, x[0]))
    if softmax and kind == "probabilities":
        raise ValueError(
            "softmax must be False: the model returns probabilities already, whose values at x[0] "
            "lie in [0, 1] and sum to 1"
        )
    return softmax if kind == "scores" or softmax else False


def _classes(target: Any, count: int) -> Any:
    """The class of each input, as an array (n,)."""
    rows = target.tolist() if isinstance(target, (Tensor, np.ndarray)) else list(target)
    rows = [row[0] if isinstance(row, list) and len(row) == 1 else row for row in rows]
    if len(rows) != count:
        raise ValueError(f"target must have a class for each of {count} inputs, got {len(rows)}")
    return np.array([class_number("target", row) for row in rows], dtype=np.int64)


class _Explain:
    """An explainer of one tensor, as Quantus calls it: with arrays of several."""

    def __init__(self, explain: Callable[..., Any]) -> None:
        self.explain = explain

    def __call__(self, model: Any, inputs: Any, targets: Any, **_: Any) -> Any:
        maps = []
        for row, target in zip(inputs, targets, strict=True):
            found = self.explain(model, torch.from_numpy(row).float(), target=int(target))
            maps.append(_array(getattr(found, "attribution", found)))
        return _like(np.stack(maps), inputs.ndim)


def _array(values: Tensor) -> Any:
    return values.detach().cpu().float().numpy().copy()  # Quantus writes to what it gets


def _like(values: Any, axes: int) -> Any:
    """Maps with an axis of length 1 for each that the inputs have before the maps' own."""
    shape = (len(values), *(1,) * (axes - values.ndim), *values.shape[1:])
    return values.reshape(shape)
