"""The agent as one zipapp whose name carries its SHA-256, so that stale code cannot run."""

from __future__ import annotations

import functools
import hashlib
import io
import os
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import platformdirs

import device_agents
from rig.errors import StoreError

# Runs before anything newer than Python 3.6 is parsed, and on Python 2 too.
_ENTRY = """\
import sys
if sys.version_info < (3, 6):
    sys.stderr.write("rig-agent: Python %d.%d is too old, 3.6 is needed\\n" % sys.version_info[:2])
    sys.exit(97)
from device_agents.__main__ import main
sys.exit(main())
"""

TOO_OLD_STATUS = 97

_SUFFIXES = (".py", ".json")
_FIXED_DATE = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class AgentBundle:
    """``path``: the zipapp on this host. ``sha256``: of its bytes."""

    path: Path
    sha256: str

    @property
    def remote_name(self) -> str:
        """File name on the device."""
        return f"agent-{self.sha256}.pyz"


def bundle_bytes(package: Path) -> bytes:
    """The zipapp of a ``device_agents`` folder; the same files give the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        _write(archive, "__main__.py", _ENTRY.encode())
        for path in sorted(package.rglob("*")):
            if path.suffix in _SUFFIXES and "__pycache__" not in path.parts:
                _write(archive, (Path("device_agents") / path.relative_to(package)).as_posix(), path.read_bytes())
    return buffer.getvalue()


def build_bundle(folder: Path | None = None) -> AgentBundle:
    """Write the zipapp of the installed agent into ``folder`` (default: the user's cache), unless it is there."""
    return _written(bundle_bytes(Path(device_agents.__file__).parent), folder or _cache_folder())


@functools.lru_cache(maxsize=1)
def installed_bundle() -> AgentBundle:
    """``build_bundle()``, once a process: a running campaign keeps the agent it started with."""
    return build_bundle()


def _written(data: bytes, folder: Path) -> AgentBundle:
    sha256 = hashlib.sha256(data).hexdigest()
    bundle = AgentBundle(folder / f"agent-{sha256}.pyz", sha256)
    if not bundle.path.exists():
        fix = f"check free space and rights of {folder}, or set XDG_CACHE_HOME to another folder"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            handle, partial = tempfile.mkstemp(dir=folder)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                os.replace(partial, bundle.path)
            except OSError:
                os.unlink(partial)
                raise
        except OSError as error:
            raise StoreError(f"writing the agent to {bundle.path}: {error.strerror}", fix) from error
    return bundle


def _cache_folder() -> Path:
    return Path(platformdirs.user_cache_dir("rig"))


def _write(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    entry = zipfile.ZipInfo(name, _FIXED_DATE)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, data)
