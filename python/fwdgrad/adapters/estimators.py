"""What an estimator of scikit-learn's kind gives: its scores, its classes, its columns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fwdgrad.adapters.table_columns import Columns
from fwdgrad.errors import ArgumentError, ArgumentTypeError, Option
from fwdgrad.names import listed
from fwdgrad.outputs import cause, is_out_of_memory

_SCORES = ("predict_proba", "decision_function", "inplace_predict", "predict")


def has(owner: Any, name: str) -> bool:
    """Whether an estimator has a method; asking one that is not fitted may fail."""
    try:
        return callable(getattr(owner, name, None))
    except Exception:  # whatever an estimator says that it is not fitted by
        return False


def classes_of(owner: Any) -> tuple[str, ...] | None:
    """The names of an estimator's classes; None where it has none, or several outputs."""
    try:
        found = [name.item() if hasattr(name, "item") else name for name in owner.classes_]
    except Exception:
        return None
    return tuple(str(name) for name in found) or None


def function_of(predict: Any) -> tuple[Callable[[Any], Any], tuple[str, ...] | None, Any]:
    """The function that gives scores, its classes' names, and the estimator, where there is one.

    Raises:
        TypeError, ValueError: it gives none.
    """
    if isinstance(predict, type):
        raise ArgumentTypeError("predict", f"must be a model, got the class {predict.__name__}")
    function, name = predict, getattr(predict, "__name__", "")
    owner = getattr(predict, "__self__", None)
    if not callable(predict):
        owner = predict
        name = next((name for name in _SCORES if has(owner, name)), "")
        if not name:
            raise ArgumentTypeError(
                "predict",
                "must be a function from a table to scores, or an estimator with "
                f"{', '.join(_SCORES[:2])} or predict, got {type(predict).__name__}",
            )
        function = getattr(owner, name)
    classes = classes_of(owner)
    if classes is not None and name == "predict":
        better = next((other for other in _SCORES[:2] if has(owner, other)), None)
        hint = f"its {better}" if better else "a function that returns scores"
        raise ArgumentError(
            "predict",
            f"must return scores, and {type(owner).__name__}.predict returns labels; give {hint}",
        )
    return function, classes, owner


def check_columns(owner: Any, predict: Callable[[Any], Any], columns: Columns) -> None:
    """Raises where an estimator was fitted on other columns, and so takes no row of a background.

    Some take them all the same, those that choose columns by their names: it is asked.

    Args:
        owner: the estimator, or what else a function is a method of; None.
        predict: its function.
        columns: of the background.

    Raises:
        ArgumentError: naming the background.
    """
    try:
        names = getattr(owner, "feature_names_in_", None)
        wanted = None if names is None or columns.pandas is None else [str(one) for one in names]
        count = len(wanted) if wanted is not None else getattr(owner, "n_features_in_", None)
    except Exception:  # whatever an estimator says that it is not fitted by
        return
    own = [str(key) for key in columns.keys]
    if wanted == own or (wanted is None and (count is None or count == len(own))):
        return
    try:
        predict(columns.rows[:1])
    except Exception as error:
        if is_out_of_memory(error):
            raise
        why = cause(error)
    else:
        return
    if wanted is None:
        text = f"must have the {count} columns that the model was fitted on, got {len(own)}: {why}"
        raise ArgumentError("background", text) from None
    lacks = [name for name in wanted if name not in own]
    more = [name for name in own if name not in wanted]
    if not (lacks or more):
        text = "must have its columns in the order in which the model was fitted on them: give "
        raise ArgumentError("background", f"{text}background[model.feature_names_in_]") from None
    parts = [f"lacks {listed(lacks)}"] * bool(lacks) + [f"has {listed(more)}"] * bool(more)
    drop = ("; leave that out of ", Option("background"), " and of the ", Option("table"))
    raise ArgumentError(
        "background",
        "must have the columns that the model was fitted on, and no others: it "
        f"{' and '.join(parts)}",
        *(drop if more else ()),
    ) from None
