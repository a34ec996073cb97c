"""The one writer of files, and the one reader and writer of tensors in them.

A file is written whole or not at all. A file of tensors has a digest over all that is in it, and
what is read from it is copied into memory: nothing stays mapped to the file.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import safetensors.torch
import torch
from torch import Tensor

from fwdgrad.interrupts import Interrupts

try:
    import fcntl
except ImportError:  # Windows: no locks, so no temporary of a process that was killed is removed
    fcntl = None  # type: ignore[assignment]

_MOST_HEADER = 2**24  # bytes of what stands before the tensors
_DIGEST = "fwdgrad.sha256"
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)

PathLike = str | os.PathLike[str]


# ---- any file ------------------------------------------------------------------------------


def no_file(mode: int) -> str | None:
    """The name of what is no regular file, such as a folder; None where it is one.

    >>> no_file(os.stat("/").st_mode)
    'a folder'
    """
    if stat.S_ISREG(mode):
        return None
    return next((name for is_kind, name in _KINDS if is_kind(mode)), "no regular file")


def found_at(path: PathLike) -> os.stat_result | None:
    """The file at a path, links followed; None where there is nothing.

    Raises:
        OSError: it is no regular file, or cannot be looked at.
    """
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    what = no_file(found.st_mode)
    if what is not None:
        number = errno.EISDIR if stat.S_ISDIR(found.st_mode) else errno.EINVAL
        raise OSError(number, f"it is {what}, not a file", os.fspath(path))
    return found


def check_writable(path: PathLike) -> None:
    """Raises, before any work, where ``write_atomically`` could not write.

    Raises:
        OSError: it could not.
    """
    before = found_at(path)
    target = Path(os.path.realpath(path))
    if before is not None and not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))
    with tempfile.TemporaryFile(dir=target.parent):
        pass


def write_atomically(path: PathLike, content: bytes) -> None:
    """Writes a file whole or not at all: what was there before stays if anything fails.

    A link is followed. A file that was there keeps its mode, and where that is allowed its owner;
    a new one has the mode that the umask leaves. No signal breaks it off. Temporary files that
    killed processes left of it are removed.

    Raises:
        OSError: naming the path that was given: it cannot be written, or is no file.
    """
    try:
        with Interrupts():
            _write(path, content)
    except OSError as error:  # naming the file that was given, not its temporary one
        raise OSError(error.errno, error.strerror, os.fspath(path)) from None


def _write(path: PathLike, content: bytes) -> None:
    before = found_at(path)
    target = Path(os.path.realpath(path))
    if before is not None and not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    _remove_stale(target)
    file, temporary = _temporary(target, 0o666 if before is None else 0o600)
    try:
        with file:
            if before is not None:
                _take_over(file.fileno(), before)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            if fcntl is None:  # Windows renames no open file
                file.close()
            os.replace(temporary, target)  # still locked: nobody takes it for stale
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    _sync(target.parent)


def _take_over(descriptor: int, before: os.stat_result) -> None:
    """Gives a new file the owner and the mode of the one that it replaces."""
    if os.name != "posix":
        return
    with contextlib.suppress(OSError):  # only root may give files away
        os.fchown(descriptor, before.st_uid, before.st_gid)
    with contextlib.suppress(OSError):  # on a file system without modes
        os.fchmod(descriptor, stat.S_IMODE(before.st_mode) & 0o777)


def _sync(folder: Path) -> None:
    """Sees to it that a new name in a folder outlives a power cut, where the system can."""
    if os.name != "posix":
        return
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _beside(target: Path, ending: str) -> Path:
    """A hidden file of our own for a file: ``.NAME.fwdgrad-ENDING``, of which NAME may be cut."""
    name = target.name
    if len(os.fsencode(name)) > 200:  # of the 255 bytes that a name may have
        name = f"{name[:40]}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}"
    return target.with_name(f".{name}.fwdgrad-{ending}")


def _temporary(target: Path, mode: int) -> tuple[BinaryIO, Path]:
    """A new file beside another, open and locked; the system takes the umask off its mode."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    while True:
        path = _beside(target, f"{os.getpid()}-{secrets.token_hex(8)}")
        file = os.fdopen(os.open(path, flags, mode), "wb")
        # Another process may have taken it for stale before it was locked.
        if _lock(file.fileno()) is not False and os.fstat(file.fileno()).st_nlink:
            return file, path
        file.close()


def _lock(descriptor: int) -> bool | None:
    """Locks an open file: False where another has it, None where there are no locks.

    The system drops the lock when the process ends, however that happens.
    """
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # this file system has none
        return None
    return True


def _remove_stale(target: Path) -> None:
    """Removes what killed processes left of writing a file: what nobody has locked."""
    if fcntl is None:
        return
    name = re.compile(re.escape(_beside(target, "").name) + r"\d+-[0-9a-f]{16}")
    with contextlib.suppress(OSError), os.scandir(target.parent) as entries:
        paths = [entry.path for entry in entries if name.fullmatch(entry.name)]
        for path in paths:
            with contextlib.suppress(OSError):
                descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
                try:
                    if _lock(descriptor):
                        os.unlink(path)
                finally:
                    os.close(descriptor)


@contextlib.contextmanager
def locked(path: PathLike) -> Iterator[None]:
    """Locks a file, which need not be there yet, for this block.

    The lock is a hidden file beside it, gone after the block. Where there are no locks, or the
    folder cannot be written to, nothing is kept.

    Raises:
        BlockingIOError: another block, of this process or of another, has it; says which process.
    """
    lock = _beside(Path(os.path.realpath(path)), "lock")
    file = _open_lock(lock)
    try:
        yield
    finally:
        if file is not None:
            with contextlib.suppress(OSError):
                lock.unlink()  # while it is locked: see _open_lock
            file.close()


