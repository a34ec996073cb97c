"""Which measurements make a random forest call a tumour benign? A model without a gradient.

    python examples/explain_table.py          # scikit-learn's predict_proba
    python examples/explain_table.py --onnx   # the same forest in ONNX Runtime

A forest is piecewise constant: its gradient is zero everywhere. Smoothed by noise of half a
standard deviation in every measurement, it has a gradient, which forward calls estimate. The data
come with scikit-learn. Everything runs offline with these packages:

    pip install 'fwdgrad-kernels[arrays]' skl2onnx    # skl2onnx for --onnx alone
"""

from __future__ import annotations

import argparse

import torch
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier

import fwdgrad
from fwdgrad.adapters.arrays import NumpyModel, OnnxModel


def main() -> None:
    """Prints the measurements that matter most."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--onnx", action="store_true")
    parser.add_argument("--row", type=int, default=0, help="of the data; default: 0")
    parser.add_argument("--samples", type=int, default=8192)
    arguments = parser.parse_args()
    data = load_breast_cancer()
    if not 0 <= arguments.row < len(data.data):
        parser.error(f"--row must be 0 .. {len(data.data) - 1}, got {arguments.row}")
    forest = RandomForestClassifier(100, random_state=0).fit(data.data[1:], data.target[1:])
    model = in_onnx(forest) if arguments.onnx else NumpyModel(forest.predict_proba)
    x = torch.tensor(data.data[arguments.row])
    spread = torch.tensor(data.data.std(0))
    try:
        method = fwdgrad.ForwardGradient(scale=0.5 * spread)
        result = fwdgrad.explain(
            model, x, target=1, method=method, n_samples=arguments.samples, batch_size=1024
        )
    except ValueError as error:  # an odd number of samples, say
        parser.error(str(error))
    print(f"P({data.target_names[1]}) = {result.score:.2f}; {result.n_samples} samples, "
          f"{result.seconds:.0f} s, reliability {result.reliability:.2f}")  # fmt: skip
    print("its change with one standard deviation more of")
    values, errors = result.attribution * spread, result.standard_error * spread
    for i in values.abs().argsort(descending=True)[:8].tolist():
        print(f"  {data.feature_names[i]:24} {values[i]:+.3f} +- {errors[i]:.3f}")


def in_onnx(forest: RandomForestClassifier) -> OnnxModel:
    """The forest as an ONNX model."""
    try:
        from skl2onnx import to_onnx
        from skl2onnx.common.data_types import DoubleTensorType
    except ImportError:
        raise SystemExit("--onnx needs skl2onnx: pip install skl2onnx") from None

    types = [("rows", DoubleTensorType([None, forest.n_features_in_]))]
    made = to_onnx(forest, initial_types=types, options={"zipmap": False})
    return OnnxModel(made.SerializeToString(), output="probabilities")


if __name__ == "__main__":
    main()
