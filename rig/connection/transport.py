"""Byte pipes to a device: what every transport offers, and the local subprocess (SSH is in ``rig.connection.ssh``)."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import IO, Any, Protocol

import platformdirs

from rig.errors import DeviceSetupError


class Channel(Protocol):
    """A running command: ``stdin``, ``stdout`` and ``stderr`` are binary files."""

    stdin: IO[bytes]
    stdout: IO[bytes]
    stderr: IO[bytes]

    def wait(self, timeout_s: float) -> int | None:
        """The exit status; None while it still runs after ``timeout_s``."""

    def close(self) -> None:
        """Let go of the pipes, and end what still runs and can be ended from here."""


class Transport(Protocol):
    """How to reach a device. ``where`` names it in messages."""

    where: str

    def run(self, argv: list[str]) -> Channel:
        """Start a command; DeviceSetupError or TransientDeviceError where it cannot be started."""

    def put(self, local_path: Path, remote_name: str) -> str:
        """Copy a file into the device's cache folder, whole or not at all; returns its path there."""

    def exists(self, remote_name: str) -> str | None:
        """The path of a file in the device's cache folder; None where there is none."""

    def remove(self, remote_name: str) -> None:
        """Delete a file from the device's cache folder, if it is there."""

    def close(self) -> None:
        """Hang up."""


class LocalTransport:
    """The device is this computer; ``cache`` is the folder that files are put into."""

    where = "this computer"

    def __init__(self, cache: Path | None = None) -> None:
        self._cache = cache or Path(platformdirs.user_cache_dir("rig"))

    def run(self, argv: list[str]) -> LocalChannel:
        """Start a subprocess in a session of its own, so that Ctrl-C here does not reach it."""
        try:
            return LocalChannel(
                subprocess.Popen(
                    argv,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    start_new_session=True,
                )
            )
        except OSError as error:
            raise DeviceSetupError(
                f"{argv[0]} cannot be started on {self.where}: {error.strerror}",
                fix="correct python in the device profile",
            ) from error

    def put(self, local_path: Path, remote_name: str) -> str:
        """Copy into the cache folder."""
        target = self._cache / remote_name
        try:
            self._cache.mkdir(parents=True, exist_ok=True)
            handle, partial = tempfile.mkstemp(dir=self._cache)
            os.close(handle)
            try:
                shutil.copyfile(local_path, partial)
                os.replace(partial, target)
            except OSError:
                os.unlink(partial)
                raise
        except OSError as error:
            raise DeviceSetupError(
                f"{self.where}: cannot write {target}: {error.strerror}",
                fix=f"check free space and rights of {self._cache}, or set XDG_CACHE_HOME to another folder",
            ) from error
        return str(target)

    def exists(self, remote_name: str) -> str | None:
        """Whether the cache folder has it."""
        target = self._cache / remote_name
        return str(target) if target.is_file() else None

    def remove(self, remote_name: str) -> None:
        """Delete from the cache folder."""
        (self._cache / remote_name).unlink(missing_ok=True)

    def close(self) -> None:
        """Nothing is held."""


class LocalChannel:
    """A subprocess."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        if process.stdin is None or process.stdout is None or process.stderr is None:
            raise ValueError("the process was started without pipes")
        self._process = process
        self.stdin: IO[bytes] = process.stdin
        self.stdout: IO[bytes] = process.stdout
        self.stderr: IO[bytes] = process.stderr

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def wait(self, timeout_s: float) -> int | None:
        """The exit status; None while it still runs."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def close(self) -> None:
        """End the process: politely, then not."""
        if self._process.poll() is None:
            self._process.terminate()
            if self.wait(5.0) is None:
                self._process.kill()
                self._process.wait()
        with contextlib.suppress(BrokenPipeError):  # what was not sent yet has nobody to read it
            self.stdin.close()
        self.stdout.close()
        self.stderr.close()


def transport_for(settings: Any) -> Transport:
    """The transport of a profile's ``[transport]`` section."""
    if settings.kind == "local":
        return LocalTransport()
    if settings.kind == "replay":
        from rig.replay.transport import ReplayTransport

        return ReplayTransport(settings.run)
    from rig.connection.ssh import SshTransport  # paramiko takes a while to import

    return SshTransport(settings.host, settings.user, settings.port, settings.identity_file, settings.known_hosts)
