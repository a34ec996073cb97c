"""Models of NumPy arrays: scikit-learn's, and ONNX models in ONNX Runtime."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import fwdgrad
from fwdgrad import ForwardGradient, KeptLabel, LabelDistance, ModelError, Taxonomy
from fwdgrad.adapters.arrays import NumpyModel, OnnxModel

WEIGHTS = np.array([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0], [2.0, 0.0, 0.0], [-1.0, 1.0, 1.0]])
X = torch.tensor([0.5, -0.2, 0.1, 0.4])


def gradient_of(model, x=X, target=1, scale=0.5):
    """Exact where scores are linear, by orthogonal directions."""
    method = ForwardGradient(scale=scale, design="hadamard")
    result = fwdgrad.explain(model, x, target, method=method, objective="output", n_samples=64)
    return result.attribution


# ---- functions -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [None, "float64", np.float32])
@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_a_function(dtype, kind):
    seen = []

    def function(rows):
        seen.append(rows.dtype)
        return rows.astype(np.float64) @ WEIGHTS

    got = gradient_of(NumpyModel(function, dtype=dtype), X.to(kind))
    rounding = {torch.float16: 0.02, torch.bfloat16: 0.2}.get(kind, 1e-4)
    assert got.double().numpy() == pytest.approx(WEIGHTS[:, 1], abs=rounding)
    if dtype is not None:
        assert set(seen) == {np.dtype(dtype)}


def test_no_copy_where_none_is_needed():
    batch = torch.zeros(3, 4)
    seen = []
    NumpyModel(lambda rows: seen.append(rows) or rows.sum(1))(batch)
    assert np.shares_memory(seen[0], batch.numpy())


def test_a_table_of_an_image():
    image = torch.arange(4.0).reshape(1, 2, 2)
    shapes = set()
    model = NumpyModel(lambda rows: shapes.add(rows.shape[1:]) or rows @ WEIGHTS, flat=True)
    assert gradient_of(model, image).flatten().numpy() == pytest.approx(WEIGHTS[:, 1], abs=1e-4)
    assert shapes == {(4,)}


def test_scikit_learn():
    linear_model = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(200, 4))
    labels = np.array(["no", "yes"])[(rows @ [1.0, -2.0, 0.0, 0.5] > 0).astype(int)]
    fitted = linear_model.LogisticRegression().fit(rows, labels)
    x = X.double()
    slope = fitted.coef_[0]
    decision = gradient_of(NumpyModel(fitted.decision_function), x, target=None)
    assert decision.numpy() == pytest.approx(slope, abs=1e-9)
    p = fitted.predict_proba(x[None].numpy())[0, 1]
    probability = gradient_of(NumpyModel(fitted.predict_proba), x, scale=1e-4)
    assert probability.numpy() == pytest.approx(slope * p * (1 - p), abs=1e-6)
    options = {"method": ForwardGradient(scale=1.0), "n_samples": 4096}
    kept = fwdgrad.explain(NumpyModel(fitted.predict), x, objective=KeptLabel("yes"), **options)
    assert np.sign(kept.attribution.numpy())[[0, 1]].tolist() == [1, -1]
    tree = Taxonomy.from_hypernyms({"no": ["answer"], "yes": ["answer"]}, ["no", "yes"])
    distance = LabelDistance("yes", tree)
    far = fwdgrad.explain(NumpyModel(fitted.predict), x, objective=distance, **options)
    assert far.attribution.numpy() == pytest.approx(2 * kept.attribution.numpy(), abs=1e-5)
    with pytest.raises(TypeError, match="give its predict_proba or decision_function or predict"):
        NumpyModel(fitted)
    with pytest.raises(TypeError, match="got the class LogisticRegression"):
        NumpyModel(linear_model.LogisticRegression)


def test_sparse_scores_and_data_frames():
    class Sparse:
        def __init__(self, values):
            self.values = values

        def toarray(self):
            return self.values

    class Frame(Sparse):
        def to_numpy(self):
            return self.values

        toarray = property()

    for kind in (Sparse, Frame):
        model = NumpyModel(lambda rows, kind=kind: kind(rows @ WEIGHTS))
        assert gradient_of(model).numpy() == pytest.approx(WEIGHTS[:, 1], abs=1e-4)


def test_scores_are_copied():
    own = np.zeros((64, 3), dtype=np.float32)

    def function(rows):  # fills an array of its own each time
        own[: len(rows)] = rows @ WEIGHTS
        return own[: len(rows)]

    found = NumpyModel(function)
    first = found(X[None])
    before = first.clone()
    found(2 * X[None])
    assert torch.equal(first, before)


def test_what_is_no_score():
    with pytest.raises(ModelError, match="must return numbers or labels, got list"):
        NumpyModel(lambda rows: [None] * len(rows))(X[None])
    with pytest.raises(TypeError, match="function must be callable, got int"):
        NumpyModel(3)


# ---- ONNX ----------------------------------------------------------------------------------

FLOAT, DOUBLE, INT64, FLOAT16 = 1, 11, 7, 10


def linear(kind=FLOAT, batch=None, features=4, second=False, weights=WEIGHTS):
    """An ONNX model: scores = rows W, and where there is a second input, its sum with that."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper = onnx.helper
    values = weights.astype(helper.tensor_dtype_to_np_dtype(kind))
    nodes = [helper.make_node("MatMul", ["rows", "W"], ["product" if second else "scores"])]
    inputs = [helper.make_tensor_value_info("rows", kind, [batch, features])]
    if second:
        nodes.append(helper.make_node("Add", ["product", "shift"], ["scores"]))
        inputs.append(helper.make_tensor_value_info("shift", kind, [3]))
    nodes.append(helper.make_node("ArgMax", ["scores"], ["label"], axis=1, keepdims=0))
    outputs = [
        helper.make_tensor_value_info("scores", kind, [batch, 3]),
        helper.make_tensor_value_info("label", INT64, [batch]),
    ]
    graph = helper.make_graph(
        nodes, "linear", inputs, outputs, [onnx.numpy_helper.from_array(values, "W")]
    )
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString()


