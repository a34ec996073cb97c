"""Models behind HTTP: what fails is tried again, left out or told; secrets are never shown."""

import base64
import io
import logging
import math
import runpy
import shutil
import ssl
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

import fwdgrad
from fwdgrad.adapters.http import HttpModel, picture_jpeg, picture_png
from fwdgrad.errors import ModelError

from .http_server import Answer, serving
from .models import mostly_slow

pytest.importorskip("httpx2")
pytestmark = pytest.mark.usefixtures("direct")

WEIGHTS = torch.linspace(-1, 1, 80, dtype=torch.float64).reshape(40, 2)
X = torch.linspace(0.5, 2, 6, dtype=torch.float64)


@pytest.fixture
def direct(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def local(batch):
    # In an order that does not depend on the batch, as BLAS's does.
    return sum(batch[:, i, None].double() * WEIGHTS[i] for i in range(batch.shape[1]))


def good(request):
    rows = torch.tensor(request.json["rows"], dtype=torch.float64)
    return Answer({"scores": local(rows).tolist()})


def model_of(url, **options):
    options = {"retries": 2, "timeout": 5.0, **options}
    return HttpModel(
        url,
        encode=lambda batch: {"rows": batch.tolist()},
        decode=lambda found: found["scores"],
        **options,
    )


def from_threads(model, batch, threads):
    with ThreadPoolExecutor(threads) as pool:
        return torch.cat(list(pool.map(model, batch.split(1))))


# ---- what goes well --------------------------------------------------------------------------


def test_scores_come_back_in_their_order_in_requests_of_the_batch_size():
    with serving(good) as server:
        batch = torch.randn(7, 6, dtype=torch.float64)
        assert torch.equal(model_of(server.url, batch_size=3)(batch), local(batch))
        assert [len(request.json["rows"]) for request in server.requests] == [3, 3, 1]


def test_a_map_through_http_has_the_same_bits():
    with serving(good) as server:
        options = {"target": 1, "n_samples": 32, "seed": 3, "batch_size": 8}
        there = fwdgrad.explain(model_of(server.url), X, **options)
        here = fwdgrad.explain(local, X, **options)
    assert torch.equal(there.attribution, here.attribution)
    assert there.score == here.score


def test_a_target_by_name():
    with serving(good) as server:
        model = model_of(server.url, labels=["cat", "dog"])
        assert fwdgrad.explain(model, X, "dog", n_samples=4).target == 1
        with pytest.raises(ValueError, match="'cow' is no class of the model"):
            fwdgrad.explain(model, X, "cow", n_samples=4)
        with pytest.raises(ValueError, match="must be a number without labels="):
            fwdgrad.explain(model_of(server.url), X, "dog", n_samples=4)


def test_several_threads_have_their_requests_in_flight_at_once():
    def late(request):
        return Answer(good(request).content, late=0.05)

    with serving(late) as server:
        batch = torch.randn(64, 6, dtype=torch.float64)
        assert torch.equal(
            from_threads(model_of(server.url, concurrency=8), batch, 8), local(batch)
        )
        assert server.most_at_once == 8


def test_the_rate_is_kept_across_threads():
    with serving(good) as server:
        model = model_of(server.url, rate=50, concurrency=4)
        from_threads(model, torch.randn(11, 6), 4)
        times = sorted(request.time for request in server.requests)
        assert times[-1] - times[0] > 0.9 * 10 / 50


def test_it_says_before_a_run_how_many_requests_it_makes(capsys):
    url = "http://127.0.0.1:9/score?key=secret1"
    model_of(url, batch_size=8, concurrency=16).announce(1025)
    assert capsys.readouterr().err == ("129 requests to http://127.0.0.1:9/score, 16 at a time\n")
    model_of(url, batch_size=1, concurrency=2, rate=10).announce(1000)
    assert "at least 100 s" in capsys.readouterr().err


# ---- what is tried again ---------------------------------------------------------------------


def test_a_share_that_fails_once_is_there_in_the_end():
    failed = set()

    def answer(request):
        fails = request.number % 10 == 3 and request.body not in failed
        failed.update([request.body] * fails)
        return Answer({"error": "busy"}, 500) if fails else good(request)

    with serving(answer) as server:
        model, batch = model_of(server.url), torch.randn(40, 6, dtype=torch.float64)
        assert torch.equal(from_threads(model, batch, 4), local(batch))
        assert len(server.requests) > 40
        assert not model.failures


@pytest.mark.slow
def test_retry_after_holds_back_all_requests():
    def answer(request):
        if request.number == 1:
            return Answer({}, 503, {"Retry-After": "1"})
        return good(request)

    with serving(answer) as server:
        model, batch = model_of(server.url), torch.randn(2, 6, dtype=torch.float64)
        model(batch[:1])
        assert torch.equal(model(batch), local(batch))
        assert server.requests[2].time - server.requests[1].time > 0.95


@pytest.mark.slow
def test_a_server_that_limits_the_rate_loses_nothing():
    # Four requests in each fifth of a second, of eight threads that come at once.
    taken, lock = {}, threading.Lock()

    def answer(request):
        with lock:
            slot = int(request.time / 0.2)
            taken[slot] = taken.get(slot, 0) + 1
            over = taken[slot] > 4
        if over:
            return Answer({}, 429, {"Retry-After": "0.2"})
        return good(request)

    with serving(answer) as server:
        model = model_of(server.url, concurrency=8, retries=1)
        batch = torch.randn(24, 6, dtype=torch.float64)
        assert torch.equal(from_threads(model, batch, 8), local(batch))
        assert not model.failures


def test_a_connection_closed_in_the_middle_is_tried_again():
    def answer(request):
        found = good(request)
        found.closes = request.number == 0
        return found

    with serving(answer) as server:
        batch = torch.randn(2, 6, dtype=torch.float64)
        assert torch.equal(model_of(server.url)(batch), local(batch))
        assert len(server.requests) == 2


# ---- what fails for good ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "reason", "tries"),
    mostly_slow(
        [
            (Answer({}, 500), "answered 500 Internal Server Error", 3),
            (Answer({"detail": "row 3"}, 422), "answered 422 Unprocessable", 1),
            (Answer(b"<html>", 200), "answered what is no JSON: '<html>'", 3),
            (Answer({"error": "no"}), "answered what decode cannot read (KeyError: 'scores')", 3),
            (Answer({"scores": [[1, 2]]}, closes=True), "closed the connection", 3),
        ],
        keep=2,
    ),
)
def test_one_request_that_fails_for_good_leaves_its_sample_out(bad, reason, tries):
    def answer(request):
        return bad if request.json["rows"][0][0] == 7 else good(request)

    with serving(answer) as server:
        model, batch = model_of(server.url, batch_size=1), torch.ones(3, 6, dtype=torch.float64)
        batch[1] = 7
        found = model(batch)
        assert found.isnan().any(1).tolist() == [False, True, False]
        assert torch.equal(found[::2], local(batch[::2]))
        assert len(server.requests) == 2 + tries
        assert [(key.startswith(reason), n) for key, n in model.failures.items()] == [(True, 1)]
        assert 0 < model.max_missing < 1