def _open_lock(lock: Path) -> BinaryIO | None:
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    while fcntl is not None:
        try:
            file = os.fdopen(os.open(lock, flags, 0o666), "r+b", buffering=0)
        except OSError:  # a folder that cannot be written to: nor will the file be
            return None
        if _lock(file.fileno()) is False:
            with file:
                owner = file.read(20).decode("ascii", "replace").strip()
            raise BlockingIOError(
                errno.EWOULDBLOCK,
                f"it is in use by process {owner}" if owner else "it is in use by another process",
            )
        # Its last owner may have removed it after it was opened here.
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(file.fileno()), os.stat(lock, follow_symlinks=False)):
                with contextlib.suppress(OSError):  # a full disk
                    file.truncate(0)
                    file.write(b"%d\n" % os.getpid())
                return file
        file.close()
    return None


# ---- tensors -------------------------------------------------------------------------------


def digest_of(x: Tensor) -> str:
    """SHA-256 of a tensor's bytes.

    >>> digest_of(torch.zeros(2)) == hashlib.sha256(bytes(8)).hexdigest()
    True
    """
    return hashlib.sha256(_bytes_of(x)).hexdigest()


def _bytes_of(x: Tensor) -> memoryview:
    flat = x.detach().contiguous().cpu().flatten()
    # A single element counts as contiguous whatever its stride, and a view needs a stride of 1.
    return flat.as_strided(flat.shape, (1,)).view(torch.uint8).numpy().data


def _digest(kind: str, header: str, tensors: dict[str, Tensor]) -> str:
    """The digest of everything in a file of tensors."""
    digest = hashlib.sha256()
    for text in (kind, header):
        digest.update(f"{len(text)} {text}".encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(_bytes_of(tensor))
    return digest.hexdigest()


def write_tensors(
    path: PathLike, kind: str, header: dict[str, Any], tensors: dict[str, Tensor]
) -> None:
    """Writes tensors and a header, which JSON can hold, into one safetensors file.

    Args:
        path: the file, see ``write_atomically``.
        kind: of file, a word: "explanation", say; ``read_tensors`` takes no other.
        header: what else is to be kept.
        tensors: by name, on any device.

    Raises:
        OSError: it cannot be written; what was there is still there.
        ValueError: the header is too long.
    """
    text = json.dumps(header)
    # A tensor may not appear twice: safetensors refuses shared memory.
    own = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    metadata = {f"fwdgrad.{kind}": text, _DIGEST: _digest(kind, text, own)}
    content = safetensors.torch.save(own, metadata)
    if int.from_bytes(content[:8], "little") > _MOST_HEADER:
        raise ValueError(f"{os.fspath(path)} would have more than {_MOST_HEADER} bytes of header")
    write_atomically(path, content)


def read_tensors(path: PathLike, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The header and the tensors that ``write_tensors`` was given, copied from the file.

    Raises:
        FileNotFoundError, PermissionError: there is none, or it may not be read.
        ValueError: it is no file, damaged, of another kind, or not one of fwdgrad's.
    """
    try:
        with _opened(path) as file:
            start, metadata = _start_of(file)
            text = metadata.get(f"fwdgrad.{kind}")
            if text is None:
                found = _kinds(metadata)
                raise ValueError(
                    f"it is of the kind {found[0]!r}" if found else "fwdgrad did not write it"
                )
            if _DIGEST not in metadata:
                raise ValueError("it has no digest: an earlier version wrote it; make it again")
            content = start + file.read()
        tensors = {name: one.clone() for name, one in safetensors.torch.load(content).items()}
        if _digest(kind, text, tensors) != metadata[_DIGEST]:
            raise ValueError("its content is not what its digest says")
        header = json.loads(text)
        if not isinstance(header, dict):
            raise ValueError("its header is no object")
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # whatever bytes there are, and whatever reads them says of them
        reason = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
        raise ValueError(reason or type(error).__name__) from None
    return header, tensors


def kind_of(path: PathLike) -> str | None:
    """The kind that ``write_tensors`` was given for a file; None where it is none of its.

    >>> kind_of("nothing") is None
    True
    """
    try:
        with _opened(path) as file:
            found = _kinds(_start_of(file)[1])
    except (OSError, ValueError, RecursionError):
        return None
    return found[0] if found else None


def _kinds(metadata: dict[str, str]) -> list[str]:
    keys = [key for key in metadata if key.startswith("fwdgrad.") and key != _DIGEST]
    return [key.removeprefix("fwdgrad.") for key in keys]


def _opened(path: PathLike) -> BinaryIO:
    """A regular file to read; what else there is, is not opened: a pipe would wait, a tape wind."""
    if found_at(path) is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fspath(path))
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
    file = os.fdopen(os.open(path, flags), "rb")
    if no_file(os.fstat(file.fileno()).st_mode):  # it was replaced meanwhile
        file.close()
        raise ValueError("it is not a file")
    return file


def _start_of(file: BinaryIO) -> tuple[bytes, dict[str, str]]:
    """What stands in a safetensors file before its tensors, and the texts in it."""
    first = file.read(8)
    length = int.from_bytes(first, "little")
    if len(first) < 8 or not 2 <= length <= _MOST_HEADER:
        raise ValueError("it does not begin as a safetensors file does")
    text = file.read(length)
    if len(text) < length:
        raise ValueError("it ends within its header")
    header = json.loads(text)
    metadata = header.get("__metadata__", {}) if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError("its header is not that of a safetensors file")
    return first + text, metadata
