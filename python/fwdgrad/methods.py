"""The papers' methods by name: a source, its noise and what is made of the gradient."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import os
from collections.abc import Callable
from typing import Any, overload

import torch
from torch import Tensor

from fwdgrad.devices import placed
from fwdgrad.errors import warn
from fwdgrad.explanation import Explanation, is_of_pixels
from fwdgrad.gradients import Autograd, LikelihoodRatio
from fwdgrad.inputs import input_of
from fwdgrad.noise import noise_spec
from fwdgrad.outputs import told
from fwdgrad.parameters import ParameterNoise
from fwdgrad.saliency import (
    GradientXInput,
    IntegratedGradients,
    SquaredGrad,
    VarGrad,
    blur_deviation,
    blurred,
    smallest_cell,
)
from fwdgrad.source import Source, Target, check_no_array
from fwdgrad.stream import Progress
from fwdgrad_kernels import AdaptiveScale
from fwdgrad_kernels.checks import check_integer

Options = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Method:
    """A source of gradients and the options that make it a paper's method; others override them."""

    source: type[Source]
    line: str
    equation: str
    options: Options | Callable[[Tensor, Options], Options] = dataclasses.field(
        default_factory=dict
    )
    """Or how they follow from the input and the options that were given."""


def regions(x: Tensor, given: Options) -> Options:
    """The options of ``LikelihoodRatio`` that make the most of few calls on a picture.

    Each copy is the picture in some regions and its blur in the others, with smooth borders; which,
    is drawn by orthogonal directions over cells: one group of them, and nearly a cell for each
    query. What is attributed to a cell is its Banzhaf value: how much the score rises as the cell
    becomes sharp, averaged over what the others may be.

    Args:
        x: a picture (C, H, W) or a volume (C, D, H, W).
        given: the options that were given; of them the queries count, and features: what moves
            together in place of cells, superpixels (``Labels``), say.

    Returns:
        The options, without those that were given.

    Example:
        >>> import torch
        >>> options = regions(torch.rand(3, 224, 224), {"queries": 512})
        >>> options["cell"], options["position"], options["sigma"], options["law"]
        (11, 0.5, 0.5, 'hadamard')

    Source: *Is forward gradient an effective tool for explaining black-box models?*, equation 2, in
    the space of a mask; the table of peers in ``benchmarks/results/peers.md`` is why.
    """
    if not isinstance(x, Tensor) or x.dim() not in (3, 4):
        raise ValueError(
            "method 'regions' is for a picture (C, H, W) or a volume (C, D, H, W), got "
            f"{tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__}; use "
            f"method='likelihood-ratio'{_as_regions(x)}"
        )
    if x.dim() == 3 and len(x) >= _SIDE and x.shape[2] <= 4:
        warn(
            f"a picture of shape {tuple(x.shape)} seems to have its channels last: give "
            "x.permute(2, 0, 1) with lambda batch: model(batch.permute(0, 2, 3, 1))"
        )
    elif x.dim() == 3 and len(x) >= _SIDE and given.get("shared", True):
        warn(
            f"a picture of shape {tuple(x.shape)}: its {len(x)} channels share their draws, so "
            "the map does not tell them apart; if it is a volume, give x[None] with "
            "lambda batch: model(batch[:, 0])"
        )
    queries = given.get("queries", 1024)
    for name in ("queries", "field", "shared", "shift"):
        check_no_array(name, given.get(name))
    check_integer("queries", queries, 1)
    options: Options = {
        "objective": "auto",
        "queries": queries,
        "law": "hadamard",
        "position": 0.5,
        "sigma": 0.5,
        "antithetic": False,
        "control": "mean",
    }
    if "baseline" not in given:
        options["baseline"] = light_blur(x)
        if torch.equal(x, options["baseline"]):
            raise ValueError(
                "baseline must be given: the picture is plain, so it is its own blur; 0.5 is grey"
            )
    if given.get("antithetic") is True:
        del options["control"]
        queries //= 2  # a pair is one direction
    if "features" not in given:
        cells: Options = {"field": "bilinear", "shared": True, "shift": False}
        options |= cells
        grid = {name: given.get(name, value) for name, value in cells.items()}
        options["cell"] = _cell(tuple(x.shape), queries, **grid)
    return {name: value for name, value in options.items() if name not in given}


