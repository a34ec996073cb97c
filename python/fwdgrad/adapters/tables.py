"""Rows of tables: what each column adds to the score of a model of DataFrames or arrays."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fwdgrad.adapters.estimators import check_columns, function_of
from fwdgrad.adapters.prepared import Prepared
from fwdgrad.adapters.table_columns import Columns
from fwdgrad.adapters.table_explanation import TableExplanation, word
from fwdgrad.checks import check_integer
from fwdgrad.errors import ArgumentError, ArgumentTypeError, ModelError
from fwdgrad.explanation import Explanation
from fwdgrad.methods.in_or_out import InOrOut
from fwdgrad.names import ClassNames, check_labels, listed
from fwdgrad.objectives import kind_of
from fwdgrad.outputs import cause, check_no_labels, floating, is_out_of_memory, tensor_of
from fwdgrad.terminal import plain

EXACT = 12  # features of which all coalitions are asked
_CELLS = 2**20  # of a table that predict is given at once
_LABELS = ": labels, which are no scores"
_OF_COLUMNS = re.compile(r"feature.?names|unseen at fit|expecting \d+ features", re.I)


class TableModel:
    """A model of tables, explained for one row: ``explain(TableModel(...), row)``.

    A column that is out takes its values from the background: the score of a coalition of columns
    is the mean of ``predict`` over the background's rows with these columns set to the row's (the
    interventional expectation). With at most 12 features all coalitions are asked, and the values
    are exact, unless ``n_samples`` are fewer; else ``Regions(0.0)`` estimates them, from 1,024 by
    default. Standard errors are of that estimate, not of the background: other rows there give
    other values.

    Args:
        predict: from a table to scores (rows, classes) or (rows,): a function, or an estimator,
            whose ``predict_proba``, ``decision_function`` or ``predict`` is taken, the first that
            it has. The table is of the background's kind, with its columns and types.
        background: rows of the data, a pandas DataFrame or a NumPy array (rows, columns).
        feature_names: of the columns, where they have none or others are to be shown.
        groups: columns that are in or out together: their group's name -> their names or places.
        categories: the same of one-hot columns; the one that is set is shown as the value.
        max_background: rows of the background that are used; of more, as many are drawn.
        seed: of that draw.
        labels: the classes' names; None: those of the estimator, if it has some.

    Raises:
        TypeError, ValueError: naming the argument, what was given and what would do.

    Example:
        >>> import fwdgrad, numpy as np
        >>> def price(rows):
        ...     return 3.0 * rows[:, 0] - rows[:, 1] * rows[:, 2]
        >>> background = np.array([[0.0, 0.0, 2.0], [2.0, 0.0, 0.0]])
        >>> model = TableModel(price, background, feature_names=["rooms", "age", "noise"])
        >>> print(fwdgrad.explain(model, [4.0, 1.0, 3.0]))
        output 9; exact, from 8 coalitions, 2 background rows
        rooms  4  +9.000                 │███████████████
        age    1  -2.000              ███│
        noise  3  -1.000               ██│

    Source: Janzing, Minorics, Blöbaum, *Feature relevance quantification in explainable AI: a
    causal problem*, 2020, for the expectation.
    """

    def __init__(
        self,
        predict: Any,
        background: Any = None,
        *,
        feature_names: Iterable[str] | None = None,
        groups: Mapping[str, Iterable[Any]] | None = None,
        categories: Mapping[str, Iterable[Any]] | None = None,
        max_background: int = 100,
        seed: int = 0,
        labels: Iterable[str] | None = None,
    ) -> None:
        """Checks the arguments, and draws the background's rows."""
        self.predict, self._classes, owner = function_of(predict)
        if background is None:
            raise ArgumentTypeError(
                "background",
                "must be given: rows of the data, 100 of those that the model was trained on say, "
                "as a DataFrame or an array; a column that is out takes its values from them",
            )
        most = check_integer("max_background", max_background, 1)
        seed = check_integer("seed", seed, 0, 2**64 - 1)
        self.columns = Columns(background, feature_names, most, seed)
        self._labels = None if labels is None else check_labels("labels", labels)
        self.features = _features_of(self.columns, groups, categories)
        check_columns(owner, self.predict, self.columns)

    def prepare(self, x: Any) -> Prepared:
        """The row's features as ones, and what calls ``predict`` on mixtures of rows.

        Raises:
            TypeError, ValueError: x is no row of the background's columns.
            ModelError: ``predict`` failed on the row, or returned no scores.
        """
        values = self.columns.values_of(x)
        joined = self.columns.joined(values)
        rows = Rows(self, joined)
        classes = rows.whole.shape[1]
        if self._labels is not None and len(self._labels) != classes:
            raise ArgumentError(
                "labels",
                f"must be {classes}, one for each class of the model, got {len(self._labels)}",
            )
        rows.labels = self._labels or self._classes
        if rows.labels is not None and len(rows.labels) != classes:  # a margin between two
            rows.labels = None
        count, used = len(self.features), len(self.columns.rows)
        names = tuple(name for name, _, _ in self.features)
        shown = tuple(
            _shown([values[i] for i in places], [self.columns.names[i] for i in places], name, kind)
            for name, places, kind in self.features
        )
        own = tuple(
            _value(joined[places[0]][-1]) if kind == "column" else text
            for (_, places, kind), text in zip(self.features, shown, strict=True)
        )

        def show(explanation: Explanation) -> TableExplanation:
            target = explanation.target
            label = None if target is None else str(target)
            if target is not None and rows.labels is not None:
                label = rows.labels[target]
            return TableExplanation(
                names, own, explanation.attribution.detach().double().cpu(),
                explanation.standard_error.detach().double().cpu(), label, used, self.columns.of,
                explanation, x,
            )  # fmt: skip

        why = f"{count} features are in or out"
        about = {
            "features": [plain(name) for name in names],
            "values": [plain(value) for value in shown],
            "columns": [list(places) for _, places, _ in self.features],
            "table_sha256": rows.digest(),
            "background_rows": used,
            "background_of": self.columns.of,
        }
        return Prepared(
            torch.ones(count, dtype=torch.float64), rows, show, InOrOut(least=EXACT), why, None,
            {"table": about},
        )  # fmt: skip


