"""The result: map, standard error, provenance; save, load, plot."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fwdgrad.files import digest_of, read_tensors, write_tensors
from fwdgrad.importance import Sampling
from fwdgrad.methods import METHODS, Regions
from fwdgrad.methods.base import Method
from fwdgrad.parameters import ParameterNoise
from fwdgrad.shown import Shown
from fwdgrad_kernels import DTYPES, AdaptiveScale, Elements, Features, Grid, Labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from fwdgrad.feature_table import FeatureTable

_TENSORS = ("attribution", "standard_error", "input")
_VALUES = {  # of methods and features, which JSON does not know
    kind.__name__: kind
    for kind in (
        *METHODS.values(), AdaptiveScale, Elements, Grid, Labels, ParameterNoise, Sampling,
    )
}  # fmt: skip
_KIND, _FORMAT = "explanation", 4
_PICTURES = {".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".svg", ".pdf"}
_OTHERS = _PICTURES | {".html", ".htm", ".npy", ".npz", ".pt", ".pth", ".json", ".csv"}


_RANGES: tuple[tuple[str, Any, Callable[[Any], bool]], ...] = (  # attributes, types, what can be
    ("reliability", (int, float), lambda value: math.isnan(value) or -1.01 <= value <= 1.01),
    ("n_samples", int, lambda value: value >= 1),
    ("target", (int, type(None)), lambda value: value is None or value >= 0),
    ("score", (int, float), math.isfinite),
    ("objective", str, lambda value: True),
    ("method", Method, lambda value: True),
    ("features", (Elements, Grid, Labels, type(None)), lambda value: True),
    ("seed", int, lambda value: 0 <= value < 2**64),
    ("seconds", (int, float), lambda value: 0 <= value < math.inf),
    ("convergence_delta", (int, float, type(None)), lambda value: True),
    ("provenance", dict, lambda value: True),
)


def _pack(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """As JSON has it; tensors go into ``tensors`` under their name."""
    if isinstance(value, Tensor):
        tensors[name] = value
        return {"kind": "Tensor", "name": name}
    if isinstance(value, (tuple, list)):
        parts = [_pack(one, f"{name}.{i}", tensors) for i, one in enumerate(value)]
        return {"kind": "tuple", "values": parts}
    pairs = value
    if type(value).__name__ in _VALUES:
        pairs = {f.name: getattr(value, f.name) for f in fields(value) if f.init}
    if not isinstance(pairs, dict):
        return value
    packed = {key: _pack(one, f"{name}.{key}", tensors) for key, one in pairs.items()}
    return packed if pairs is value else {"kind": type(value).__name__, "values": packed}


def _unpack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """What ``_pack`` made it of."""
    if not isinstance(value, dict):
        return value
    kind = value.get("kind")
    if kind == "Tensor":
        return tensors[value["name"]]
    if kind == "tuple":
        return tuple(_unpack(one, tensors) for one in value["values"])
    if kind in _VALUES:
        return _VALUES[kind](**_unpack(value["values"], tensors))
    return {key: _unpack(one, tensors) for key, one in value.items()}


@dataclass(eq=False)
class Explanation(Shown):
    """Which elements of an input a score depends on, and how sure that is.

    Attributes:
        attribution: the estimated gradient, of the input's shape, in score units per input unit;
            with a baseline, the derivative along input - baseline, in score units. Of regions it is
            one map that all channels see (``expand``): clone it before you write into it.
        standard_error: of each element of it, in its units. Hadamard samples of cells with smooth
            borders, and of other features where there are fewer than two whole groups, have it from
            the directions that no draw uses; one without such has NaN.
        reliability: the correlation, over the elements, of the maps of two half-runs (per
            deviation, where each element has its own scale of noise), stepped up to the full run
            by Spearman-Brown. Near 1 the map would come out the same from other noise; near 0 it
            is noise itself, and more samples, blocks or cells are needed, or all elements are
            alike, which the standard errors tell. Where these are from directions that no draw
            uses, so is it, and then it is rougher: 0.1 to 0.2 too high (more so where other noise
            would shift the cells), too low where opposite cells act together, as of a large object
            in the middle. NaN where there is neither.
        n_samples: perturbed inputs that the model was called on; of "auto" how many these were.
        target: the class that was explained; None where the model returns one number.
        score: the objective at the input itself.
        objective: its name; of "auto" what it came to.
        method: what was estimated, with the numbers that it left open (a scale, a cell).
        features: as they were given.
        seed: of all that was drawn.
        input: what was explained.
        seconds: how long ``explain`` took: the model's calls and the map, but neither imports nor
            loading the model, which the command line's "in all" has, too.
        convergence_delta: on a path (integrated gradients), by how much the attribution's sum
            exceeds the change of the score from the baseline to the input; None elsewhere.
        provenance: versions, backend, device, threads, digest of the input; the model's name where
            one was given; where the method, the objective or the number of samples was "auto", why
            it came out so.
    """

    attribution: Tensor
    standard_error: Tensor
    reliability: float
    n_samples: int
    target: int | None
    score: float
    objective: str
    method: Method
    features: Features | None
    seed: int
    input: Tensor
    seconds: float
    convergence_delta: float | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        """One line that says what it is."""
        of = "" if self.target is None else f" of class {self.target}"
        return (
            f"Explanation({self.objective}{of} = {self.score:.4g}, "
            f"shape {tuple(self.attribution.shape)}, {self.n_samples} samples, "
            f"reliability {self.reliability:.2f})"
        )

    @property
    def settings(self) -> dict[str, Any]:
        """What repeats the run: ``fwdgrad.explain(model, e.input, **e.settings)``.

        A callable that was the objective is to be given again.
        """
        names = ("target", "method", "objective", "n_samples", "features", "seed")
        return {name: getattr(self, name) for name in names}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes everything into one safetensors file, whole or not at all.

        Args:
            path: the file, in a folder that exists. Its name ends in .safetensors, or as you
                like, but not as a picture's or a page's does.

        Raises:
            ValueError: the name is of another format.
            OSError: it cannot be written; a file that was there is still there.
            TypeError, ValueError: an attribute is not what it should be.
        """
        suffix = Path(path).suffix
        if suffix.lower() in _OTHERS:
            raise ValueError(
                f"path must end in .safetensors, which is what save writes, got {suffix!r}; for a "
                "picture draw it: e.plot().figure.savefig(path)"
            )
        self._check()
        tensors = {name: getattr(self, name) for name in _TENSORS}
        rest = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _TENSORS}
        for name in ("method", "features"):
            rest[name] = _pack(rest[name], name, tensors)
        write_tensors(path, _KIND, {**rest, "format": _FORMAT}, tensors)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Explanation:
        """Reads what ``save`` wrote, into memory of its own: the file may change afterwards.

        Args:
            path: the file.

        Raises:
            FileNotFoundError, PermissionError: there is none, or it may not be read.
            ValueError: it is damaged, or something else: a digest over all of it is checked.
        """
        try:
            rest, tensors = read_tensors(path, _KIND)
            if rest.pop("format", None) != _FORMAT:
                raise ValueError("it has another version's format")
            for name in ("method", "features"):
                rest[name] = _unpack(rest[name], tensors)
            rest |= {name: tensors[name] for name in _TENSORS}
            result = cls(**rest)
            result._check()
        except FileNotFoundError:
            raise FileNotFoundError(f"file {path} does not exist") from None
        except PermissionError:
            raise
        except Exception as error:  # whatever is wrong with what it says
            raise ValueError(f"{path} is no explanation, or damaged: {error}") from None
        return result

    def _check(self) -> None:
        """Raises where an attribute has another type, shape or range than it can have."""
        for name in _TENSORS:
            one = getattr(self, name)
            if not isinstance(one, Tensor):
                raise TypeError(f"{name} must be a tensor, got {type(one).__name__}")
            if one.dtype not in DTYPES or one.shape != self.input.shape:
                raise ValueError(
                    f"{name} must have floating numbers and the input's shape, got {one.dtype} "
                    f"{tuple(one.shape)} for {tuple(self.input.shape)}"
                )
        if not bool(torch.isfinite(self.input).all()):
            raise ValueError("input must be finite")
        if bool((self.standard_error < 0).any()):
            raise ValueError("standard_error must not be negative")
        for name, kinds, is_right in _RANGES:
            value = getattr(self, name)
            if isinstance(value, bool) or not (isinstance(value, kinds) and is_right(value)):
                raise ValueError(f"{name} cannot be {value!r}")
        told = self.provenance.get("input_sha256", digest := digest_of(self.input))
        if told != digest:
            raise ValueError(f"input is not what was explained: its digest is {digest}, not {told}")

    def heatmap(self) -> Tensor:
        """The attribution over the trailing two axes, for the others together: (H, W).

        It is their sum; where they share their draws, as the channels of regions do, each has what
        all of them add already, and it is their mean.

        Returns:
            float32, or float64 of such a map, on the CPU; a vector gives (1, N).
        """
        wide = torch.float64 if self.attribution.dtype == torch.float64 else torch.float32
        return self.over_planes(self.attribution).to("cpu", wide)

    def over_planes(self, values: Tensor) -> Tensor:
        """Values of the input's shape, such as the attribution, as ``heatmap`` has them.

        Returns:
            float64 (H, W), on the values' device.
        """
        values = values.detach().double()
        if values.dim() < 3:
            return values if values.dim() == 2 else values[None]
        planes = values.flatten(0, -3)
        features = self.features
        shared = isinstance(features, Grid) and features.share_channels
        if isinstance(features, Labels):  # superpixels, of all channels
            labels = features.mask.expand(values.shape).flatten(0, -3)
            shared = bool((labels == labels[:1]).all())
        if not (shared or (features is None and isinstance(self.method, Regions))):
            return planes.sum(0)
        scale = self.method.noise_scale
        if not isinstance(scale, Tensor):
            return planes.mean(0)
        moved = (scale != 0).to(values).flatten(0, -3).sum(0)  # frozen planes have no share
        return planes.sum(0) / moved.clamp(min=1)

    def per_deviation(self, values: Tensor) -> Tensor:
        """Attributions, or their errors, times each element's own scale of noise, if it has one."""
        scale = self.method.noise_scale
        return values * scale.to(values) if isinstance(scale, Tensor) else values

    def significant(self, level: float = 0.05, *, correction: str = "benjamini-hochberg") -> Tensor:
        """Which features differ from zero by more than chance, by their standard errors.

        A feature is tested once, however many elements it has; between cells with smooth borders
        an element is told where more than half of it is of told ones. The tests are Student's t,
        with as many degrees of freedom as the errors have: independent samples, or groups of
        Hadamard samples, less one; of less than two groups, and of cells with smooth borders, the
        directions that no feature uses. Of few groups the features lend one another their errors
        (Smyth's moderated t).

        The rates are checked by simulation, see ``docs/how-to/evidence.md``. They do not hold where
        a score depends on few features, by what they do together, and there are less than 8 groups
        of Hadamard samples: a warning says so. A model that answers the same input differently has
        that noise in the errors, too.

        Args:
            level: with "benjamini-hochberg" the share of false ones among those that are told
                (the false discovery rate), with "holm" the chance of any false one, with "none"
                the chance of each feature by itself.
            correction: for many features: "benjamini-hochberg", "holm" or "none".

        Returns:
            bool, of the input's shape. What has no standard error is False; where nothing is drawn
            by chance all that is not zero is True.

        Raises:
            TypeError, ValueError: naming the argument; the map has no standard errors at all.

        Example:
            >>> import torch, fwdgrad
            >>> noise = torch.Generator().manual_seed(0)
            >>> model = lambda batch: 3 * batch[:, 1] + torch.randn(len(batch), generator=noise)
            >>> method = fwdgrad.Regions(0.0)
            >>> e = fwdgrad.explain(model, torch.ones(5), method=method, n_samples=64)
            >>> e.significant()
            tensor([False,  True, False, False, False])

        Source: Benjamini and Hochberg, *Controlling the false discovery rate*, 1995; Holm, *A
        simple sequentially rejective multiple test procedure*, 1979; Smyth 2004.
        """
        from fwdgrad.significance import significant

        return significant(self, level, correction)

    def _whole(self) -> Explanation:
        return self

    def _features(self) -> FeatureTable:
        from fwdgrad.feature_table import table_of

        return table_of(self)

    def _about(self) -> dict[str, Any]:
        return {"shape": list(self.input.shape)}

    def plot(
        self,
        ax: Axes | None = None,
        *,
        picture: bool = True,
        scale: float | None = None,
        sign: str = "both",
        threshold: float = 0.0,
        top: int = 3,
    ) -> Axes:
        """Draws the map over the input: red increases the score, blue decreases it.

        The opacity of the colour is the value, as the bar beneath tells in numbers. Nothing is
        drawn where a value is less than a standard error, and all of it from three on, where
        standard errors are known: ``significant`` is stricter. A picture beneath is paled, and
        stretched to [0, 1] where its values leave it. Of a series (regions along one axis) the
        channels are lines over a strip of the map; of a volume three slices through its largest
        value are drawn side by side. Where each element's noise had its own scale, what is drawn is
        per deviation: columns of unlike units can be compared by that alone.

        Args:
            ax: matplotlib axes, of which the bar takes a part; new ones where None.
            picture: whether the input is drawn beneath, where it has one or three channels.
            scale: the value at full strength: give several maps the same to compare them. None: a
                large one of this map.
            sign: "both", "increases" or "decreases": which values are drawn.
            threshold: the share of the scale below which nothing is drawn.
            top: how many regions of a picture are numbered, with their values; 0: none.

        Returns:
            The axes.

        Raises:
            ImportError: matplotlib is not installed.
            TypeError, ValueError: naming the option, what was given and what would do.
        """
        from fwdgrad.drawing import draw
        from fwdgrad.overlay import Look

        return draw(self, ax, Look(picture, scale, sign, threshold, top))
