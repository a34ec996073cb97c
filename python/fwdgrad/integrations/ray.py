"""Ray: a Dataset's rows explained in actors (``Explainer``), one input's run over several.

The second is ``RayWorkers``, see ``fwdgrad.integrations.ray_workers``.
"""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fwdgrad.adapters.images import MODELS, Named
from fwdgrad.adapters.importing import import_named
from fwdgrad.adapters.prepared import Adapter
from fwdgrad.errors import ArgumentError, Option
from fwdgrad.explaining import Options, explain, unexpected
from fwdgrad.integrations.ray_workers import RayWorkers
from fwdgrad.outputs import told
from fwdgrad.scorer import check_model

__all__ = ["Explainer", "RayWorkers", "load"]

Array = np.ndarray[Any, Any]
Batch = dict[str, Array]

_NUMBERS = ("reliability", "score", "seconds")
_PER_TARGET = ("attribution", "standard_error", "target", *_NUMBERS)
_COLUMNS = (*_PER_TARGET, "label", "objective", "warning", "error")
_OF_ONE = ("checkpoint", "progress", "workers")  # inputs, where several rows would share it


class Explainer:
    """Explains the rows of a ``ray.data.Dataset``: a class for its ``map_batches``.

    An actor loads the model once. Each row keeps its columns and gets these:

    - ``attribution`` and ``standard_error``: as ``explain`` gives them; where an adapter explains
      words or a table's columns, a number for each, with their ``names``.
    - ``target`` (-1 where there is none), ``label``, ``score``, ``objective``, ``reliability`` and
      ``seconds``.
    - ``warning`` and ``error``: what the run said; empty texts where it said nothing. A row that
      fails has NaN for its numbers and does not stop the others.

    Of several targets, ``target=[1, 2]``, they have one more axis, the first.

    Args:
        model: package.module:callable; what ``explain`` takes as a model, where it can be pickled;
            or a class or a function without parameters that makes one, which is called in the
            actor. The first and the last are put into evaluation mode.
        column: of the inputs: arrays of floating numbers, pictures (H, W, 3) of bytes, paths of
            pictures, texts for a ``TextModel``. None: the row, as a dict, for a ``TableModel``.
        target_column: of each row's target, in the place of ``target``.
        prefix: of the names of the columns that are added.
        target: see ``explain``.
        **options: of ``explain``: n_samples, method, objective, seed, device ... Every row has the
            same seed.

    Raises:
        TypeError, ValueError, ImportError: naming the argument and what would do.

    Example:
        >>> class Model(torch.nn.Linear):
        ...     def __init__(self):
        ...         super().__init__(4, 2)
        >>> explainer = Explainer(Model, "x", target=0, n_samples=64)
        >>> found = explainer({"x": np.eye(3, 4, dtype=np.float32)})
        >>> found["attribution"].shape, found["error"].tolist()
        ((3, 4), ['', '', ''])

        With Ray: ``dataset.map_batches(Explainer, fn_constructor_kwargs={"model":
        "package.module:model", "column": "image", "n_samples": 128}, batch_size=8,
        compute=ray.data.ActorPoolStrategy(size=2))``.

    Source: the interface is that of Ray Data, https://docs.ray.io/en/latest/data.
    """

    def __init__(
        self,
        model: Any,
        column: str | None = "image",
        *,
        target_column: str | None = None,
        prefix: str = "",
        target: Any = "auto",
        **options: Any,
    ) -> None:
        """Loads the model."""
        for name in options:
            if name not in Options.__annotations__:
                raise TypeError(unexpected(name, "Explainer"))
            if name in _OF_ONE:
                raise ArgumentError(name, "is of one input's run, and an Explainer has many")
        if target_column is not None and not (isinstance(target, str) and target == "auto"):
            raise ArgumentError("target", "and ", Option("target_column"), " are both given")
        self.model = load(model)
        self.column, self.target_column, self.prefix = column, target_column, prefix
        self.target, self.options = target, options
        self._several = (len(target),) if isinstance(target, (list, tuple)) else ()
        is_adapter = isinstance(self.model, Adapter)
        self._columns = (*_COLUMNS, "names") if is_adapter else _COLUMNS
        axes = len(self._several) + (1 if is_adapter else 3)
        self._blank = np.empty((0,) * axes, np.float32)  # a map where none is known

    def __call__(self, batch: Batch) -> Batch:
        """Explains each row of a batch, as Ray Data hands it over: arrays by the columns' names.

        Raises:
            ArgumentError: there is no such column, or there is one that would be overwritten.
        """
        for argument in ("column", "target_column"):
            name = getattr(self, argument)
            if name is not None and name not in batch:
                known = told(", ".join(batch), 80)
                raise ArgumentError(argument, f"must be one of {known}, got {name!r}")
        taken = [name for name in self._columns if self.prefix + name in batch]
        if taken:
            raise ArgumentError(
                "prefix", f"must be another, got {self.prefix!r}: the dataset has a column "
                f"{self.prefix + taken[0]!r} already; give ", Option("prefix", "explained_"),
            )  # fmt: skip
        rows = [self._row(batch, i) for i in range(len(next(iter(batch.values()))))]
        if not rows:
            return batch
        for row in rows:
            if row["attribution"] is not None:
                self._blank = np.full_like(row["attribution"], np.nan)
        for row in rows:
            if row["attribution"] is None:
                row["attribution"] = row["standard_error"] = self._nothing(row["input"])
        added = {self.prefix + name: _column([row[name] for row in rows]) for name in self._columns}
        return batch | added

    def _row(self, batch: Batch, i: int) -> dict[str, Any]:
        """The added columns of one row, and its input."""
        x: Any = None
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                target = self.target
                if self.target_column is not None:
                    target = _plain(batch[self.target_column][i])
                if self.column is None:
                    row = {name: _plain(values[i]) for name, values in batch.items()}
                    x = {name: row[name] for name in row if name != self.target_column}
                else:
                    x = _input(batch[self.column][i])
                columns, error = self._found(explain(self.model, x, target, **self.options)), ""
            except Exception as failed:  # the model's, or the input is none
                columns, error = self._failed(), f"{type(failed).__name__}: {failed}"
        said = "; ".join(dict.fromkeys(str(one.message) for one in caught))
        return {**columns, "input": x, "warning": said, "error": error}

    def _found(self, found: Any) -> dict[str, Any]:
        """The columns of what ``explain`` gave: an explanation, a result that is shown, a list."""
        if isinstance(found, list):
            each = [self._found(one) for one in found]
            stacked = {name: np.stack([one[name] for one in each]) for name in _PER_TARGET}
            return each[0] | stacked | {"label": [one["label"] for one in each]}
        whole = getattr(found, "explanation", found)
        values, errors = whole.attribution, whole.standard_error
        if hasattr(found, "scores"):  # feature by feature
            values, errors = found.scores, found.standard_errors
        target = -1 if whole.target is None else whole.target
        label = getattr(found, "label", None)
        if label is None and isinstance(self.model, Named) and target >= 0:
            label = self.model.label(target)
        return {
            "attribution": _array(values),
            "standard_error": _array(errors),
            "reliability": float(found.reliability),
            "score": whole.score,
            "seconds": whole.seconds,
            "target": target,
            "label": label or "",
            "names": [str(name) for name in getattr(found, "words", getattr(found, "names", ()))],
            "objective": whole.objective,
        }

    def _failed(self) -> dict[str, Any]:
        """The columns of a row that failed, its map left open."""
        columns: dict[str, Any] = dict.fromkeys(_NUMBERS, np.full(self._several, np.nan)[()])
        columns |= {"attribution": None, "target": np.full(self._several, -1)[()]}
        return columns | {"label": [] if self._several else "", "names": [], "objective": ""}

    def _nothing(self, x: Any) -> Array:
        """A map of NaN of the shape that the input's would have, or else of another one."""
        if "names" in self._columns or not isinstance(x, np.ndarray) or x.dtype.kind != "f":
            return self._blank
        return np.full((*self._several, *x.shape), np.nan, x.dtype)