@pytest.mark.parametrize("batch", [None, 1, 5])
@pytest.mark.parametrize("kind", [FLOAT, DOUBLE])
def test_onnx_agrees_with_torch(kind, batch):
    model = OnnxModel(linear(kind, batch), output="scores")
    matrix = torch.tensor(WEIGHTS)
    torch_model = lambda rows: (rows.double() @ matrix).to(rows.dtype)  # noqa: E731
    x = X.double() if kind == DOUBLE else X
    options = {"method": ForwardGradient(scale=0.3), "objective": "output", "n_samples": 66}
    options |= {"target": 2, "seed": 3}
    want = fwdgrad.explain(torch_model, x, **options)
    for batch_size in (1, 7, 66):
        got = fwdgrad.explain(model, x, batch_size=batch_size, **options)
        assert torch.allclose(got.attribution, want.attribution, rtol=1e-4, atol=1e-5)


def test_a_file_and_a_session(tmp_path):
    path = tmp_path / "linear.onnx"
    path.write_bytes(linear())
    from_file = OnnxModel(path, output="scores")
    from_session = OnnxModel(from_file.session, output="scores")
    for model in (from_file, from_session):
        assert gradient_of(model).numpy() == pytest.approx(WEIGHTS[:, 1], abs=1e-4)


@pytest.mark.parametrize("make", [str, Path, lambda path: OnnxModel(path, output="label").session])
def test_an_onnx_model_as_it_is_is_told_how(tmp_path, make):
    path = tmp_path / "linear.onnx"
    path.write_bytes(linear())
    with pytest.raises(TypeError, match=r"got \w+; give an ONNX model as fwdgrad.*OnnxModel"):
        fwdgrad.explain(make(path), X)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda rows: rows.astype(float) @ WEIGHTS, True),
        (lambda rows: rows.copy() @ WEIGHTS, True),
        (lambda rows: rows.iloc[0], False),  # which an array has not, either
    ],
)
def test_a_function_of_arrays_as_it_is_is_told_how(function, said):
    with pytest.raises(ModelError, match="'Tensor' object has no attribute") as caught:
        gradient_of(function)
    assert ("fwdgrad.adapters.arrays.NumpyModel(function)" in str(caught.value)) == said


def test_labels_from_onnx():
    model = OnnxModel(linear(), output="label")
    label = int(model(X[None])[0])
    method = ForwardGradient(scale=1.0)
    result = fwdgrad.explain(model, X, method=method, objective=KeptLabel(label), n_samples=64)
    assert result.score == 1.0


def test_another_input_is_fixed():
    shift = np.array([1.0, 2.0, 3.0], dtype=np.float32)
    model = OnnxModel(linear(second=True), output="scores", fixed={"shift": shift})
    assert model(X[None])[0].numpy() == pytest.approx(X.numpy() @ WEIGHTS + shift, abs=1e-5)
    with pytest.raises(ValueError, match="input must be one of 'rows', 'shift', got None"):
        OnnxModel(linear(second=True), output="scores")
    with pytest.raises(ValueError, match="fixed must give a value for 'shift', got none"):
        OnnxModel(linear(second=True), input="rows", output="scores")
    with pytest.raises(ValueError, match="fixed must name inputs of the model, 'rows', 'shift'"):
        OnnxModel(linear(second=True), output="scores", fixed={"shft": shift})


def shifted(rows, shift, scale=None):
    """scores = rows + shift, times a scale: all of open batches, or of other axes, as named."""
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    inputs = {"rows": (1, rows), "shift": (1, shift)} | ({"scale": (1, scale)} if scale else {})
    nodes = [helper.make_node("Add", ["rows", "shift"], ["sum" if scale else "scores"])]
    if scale:
        nodes.append(helper.make_node("Mul", ["sum", "scale"], ["scores"]))
    values = [helper.make_tensor_value_info(n, k, shape) for n, (k, shape) in inputs.items()]
    out = helper.make_tensor_value_info("scores", 1, [rows[0], 4])
    graph = helper.make_graph(nodes, "graph", values, [out])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()