def test_a_run_goes_on_without_some_samples_and_stops_without_many(tmp_path):
    def failing(share):
        def answer(request):
            (row,) = request.json["rows"]
            # X itself is not of these, nor is X with one sign changed.
            fails = sum(value == 0 for value in row) in share
            return Answer({}, 500) if fails else good(request)

        return answer

    options = {"target": 0, "n_samples": 64, "seed": 1, "objective": "output"}
    options["method"] = fwdgrad.Regions(0.0)
    with serving(failing({5, 6})) as server:
        model = model_of(server.url, batch_size=1, retries=0, max_missing=0.2)
        with pytest.warns(UserWarning, match=r"\d of 64 samples have no score"):
            found = fwdgrad.explain(model, X, **options)
        assert found.provenance["missing_samples"] == model.failures.total() == 7
        assert set(model.failures) == {"answered 500 Internal Server Error"}
        exact = X * WEIGHTS[:6, 0]
        assert torch.corrcoef(torch.stack([found.attribution, exact]))[0, 1] > 0.9
    path = tmp_path / "run.safetensors"
    with serving(failing({2, 3, 4})) as server:
        model = model_of(server.url, batch_size=1, retries=0)
        with pytest.raises(ModelError, match=r"have no score, more than max_missing=0.1"):
            fwdgrad.explain(model, X, checkpoint=path, **options)
        assert path.exists()


def test_scores_that_are_not_finite_are_counted():
    answer = Answer(b'{"scores": [[NaN, 1.0], [1.0, 2.0]]}')
    with serving(lambda _: answer) as server:
        model = model_of(server.url)
        assert math.isnan(model(torch.ones(2, 6))[0, 0])
        assert model.failures == {"gave scores that are not finite": 1}


