"""A table's columns: the background's rows, the row that is explained, and mixtures of the two."""

from __future__ import annotations

import numbers
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fwdgrad.errors import ArgumentError, ArgumentTypeError, Option, did_you_mean
from fwdgrad.names import listed
from fwdgrad.outputs import told
from fwdgrad_kernels import NoiseSpec, noise


class Columns:
    """The columns of a background, and some of its rows.

    Args:
        background: a pandas DataFrame or a NumPy array (rows, columns).
        names: of the columns; None: those of the DataFrame, or x0, x1, ...
        most: rows that are kept; of more, as many are drawn.
        seed: of that draw.

    Attributes:
        keys: what the background calls its columns: labels of pandas, or their places.
        names: the same in words.
        rows: a DataFrame or an array, of the rows that are kept.
        of: how many there were.

    Raises:
        TypeError, ValueError: naming the argument.
    """

    def __init__(self, background: Any, names: Any, most: int, seed: int) -> None:
        """Draws the rows."""
        pandas = sys.modules.get("pandas")
        self.pandas = pandas if pandas and isinstance(background, pandas.DataFrame) else None
        if self.pandas is None:
            background = _array_of(background)
        self.of = len(background)
        if not background.size:
            raise ArgumentError(
                "background",
                f"must have a row at least, got shape {tuple(background.shape)}; give some of the "
                "rows that the model was trained on",
            )
        if self.pandas is None:
            self.keys: list[Any] = list(range(background.shape[1]))
            own = [f"x{i}" for i in self.keys]
        else:
            self.keys = list(background.columns)
            own = [str(key) for key in self.keys]
            twice = background.columns[background.columns.duplicated()]
            if len(twice):
                raise ArgumentError(
                    "background", f"must have columns that differ, got {twice[0]!r} twice"
                )
        self.names = _names_of(names, own)
        if self.of > most:  # the first of a random order
            spec = NoiseSpec((self.of,), "uniform", seed=seed)
            order = noise(spec, 0, 1, dtype=torch.float64)[0].argsort(stable=True)
            kept = np.sort(order[:most].numpy())
            background = background[kept] if self.pandas is None else background.iloc[kept]
        self.rows = background.copy()

    def find(self, columns: Iterable[Any], argument: str, name: str) -> tuple[int, ...]:
        """The places of columns, by their keys or their names."""
        columns = list(columns)
        places = [self._place(column) for column in columns]
        lacking = [column for column, at in zip(columns, places, strict=True) if at is None]
        if lacking:
            hint = did_you_mean(str(lacking[0]), self.names) or f"; they are {listed(self.names)}"
            raise ArgumentError(
                argument,
                f"must have columns of the background: {name!r} has {listed(lacking)}{hint}",
            )
        return tuple(at for at in places if at is not None)

    def _place(self, column: Any) -> int | None:
        for known in (self.keys, self.names):
            if not isinstance(column, bool) and column in known:
                return list(known).index(column)
        return None

    def values_of(self, x: Any) -> list[Any]:
        """A row's values in the background's order.

        Raises:
            TypeError, ValueError: it is no row, or one of other columns.
        """
        pandas = sys.modules.get("pandas")
        if pandas is not None and isinstance(x, pandas.DataFrame):
            if len(x) != 1:
                raise ArgumentError(
                    "x", f"must be one row, got a DataFrame of {len(x)}; give x.iloc[0], say"
                )
            x = {key: x.iloc[0, i] for i, key in enumerate(x.columns)}
        elif pandas is not None and isinstance(x, pandas.Series):
            x = {key: x.iloc[i] for i, key in enumerate(x.index)}
        if isinstance(x, Mapping):
            return self._in_order(dict(x))
        if isinstance(x, Tensor):
            x = x.detach().cpu().numpy()
        if not isinstance(x, (np.ndarray, list, tuple)):
            raise ArgumentTypeError(
                "x",
                "must be a row: a Series, a DataFrame of one row, a dict or an array of one axis, "
                f"got {type(x).__name__}",
            )
        if isinstance(x, np.ndarray) and x.ndim != 1:
            hint = "; give x[0]" if x.ndim == 2 and len(x) == 1 else ""
            raise ArgumentError("x", f"must be one row, got an array of shape {x.shape}{hint}")
        if len(x) != len(self.keys):
            raise ArgumentError(
                "x",
                f"must have a value for each of the background's {len(self.keys)} columns, got "
                f"{len(x)}",
            )
        return list(x)

    def _in_order(self, x: dict[Any, Any]) -> list[Any]:
        known = self.keys if set(x) & set(self.keys) else list(self.names)
        lacks = [key for key in known if key not in x]
        more = [key for key in x if key not in set(known)]
        if lacks or more:
            parts = [f"lacks {listed(lacks)}"] * bool(lacks) + [f"has {listed(more)}"] * bool(more)
            hint = "; if the model does not take that, leave it out of ", Option("background")
            raise ArgumentError(
                "x",
                f"must have the background's columns, and no others: it {' and '.join(parts)}",
                *(hint if lacks and not more else ()),
            )
        return [x[key] for key in known]

    def joined(self, values: list[Any]) -> list[Any]:
        """Each column of the background with the row's own value after it.

        A type that cannot hold the value, as integers cannot hold NaN, gives way to one that does.

        Raises:
            TypeError, ValueError: a value is of another kind than its column.
        """
        if self.pandas is None:
            wide = _wide_enough(self.rows.dtype, values, self.names)
            return [
                np.append(self.rows[:, i].astype(wide), np.array([value], dtype=wide))
                for i, value in enumerate(values)
            ]
        return [
            _with_value(self.rows.iloc[:, i].reset_index(drop=True), value, name, self.pandas)
            for i, (value, name) in enumerate(zip(values, self.names, strict=True))
        ]

    def table(self, parts: list[Any]) -> Any:
        """A DataFrame, or an array, of columns."""
        if self.pandas is None:
            found = np.empty((len(parts[0]), len(parts)), dtype=parts[0].dtype)
            for i, part in enumerate(parts):
                found[:, i] = part
            return found
        frame = self.pandas.DataFrame(dict(enumerate(parts)), copy=False)
        frame.columns = self.rows.columns
        return frame