def _as_regions(x: Any) -> str:
    """How windows of a series are explained as regions of a picture are."""
    if not isinstance(x, Tensor) or x.dim() != 2:
        return ""
    return (
        ", for windows of a series (C, T) with features=Grid((50,), 'nearest', "
        "share_channels=False), law='hadamard', baseline=0.0, position=0.5, sigma=0.5"
    )


def light_blur(x: Tensor) -> Tensor:
    """A picture (C, H, W) under a Gaussian of a 32nd of its shortest side, 2 pixels at least.

    Or a volume (C, D, H, W).

    What it changes by less than half a step of eight bits, as far around as the deviation, stays
    as it is: a plain ground, and no single pixels that a slope happens to leave alone.

    >>> import torch
    >>> light_blur(torch.ones(3, 32, 32)).unique()
    tensor([1.])
    """
    deviation = blur_deviation(x.shape)
    blur = blurred(x, deviation, x.dim() - 1)
    change = torch.zeros(x.shape[1:], dtype=torch.float32, device=x.device)
    for plane, other in zip(x, blur, strict=True):  # a plane at a time: pictures may be large
        torch.maximum(change, (plane - other).abs_().float(), out=change)
    for axis in range(x.dim() - 1):
        change = _most_around(change, int(deviation), axis)
    still = change < 1 / 510
    for plane, other in zip(x, blur, strict=True):
        torch.where(still, plane, other, out=other)
    return blur


def _most_around(values: Tensor, reach: int, axis: int) -> Tensor:
    """The largest value within so many places, by windows that double.

    >>> _most_around(torch.tensor([3, 0, 0, 5, 0, 0]), 2, 0)
    tensor([3, 5, 5, 5, 5, 5])
    """
    length, window, size = values.shape[axis], 2 * reach + 1, 1
    edge = [values.narrow(axis, place, 1) for place in (0, length - 1)]
    sides = [e.repeat_interleave(reach, axis) for e in edge]
    most = torch.cat([sides[0], values, sides[1]], axis)
    while 2 * size <= window:
        count = most.shape[axis] - size
        most = torch.maximum(most.narrow(axis, 0, count), most.narrow(axis, size, count))
        size *= 2
    return torch.maximum(most.narrow(axis, 0, length), most.narrow(axis, window - size, length))


def _cell(shape: tuple[int, ...], queries: int, **grid: Any) -> int:
    """The smallest cells with fewer draws than queries, and than directions in their group.

    What has no draw tells the error. For 16 queries nothing can be left.
    """
    best = max(shape[1:])
    spare = grid["field"] == "nearest" and not grid["shift"]  # see Labels.without_draw_0
    for cell in range(smallest_cell(shape), best):
        spec = noise_spec(shape, "hadamard", cell=cell, **grid)
        draws = spec.draws + spare
        if draws > queries:
            continue
        if draws < min(1 << (draws - 1).bit_length(), queries):
            return cell
        best = min(best, cell)
    return best


_SMOOTH: dict[str, Any] = {"sigma": None}