AT_ONCE = [
    (Answer({"error": "no key"}, 401), "answered 401 Unauthorized.*headers_from=", 1),
    (Answer({}, 403), "answered 403 Forbidden.*headers_from", 1),
    (Answer({}, 404), "answered 404 Not Found.*path of url", 1),
    (Answer({}, 413), r"answered 413 .* to a body of \d+ bytes.*; give batch_size=2", 1),
    (Answer({}, 422), "answered 422 .*batch_size=1", 1),
    (Answer({}, 307, {"Location": "/new"}), r"answered 307 .*give url='http://127.*/new'", 1),
    (Answer({}, 429, {"Retry-After": "7200"}), "asks to wait 7200 s; run it again then", 1),
    (Answer({}, 429), r"answered 429 Too Many Requests \(3 times\): {}; .* by rate", 3),
    (Answer({}, 500), r"answered 500 Internal Server Error \(3 times\)", 3),
    (Answer(b"[1, 2", 200), "answered what is no JSON: '.1, 2'", 1),
    (Answer({"predictions": [1]}), r"decode cannot read \(KeyError: 'scores'\): {\"predictions", 1),
    (Answer({"scores": [[1, 2]]}), "gave 1 rows of scores for 4 samples.*batch_size=1", 1),
    (Answer({"scores": [[1, 2]]}, closes=True), r"closed the connection .*\(3 times\)", 3),
    (Answer({}, late=0.5), r"did not answer within 0.2 s \(3 times\); give a longer timeout", 3),
]


@pytest.mark.parametrize(("answer", "message", "tries"), mostly_slow(AT_ONCE, 4))
def test_what_every_request_would_meet_ends_the_run_in_one_line(answer, message, tries):
    with serving(lambda _: answer) as server:
        model = model_of(server.url + "/score?key=secret1", timeout=0.2)
        with pytest.raises(ModelError, match=message) as caught:
            model(torch.ones(4, 6))
        text = str(caught.value)
        assert text.startswith(server.url + "/score ")
        assert "\n" not in text
        assert len(text) < 300
        assert len(server.requests) == tries


def test_another_number_of_scores_ends_the_run_though_others_went_well():
    def answer(request):  # a server that takes the first row alone
        return Answer({"scores": good(request).content["scores"][:1]})

    with serving(answer) as server:
        model = model_of(server.url)
        model(torch.ones(1, 6))
        with pytest.raises(ModelError, match="gave 1 rows of scores for 3 samples"):
            model(torch.ones(3, 6))


def test_a_key_that_expires_ends_the_run():
    with serving(lambda r: good(r) if r.number < 3 else Answer({}, 401)) as server:
        with pytest.raises(ModelError, match="answered 401"):
            fwdgrad.explain(model_of(server.url), X, 0, n_samples=32, batch_size=4)
        assert len(server.requests) <= 3 + 4


def test_a_host_that_cannot_be_reached_is_told_at_once():
    with serving(good) as server:
        url = server.url
    started = time.monotonic()
    with pytest.raises(
        ModelError, match=r"cannot be reached: .*; look at the host and port of url"
    ):
        model_of(url, retries=9)(torch.ones(1, 6))
    with pytest.raises(ModelError, match="cannot be reached"):
        model_of("http://no-such-host.invalid/", retries=9)(torch.ones(1, 6))
    assert time.monotonic() - started < 5


def test_a_server_that_goes_away_ends_the_run_after_some_tries():
    def answer(request):
        return Answer(good(request).content, headers={"Connection": "close"})

    with serving(answer) as server:
        model = model_of(server.url, retries=1)
        model(torch.ones(1, 6))
    with pytest.raises(ModelError, match=r"cannot be reached \(2 times\): .*; look at"):
        model(torch.ones(1, 6))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes a certificate with openssl")
