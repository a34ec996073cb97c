"""The Open Inference Protocol: in JSON and in bytes, against a server written to its text."""

import json
import os
import socket
import struct
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

import fwdgrad
from fwdgrad.adapters.open_inference import OpenInference
from fwdgrad.errors import ModelError

from .http_server import Answer, serving
from .models import mostly_slow
from .test_http import X, direct, local  # noqa: F401

pytest.importorskip("httpx2")
pytestmark = pytest.mark.usefixtures("direct")

LENGTH = "inference-header-content-length"
KINDS = {"FP16": "e", "FP32": "f", "FP64": "d", "INT32": "i", "UINT8": "B"}
INPUT = {"name": "rows", "datatype": "FP32", "shape": [-1, 6]}
OUTPUT = {"name": "scores", "datatype": "FP64", "shape": [-1, 2]}


def unpacked(request):
    """The tensor of a request, by the protocol's own words and not by NumPy's types."""
    length = int(request.headers.get(LENGTH, len(request.body)))
    body, rest = json.loads(request.body[:length]), request.body[length:]
    (sent,) = body["inputs"]
    data = sent.get("data")
    if data is None:
        assert sent["parameters"]["binary_data_size"] == len(rest)
        kind = KINDS[sent["datatype"]]
        data = list(struct.unpack(f"<{len(rest) // struct.calcsize(kind)}{kind}", rest))
    return body, sent, torch.tensor(data, dtype=torch.float64).reshape(sent["shape"])


def answer_of(inputs=(INPUT,), outputs=(OUTPUT,), model=local):
    def answer(request):
        if request.method == "GET":
            if request.path != "/v2/models/my%20model":
                return Answer({"error": "Request for unknown model"}, 404)
            return Answer({"name": "my model", "inputs": list(inputs), "outputs": list(outputs)})
        assert request.path == "/v2/models/my%20model/infer"
        body, _, rows = unpacked(request)
        scores = model(rows)
        found = {"name": "scores", "datatype": "FP64", "shape": list(scores.shape)}
        flat = scores.flatten().tolist()
        parts = [body, *body.get("outputs", [])]
        if not any(any(part.get("parameters", {}).values()) for part in parts):
            return Answer({"outputs": [{**found, "data": flat}]})
        data = struct.pack(f"<{len(flat)}d", *flat)
        other = {"name": "other", "datatype": "INT32", "shape": [1]}
        other["parameters"] = {"binary_data_size": 4}
        both = [other, {**found, "parameters": {"binary_data_size": len(data)}}]
        start = json.dumps({"outputs": both}).encode()
        headers = {"Inference-Header-Content-Length": str(len(start))}
        return Answer(start + b"1234" + data, headers=headers)

    return answer


@pytest.mark.parametrize("binary", [False, True])
def test_scores_in_json_and_in_bytes(binary):
    with serving(answer_of()) as server:
        model = OpenInference(server.url, "my model", binary=binary)
        batch = torch.randn(5, 6)
        assert torch.equal(model(batch), local(batch))
        _, sent, rows = unpacked(server.requests[-1])
        assert (sent["name"], sent["datatype"], sent["shape"]) == ("rows", "FP32", [5, 6])
        assert torch.equal(rows, batch.double())
        assert (LENGTH in server.requests[-1].headers) == binary


def test_a_map_is_that_of_the_model_itself():
    with serving(answer_of()) as server:
        model = OpenInference(server.url, "my model", labels=["no", "yes"])
        options = {"n_samples": 32, "batch_size": 8}
        there = fwdgrad.explain(model, X.float(), "yes", **options)
    here = fwdgrad.explain(local, X.float(), 1, **options)
    assert torch.equal(there.attribution, here.attribution)


@pytest.mark.parametrize(
    ("datatype", "sent"),
    mostly_slow(
        [
            ("UINT8", [0, 0, 1, 2, 255]),
            ("FP16", [-3.0, 0.25, 1.0, 1.5996, 300.0]),
            ("INT32", [-3, 0, 1, 2, 300]),
            ("FP64", [-3.0, 0.25, 1.0, 1.6000000238418579, 300.0]),
        ],
        keep=2,
    ),
)
@pytest.mark.parametrize("binary", [False, True])
def test_values_in_the_type_that_is_asked_for(datatype, sent, binary):
    given = [{"name": "x", "datatype": datatype, "shape": [-1, 5]}]
    with serving(answer_of(given, model=lambda rows: rows.sum(1))) as server:
        model = OpenInference(server.url, "my model", binary=binary)
        model(torch.tensor([[-3, 0.25, 1, 1.6, 300]]))
        body, _, rows = unpacked(server.requests[-1])
        assert body["inputs"][0]["datatype"] == datatype
        assert rows[0].tolist() == pytest.approx(sent, abs=1e-4)
        if datatype == "FP64":
            assert rows[0].tolist() == sent


def test_metadata_without_tensors_take_defaults():
    with serving(answer_of([], [])) as server:
        model = OpenInference(server.url, "my model")
        assert torch.equal(model(X[None]), local(X[None]))
        _, sent, _ = unpacked(server.requests[-1])
        assert (sent["name"], sent["datatype"]) == ("input-0", "FP64")
        named = OpenInference(server.url, "my model", input_name="rows", output_name="scores")
        assert torch.equal(named(X[None]), local(X[None]))
        body, sent, _ = unpacked(server.requests[-1])
        assert (sent["name"], body["outputs"]) == ("rows", [{"name": "scores"}])