@pytest.mark.parametrize("axes", [["batch", 4], [None, 4]], ids=["named", "unnamed"])
@pytest.mark.parametrize(
    "form",
    [
        lambda v: v,
        lambda v: v[0],
        lambda v: v.astype(np.float64),
        lambda v: v.tolist(),
        torch.tensor,
    ],
    ids=["as it is", "without a batch", "float64", "list", "tensor"],
)
def test_what_is_fixed_is_repeated_along_an_open_batch(axes, form):
    shift = np.array([[1.0, 2.0, 3.0, 4.0]], dtype=np.float32)
    model = OnnxModel(shifted(axes, axes), input="rows", fixed={"shift": form(shift)})
    batch = torch.stack([X, 2 * X, 3 * X])
    assert model(batch).numpy() == pytest.approx(batch.numpy() + shift, abs=1e-6)
    assert model(batch[:1]).numpy() == pytest.approx(batch[:1].numpy() + shift, abs=1e-6)
    assert gradient_of(model).numpy() == pytest.approx([0, 1, 0, 0], abs=1e-4)


def test_another_open_axis_is_not_the_batch():
    model = shifted(["batch", 4], ["batch", 4], ["any", 1])
    with_scale = OnnxModel(model, input="rows", fixed={"shift": X[None] * 0, "scale": [[2.0]]})
    seen = []
    session = with_scale.session

    class Session:
        def run(self, outputs, values):
            seen.append({name: value.shape for name, value in values.items()})
            return session.run(outputs, values)

    with_scale.session = Session()
    batch = torch.stack([X, -X])
    assert with_scale(batch).numpy() == pytest.approx(2 * batch.numpy(), abs=1e-6)
    assert seen == [{"rows": (2, 4), "shift": (2, 4), "scale": (1, 1)}]


def test_a_classifiers_map():
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    base = onnx.load_model_from_string(linear())
    zip_map = helper.make_node(
        "ZipMap", ["scores"], ["map"], domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2]
    )
    base.graph.node.append(zip_map)
    kind = helper.make_map_type_proto(INT64, helper.make_tensor_type_proto(FLOAT, []))
    del base.graph.output[:]
    base.graph.output.append(helper.make_value_info("map", helper.make_sequence_type_proto(kind)))
    base.opset_import.append(helper.make_opsetid("ai.onnx.ml", 1))
    model = OnnxModel(base.SerializeToString())
    assert gradient_of(model).numpy() == pytest.approx(WEIGHTS[:, 1], abs=1e-4)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, ValueError, "output must be one of 'scores', 'label', got None"),
        ({"output": "logits"}, ValueError, "output must be one of 'scores', 'label', got 'logits'"),
        ({"input": "image", "output": "scores"}, ValueError, "input must be one of 'rows', got"),
    ],
)
def test_names_that_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        OnnxModel(linear(), **options)


def test_an_input_of_token_numbers():
    with pytest.raises(TypeError, match=r"takes tensor\(int64\): noise cannot go on token numbers"):
        OnnxModel(linear(INT64, weights=WEIGHTS.round()), output="scores")


def test_a_shape_that_does_not_fit():
    model = OnnxModel(linear(), output="scores")
    with pytest.raises(
        ModelError, match=r"'rows' is of shape .*4\), got a batch of shape \(1, 5\)"
    ):
        fwdgrad.explain(model, torch.rand(5), method="forward-gradient")
    with pytest.raises(ModelError, match=r"got a batch of shape \(1, 2, 2\)"):
        fwdgrad.explain(model, torch.rand(2, 2), method="forward-gradient")


def test_files_that_are_refused(tmp_path):
    pytest.importorskip("onnxruntime")
    with pytest.raises(FileNotFoundError, match="does not exist as a file"):
        OnnxModel(tmp_path / "nowhere.onnx")
    with pytest.raises(ValueError, match="of 4 bytes cannot be loaded by ONNX Runtime"):
        OnnxModel(b"onnx")
    with pytest.raises(TypeError, match="model must be a path, bytes or a session"):
        OnnxModel(3)


def test_onnx_has_no_gradient():
    with pytest.raises(ModelError, match="gives no gradient"):
        fwdgrad.explain(OnnxModel(linear(), output="scores"), X, method="gradient", target=0)


# ---- the example ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--row 569", "--row must be 0 .. 568, got 569"),
        ("--row -1", "--row must be 0 .. 568, got -1"),
        ("--samples 3", "n_samples must be even"),
        ("--onnx", "--onnx needs skl2onnx: pip install skl2onnx"),
    ],
)
def test_the_example_says_what_is_wrong(options, message, monkeypatch, capsys):
    pytest.importorskip("sklearn")
    path = Path(__file__).parents[2] / "examples" / "explain_table.py"
    spec = importlib.util.spec_from_file_location("explain_table", path)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    monkeypatch.setattr(sys, "argv", ["explain_table.py", *options.split()])
    monkeypatch.setitem(sys.modules, "skl2onnx", None)  # as where it is not installed
    with pytest.raises(SystemExit) as left:
        example.main()
    assert message in capsys.readouterr().err + str(left.value)