METHODS: dict[str, Method] = {
    "regions": Method(
        LikelihoodRatio,
        "of pictures: what each region adds, from few forward calls",
        "FG equation 2 on a mask",
        regions,
    ),
    "likelihood-ratio": Method(
        LikelihoodRatio,
        "the smoothed gradient from forward calls alone, plain or blockwise",
        "FG equations 2 and 6",
    ),
    "autograd": Method(
        Autograd,
        "the model's own gradient, once; options make it any of the following",
        "AG equation 1",
    ),
    "gradient": Method(Autograd, "the model's own gradient, once", "AG equation 1"),
    "smoothgrad": Method(
        Autograd,
        "the mean gradient of noisy copies, sigma a fifth of the range",
        "AG equations 2 and 6; AX equation 3",
        _SMOOTH,
    ),
    "adaptgrad": Method(
        Autograd,
        "SmoothGrad with each element's own sigma, so that copies mostly keep within [0, 1]",
        "AG equation 13",
        {"sigma": AdaptiveScale(0.0, 1.0)},
    ),
    "smoothgrad-squared": Method(
        Autograd,
        "the mean squared gradient of noisy copies",
        "Hooker et al. 2019",
        {**_SMOOTH, "saliency": SquaredGrad()},
    ),
    "vargrad": Method(
        Autograd,
        "the variance of the gradients of noisy copies",
        "NA equation 8",
        {**_SMOOTH, "saliency": VarGrad()},
    ),
    "noisegrad": Method(
        Autograd,
        "the mean gradient of copies of the model with noisy parameters",
        "AX equation 4",
        {"parameters": ParameterNoise()},
    ),
    "fusiongrad": Method(
        Autograd,
        "the mean gradient over noise on the input and on the parameters",
        "AX equation 5",
        {**_SMOOTH, "parameters": ParameterNoise()},
    ),
    "gradient-x-input": Method(
        Autograd,
        "the gradient times the input",
        "Shrikumar et al. 2016",
        {"saliency": GradientXInput()},
    ),
    "integrated-gradients": Method(
        Autograd,
        "the mean gradient on the way from a baseline, times the way",
        "Sundararajan et al. 2017, equation 1",
        {"saliency": IntegratedGradients(steps=50)},
    ),
}
"""FG, AG, AX and NA are the papers that the README names."""


FAMILIES: dict[str, dict[str, str]] = {
    "where the gradient comes from": {
        "LikelihoodRatio": "forward calls alone; laws with a score [FG equations 2 and 6]",
        "Autograd": "the model's derivative; any law",
    },
    "how it is smoothed: law=": {
        "normal": "Gaussian [AX section 4.2]",
        "cauchy": "Poisson's kernel [AX section 4.2]",
        "hyperbolic": "Hyperbolic [AX section 4.2]",
        "logistic": "Sigmoid [AX section 4.2]",
        "uniform": "Rect [AX section 4.2]; Autograd alone: it has no score",
        "rademacher": "random signs",
        "hadamard": "orthogonal random signs",
    },
    "how much: sigma=": {
        "a number": "one scale for all elements",
        "a tensor": "each element its own; 0 freezes it",
        "None": "a fifth of the input's range [AG equation 6]",
        "AdaptiveScale": "mostly within the bounds [AG equations 13 and 14, AX equation 30]",
    },
    "and also": {
        "block=, cell=": "noise on a random block [FG equation 6], or on cells that move together",
        "parameters=": "ParameterNoise: noise on the model's parameters [AX equations 4 and 5]",
        "sampling=": "Sampling: draws from another law, weighted; Autograd alone [AX theorem 3.11]",
        "baseline=": "noise along x - baseline, about position=; LikelihoodRatio alone",
    },
    "what is made of it: saliency=": {
        "Gradient": "the gradient itself",
        "GradientXInput": "times the input [Shrikumar et al. 2016]",
        "IntegratedGradients": "over a path, by quadrature or drawn [Sundararajan et al. 2017]",
        "SquaredGrad": "the mean square; Autograd alone [Hooker et al. 2019]",
        "VarGrad": "the variance; Autograd alone [NA equation 8]",
    },
}
"""What methods are put together from; every combination works or is refused with the reason."""


_OF_ANY_MAP = {"objective", "queries", "seed", "batch_size", "memory", "backend", "baseline"}
_SIDE = 16  # pixels of a picture at least
_OF_REGIONS = {"cell", "field", "shared", "shift", "features", "antithetic", "clip"}