def test_a_model_of_single_samples_gets_them():
    with serving(answer_of([{**INPUT, "shape": [1, 6]}])) as server:
        model = OpenInference(server.url, "my model")
        assert torch.equal(model(torch.ones(3, 6)), local(torch.ones(3, 6)))
        assert len(server.requests) == 4


@pytest.mark.parametrize(
    ("inputs", "outputs", "options", "message"),
    [
        ([INPUT, {**INPUT, "name": "b"}], [], {}, "input_name must be one of rows, b, got None"),
        ([INPUT], [OUTPUT], {"input_name": "c"}, "input_name must be one of rows, got 'c'"),
        ([INPUT], [OUTPUT, {**OUTPUT, "name": "b"}], {}, "output_name must be one of scores, b"),
        ([INPUT], [OUTPUT], {"datatype": "float"}, "datatype must be one of FP16, .*got 'float'"),
        (
            [{**INPUT, "datatype": "BYTES"}],
            [],
            {},
            "datatype must be one of .*, got 'BYTES' of the model's input 'rows'",
        ),
    ],
)
def test_an_argument_that_will_not_do_is_named(inputs, outputs, options, message):
    with serving(answer_of(inputs, outputs)) as server, pytest.raises(ValueError, match=message):
        OpenInference(server.url, "my model", **options)


@pytest.mark.slow
def test_what_the_server_does_is_told_in_a_line():
    with serving(answer_of()) as server:
        with pytest.raises(ModelError, match=r"answered 404 .*unknown model.*model's na"):
            OpenInference(server.url, "your model")
        model = OpenInference(server.url, "my model")
        with pytest.raises(ModelError, match=r"input 'rows' takes \(-1, 6\).* got \(2, 5\)"):
            model(torch.ones(2, 5))
    with serving(answer_of([INPUT], [])) as server:
        model = OpenInference(server.url, "my model", binary=True)
        with pytest.raises(ModelError, match="returned other, scores: give output_name="):
            model(torch.ones(2, 6))
        model = OpenInference(server.url, "my model", output_name="classes")
        with pytest.raises(ModelError, match="has no output 'classes', but scores"):
            model(torch.ones(2, 6))
    wrong = serving(lambda _: Answer(["my model"]))
    with wrong as server, pytest.raises(ModelError, match="no metadata of a model"):
        OpenInference(server.url, "my model")


# ---- real servers and clients ------------------------------------------------------------------


@pytest.mark.slow
def test_bytes_are_those_of_tritonclient():
    client = pytest.importorskip("tritonclient.http")
    batch = torch.randn(3, 6)
    with serving(answer_of()) as server:
        OpenInference(server.url, "my model", binary=True)(batch)
        body, _, rows = unpacked(server.requests[-1])
        sent = client.InferInput("rows", [3, 6], "FP32")
        sent.set_data_from_numpy(batch.numpy(), binary_data=True)
        asked = client.InferRequestedOutput("scores", binary_data=True)
        theirs, length = client.InferenceServerClient.generate_request_body([sent], outputs=[asked])
        assert json.loads(theirs[:length]) == body
        assert theirs[length:] == batch.numpy().tobytes()
        assert torch.equal(rows, batch.double())


@pytest.mark.slow
def test_a_forest_in_mlserver(tmp_path):
    python = os.environ.get("MLSERVER_PYTHON", sys.executable)  # it pins much: in its own venv
    if python == sys.executable:
        pytest.importorskip("mlserver_sklearn")
    joblib = pytest.importorskip("joblib")
    from sklearn.ensemble import RandomForestClassifier

    rows = np.random.default_rng(0).normal(size=(200, 6))
    forest = RandomForestClassifier(10, random_state=0).fit(rows, rows[:, 0] > 0)
    joblib.dump(forest, tmp_path / "forest.joblib")
    ports = []
    for _ in range(3):
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            ports.append(one.getsockname()[1])
    settings = {"host": "127.0.0.1", "parallel_workers": 0, "debug": False}
    settings |= dict(zip(("http_port", "grpc_port", "metrics_port"), ports, strict=True))
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    model = {"name": "forest", "implementation": "mlserver_sklearn.SKLearnModel"}
    model["parameters"] = {"uri": "./forest.joblib", "version": "1"}
    (tmp_path / "model-settings.json").write_text(json.dumps(model))
    line = [python, "-c", "from mlserver.cli import main; main()", "start", str(tmp_path)]
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen(line, stdout=log, stderr=log)
    try:
        options = {"output_name": "predict_proba", "datatype": "FP64"}
        for _ in range(120):
            try:
                found = OpenInference(f"http://127.0.0.1:{ports[0]}", "forest", **options)
                break
            except ModelError:
                assert process.poll() is None, (tmp_path / "log").read_text()
                time.sleep(0.5)
        batch = torch.tensor(rows[:8])
        assert found(batch).numpy() == pytest.approx(forest.predict_proba(rows[:8]))
        explanation = fwdgrad.explain(
            found, batch[0], 1, method=fwdgrad.Regions(0.0), n_samples=64, batch_size=16
        )
        assert explanation.attribution.abs().argmax() == 0
        options |= {"binary": True, "retries": 0}
        found = OpenInference(f"http://127.0.0.1:{ports[0]}", "forest", **options)
        with pytest.raises(ModelError, match="such as MLServer, needs binary=False"):
            found(batch)
    finally:
        process.terminate()
        process.wait(20)
