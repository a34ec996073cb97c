"""Runs of several ranks of torch.distributed, over gloo on this machine."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch.distributed as dist
from PIL import Image

import fwdgrad
from fwdgrad import Explanation
from fwdgrad.interrupts import Ended
from fwdgrad.runner import rank_ends
from fwdgrad.runner.links import group_of

from .models import Recorder, X, assert_same_bits
from .rank import RUN, RUNS, bits, slow

if not (dist.is_available() and dist.is_gloo_available()):
    pytest.skip("torch without gloo", allow_module_level=True)

KEPT = "; what the other samples gave is kept in {}, and the same run goes on from there"


def environment(**more):
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **more}


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """The folder, what each of three ranks found, what was said at the end, and their statuses."""
    folder = tmp_path_factory.mktemp("ranks")
    files = [(folder / f"{rank}.json", folder / f"{rank}.txt") for rank in range(3)]
    with contextlib.ExitStack() as stack:
        runs = [
            subprocess.Popen(
                [sys.executable, "-m", "explain.rank", str(rank), "3", str(folder)],
                env=environment(), stdout=stack.enter_context(out.open("w")),
                stderr=stack.enter_context(error.open("w")),
            )
            for rank, (out, error) in enumerate(files)
        ]  # fmt: skip
        try:
            statuses = [run.wait(200) for run in runs]
        finally:
            for run in runs:
                run.kill()
    lines = [out.read_text().splitlines() for out, _ in files]
    assert all(lines), "".join(error.read_text() for _, error in files)
    return (
        folder,
        [json.loads(line[0]) for line in lines],
        [json.loads(line[1]) if line[1:] else None for line in lines],
        statuses,
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_every_rank_has_the_bits_of_a_run_alone(name, three):
    _, found, _, _ = three
    x, run = RUNS[name]
    model = Recorder(slow)
    alone = fwdgrad.explain(model, x, [0, 1], **run)
    for rank in found:
        assert rank[name] == [bits(one) for one in alone]
    shares = [rank[f"{name}: asked"] for rank in found]
    assert sum(shares) == sum(model.asked) - 1
    assert min(shares) > 0


@pytest.mark.slow
def test_rank_0_watches(three):
    _, found, _, _ = three
    assert [rank["looks"] for rank in found] == [[16, 32, 48], [], []]
    assert {json.dumps(rank["watched"]) for rank in found} == {json.dumps(found[0]["watched"])}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("seed", "rank 2 has seed 7, rank 0 has 0"),
        ("input", "rank 1 has input one of digest .{8}, rank 0 has one of digest .{8}"),
        ("size", "rank 1 has batch_size 5, rank 0 has 4; rank 2 has batch_size 6, rank 0 has 4"),
        ("method", "rank 1 has scale 1.5, rank 0 has 0.5; rank 2 has scale 2.5, rank 0 has 0.5"),
        ("model", "rank 2 has model one of digest .{8}, rank 0 has one of digest .{8}"),
        ("output", "rank 1 has output at the input -3.006.*, rank 0 has -1.503.*"),
    ],
)
def test_ranks_that_differ_are_named_on_each(name, text, three):
    for rank in three[1]:
        kind, told = rank[name]
        assert kind == "RanksDifferError"
        assert re.fullmatch(f"ranks differ: {text}", told), told
        assert rank["asked"] == 0  # before any call of the model, but for its output


@pytest.mark.slow
def test_what_several_ranks_cannot_do(three):
    for number, rank in enumerate(three[1]):
        kind, text = rank["gradient"]
        assert kind in ("ArgumentError", "ValueError")  # its own, or what another said first
        told = "group is for methods from forward calls of one model; smoothgrad takes its gradient"
        assert text.split(": ", 1)[-1] == told
        text = "group and workers both say where the model is called; give one of them"
        assert rank["workers"] == ["ArgumentError", text]
        assert rank["memory"][1].startswith("memory cannot be kept to by several workers")
        text = f"seed must lie in 0 .. {2**64 - 1}, got -1"
        if number == 1:
            assert rank["one's argument"] == ["ArgumentError", text]
        else:
            assert rank["one's argument"] == ["ModelError", f"rank 1: {text}"]


@pytest.mark.slow
@pytest.mark.parametrize("failing", [0, 1])
def test_every_rank_names_the_one_whose_model_fails(failing, three):
    folder, found, _, _ = three
    name = f"rank {failing} fails"
    (told,) = {tuple(rank[name]) for rank in found}
    assert told[0] == "ModelError"
    text = f"rank {failing}: the model failed on a batch of shape (4, 2, 4, 6): ValueError: too "
    assert told[1].startswith(text + "high (samples ")
    assert told[1].endswith(KEPT.format(folder / f"{name}.safetensors"))
    assert {rank["at the input"][1] for rank in found} == {
        "rank 2: the model failed on a batch of shape (1, 2, 4, 6): ValueError: too high"
    }


@pytest.mark.slow
def test_interrupted_ranks(three):
    folder, found, _, _ = three
    assert found[2]["rank 2 interrupted"] == ["KeyboardInterrupt", ""]
    for rank in found[:2]:
        kind, text = rank["rank 2 interrupted"]
        assert kind == "ModelError"
        assert text.startswith("rank 2 was interrupted (samples ")
        assert text.endswith(KEPT.format(folder / "rank 2 interrupted.safetensors"))
    assert found[0]["rank 0 interrupted"] == ["Ended", "SIGTERM"]
    for rank in found[1:]:
        assert rank["rank 0 interrupted"] == ["ModelError", "rank 0 was interrupted by SIGTERM"]


@pytest.mark.slow
def test_a_rank_that_dies_is_named_on_the_others(three):
    folder, _, last, statuses = three
    assert statuses == [0, 3, 0]
    assert last[1] is None
    for seconds, text in (last[0], last[2]):
        assert seconds < 20
        assert text.startswith("rank 1 has ended, killed or crashed (samples ")
        assert text.endswith(KEPT.format(folder / "ended.safetensors"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["rank 1 fails", "rank 2 interrupted", "rank 0 interrupted", "ended"]
)
def test_one_process_goes_on_from_what_ranks_have_kept(name, three, tmp_path):
    model = Recorder(slow)
    kept = tmp_path / "kept.safetensors"
    kept.write_bytes((three[0] / f"{name}.safetensors").read_bytes())
    found = fwdgrad.explain(model, X, 0, **RUN, checkpoint=kept)
    assert_same_bits(found, fwdgrad.explain(slow, X, 0, **RUN))
    assert sum(model.asked) < 1 + 4 + 48  # at the input, and four that are asked for again


@pytest.mark.slow
def test_ranks_go_on(three):
    _, found, _, _ = three
    alone = bits(fwdgrad.explain(slow, X, 0, **RUN))
    for rank in found:
        assert rank["goes on"] == alone
        assert rank["alone"] == alone
        assert rank["of another run"][0] == "CheckpointError"
        assert "is of another run: seed was 0, is 1" in rank["of another run"][1]
    assert sum(rank["goes on: asked"] for rank in found) < 48 + 4


def test_what_a_group_is():
    assert group_of(None) is None
    with pytest.raises(TypeError, match=r"^group must be a group of torch.distributed, .* got 3$"):
        fwdgrad.explain(slow, X, 0, group=3, **RUN)
    with pytest.raises(ValueError, match=r"^group must be one that this process is in"):
        fwdgrad.explain(slow, X, 0, group=dist.GroupMember.NON_GROUP_MEMBER, **RUN)


class Lost:
    """A link to a rank 0 that was killed."""

    def __init__(self, *_):
        pass

    def receive(self):
        raise RuntimeError("Connection closed by peer")


def test_a_rank_that_torchrun_ends_says_that_rank_0_was_killed(monkeypatch):
    monkeypatch.setattr(rank_ends, "Link", Lost)
    end = rank_ends.Others(types.SimpleNamespace(rank=lambda: 1))
    with pytest.raises(fwdgrad.ModelError, match=r"^rank 0 has ended, killed or crashed$"):
        end.failed(Ended(signal.SIGTERM), "")


OWN = """
import os, time
def score(batch):
    if len(batch) > 1 and os.environ.get("ENDS") == os.environ.get("RANK", "none"):
        os._exit(3)
    time.sleep(0.005 * len(batch))
    return batch[:, 0, ::16, ::16].flatten(1).double()
