"""One measurer on a device at a time: an flock with the holder's name and the time it was taken."""

import datetime
import errno
import fcntl
import json
import os
import tempfile
import time
from typing import Any, Dict, Optional

from device_agents.protocol import NO_SPACE, AgentError

# A lock without a note is looked at again: between taking it and writing the note, and between the reverse, lie
# microseconds; on a full disk there is never one.
LOOKS = 5
LOOK_PERIOD_S = 0.02


class DeviceLock(object):
    """Held by the kernel for as long as the process lives, so that a killed agent leaves no stale lock.

    ``doing``: what a holder does, in words that follow its name.
    """

    def __init__(self, path: str, holder: str, doing: str = "is measuring on this device") -> None:
        self._path = path
        self._holder = holder
        self._doing = doing
        self._fd: Optional[int] = None

    def acquire(self) -> None:
        """Take the lock, or raise AgentError "busy" naming who holds it since when. Taking it twice is nothing."""
        if self._fd is not None:
            return
        folder = os.path.dirname(self._path)
        if not os.path.isdir(folder):
            os.makedirs(folder)
        fd = self._open()
        for _ in range(LOOKS):
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                text = os.pread(fd, 4096, 0)
                if text:
                    break
                time.sleep(LOOK_PERIOD_S)  # its holder is just coming or going
            else:
                self._fd = fd
                self._note()
                return
        os.close(fd)
        raise self._busy(text)

    @property
    def held(self) -> bool:
        """Whether this process has the device."""
        return self._fd is not None

    def release(self) -> None:
        """Let the next one in."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.ftruncate(fd, 0)
            os.close(fd)

    def _note(self) -> None:
        """Who holds the device, for others to be told; a full disk leaves the lock without a name, not untaken."""
        started = datetime.datetime.utcnow().strftime("%Y-%m-%dT%H:%M:%SZ")
        note = {"holder": self._holder, "since_utc": started, "pid": os.getpid()}
        if self._fd is None:
            return
        try:
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, json.dumps(note).encode("utf-8"), 0)
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise

    def _open(self) -> int:
        # Anybody may write in the folder of locks: a link left there would have its target opened, or made, by us.
        flags = os.O_RDWR | os.O_NOFOLLOW
        try:
            # Another user's file in a sticky folder may be opened but not with O_CREAT (fs.protected_regular).
            try:
                return os.open(self._path, flags)
            except FileNotFoundError:
                fd = os.open(self._path, flags | os.O_CREAT, 0o666)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            raise AgentError(
                "storage", "the lock %s is a symbolic link, which is not followed" % self._path, "remove that link"
            ) from error
        os.fchmod(fd, 0o666)
        return fd

    def _busy(self, text: bytes) -> AgentError:
        try:
            note: Dict[str, Any] = json.loads(text.decode("utf-8"))
        except ValueError:
            note = {}
        return AgentError(
            "busy",
            "%s %s since %s (process %s)"
            % (
                note.get("holder", "somebody"),
                self._doing,
                note.get("since_utc", "an unknown time"),
                note.get("pid", "unknown"),
            ),
            "wait until it has finished (or end that process on the device: what it measured is kept)",
        )


def lock_folder() -> str:
    """One folder for all users of this machine, since two measurements at once disturb each other."""
    chosen = os.environ.get("RIG_LOCK_DIR")
    if chosen:
        return chosen
    for folder in ("/run/lock", "/var/lock"):
        if os.path.isdir(folder) and os.access(folder, os.W_OK):
            return folder
    return tempfile.gettempdir()