def _choose(x: Any, options: Options) -> str:
    """The method that "auto" is; a warning says where another may have been meant."""
    meant = set(options) & set(inspect.signature(LikelihoodRatio.__init__).parameters)
    other = sorted(meant - _OF_ANY_MAP - _OF_REGIONS)
    if _is_picture(x):
        if not other:
            return "regions"
        warn(
            f"a picture with options of noise on single pixels ({', '.join(other)}) gets "
            "method='likelihood-ratio', the gradient of its output, and not, as without them, "
            "method='regions', what each region adds to its probability; give one of them by name"
        )
    elif meant <= _OF_ANY_MAP and (hint := _like_a_picture(x)):
        why, way = hint
        warn(
            f"x of shape {tuple(x.shape)} {why}, so each of its numbers gets noise of its own, as "
            "by method='likelihood-ratio', and a map of many numbers takes very many queries; if "
            f"it is a picture, {way}method='regions' tells what its regions add"
        )
    return "likelihood-ratio"


def _like_a_picture(x: Any) -> tuple[str, str] | None:
    """Why something that may be a picture is not taken for one, and how to give it."""
    if not isinstance(x, Tensor) or x.dim() not in (2, 3) or not x.numel():
        return None
    sides = [side >= _SIDE for side in x.shape]
    if x.dim() == 2:  # of embeddings some are negative
        is_one = all(sides) and bool(x.min() >= 0)
        way = "x[None] with lambda batch: model(batch[:, 0]) and "
        return ("has no channels", way) if is_one else None
    if all(sides[1:]):
        if len(x) in (1, 3):
            byte = ", and x / 255 where the model takes [0, 1]" if _like_bytes(x) else ""
            return f"has values outside [0, 1], {x.min():.3g} to {x.max():.3g}{byte}", ""
        return f"has {len(x)} channels", ""
    if all(sides[:2]) and x.shape[2] <= 4:
        way = "x.permute(2, 0, 1) with lambda batch: model(batch.permute(0, 2, 3, 1)) and "
        return "has its channels last", way
    return None


def _like_bytes(x: Tensor) -> bool:
    return bool(x.min() >= 0) and 32 < float(x.max()) <= 255


def source_of(
    model: Callable[[Tensor], Any], x: Tensor, method: str, options: dict[str, Any]
) -> Source:
    """The source of a method for an input, with options of one's own in place of the method's.

    Example:
        >>> import torch
        >>> source_of(lambda batch: batch, torch.ones(3), "vargrad", {"queries": 10}).saliency
        VarGrad()
    """
    if isinstance(method, str) and method == "auto":
        method = _choose(x, options)
    if not isinstance(method, str) or method not in METHODS:
        near = difflib.get_close_matches(str(method), METHODS, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"method must be one of {', '.join(METHODS)}, got {told(repr(method), 80)}{hint}"
        )
    chosen = METHODS[method]
    known = list(inspect.signature(chosen.source.__init__).parameters)[2:]
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(known)}"
            raise TypeError(f"method {method!r} has no option {name!r}; {hint}")
    own = chosen.options(x, options) if callable(chosen.options) else chosen.options
    source = chosen.source(model, **{**own, **options})
    source.own = frozenset(own)
    return source


def _is_picture(x: Any) -> bool:
    """Whether it looks like one: 1 or 3 channels, some size, values in [0, 1]."""
    if not isinstance(x, Tensor) or x.dim() != 3 or x.shape[0] not in (1, 3):
        return False
    return min(x.shape[1:]) >= _SIDE and is_of_pixels(x)


@overload
def explain(
    model: Callable[[Tensor], Any],
    x: Any,
    *,
    method: str = "auto",
    target: Target = "auto",
    checkpoint: str | os.PathLike[str] | None = None,
    progress: Progress = False,
    name: str | None = None,
    device: str | torch.device | None = None,
    **options: Any,
) -> Explanation: ...


