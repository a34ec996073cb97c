"""Why does a pipeline call this wine what it calls it? A row of a DataFrame, column by column.

    python examples/explain_row.py
    python examples/explain_row.py --row 100 --shapley

A pipeline (scaling, then boosted trees) is called on DataFrames and never differentiated. A column
that is out takes its values from other wines. With 12 features all 4,096 coalitions are asked, so
that the values are exact: here two of the 13 measurements, of phenols, move together. The data come
with scikit-learn. Everything runs offline with these packages:

    pip install 'fwdgrad-kernels[arrays]' pandas
"""

from __future__ import annotations

import argparse

from sklearn.datasets import load_wine
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import fwdgrad
from fwdgrad.adapters.tables import TableModel


def main() -> None:
    """Prints what each measurement adds to the probability of the wine's own class."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--row", type=int, default=0, help="of the data; default: 0")
    parser.add_argument("--background", type=int, default=30, help="other wines; default: 30")
    parser.add_argument("--shapley", action="store_true", help="Shapley values, not Banzhaf's")
    arguments = parser.parse_args()
    wines = load_wine(as_frame=True)
    if not 0 <= arguments.row < len(wines.data):
        parser.error(f"--row must be 0 .. {len(wines.data) - 1}, got {arguments.row}")
    others = wines.data.drop(index=arguments.row)
    grower = wines.target.map({0: "grower A", 1: "grower B", 2: "grower C"})
    trees = GradientBoostingClassifier(n_estimators=30, random_state=0)
    pipeline = make_pipeline(StandardScaler(), trees).fit(others, grower[others.index])
    try:
        model = TableModel(
            pipeline,
            others,
            groups={"phenols": ["total_phenols", "nonflavanoid_phenols"]},
            max_background=arguments.background,
        )
    except ValueError as error:
        parser.error(str(error))
    method = fwdgrad.Coalitions("shapley" if arguments.shapley else "banzhaf")
    result = fwdgrad.explain(model, wines.data.iloc[arguments.row], method=method)
    print(result)
    print(f"{result.explanation.seconds:.0f} s; it is of {grower[arguments.row]}")


if __name__ == "__main__":
    main()