"""


@pytest.mark.slow
def test_torchrun(tmp_path):
    """First rank 1 ends; then the same command goes on, and has the map of a process alone."""
    (tmp_path / "own.py").write_text(OWN)
    Image.radial_gradient("L").convert("RGB").save(tmp_path / "photo.png")
    line = "fwdgrad explain photo.png --model own:score --size 32 --samples 96 --batch-size 4"
    line += " --no-progress --objective output --output"

    def run(output, *start, **more):
        return subprocess.run(
            [sys.executable, *start, "-m", *line.split(), output], cwd=tmp_path, timeout=120,
            env=environment(**more), capture_output=True, text=True,
        )  # fmt: skip

    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    ended = run("ranks", *torchrun, ENDS="1")
    assert ended.returncode == 1
    (told,) = [one for one in ended.stderr.splitlines() if one.startswith("fwdgrad: ")]
    assert told.startswith("fwdgrad: error: rank 1 has ended, killed or crashed")
    assert told.endswith(KEPT.format("ranks/checkpoint.safetensors"))
    assert not ended.stdout

    done = run("ranks", *torchrun)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("attribution  ranks/explanation.safetensors") == 1
    assert sorted(path.name for path in (tmp_path / "ranks").iterdir()) == [
        "explanation.safetensors",
        "heatmap.png",
    ]
    assert run("alone").returncode == 0
    maps = [
        Explanation.load(tmp_path / name / "explanation.safetensors") for name in ("ranks", "alone")
    ]
    assert_same_bits(*maps)


@pytest.mark.slow
def test_torchrun_of_a_folder(tmp_path):
    """Each rank takes whole photos; one that cannot be read stops no other."""
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "photos").mkdir()
    for number in range(5):
        picture = Image.radial_gradient("L").rotate(20 * number).convert("RGB")
        picture.save(tmp_path / "photos" / f"{number}.png")
    (tmp_path / "photos" / "broken.png").write_text("no picture")
    line = "-m torch.distributed.run --standalone --nproc-per-node 2 -m fwdgrad explain photos"
    line += " --model own:score --size 32 --samples 32 --no-progress --no-evidence --output maps"

    def run():
        return subprocess.run(
            [sys.executable, *line.split()], cwd=tmp_path, timeout=120, env=environment(),
            capture_output=True, text=True,
        )  # fmt: skip

    found = run()
    assert found.returncode == 1
    assert "photos       5 explained, 1 failed" in found.stdout
    assert found.stdout.count("index        maps/index.html") == 1
    (told,) = [one for one in found.stderr.splitlines() if one.startswith("fwdgrad: error: ")]
    assert "broken.png" in told
    assert all(
        f'"{number}/' in (tmp_path / "maps" / "index.html").read_text() for number in range(5)
    )
    again = run()
    assert "photos       0 explained, 5 there already, 1 failed" in again.stdout
