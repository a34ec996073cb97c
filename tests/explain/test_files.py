"""Files are written whole or not at all, where they are asked for, and changed bytes are seen."""

import contextlib
import errno
import json
import multiprocessing
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fwdgrad import Explanation, files
from fwdgrad.adapters.lstm import LSTMClassifier
from fwdgrad.files import kind_of, locked, read_tensors, write_atomically, write_tensors
from fwdgrad.interrupts import Ended, Interrupts, ended_by_signals

from .models import handled
from .test_explanation import explain

pytestmark = pytest.mark.skipif(os.name != "posix", reason="modes, links and pipes of POSIX")


@pytest.fixture
def ctrl_c():
    with handled(signal.SIGINT, signal.default_int_handler):
        yield


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def mode_of(path):
    return stat.S_IMODE(os.stat(path).st_mode)


# ---- the writer ----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o777])
def test_the_mode_of_a_file_is_kept(tmp_path, mode):
    path = tmp_path / "map"
    path.write_bytes(b"before")
    path.chmod(mode)
    write_atomically(path, b"after")
    assert path.read_bytes() == b"after"
    assert mode_of(path) == mode
    assert names(tmp_path) == ["map"]


def test_the_owner_of_a_file_is_kept(tmp_path):
    if os.geteuid():
        pytest.skip("only root gives files away")
    path = tmp_path / "map"
    path.write_bytes(b"before")
    os.chown(path, 1234, 4321)
    write_atomically(path, b"after")
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 4321)


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_a_new_file_has_the_umasks_mode(tmp_path, umask, monkeypatch):
    before = os.umask(umask)
    try:
        with monkeypatch.context() as only:
            only.setattr(os, "umask", lambda _: pytest.fail("changes it for all threads"))
            write_atomically(tmp_path / "map", b"new")
    finally:
        os.umask(before)
    assert mode_of(tmp_path / "map") == 0o666 & ~umask


