"""Explanations in the actors of Ray: a dataset's rows, and one input's run."""

import os
import socket
import sys
import time

import numpy as np
import pytest
import torch

import fwdgrad
from fwdgrad import ModelError, Regions
from fwdgrad.integrations import ray_workers
from fwdgrad.integrations.ray import Explainer, RayWorkers

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow

ROWS = 24
X = torch.rand(ROWS, 3, 32, 32, generator=torch.Generator().manual_seed(0))
W = torch.sin(torch.arange(2 * 3 * 32 * 32.0)).reshape(2, -1)
RUN = {"n_samples": 64, "method": Regions(cell=8), "objective": "output", "batch_size": 4}
BROKEN, DEADLY = 5, 17  # rows: no number is in it; its process is killed once


def score(batch):
    return torch.tanh(batch.flatten(1) @ W.T / 4)


class Dying:
    """A model whose process is killed when it first sees one of the inputs."""

    def __init__(self, folder):
        self.folder = folder
        with open(os.path.join(folder, f"loaded-{os.getpid()}"), "a") as file:
            file.write("once ")

    def __call__(self, batch):
        dead = os.path.join(self.folder, "dead")
        if torch.equal(batch[0], X[DEADLY]) and not os.path.exists(dead):
            open(dead, "w").close()
            os.kill(os.getpid(), 9)
        return score(batch)


@pytest.fixture(scope="module", autouse=True)
def cluster():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # actors import this file
        ray.init(
            "local", num_cpus=5, object_store_memory=80 * 2**20, include_dashboard=False,
            log_to_driver=False, logging_level="ERROR",
        )  # fmt: skip
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as an actor has: products of matrices may round by them
    yield
    torch.set_num_threads(threads)
    ray.shutdown()


@pytest.fixture(scope="module")
def explained(cluster, tmp_path_factory):
    """Rows that two actors explained, of which one was killed; what the model wrote."""
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    folder = tmp_path_factory.mktemp("ray")
    x = X.numpy().copy()
    x[BROKEN, 0, 0, 0] = np.nan
    rows = [{"number": i, "image": x[i]} for i in range(ROWS)]
    dataset = ray.data.from_items(rows, override_num_blocks=6).map_batches(
        Explainer,
        fn_constructor_kwargs={"model": lambda: Dying(str(folder)), "target": 1, **RUN},
        batch_size=4,
        compute=ray.data.ActorPoolStrategy(size=2),
    )
    return dataset.take_all(), folder


def test_every_row_is_explained_once_though_an_actor_is_killed(explained):
    rows, folder = explained
    assert (folder / "dead").exists()
    assert sorted(row["number"] for row in rows) == list(range(ROWS))
    for row in rows:
        if row["number"] == BROKEN:
            continue
        alone = fwdgrad.explain(score, X[row["number"]], 1, **RUN)
        assert row["error"] == ""
        assert row["attribution"].dtype == np.float32
        np.testing.assert_array_equal(row["attribution"], alone.attribution.numpy())
        np.testing.assert_array_equal(row["standard_error"], alone.standard_error.numpy())
        assert (row["target"], row["score"]) == (1, alone.score)
        assert row["reliability"] == alone.reliability


def test_a_row_that_fails_says_why(explained):
    [row] = [row for row in explained[0] if row["number"] == BROKEN]
    assert row["error"] == "ValueError: x must be finite, got nan at element 0"
    assert row["attribution"].shape == (3, 32, 32)
    assert np.isnan(row["attribution"]).all()
    assert row["target"] == -1


def test_an_actor_loads_the_model_once(explained):
    written = [file.read_text() for file in explained[1].glob("loaded-*")]
    assert written == ["once "] * 3  # two, and one in the place of that which was killed


def slow(batch):
    time.sleep(0.02)
    return score(batch)


@pytest.fixture(scope="module")
def four(cluster):
    class Kept:
        """Actors that several runs share."""

        def __init__(self, pool):
            self.pool = pool

        def open(self, model):
            import contextlib

            return contextlib.nullcontext(self.pool)

    with RayWorkers(4).open(slow) as pool:
        yield Kept(pool)


def assert_same_bits(one, other):
    for name in ("attribution", "standard_error"):
        assert torch.equal(getattr(one, name), getattr(other, name))
    assert (one.score, one.reliability) == (other.score, other.reliability)


def test_one_input_over_four_actors_has_the_same_bits(four):
    found = fwdgrad.explain(slow, X[0], [0, 1], workers=four, **RUN)
    alone = fwdgrad.explain(score, X[0], [0, 1], **RUN)
    for one, other in zip(found, alone, strict=True):
        assert_same_bits(one, other)


