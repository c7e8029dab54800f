"""Writing files so that a kill, a full disk or a second process leaves them whole.

A file is replaced at once or not at all; a line is appended, flushed to the disk, or taken back. Every refusal by the
operating system becomes a ``StoreError`` that says what was being written and what to do.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rig.errors import StoreError

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NOT_ALLOWED = (errno.EACCES, errno.EPERM)


@contextlib.contextmanager
def disk_errors(action: str, path: Path) -> Iterator[None]:
    """Turn an OSError inside the block into a StoreError: ``action`` ("storing measurement x"), path, cause and fix."""
    try:
        yield
    except OSError as error:
        seen = f"{action}: {path}: {error.strerror or error}"
        if error.errno in NO_SPACE:
            fix = "free some space, or set RIG_HOME to a folder on another disk; nothing half-written was kept"
        elif error.errno == errno.EROFS:
            fix = "the file system is read-only: set RIG_HOME to a writable folder"
        elif error.errno in NOT_ALLOWED:
            fix = f"give yourself write access to {path.parent}, or set RIG_HOME to a folder of your own"
        else:
            fix = "check the disk, or set RIG_HOME to another folder"
        raise StoreError(seen, fix) from error


def dump_json(obj: Any) -> str:
    """Compact JSON on one line; NaN and infinities are refused (ValueError): JSON has none."""
    return json.dumps(obj, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def write_atomic(path: Path, data: bytes, action: str) -> None:
    """Replace ``path`` by ``data``: readers see the old file or the new one, and the new one survives a power cut."""
    with disk_errors(action, path):
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename or a new file in ``folder`` durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def locked_for_append(path: Path, action: str) -> Iterator[int]:
    """Open ``path`` for reading and appending, holding the exclusive lock; yields the file descriptor."""
    with disk_errors(action, path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle
    finally:
        os.close(handle)  # also drops the lock


def append_line(handle: int, line: str, action: str, path: Path) -> None:
    """Append one line to a locked file and flush it to the disk; on failure the file is cut back to what it was."""
    size = os.fstat(handle).st_size
    data = memoryview(line.encode() + b"\n")
    with disk_errors(action, path):
        try:
            while data:
                data = data[os.write(handle, data) :]
            os.fsync(handle)
        except BaseException:
            os.ftruncate(handle, size)
            raise


def append_json(path: Path, obj: Any, action: str) -> None:
    """Append one object to a JSON-lines file, durably."""
    line = dump_json(obj)
    with locked_for_append(path, action) as handle:
        if torn_tail(handle):  # a writer was killed: what it began is a line of its own, which readers leave out
            line = "\n" + line
        append_line(handle, line, action, path)


def torn_tail(handle: int) -> bytes:
    """What stands after the last newline of a locked file: empty, unless a writer was killed within a line."""
    size = os.fstat(handle).st_size
    tail = b""
    position = size
    while position > 0 and b"\n" not in tail:
        step = min(65536, position)
        position -= step
        tail = os.pread(handle, step, position) + tail
    return tail[tail.rfind(b"\n") + 1 :]


def cut_tail(handle: int, length: int) -> None:
    """Remove the last ``length`` bytes of a locked file."""
    os.ftruncate(handle, os.fstat(handle).st_size - length)
    os.fsync(handle)


def read_json(path: Path) -> Any:
    """Read a JSON file; StoreError where it is missing or damaged."""
    try:
        with disk_errors("reading the store", path):
            return json.loads(path.read_text())
    except ValueError as error:
        raise StoreError(f"{path} is damaged: {error}", "move that folder away; the others are not touched") from error