def test_a_link_is_followed(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there/map")
    for content in (b"new", b"again"):  # a link to nothing, and to a file
        write_atomically(tmp_path / "link", content)
        assert os.readlink(tmp_path / "link") == "there/map"
        assert (tmp_path / "there/map").read_bytes() == content
    assert names(tmp_path / "there") == ["map"]


def special(folder, kind):
    path = folder / kind
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        import socket

        with socket.socket(socket.AF_UNIX) as one:
            one.bind(str(path))
    elif kind == "link to a device":
        path.symlink_to("/dev/null")
    return path


SPECIAL = {
    "pipe": "a named pipe",
    "folder": "a folder",
    "socket": "a socket",
    "link to a device": "a device",
}


@pytest.fixture
def within_seconds():
    """A test that would wait for ever for the other end of a pipe fails instead."""

    def ring(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("kind", SPECIAL)
def test_only_regular_files(tmp_path, kind, within_seconds):
    path = special(tmp_path, kind)
    before = os.stat(path)
    with pytest.raises(OSError, match=f"it is {SPECIAL[kind]}, not a file.*{kind}"):
        write_atomically(path, b"content")
    with pytest.raises(ValueError, match=r"is no explanation.*not a file"):
        Explanation.load(path)
    assert kind_of(path) is None
    assert os.path.samestat(os.stat(path), before)
    assert names(tmp_path) == [kind]


def test_a_file_that_may_not_be_written_is_left(tmp_path, monkeypatch):
    path = tmp_path / "map"
    path.write_bytes(b"before")
    monkeypatch.setattr(os, "access", lambda *_: False)  # as for whoever is not root
    with pytest.raises(PermissionError, match=r"Permission denied.*map"):
        write_atomically(path, b"after")
    assert path.read_bytes() == b"before"


def test_file_and_folder_are_synced(tmp_path, monkeypatch):
    synced = []
    fsync = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda fd: synced.append(stat.S_IFMT(os.fstat(fd).st_mode)) or fsync(fd)
    )
    write_atomically(tmp_path / "map", b"content")
    assert synced == [stat.S_IFREG, stat.S_IFDIR]


def test_a_name_of_the_greatest_length(tmp_path):
    path = tmp_path / ("ä" * 127)
    with locked(path):
        write_atomically(path, b"content")
    assert names(tmp_path) == [path.name]


def test_temporaries_of_killed_processes_are_removed(tmp_path):
    """And of no others: what is being written, or has another name, stays."""
    script = (
        "import os, signal, sys; from fwdgrad.files import write_atomically; "
        "os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL); "
        "write_atomically(sys.argv[1], b'half')"
    )
    path = tmp_path / "map"
    done = subprocess.run([sys.executable, "-c", script, path])
    assert done.returncode == -signal.SIGKILL
    (left,) = names(tmp_path)
    assert re.fullmatch(r"\.map\.fwdgrad-\d+-[0-9a-f]{16}", left)
    others = [".map.fwdgrad-mine", ".other.fwdgrad-1-0123456789abcdef"]
    for name in others:
        (tmp_path / name).touch()
    busy, _ = files._temporary(path, 0o600)  # a writer at work
    with busy:
        write_atomically(path, b"whole")
        assert names(tmp_path) == sorted(["map", *others, os.path.basename(_)])
    assert path.read_bytes() == b"whole"
    write_atomically(path, b"again")
    assert names(tmp_path) == sorted(["map", *others])


# ---- the lock ------------------------------------------------------------------------------


def test_a_lock_is_one_at_a_time_and_leaves_nothing(tmp_path):
    path = tmp_path / "run"
    (tmp_path / "link").symlink_to("run")
    with locked(path):
        for name in ("run", "link"):
            with (
                pytest.raises(BlockingIOError, match=f"in use by process {os.getpid()}$"),
                locked(tmp_path / name),
            ):
                pass
        with locked(tmp_path / "another"):
            pass
        assert names(tmp_path) == [".run.fwdgrad-lock", "link"]
    with locked(path):
        pass
    assert names(tmp_path) == ["link"]


def take_turns(path, rounds, count):
    for _ in range(rounds):
        while True:
            try:
                with locked(path):
                    value = count.value
                    time.sleep(0)
                    count.value = value + 1
                break
            except BlockingIOError:
                time.sleep(0)


def test_the_lock_of_several_processes(tmp_path):
    context = multiprocessing.get_context("fork")
    count = context.Value("q", 0, lock=False)
    workers = [
        context.Process(target=take_turns, args=(tmp_path / "run", 200, count)) for _ in range(4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert count.value == 800
    assert names(tmp_path) == []


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    context = multiprocessing.get_context("fork")
    path, inside = tmp_path / "run", context.Event()

    def hold():
        with locked(path):
            inside.set()
            time.sleep(60)

    process = context.Process(target=hold)
    process.start()
    assert inside.wait(60)
    with pytest.raises(BlockingIOError, match=f"process {process.pid}"), locked(path):
        pass
    process.kill()
    process.join()
    with locked(path):
        pass
    assert names(tmp_path) == []


def test_where_nothing_can_be_locked_the_block_runs(tmp_path, monkeypatch):
    with locked(tmp_path / "nowhere" / "run"):
        pass

    def flock(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(files.fcntl, "flock", flock)
    with locked(tmp_path / "run"):
        write_atomically(tmp_path / "run", b"content")
    assert names(tmp_path) == ["run"]


def open_files():
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # of the folder that is listed
            found.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    return found


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="looks into /proc")
def test_a_system_without_locks(tmp_path, monkeypatch):
    """Windows: a file is closed before it takes its name."""
    monkeypatch.setattr(files, "fcntl", None)
    replace, is_open = os.replace, []

    def rename(temporary, target):
        is_open.append(str(temporary) in open_files())
        replace(temporary, target)

    monkeypatch.setattr(os, "replace", rename)
    with locked(tmp_path / "map"):
        write_atomically(tmp_path / "map", b"content")
    assert (tmp_path / "map").read_bytes() == b"content"
    assert names(tmp_path) == ["map"]
    assert is_open == [False]


# ---- signals -------------------------------------------------------------------------------


def test_no_signal_breaks_a_write_off(tmp_path, monkeypatch, ctrl_c):
    fsync = os.fsync

    def interrupted(descriptor):
        for _ in range(3):
            signal.raise_signal(signal.SIGINT)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", interrupted)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "map", b"content")
    assert (tmp_path / "map").read_bytes() == b"content"
    assert names(tmp_path) == ["map"]
    assert signal.getsignal(signal.SIGINT) is handler


def test_signals_wait_and_come_through(ctrl_c):
    came = []
    with Interrupts() as interrupts:
        signal.raise_signal(signal.SIGINT)
        came.append("held")
        with pytest.raises(KeyboardInterrupt):
            interrupts.let_through()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        interrupts.open = False
        signal.raise_signal(signal.SIGINT)
        came.append("held again")
        interrupts._waiting.clear()
    assert came == ["held", "held again"]


def test_an_interrupt_is_not_raised_twice(ctrl_c):
    def twice():
        with Interrupts():
            signal.raise_signal(signal.SIGINT)
            raise KeyboardInterrupt("first")

    with pytest.raises(KeyboardInterrupt, match="first"):
        twice()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_that_end_a_command(number):
    with handled(number, signal.SIG_DFL):
        with pytest.raises(Ended) as caught, ended_by_signals():
            signal.raise_signal(number)
        assert caught.value.number == number
        assert signal.getsignal(number) is signal.SIG_DFL
    with handled(number, signal.SIG_IGN), ended_by_signals():  # as nohup has it
        signal.raise_signal(number)


def test_another_thread_changes_no_handler(tmp_path):
    handlers, failed = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)], []

    def work():
        try:
            with ended_by_signals(), Interrupts() as interrupts:
                interrupts.let_through()
                write_atomically(tmp_path / "map", b"content")
                failed.extend(
                    h
                    for h, n in zip(handlers, (signal.SIGINT, signal.SIGTERM), strict=True)
                    if signal.getsignal(n) is not h
                )
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert failed == []


# ---- tensors -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "map.safetensors"
    explain().save(path)
    return path.read_bytes()


def same(one, other):
    return one == other or (
        torch.equal(one.attribution, other.attribution)
        and torch.equal(one.standard_error, other.standard_error)
        and torch.equal(one.input, other.input)
        and repr(one.__dict__) == repr(other.__dict__)
    )


@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.slow), 13])
def test_changed_bytes_of_a_map_are_seen(tmp_path, saved, every):
    """A bit of every byte."""
    path = tmp_path / "map.safetensors"
    path.write_bytes(saved)
    right, silent = Explanation.load(path), []
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(8, (len(saved),), generator=generator).tolist()
    for at, bit in list(enumerate(bits))[::every]:
        changed = bytearray(saved)
        changed[at] ^= 1 << bit
        path.write_bytes(changed)
        try:
            loaded = Explanation.load(path)
        except ValueError:
            continue
        if not same(loaded, right):
            silent.append(at)
    assert silent == []