def _array_of(background: Any) -> Any:
    if isinstance(background, Tensor):
        background = background.detach().cpu().numpy()
    if not isinstance(background, np.ndarray):
        hint = ""
        for name in ("to_pandas", "toarray"):
            if hasattr(background, name):
                hint = f"; give background.{name}()"
        raise ArgumentTypeError(
            "background",
            "must be a pandas DataFrame or a NumPy array (rows, columns), got "
            f"{type(background).__name__}{hint}",
        )
    if background.ndim != 2:
        raise ArgumentError(
            "background", f"must be a table (rows, columns), got an array of {background.shape}"
        )
    return background


def _names_of(names: Any, own: list[str]) -> tuple[str, ...]:
    if names is None:
        return tuple(own)
    if isinstance(names, str):
        raise ArgumentTypeError("feature_names", f"must be a list of names, got {names!r}")
    found = [str(name) for name in names]
    if len(found) != len(own):
        raise ArgumentError(
            "feature_names", f"must be {len(own)}, one for each column, got {len(found)}"
        )
    twice = [name for i, name in enumerate(found) if name in found[:i]]
    if twice:
        raise ArgumentError("feature_names", f"must differ, got {twice[0]!r} twice")
    return tuple(found)


def _wide_enough(dtype: Any, values: list[Any], names: tuple[str, ...]) -> Any:
    """The background's type, or one that also holds the row's values."""
    if dtype.kind not in "biuf":
        return np.result_type(dtype, np.array(values)) if dtype.kind in "US" else dtype
    for name, value in zip(names, values, strict=True):
        _check_number(value, name)
    own = np.array([np.nan if value is None else value for value in values])
    with np.errstate(invalid="ignore"):
        if dtype.kind == "f" or np.array_equal(own.astype(dtype), own):
            return dtype
    return np.result_type(dtype, own)


def _check_number(value: Any, name: str) -> None:
    if value is not None and not isinstance(value, (numbers.Real, np.number, np.bool_)):
        raise ArgumentTypeError(
            "x",
            f"must have a number in column {name!r}, as the background has, got "
            f"{told(repr(value), 40)}",
        )


def _with_value(column: Any, value: Any, name: str, pandas: Any) -> Any:
    """A column with one more value, as an array of pandas."""
    types, dtype = pandas.api.types, column.dtype
    missing = np.ndim(value) == 0 and bool(pandas.isna(value))
    if isinstance(dtype, pandas.CategoricalDtype):
        if not missing and value not in dtype.categories:
            raise ArgumentError(
                "x",
                f"must have a category of the background's in column {name!r}, got "
                f"{told(repr(value), 40)}; they are {listed(dtype.categories)}",
            )
    elif types.is_numeric_dtype(dtype):
        value = np.nan if missing else value
        _check_number(value, name)
    try:
        one = pandas.Series([value], dtype=dtype)
        fits = missing or types.is_float_dtype(dtype) or not types.is_numeric_dtype(dtype)
        fits = fits or bool(one.iloc[0] == value)
        if missing and not bool(one.isna().iloc[0]):
            fits = False
    except (TypeError, ValueError, OverflowError):
        fits = False
    if not fits:
        if not types.is_numeric_dtype(dtype):
            raise ArgumentTypeError(
                "x",
                f"must have in column {name!r} what the background has, {dtype}, got "
                f"{told(repr(value), 40)}",
            )
        one = pandas.Series([value])
    return pandas.concat([column, one], ignore_index=True).array
