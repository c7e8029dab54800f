"""SSH to a device, with keys and checked host keys."""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import paramiko

from rig.errors import DeviceError, DeviceSetupError, LinkLost, UnreachableError

CONNECT_TIMEOUT_S = 15.0

# A link that is half open never breaks by itself: an answer about a file is waited for this long.
FILES_TIMEOUT_S = 30.0

# Where the agent, models and results live on a device, below the user's home.
REMOTE_CACHE = ".cache/rig"


class SshTransport:
    """SSH with keys; the host's own key must be known already (there is no trust on first use).

    ``known_hosts``: a file (default: the user's ``~/.ssh/known_hosts``). Raises DeviceSetupError where the host key is
    unknown or changed, the user is refused, or files cannot be written there; UnreachableError where nobody answers;
    LinkLost where the link breaks.
    """

    def __init__(
        self,
        host: str,
        user: str | None = None,
        port: int = 22,
        identity_file: str | None = None,
        known_hosts: str | None = None,
    ) -> None:
        self.where = f"{user + '@' if user else ''}{host}:{port}"
        self._host, self._user, self._port = host, user, port
        self._identity = os.path.expanduser(identity_file) if identity_file else None
        self._known_hosts = os.path.expanduser(known_hosts or "~/.ssh/known_hosts")
        self._client: Any = None
        self._sftp: Any = None
        self._home = ""

    def run(self, argv: list[str]) -> SshChannel:
        """Start a command over an exec channel, every argument quoted."""
        client = self._connected()
        with self._breaks(f"starting {argv[0]}"):
            channel = client.get_transport().open_session(timeout=CONNECT_TIMEOUT_S)
            channel.exec_command(" ".join(shlex.quote(part) for part in argv))
        return SshChannel(channel)

    def put(self, local_path: Path, remote_name: str) -> str:
        """SFTP into ``~/.cache/rig`` under a temporary name, then rename."""
        target, partial = self._remote(remote_name), self._remote(f"{remote_name}.{os.getpid()}.part")
        with self._breaks(f"writing {target}"):
            self._make_cache()
            try:
                self._sftp.put(str(local_path), partial)
                self._sftp.posix_rename(partial, target)
            except OSError:
                self._delete(partial)
                raise
        return target

    def exists(self, remote_name: str) -> str | None:
        """Whether ``~/.cache/rig`` has it."""
        target = self._remote(remote_name)
        with self._breaks(f"looking for {target}"):
            try:
                self._sftp.stat(target)
            except FileNotFoundError:
                return None
        return target

    def remove(self, remote_name: str) -> None:
        """Delete from ``~/.cache/rig``."""
        target = self._remote(remote_name)
        with self._breaks(f"deleting {target}"), contextlib.suppress(FileNotFoundError):
            self._sftp.remove(target)

    def close(self) -> None:
        """Hang up."""
        client, self._client, self._sftp = self._client, None, None
        if client is not None:
            client.close()

    def _connected(self) -> Any:
        if self._client is not None and self._client.get_transport() is not None:
            if self._client.get_transport().is_active():
                return self._client
            self.close()
        self._client = self._connect()
        return self._client

    def _connect(self) -> Any:
        client = paramiko.SSHClient()
        client.set_missing_host_key_policy(paramiko.RejectPolicy())
        if os.path.isfile(self._known_hosts):
            client.load_host_keys(self._known_hosts)
        try:
            client.connect(
                self._host,
                port=self._port,
                username=self._user,
                key_filename=self._identity,
                look_for_keys=self._identity is None,
                allow_agent=self._identity is None,
                timeout=CONNECT_TIMEOUT_S,
                banner_timeout=CONNECT_TIMEOUT_S,
                auth_timeout=CONNECT_TIMEOUT_S,
            )
        except (paramiko.SSHException, OSError, EOFError) as error:
            client.close()
            raise self._explain(error) from error
        client.get_transport().set_keepalive(10)
        return client

    def _explain(self, error: Exception) -> DeviceSetupError:
        """A connection error in words, with the step that mends it."""
        name = self._host if self._port == 22 else f"[{self._host}]:{self._port}"
        scan = f"ssh-keyscan -p {self._port} {self._host} >> {self._known_hosts}"
        if isinstance(error, paramiko.BadHostKeyException):
            return DeviceSetupError(
                f"{self.where}: the host key has changed: another machine answers, or the board was installed anew",
                fix=f"if you know why it changed: ssh-keygen -R '{name}' -f {self._known_hosts}, then {scan}",
            )
        if isinstance(error, (paramiko.AuthenticationException, paramiko.PasswordRequiredException)):
            return DeviceSetupError(
                f"{self.where}: the login was refused: {error}",
                fix=f"ssh-copy-id -p {self._port} {self._user + '@' if self._user else ''}{self._host}, "
                "or set transport.user and transport.identity_file in the device profile",
            )
        if isinstance(error, paramiko.SSHException) and "not found in known_hosts" in str(error):
            return DeviceSetupError(
                f"{self.where}: the host key is not known", fix=f"compare its fingerprint on the board, then: {scan}"
            )
        if isinstance(error, FileNotFoundError):
            return DeviceSetupError(
                f"{self.where}: the key file {self._identity} does not exist", fix="correct transport.identity_file"
            )
        if isinstance(error, (socket.gaierror, OSError, EOFError)):
            return UnreachableError(
                f"{self.where}: cannot be reached: {error}", fix="is it switched on, and transport.host and port right?"
            )
        return UnreachableError(f"{self.where}: SSH failed: {error}", fix=f"try: ssh -p {self._port} {self._host}")

    @contextlib.contextmanager
    def _breaks(self, action: str) -> Iterator[None]:
        """Tell a link that broke (hung up on, LinkLost) from a device that refuses (DeviceSetupError)."""
        try:
            yield
        except (paramiko.SSHException, EOFError, TimeoutError, ConnectionError) as error:
            self.close()
            raise LinkLost(f"{self.where}: the link broke while {action}: {error}", fix="try again") from error
        except OSError as error:
            if str(error) == "Socket is closed":  # what paramiko raises on a channel that has gone
                self.close()
                raise LinkLost(f"{self.where}: the link broke while {action}", fix="try again") from error
            raise DeviceSetupError(
                f"{self.where}: {action} failed: {error}", fix="check free space and rights of ~/.cache there"
            ) from error

    def _files(self) -> Any:
        client = self._connected()
        if self._sftp is None:
            try:
                sftp = client.open_sftp()
                sftp.get_channel().settimeout(FILES_TIMEOUT_S)
                self._home = sftp.normalize(".")
            except (paramiko.SSHException, EOFError, OSError) as error:
                if not client.get_transport() or not client.get_transport().is_active():
                    self.close()
                    raise LinkLost(f"{self.where}: the link broke: {error}", fix="try again") from error
                raise DeviceSetupError(
                    f"{self.where}: no SFTP: {error}", fix="enable the sftp subsystem in the device's sshd_config"
                ) from error
            self._sftp = sftp
        return self._sftp

    def _remote(self, name: str) -> str:
        self._files()
        return f"{self._home}/{REMOTE_CACHE}/{name}"

    def _make_cache(self) -> None:
        folder = self._home
        for part in REMOTE_CACHE.split("/"):
            folder = f"{folder}/{part}"
            try:
                self._sftp.stat(folder)
            except FileNotFoundError:
                self._sftp.mkdir(folder, 0o700)

    def _delete(self, path: str) -> None:
        """A partial file, where the link still works: on a full disk it would stay in the way."""
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException, DeviceError):
            self._sftp.remove(path)


class SshChannel:
    """An SSH exec channel."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel
        self.stdin: IO[bytes] = channel.makefile_stdin("wb", 0)
        self.stdout: IO[bytes] = channel.makefile("rb", -1)
        self.stderr: IO[bytes] = channel.makefile_stderr("rb", -1)

    def wait(self, timeout_s: float) -> int | None:
        """The exit status; None while it still runs."""
        if not self._channel.status_event.wait(timeout_s):
            return None
        return int(self._channel.exit_status)

    def close(self) -> None:
        """Close the channel; the agent sees its input end, and leaves by itself."""
        self._channel.close()