class Rows:
    """The model of a row's features, each in (1) or out (0): a batch (n, K) to mean scores.

    Args:
        model: of tables.
        joined: each column of the background with the row's own value at the end.
    """

    called_on = "the row"  # for an error

    def __init__(self, model: TableModel, joined: list[Any]) -> None:
        """Calls the model on the row itself."""
        self.predict = model.predict
        self.labels: tuple[str, ...] | None = None
        self._columns, self._joined = model.columns, joined
        self._feature = np.empty(len(joined), dtype=np.int64)  # of each column
        for j, (_, places, _) in enumerate(model.features):
            self._feature[list(places)] = j
        try:
            self.whole = self._scores(np.full((len(model.features), 1), len(model.columns.rows)))
        except ModelError:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                raise
            hint = ""
            if isinstance(error, KeyError) or _OF_COLUMNS.search(str(error)):
                hint = (
                    f"; it has the background's columns, {listed(model.columns.names)}: give the "
                    "background and the row those that the model was fitted on, and no others"
                )
            raise ModelError(f"predict failed on the row x: {cause(error)}{hint}") from error

    @property
    def explained_as(self) -> str | None:
        """Margins and predictions as they are; of probabilities "auto" says that it sees them."""
        is_seen = kind_of(torch.from_numpy(self.whole)) == "probabilities"
        return None if is_seen else "output"

    def find(self, name: str) -> int:
        """The class of a name."""
        if self.labels is None:
            if self.whole.shape[1] == 1:
                raise ArgumentError(
                    "target",
                    f"must be left out: the model returns one number per row, got {name!r}",
                )
            raise ArgumentError(
                "target", f"must be a number, got {name!r}; TableModel(labels=...) names classes"
            )
        return ClassNames(self.labels).find(name, "target", "the model")

    def digest(self) -> str:
        """SHA-256 of the background's rows and the explained one."""
        digest = hashlib.sha256()
        for values in self._joined:
            digest.update(repr((str(values.dtype), values.tolist())).encode())
        return digest.hexdigest()

    def __call__(self, batch: Tensor) -> Tensor:
        """The mean of ``predict`` for each coalition; equal ones are asked once."""
        asked = batch.detach().cpu().numpy()
        is_in = asked == 1
        if not bool((is_in | (asked == 0)).all()):
            raise ModelError(
                "a row's features are in or out, 1 or 0, and the method gave something between; "
                "give method=Regions(0.0) or Coalitions()"
            )
        distinct, places = np.unique(is_in, axis=0, return_inverse=True)
        found = np.empty((len(distinct), *self.whole.shape[1:]))
        complete = distinct.all(axis=1)
        found[complete] = self.whole
        rest = distinct[~complete]
        if len(rest):
            found[~complete] = self._means(rest)
        found = found[places.reshape(-1)]
        return torch.from_numpy(found if found.shape[1] > 1 else found[:, 0].copy())

    def _means(self, is_in: Any) -> Any:
        """Of coalitions (n, K), the mean scores (n, classes) over the background's rows."""
        count = len(self._columns.rows)
        size = max(1, _CELLS // len(self._joined))
        pairs, parts = len(is_in) * count, []
        for first in range(0, pairs, size):
            pair = np.arange(first, min(first + size, pairs))
            own = is_in[pair // count].T
            parts.append(self._scores(np.where(own, count, pair % count)))
        scores = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return scores.reshape(len(is_in), count, -1).mean(axis=1)

    def _scores(self, rows: Any) -> Any:
        """What predict returns where each feature's columns have the values of these rows (K, n).

        Returns:
            float64 (n, classes), or (n, 1) of one number a row.
        """
        table = self._columns.table(
            [
                values.take(rows[feature])
                for values, feature in zip(self._joined, self._feature, strict=True)
            ]
        )
        returned = self.predict(table)
        try:
            found = tensor_of(returned, rows.shape[1])
            check_no_labels(found)
        except ModelError as error:
            what, labels, _ = str(error).partition(_LABELS)
            if not labels:
                raise
            raise ModelError(
                f"{what}{labels}; give predict_proba, decision_function or a function that returns "
                "floating numbers"
            ) from None
        return floating(found).double().cpu().reshape(rows.shape[1], -1).numpy()


def _features_of(
    columns: Columns, groups: Any, categories: Any
) -> list[tuple[str, tuple[int, ...], str]]:
    """What is in or out as a whole: its name, its columns' places, and its kind."""
    found: list[tuple[str, tuple[int, ...], str]] = []
    owner: dict[int, str] = {}
    for argument, given in (("groups", groups), ("categories", categories)):
        if given is not None and not isinstance(given, Mapping):
            raise ArgumentTypeError(
                argument,
                f"must be a dict of a name and its columns, got {type(given).__name__}",
            )
        for name, members in (given or {}).items():
            members = [members] if isinstance(members, (str, int)) else list(members)
            if not members:
                raise ArgumentError(argument, f"must have a column in each, got none in {name!r}")
            places = columns.find(members, argument, name)
            for place in places:
                if place in owner:
                    raise ArgumentError(
                        argument,
                        f"must not share columns: {columns.names[place]!r} is in {owner[place]!r} "
                        f"and {name!r}",
                    )
                owner[place] = str(name)
            found.append((str(name), places, argument))
    single = [i for i in range(len(columns.names)) if i not in owner]
    found += [(columns.names[i], (i,), "column") for i in single]
    named: dict[str, str] = {}
    for name, _, kind in found:  # single columns come last
        if name in named:
            raise ArgumentError(named[name], f"must have names of their own, got {name!r} twice")
        named[name] = kind
    return sorted(found, key=lambda one: min(one[1]))


def _shown(values: list[Any], names: list[str], name: str, kind: str) -> str:
    """A feature's value in words."""
    if kind == "column":
        return word(values[0])
    if kind == "categories":
        hot = [n for n, value in zip(names, values, strict=True) if value == 1]
        short = [n[len(name) :].lstrip("_=: .") if n.startswith(name) else n for n in hot]
        return ", ".join(one or n for one, n in zip(short, hot, strict=True)) or "none"
    return ", ".join(f"{n}={word(value)}" for n, value in zip(names, values, strict=True))


def _value(value: Any) -> float | str:
    """A number as Python has it; what is none, in words."""
    number = value.item() if isinstance(value, np.generic) else value
    return number if isinstance(number, (bool, int, float)) else str(value)
