"""Results kept on the device until the host has stored them: appended and synced before they are sent.

The file holds JSON lines: {"key", "record"} for a result, {"acked": key} for one the host has. When all are
acknowledged the file is emptied; when it is mostly acknowledged results it is written anew with the others. A last
line cut short by a power loss is dropped (that result was never sent); any other line that is no entry is moved into
a file beside it, and said.
"""

import contextlib
import fcntl
import hashlib
import json
import os
from typing import Any, Dict, Iterator, List, Optional, Tuple

from device_agents.protocol import encode

# The fields of a request that make it the same measurement.
_SAME = ("id", "asked_by", "runtime", "options", "source", "source_options", "subject", "plan", "profile")

# Beyond this size a file of which less than half is still wanted is written anew.
COMPACT_BYTES = 4000000


def request_key(request: Dict[str, Any]) -> str:
    """The id with a digest of what was asked: another host's like-named request is not mistaken for this one."""
    asked = {field: request.get(field) for field in _SAME}
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode("utf-8")).hexdigest()
    return "%s@%s" % (request["id"], digest[:16])


class Spool(object):
    """``problems``: damage found, in words. Two agents of one device may use one spool: each sees what the other did.

    (The agent of a lost link still measures while the one of the next link has started.)
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self.problems: List[str] = []
        self._pending: Dict[str, Dict[str, Any]] = {}  # in the order they were measured
        self._sizes: Dict[str, int] = {}
        self._seen: Any = None
        self.keys()

    def keys(self) -> List[str]:
        """Keys of the results that the host has not acknowledged."""
        with self._alone():
            return list(self._pending)

    def get(self, key: str) -> Optional[Dict[str, Any]]:
        """A result that is still here."""
        with self._alone():
            return self._pending.get(key)

    def add(self, key: str, record: Dict[str, Any]) -> None:
        """Append a result and sync it to disk; OSError where the disk does not take it."""
        with self._alone():
            self._remember(key, record, self._append({"key": key, "record": record}, sync=True))

    def acknowledge(self, keys: List[str]) -> None:
        """Forget results that the host has stored; unknown keys were acknowledged before.

        A disk that takes nothing more is no reason to fail: the host is offered the result once more and knows it.
        """
        with self._alone():
            for key in keys:
                if self._pending.pop(key, None) is not None and self._pending:
                    self._note_acknowledged(key)
            if self._seen is None:
                return
            if not self._pending:
                os.truncate(self._path, 0)
            elif os.path.getsize(self._path) > COMPACT_BYTES + 2 * sum(self._sizes[key] for key in self._pending):
                self._compact()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the spool against other agents, and know what they did with it."""
        fd = os.open(os.path.dirname(self._path) or ".", os.O_RDONLY)  # the folder is what is locked
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            if self._stamp() != self._seen:
                self._pending, self._sizes = {}, {}
                self._read()
                self._seen = self._stamp()
            yield
            self._seen = self._stamp()
        finally:
            os.close(fd)

    def _stamp(self) -> Any:
        try:
            found = os.stat(self._path)
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_size, found.st_mtime

    def _remember(self, key: str, record: Dict[str, Any], size: int) -> None:
        self._pending[key] = record
        self._sizes[key] = size

    def _note_acknowledged(self, key: str) -> None:
        try:
            self._append({"acked": key}, sync=False)
        except OSError as error:
            self.problems.append("%s: an acknowledgement could not be noted: %s" % (self._path, error.strerror))

    def _append(self, line: Dict[str, Any], sync: bool) -> int:
        data = encode(line)
        is_new = not os.path.exists(self._path)
        fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            start = os.fstat(fd).st_size
            try:
                write_all(fd, data)
                if sync:
                    os.fsync(fd)
            except OSError:
                os.ftruncate(fd, start)  # half a line would spoil the next one
                raise
        finally:
            os.close(fd)
        if is_new:
            sync_folder(os.path.dirname(self._path))
        return len(data)

    def _compact(self) -> None:
        """Replace the file by one with the pending results alone; where the disk is full the old one stays."""
        lines = [encode({"key": key, "record": record}) for key, record in self._pending.items()]
        try:
            write_synced(self._path, b"".join(lines))
        except OSError as error:
            self.problems.append("%s could not be made smaller: %s" % (self._path, error.strerror))

    def _read(self) -> None:
        if not os.path.exists(self._path):
            return
        good, damaged = 0, []
        with open(self._path, "rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                good += len(line)
                if not self._take(line):
                    damaged.append(line)
        if damaged:
            self._move_aside(damaged)
        elif good < os.path.getsize(self._path):
            os.truncate(self._path, good)

    def _take(self, line: bytes) -> bool:
        """Use one line; False where it is no entry."""
        try:
            acked, key, record = _entry(line)
        except (ValueError, KeyError, TypeError):
            return False
        if acked:
            self._pending.pop(key, None)
        else:
            self._remember(key, record, len(line))
        return True

    def _move_aside(self, damaged: List[bytes]) -> None:
        aside = self._path + ".damaged"
        fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            write_all(fd, b"".join(damaged))
            os.fsync(fd)
        finally:
            os.close(fd)
        self._compact()
        self.problems.append(
            "%d damaged lines of the device's spool were moved to %s; what they held is measured again"
            % (len(damaged), aside)
        )


def _entry(line: bytes) -> Tuple[bool, str, Dict[str, Any]]:
    """(acknowledged, key, record); ValueError, KeyError or TypeError where the line is none."""
    entry = json.loads(line.decode("utf-8"))
    if "acked" in entry:
        return True, str(entry["acked"]), {}
    if not isinstance(entry["record"], dict):
        raise TypeError("a record is an object")
    return False, str(entry["key"]), entry["record"]


def write_synced(path: str, data: bytes) -> None:
    """Replace a file so that after a power cut there is the old one or the new one, whole."""
    partial = path + ".part"
    try:
        fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            write_all(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(partial, path)
    except OSError:
        if os.path.exists(partial):
            os.remove(partial)
        raise
    sync_folder(os.path.dirname(path))


def write_all(fd: int, data: bytes) -> None:
    """Write everything; unbuffered, so that what a full disk refused is not tried again on closing."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def sync_folder(folder: str) -> None:
    """Make a new or renamed file in ``folder`` survive a power cut."""
    fd = os.open(folder or ".", os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