def load(model: Any) -> Any:
    """A model from its import path, from what makes one, or as it is.

    Raises:
        TypeError, ValueError, ImportError: it is none, or there is none of that path.

    Example:
        >>> load("torch:sin"), load(lambda: torch.nn.ReLU())
        (<built-in method sin of type object at 0x...>, ReLU())
    """
    own = isinstance(model, str)
    if isinstance(model, str):
        model = MODELS.get(model) or import_named(model, MODELS)
    if makes_one(model):
        model, own = model(), True
    if own and isinstance(model, torch.nn.Module):
        model.eval()
    if not isinstance(model, Adapter):
        check_model(model)
    return model


def makes_one(model: Any) -> bool:
    """Whether a callable makes a model: a class, or a function that takes no batch.

    >>> makes_one(lambda: torch.sin), makes_one(torch.nn.ReLU), makes_one(torch.nn.ReLU())
    (True, True, False)
    """
    if isinstance(model, type):
        return True
    if not callable(model) or isinstance(model, (torch.nn.Module, Adapter)):
        return False
    try:
        parameters = inspect.signature(model).parameters.values()
    except (TypeError, ValueError):  # a built-in function that does not say
        return False
    return all(one.kind in (one.KEYWORD_ONLY, one.VAR_KEYWORD) for one in parameters)


def _input(value: Any) -> Any:
    """A cell as ``explain`` takes it: of bytes (H, W, 3) the picture that they are."""
    if isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim == 3:
        from PIL import Image

        return Image.fromarray(value)
    return _plain(value)


def _plain(value: Any) -> Any:
    """A number or a text of NumPy as Python's own."""
    return value.item() if isinstance(value, np.generic) else value


def _array(values: Tensor) -> Array:
    values = values.detach().cpu()
    return (values.float() if values.dtype == torch.bfloat16 else values).numpy().copy()


def _column(values: list[Any]) -> Array:
    """A column: an array of numbers where all cells have the same shape, else of objects."""
    if isinstance(values[0], (str, list)) or len({np.shape(value) for value in values}) > 1:
        column = np.empty(len(values), dtype=object)
        for i, value in enumerate(values):  # at once lists of one length would be an array
            column[i] = value
        return column
    return np.stack(values)
