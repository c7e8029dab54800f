"""Who a store is: a random name, made once and kept in it, by which it knows on a device what it asked for itself.

Two computers may share their name and an account (containers do), and a computer may be renamed; a store's own name
changes with neither. A store that is moved or copied keeps it.
"""

from __future__ import annotations

import getpass
import hashlib
import os
import re
import secrets
import socket
from pathlib import Path

import platformdirs

from rig.durable import append_line, disk_errors, locked_for_append, sync_folder

IDENTITY_FILE = "identity"
_NAME = re.compile(r"[0-9a-f]{32}")


def rig_home() -> Path:
    """``$RIG_HOME``, or the platform's data folder for ``rig``."""
    chosen = os.environ.get("RIG_HOME")
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_data_dir("rig"))


def store_identity(root: Path) -> str:
    """The name of the store, made where it has none (or a damaged one); StoreError where it cannot be kept."""
    path, action = root / IDENTITY_FILE, "naming the store"
    with disk_errors(action, path):
        found = path.read_text(encoding="ascii", errors="replace").strip() if path.exists() else ""
        if _NAME.fullmatch(found):
            return found
        root.mkdir(parents=True, exist_ok=True)
    with locked_for_append(path, action) as handle:
        # Another process may have been quicker.
        found = os.pread(handle, 1000, 0).decode("ascii", errors="replace").strip()
        if not _NAME.fullmatch(found):
            found = secrets.token_hex(16)
            with disk_errors(action, path):
                os.ftruncate(handle, 0)
            append_line(handle, found, action, path)
    with disk_errors(action, root):
        sync_folder(root)
    return found


def former_identity(root: Path) -> str:
    """By what this store called itself before it had a name: a digest of account, computer and folder.

    What a device measured for it then is still its own.
    """
    asker = f"{getpass.getuser()}@{socket.gethostname()}:{root.resolve()}"
    return hashlib.sha256(asker.encode()).hexdigest()[:16]
