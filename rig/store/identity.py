"""Who a store is: a random name, made once and kept in it, by which it knows on a device what it asked for itself.

Two computers may share their name and an account (containers do), and a computer may be renamed; a store's own name
changes with neither. Beside the name stands where it was made, so that a copy of the store, which has results on no
device, gets a name of its own and not those of the original. A folder that is renamed keeps its name; one that two
computers share has a name for each.

    identity    lines "NAME PLACE"; a NAME alone becomes that of the place where it is next read
"""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import os
import re
import secrets
import shlex
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import platformdirs

from rig.durable import append_line, disk_errors, locked_for_append, sync_folder, torn_tail

IDENTITY_FILE = "identity"
MACHINE_IDS = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))  # machine-id(5); told to nobody, only hashed
_LINE = re.compile(r"([0-9a-f]{32})(?: ([0-9a-f]{16}))?")
Noted = Callable[[Iterable["dict[str, str | None]"]], None]


def rig_home() -> Path:
    """``$RIG_HOME``, or the platform's data folder for ``rig``."""
    chosen = os.environ.get("RIG_HOME")
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_data_dir("rig"))


def store_identity(root: Path, noted: Noted = lambda problems: None) -> str:
    """The name of the store here, made where it has none; StoreError where it cannot be kept.

    ``noted`` hears why a store that had a name gets another: it is a copy, or the file is damaged.
    """
    path, action = root / IDENTITY_FILE, "naming the store"
    with disk_errors(action, path):
        if path.exists():
            with path.open("rb") as file:
                found = _read(file.read(), _place(file.fileno())).name
            if found:
                return found
        root.mkdir(parents=True, exist_ok=True)
    with locked_for_append(path, action) as handle:
        with disk_errors(action, path):
            # Another process may have been quicker.
            place = _place(handle)
            seen = _read(os.pread(handle, os.fstat(handle).st_size, 0), place)
        name = seen.name or seen.unplaced or secrets.token_hex(16)
        if not seen.name:
            lines = [f"{name} {place}"]
            if seen.damaged:
                lines = [*seen.others, *lines]
                with disk_errors(action, path):
                    os.ftruncate(handle, 0)
            elif torn_tail(handle):  # written by hand
                lines = ["", *lines]
            append_line(handle, "\n".join(lines), action, path)
    with disk_errors(action, root):
        sync_folder(root)
    if not (seen.name or seen.unplaced):
        noted(_why_new(path, seen))
    return name


class _Seen(NamedTuple):
    """What a file of names says: the one of this place, one without a place, lines of other places, any damage."""

    name: str | None
    unplaced: str | None
    others: list[str]
    damaged: bool


def _read(content: bytes, place: str) -> _Seen:
    lines = content.decode("ascii", errors="replace").splitlines()
    known = [match for match in map(_LINE.fullmatch, lines) if match]
    here = next((match[1] for match in known if match[2] == place), None)
    others = [match[0] for match in known if match[2] and match[2] != place]
    placed = {match[1] for match in known if match[2]}
    unplaced = next((match[1] for match in known if match[1] not in placed), None)
    return _Seen(here, unplaced, others, len(known) < len(lines))


def _place(handle: int) -> str:
    """Where an open file is: a digest of its inode and of this computer's own number, where that can be read.

    Not of the file system's device number, which may be another after each start of the computer.
    """
    computer = ""
    for source in MACHINE_IDS:
        with contextlib.suppress(OSError):  # there is none in many containers
            computer = computer or source.read_text(encoding="ascii", errors="replace").strip()
    return hashlib.sha256(f"rig store {os.fstat(handle).st_ino} {computer}".encode()).hexdigest()[:16]


def _why_new(path: Path, seen: _Seen) -> list[dict[str, str | None]]:
    """The problem to be told where a new name was made for a store that had one."""
    if seen.damaged:
        message = f"{path} was damaged: the store has a new name, results left on devices under its old one stay there"
        fix = "check the disk; if you know the old name, write it alone into that file"
        return [{"code": "store-name", "message": message, "fix": fix}]
    if not seen.others:
        return []
    old = seen.others[-1].split()[0]
    message = f"{path} was made elsewhere: this store is a copy, and has a name of its own from now on"
    fix = f"if it was moved, give it back its old name, which devices know: echo {old} > {shlex.quote(str(path))}"
    return [{"code": "store-name", "message": message, "fix": fix}]


def former_identity(root: Path) -> str:
    """By what this store called itself before it had a name: a digest of account, computer and folder.

    What a device measured for it then is still its own.
    """
    asker = f"{getpass.getuser()}@{socket.gethostname()}:{root.resolve()}"
    return hashlib.sha256(asker.encode()).hexdigest()[:16]