def test_a_certificate_that_is_not_trusted(tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    line = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"]
    line += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate]
    subprocess.run(line, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with serving(good, context) as server:
        with pytest.raises(
            ModelError, match=r"certificate that is not trusted: .*; give verify=ssl"
        ):
            model_of(server.url)(torch.ones(1, 6))
        trusted = ssl.create_default_context(cafile=certificate)
        assert model_of(server.url, verify=trusted)(torch.ones(1, 6)).shape == (1, 2)


# ---- secrets ---------------------------------------------------------------------------------


def test_secrets_are_sent_and_never_shown(tmp_path, monkeypatch, capsys, caplog):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("MODEL_TOKEN", "sk-token-1\n")
    secrets = ["sk-token-1", "header-secret", "password1"]
    told = []

    def answer(request):
        if request.number == 9:  # as careless servers do
            return Answer({"error": f"bad key {request.headers}"}, 401)
        return good(request)

    with serving(answer) as server:
        model = model_of(
            server.url,
            headers={"X-Key": "header-secret"},
            headers_from={"X-Token": "Bearer $MODEL_TOKEN"},
            auth=("user", "password1"),
        )
        model.announce(8)
        told += [repr(model), repr(model.client), str(vars(model))]
        options = {"batch_size": 8, "checkpoint": tmp_path / "run.safetensors"}
        found = fwdgrad.explain(model, X, 0, n_samples=64, **options)
        found.save(tmp_path / "map.safetensors")
        assert len(server.requests) == 9
        with pytest.raises(ModelError) as caught:
            fwdgrad.explain(model, X, 0, n_samples=64, seed=1)
        error = caught.value
        while error is not None:
            told += [str(error), repr(error)]
            error = error.__cause__ or error.__context__
        headers = server.requests[0].headers
    assert headers["x-token"] == "Bearer sk-token-1"
    assert headers["x-key"] == "header-secret"
    assert headers["authorization"].startswith("Basic ")
    assert "bad key" in "".join(told)
    told += [repr(found), str(found.provenance), *capsys.readouterr(), caplog.text]
    for path in tmp_path.iterdir():
        told.append(path.read_bytes().decode("latin-1"))
    assert [secret for secret in secrets for text in told if secret in text] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"headers_from": {"X": "Bearer $NO_SUCH_KEY"}}, "headers_from names NO_SUCH_KEY, which"),
        ({"headers_from": {"X": "sk-secret"}}, "headers_from must name a variable .* for 'X'"),
        ({"headers_from": {"X": 3}}, "headers_from must name a variable"),
        ({"headers": {"X": "sk-secret\nY: 1"}}, "headers has a value for 'X' that no header may"),
        ({"headers": ["sk-secret"]}, "headers must be a dict of names and values, got list"),
        ({"url": "http://me:sk-secret@host/"}, "url must have no password"),
        ({"url": "host:80/score"}, "url must be http://host"),
        ({"url": None}, "url must be a text, got NoneType"),
        ({"concurrency": 0}, "concurrency must be at least 1, got 0"),
        ({"timeout": 0}, "timeout must be positive and finite, got 0"),
        ({"rate": -1.0}, "rate must be positive"),
        ({"max_missing": 2}, r"max_missing must lie in 0 \.\. 1, got 2"),
        ({"encode": None}, "encode must be a function, got NoneType"),
        ({"no_such": 1}, "no_such"),
    ],
)
def test_an_argument_that_will_not_do_is_named(options, message):
    given = {"url": "http://host/", "encode": list, "decode": list, **options}
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        HttpModel(given.pop("url"), **given)
    assert "sk-secret" not in str(caught.value)


# ---- pictures --------------------------------------------------------------------------------


def test_pictures_as_png_and_jpeg():
    image = pytest.importorskip("PIL.Image")
    levels = torch.randint(0, 256, (3, 8, 12), dtype=torch.uint8)

    def opened(text):
        return np.asarray(image.open(io.BytesIO(base64.b64decode(text))))

    assert np.array_equal(opened(picture_png(levels / 255)), levels.permute(1, 2, 0).numpy())
    assert np.array_equal(opened(picture_png(levels[:1] / 255)), levels[0].numpy())
    smooth = torch.linspace(0, 1, 16).expand(3, 16, 16)
    found = opened(picture_jpeg(smooth)) / 255
    assert np.abs(found - smooth.permute(1, 2, 0).numpy()).max() < 0.05
    with pytest.raises(ValueError, match=r"row must be one picture .* got \(2, 3, 8, 12\)"):
        picture_png(torch.zeros(2, 3, 8, 12))


# ---- the time that it must reach --------------------------------------------------------------


@pytest.mark.slow
def test_many_late_requests_take_little_more_than_their_time_in_flight():
    # 1,024 requests of 150 ms, of which 10 % fail once, 16 at a time: 10.6 s at least.
    failed, lock = set(), threading.Lock()

    def answer(request):
        with lock:
            fails = request.number % 10 == 7 and request.body not in failed
            failed.update([request.body] if fails else [])
        found = Answer({}, 500) if fails else good(request)
        found.late = 0.15
        return found

    options = {"target": 0, "n_samples": 1024, "batch_size": 1}
    x = torch.linspace(0.5, 2, 40, dtype=torch.float64)
    here = fwdgrad.explain(local, x, method=fwdgrad.Regions(0.0), **options)
    with serving(answer) as server:
        model = model_of(server.url, concurrency=16, batch_size=1, retries=5)
        started = time.monotonic()
        found = fwdgrad.explain(model, x, method=fwdgrad.Regions(0.0), **options)
        seconds = time.monotonic() - started
        assert len(server.requests) > 1.08 * 1024
        assert not model.failures
    assert torch.equal(found.attribution, here.attribution)
    assert seconds < 13


@pytest.mark.slow
def test_the_example_of_an_endpoint(monkeypatch, capsys):
    path = Path(__file__).parents[2] / "examples" / "explain_endpoint.py"
    monkeypatch.setattr(sys, "argv", [str(path), "--samples", "256"])
    monkeypatch.setenv("ENDPOINT_KEY", "set back afterwards")
    runpy.run_path(str(path), run_name="__main__")
    out, err = capsys.readouterr()
    assert "P(benign) = 0.05; 256 samples" in out
    assert "left out {}" in out
    assert err.startswith("8 requests to http://127.0.0.1:")
    assert "only-for-this-example" not in out + err