def test_actors_that_are_killed_are_replaced(four):
    before = set(four.pool._actors)

    def kill(done, of):
        if done == 16:
            ray.kill(next(iter(before)))

    run = {**RUN, "progress": kill}
    found = fwdgrad.explain(slow, X[0], 0, workers=four, **run)
    assert len(four.pool._actors) == 4
    assert len(four.pool._actors - before) == 1
    assert_same_bits(found, fwdgrad.explain(score, X[0], 0, **RUN))


def test_an_actor_that_dies_at_every_try(four, monkeypatch):
    monkeypatch.setattr(ray_workers, "_TRIES", 2)

    def die(model):
        os._exit(1)

    with pytest.raises(ModelError, match=r"^2 workers died one after the other in the same call"):
        four.pool.submit(die).result()
    assert four.pool.submit(lambda model: model is not None).result()


def test_an_error_of_the_model_keeps_the_rest_in_the_checkpoint(four, tmp_path):
    file = tmp_path / "run.safetensors"
    run = {**RUN, "checkpoint": file}
    fails = four.pool.submit  # at the third micro-batch

    class Failing:
        count = 1

        def submit(self, call, work, first, *rest):
            return fails(fail if first == 8 else call, work, first, *rest)

        def share(self, value):
            return four.pool.share(value)

    with pytest.raises(ModelError, match=r"^no number \(samples 8 \.\. 11\); .* kept in") as caught:
        fwdgrad.explain(slow, X[0], 0, workers=type(four)(Failing()), **run)
    assert "\n" not in str(caught.value)
    calls = []

    def counted(batch):
        calls.append(len(batch))
        return score(batch)

    assert_same_bits(
        fwdgrad.explain(counted, X[0], 0, **run), fwdgrad.explain(score, X[0], 0, **RUN)
    )
    assert sum(calls) == 1 + 4 + 64 - 8  # at the input, and four scores asked for again


def fail(model, *arguments):
    raise ModelError("no number")


def test_a_model_that_no_worker_can_import(tmp_path, monkeypatch):
    (tmp_path / "of_one_machine.py").write_text("def score(batch):\n    return batch.sum(1)\n")
    monkeypatch.syspath_prepend(tmp_path)
    import of_one_machine

    (tmp_path / "of_one_machine.py").unlink()
    with pytest.raises(ModelError) as caught:
        fwdgrad.explain(of_one_machine.score, torch.rand(5), None, workers=RayWorkers(1))
    told = str(caught.value)
    assert "cannot load the model: ModuleNotFoundError: No module named 'of_one_machine'" in told
    assert "\n" not in told


def test_no_cluster_there(monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(
        ConnectionError, match=f"no cluster of Ray answers at '127.0.0.1:{port}' "
    ) as e:
        fwdgrad.explain(score, X[0], 0, workers=RayWorkers(2, f"127.0.0.1:{port}"), **RUN)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"count": 0}, "count must be at least 1"),
        ({"count": 2, "num_cpus": -1}, "num_cpus must be 0 or more, got -1"),
        ({"count": 2, "num_gpus": "1"}, "num_gpus must be a number, got str"),
    ],
)
def test_workers_that_cannot_be(wrong, message):
    with pytest.raises((ValueError, TypeError), match=message):
        RayWorkers(**wrong)


def test_a_folder_by_the_command_line(tmp_path, monkeypatch, capsys):
    from PIL import Image

    from fwdgrad.cli import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for number in range(3):
        Image.fromarray((X[number].permute(1, 2, 0) * 255).byte().numpy()).save(
            tmp_path / "photos" / f"{number}.png"
        )
    model = f"{__name__}:score"
    given = ["explain", "photos", "--model", model, "--size", "32", "--samples", "16"]
    given += ["--no-evidence", "--no-progress", "--seed", "3"]
    assert main([*given, "--output", "there", "--ray", "auto", "--workers", "2"]) == 0
    assert "3 explained" in capsys.readouterr().out
    assert main([*given, "--output", "here"]) == 0
    for number in range(3):
        maps = [
            fwdgrad.Explanation.load(tmp_path / folder / str(number) / "explanation.safetensors")
            for folder in ("there", "here")
        ]
        assert torch.equal(maps[0].attribution, maps[1].attribution)


def test_the_command_line_names_ray(monkeypatch, capsys):
    from fwdgrad.cli import main

    given = ["explain", "photo.png", "--ray", "auto"]
    assert main(given) == 1
    assert "--ray needs --workers, how many actors to start" in capsys.readouterr().err