def test_a_loaded_map_is_not_mapped_to_its_file(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    explain().save(one)
    explain(seed=6).save(other)
    loaded, before = Explanation.load(one), Explanation.load(one)
    with open(one, "r+b") as file:  # as cp does
        file.write(other.read_bytes())
    assert same(loaded, before)
    os.truncate(one, 0)
    assert same(loaded, before)
    if sys.platform == "linux":
        assert str(one) not in Path("/proc/self/maps").read_text()


def test_a_loaded_model_is_not_mapped_to_its_file(tmp_path):
    path = tmp_path / "model.safetensors"
    LSTMClassifier(["a", "film"], ["bad", "good"]).save(path)
    loaded = LSTMClassifier.load(path)
    weight = loaded.embedding.weight.detach().clone()
    path.write_bytes(bytes(path.stat().st_size))
    assert torch.equal(loaded.embedding.weight, weight)
    changed = bytearray()
    LSTMClassifier(["a", "film"], ["bad", "good"]).save(path)
    changed[:] = path.read_bytes()
    changed[-1] ^= 1
    path.write_bytes(changed)
    with pytest.raises(ValueError, match="is no LSTMClassifier, or damaged: its content is not"):
        LSTMClassifier.load(path)


def safetensors_of(header, rest=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + rest


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 64,
        (2**62).to_bytes(8, "little") + b"{}",
        safetensors_of(b"[" * 10**6),
        safetensors_of(b'{"a":' * 10**5),
        safetensors_of(b"\xff\xfe{}"),
        safetensors_of(b"[]"),
        safetensors_of(b"3"),
        safetensors_of({"__metadata__": [1]}),
        safetensors_of({"__metadata__": {"fwdgrad.explanation": 3}}),
        safetensors_of({"__metadata__": {"fwdgrad.explanation": "{}"}}),
        safetensors_of({"__metadata__": {"fwdgrad.explanation": "{}", "fwdgrad.sha256": "x"}}),
        safetensors_of({"x": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}, b"abcd"),
        safetensors_of({"x": {"dtype": "F32", "shape": [2**62], "data_offsets": [0, 2**63]}}),
    ],
)
def test_what_is_no_map_gives_a_value_error(tmp_path, content):
    path = tmp_path / "map.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"is no explanation, or damaged: .") as caught:
        Explanation.load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n_samples", -1),
        ("n_samples", 0),
        ("n_samples", True),
        ("n_samples", 2.0),
        ("reliability", 7.0),
        ("reliability", "x"),
        ("target", -1),
        ("target", 1.5),
        ("score", float("nan")),
        ("objective", None),
        ("seconds", -1.0),
        ("convergence_delta", "x"),
        ("method", []),
        ("method", "forward-gradient"),
        ("method", {"kind": "Tensor", "name": "nothing"}),
        ("method", {"kind": "ForwardGradient", "values": {"nothing": 1}}),
        ("method", {"kind": "ForwardGradient", "values": {"scale": -1.0}}),
        ("method", {"kind": "AdaptiveScale", "values": {"low": 0.0, "high": 1.0}}),
        ("method", {"kind": [], "values": 3}),
        ("features", 3),
        ("features", {"kind": "tuple", "values": 3}),
        ("seed", -1),
        ("seed", 1.5),
        ("provenance", []),
        ("provenance", {"input_sha256": "0" * 64}),
        ("format", 2),
        ("nothing", 1),
        ("attribution", torch.zeros(3)),
        ("attribution", torch.zeros(2, 4, 6, dtype=torch.int64)),
        ("standard_error", -torch.ones(2, 4, 6)),
        ("input", torch.full((2, 4, 6), torch.nan)),
        ("input", torch.zeros(2, 4, 6)),  # not the one that was explained
    ],
)
def test_a_map_of_the_wrong_types_or_ranges_is_refused(tmp_path, field, value):
    """Even where its digest is right."""
    path = tmp_path / "map.safetensors"
    explain().save(path)
    header, tensors = read_tensors(path, "explanation")
    (tensors if isinstance(value, torch.Tensor) else header)[field] = value
    write_tensors(path, "explanation", header, tensors)
    with pytest.raises(ValueError, match="is no explanation, or damaged"):
        Explanation.load(path)


