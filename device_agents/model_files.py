"""Models that hosts sent to the device: whose are in use, and which were left behind by a session that was cut off.

     an agent that uses a model ──► holds a shared lock (flock) on the file, until it ends however it ends
     the next agent that takes the device ──► notes what it sees unlocked, by boot and by the clock since boot
                                          └─► deletes what was so noted a day of that clock ago, or in an earlier boot

No wall clock is asked: that of a board without a battery steps by years when it finds the time. The day is for a model
that has arrived and whose agent has not been asked for it yet. Sessions in one account may hold different device locks
(simulated devices, tests), so that the device's own lock says nothing about whose models these are.
"""

import fcntl
import json
import os
import re
from typing import Any, Dict, List, Optional

from device_agents.protocol import NOT_WRITABLE, now_s

_SENT = re.compile(r"model-[0-9a-f]{64}\.onnx$")

ABANDONED_AFTER_S = 86400.0
NOTES_FILE = "models-seen.json"


class SentModels(object):
    """The models of this agent's session, and those that nobody uses.

    ``state_dir``: where it is noted what was seen; ``boot``: names the device's present boot.
    """

    def __init__(self, state_dir: str, boot: Optional[str] = None) -> None:
        self._notes_path = os.path.join(state_dir, NOTES_FILE)
        self._boot = boot_id() if boot is None else boot
        self._held: Dict[str, int] = {}

    def hold(self, request: Dict[str, Any]) -> None:
        """Say that the model of ``request`` is in use, until ``release`` or the end of this process."""
        path = _sent_path(request)
        if not path or path in self._held:
            return
        try:
            fd = os.open(path, os.O_RDONLY)
        except OSError:
            return  # it is not there: the runtime, which is asked next, says so
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)  # a file system without locks, or being deleted: the host sends it again where it is missing
            return
        self._held[path] = fd

    def remove_abandoned(self, request: Dict[str, Any]) -> None:
        """Delete what lies beside the model of ``request``, was sent, and has been in nobody's use for a day."""
        path = _sent_path(request)
        folder = os.path.dirname(path)
        if not path or not os.path.isdir(folder):
            return
        notes = self._notes()
        before, at_s = notes.get(folder, {}), now_s()
        seen: Dict[str, Any] = {}
        for name in sorted(os.listdir(folder)):
            other = os.path.join(folder, name)
            if not _SENT.match(name) or other == path or other in self._held:
                continue
            note = {"file": _identity(other), "boot": self._boot, "at_s": at_s}
            first = before.get(name)
            if not isinstance(first, dict) or first.get("file") != note["file"]:
                first = note  # not seen before, or sent anew since
            waited = first["boot"] != self._boot or not 0.0 <= at_s - first["at_s"] < ABANDONED_AFTER_S
            if _is_unused(other, remove=waited) and not waited:
                seen[name] = first
        self._keep(dict(notes, **{folder: seen}))

    def release(self) -> None:
        """Let others delete what this session used."""
        held, self._held = self._held, {}
        for fd in held.values():
            os.close(fd)

    def _notes(self) -> Dict[str, Any]:
        """Folder → name → when it was first seen in nobody's use; empty where nothing that can be read is there."""
        try:
            with open(self._notes_path, "r", encoding="utf-8") as file:
                notes = json.load(file)
        except (OSError, ValueError):
            return {}  # then the day begins anew: nothing is deleted too early
        return notes if isinstance(notes, dict) else {}

    def _keep(self, notes: Dict[str, Any]) -> None:
        new = self._notes_path + ".new"
        try:
            with open(new, "w", encoding="utf-8") as file:
                json.dump(notes, file)
            os.replace(new, self._notes_path)
        except OSError as error:
            if error.errno not in NOT_WRITABLE:
                raise  # a full disk is said by what has to be written; nothing is deleted for want of a note


def _sent_path(request: Dict[str, Any]) -> str:
    """Where the model of a request lies, if a host sent it; "" for a kernel list and for a file of the user's."""
    path = request.get("subject", {}).get("path")
    if not isinstance(path, str) or not _SENT.match(os.path.basename(path)):
        return ""
    return os.path.abspath(path)


def _identity(path: str) -> List[int]:
    """What tells a file from one of the same name that was sent later; no time is read off it."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return []
    return [found.st_ino, int(found.st_mtime * 1e6)]


def _is_unused(path: str, remove: bool) -> bool:
    """Whether no agent holds the file; where none does it is deleted if ``remove``."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError:
        return False  # its own session took it back just now, or it is not ours to read
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if remove:
            os.remove(path)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def boot_id() -> str:
    """Another text after each start of the device; "" where the system tells none."""
    try:
        with open("/proc/sys/kernel/random/boot_id", "r", encoding="ascii") as file:
            return file.read().strip()
    except (OSError, UnicodeDecodeError):
        return ""