@overload
def explain(
    model: Callable[[Tensor], Any],
    x: Any,
    *,
    method: str = "auto",
    target: list[Target] | list[int] | tuple[Target, ...],
    checkpoint: str | os.PathLike[str] | None = None,
    progress: Progress = False,
    name: str | None = None,
    device: str | torch.device | None = None,
    **options: Any,
) -> list[Explanation]: ...


def explain(
    model: Callable[[Tensor], Any],
    x: Any,
    *,
    method: str = "auto",
    target: Any = "auto",
    checkpoint: str | os.PathLike[str] | None = None,
    progress: Progress = False,
    name: str | None = None,
    device: str | torch.device | None = None,
    **options: Any,
) -> Explanation | list[Explanation]:
    """Which elements of an input a model's score depends on; by default from forward calls alone.

    Args:
        model: takes a batch (batch, *x.shape) and returns (batch, classes) or (batch,); methods
            other than "likelihood-ratio" need a gradient of it. A module in training mode is
            warned of or refused; of one within a function nothing is seen: call ``eval()`` first.
            The batch is overwritten after the call: a model that keeps it must clone it.
        x: one input, without a batch axis: an image (C, H, W), text embeddings (T, E), a vector
            (N,); float32, float64, float16 or bfloat16. A NumPy array of floating numbers is taken
            as the tensor that it is; a picture of Pillow, or a path to one, as all of it,
            (3, H, W) in [0, 1], or as the middle of it that an ``ImageClassifier`` takes.
        method: a name in ``METHODS``. "auto" is "regions" for pictures, (1 or 3, H, W) of values in
            [0, 1], 16 pixels a side at least, and "likelihood-ratio" for all else. With an option
            that regions have no use for (sigma, law, block, control, position, saliency,
            parameters) a picture gets the latter, too, and a warning; what may be a picture and is
            not taken for one gets a warning.
        target: the class to explain, its name where the model knows names (an
            ``ImageClassifier``), "auto" for the predicted one, None where the model returns one
            number. A list of classes gives a list of explanations from the same calls.
        checkpoint: a file to write to and to go on from, see ``LikelihoodRatio.explain``.
        progress: True for a bar on standard error, or a callable of (calls done, all).
        name: what you call the model, kept in the explanation; a checkpoint of another is refused.
        device: "cpu", "cuda", "cuda:1", ...: where to put x, and so its samples and its maps. A
            module, or one whose method the model is, is moved there as by ``model.to(device)``,
            and stays there; a function is called with a batch on that device, and what it does
            with it is its own matter. None: x and the model stay where they are.
        **options: everything else that ``LikelihoodRatio`` or ``Autograd`` takes: objective (see
            ``LikelihoodRatio``; "auto" for regions, else "output"), queries, sigma, law, block,
            features, cell, field, shared, shift, antithetic, saliency, parameters, clip, seed,
            batch_size, memory, backend; baseline, position and control of the first, sampling of
            the second.

    Returns:
        The explanation: attribution, standard error, reliability and what repeats the run.

    Raises:
        TypeError, ValueError: naming the argument, what was given and what would do.
        ModelError: the model failed or returned something of no use.
        CheckpointError: the checkpoint is of another run, damaged, or in use by one.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(4, 2).eval()
        >>> explain(model, torch.ones(4), target=0, queries=64, law="hadamard", sigma=0.5)
        Explanation(output of class 0 = ..., shape (4,), 64 queries, reliability 1.00)

    Source: *Is forward gradient an effective tool for explaining black-box models?*, and for each
    method what ``METHODS`` says.
    """
    # A classifier of photos of one size gets them cut as on the command line.
    size = getattr(model, "size", None)
    x = placed(model, input_of(x, size if isinstance(size, int) else None), device)
    source = source_of(model, x, method, options)
    result: Explanation | list[Explanation] = source.explain(
        x, target, checkpoint=checkpoint, progress=progress, name=name
    )
    return result