def test_a_map_that_cannot_be_loaded_is_not_saved(tmp_path):
    result = explain()
    result.input.zero_()
    with pytest.raises(ValueError, match="input is not what was explained"):
        result.save(tmp_path / "map")
    result = explain()
    result.attribution = torch.zeros(3)
    with pytest.raises(ValueError, match=r"attribution must have .*shape.*\(3,\) for \(2, 4, 6\)"):
        result.save(tmp_path / "map")
    assert names(tmp_path) == []


def test_no_permission_is_said_as_such(tmp_path, monkeypatch):
    path = tmp_path / "map.safetensors"
    explain().save(path)
    opened = os.open

    def denied(name, *rest, **more):
        if os.fspath(name) == str(path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(name))
        return opened(name, *rest, **more)

    monkeypatch.setattr(os, "open", denied)  # the tests may run as root, who may do all
    with pytest.raises(PermissionError, match="Permission denied"):
        Explanation.load(path)


def test_an_earlier_versions_file_is_told(tmp_path):
    path = tmp_path / "map.safetensors"
    save_file({"input": torch.zeros(2)}, path, {"fwdgrad.explanation": '{"format": 2}'})
    with pytest.raises(ValueError, match="no digest: an earlier version wrote it; make it again"):
        Explanation.load(path)
    assert kind_of(path) == "explanation"
