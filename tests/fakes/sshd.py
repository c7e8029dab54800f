"""A real OpenSSH server on loopback, with keys of its own, for as long as a test needs it."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

SFTP_SERVERS = ("/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server", "/usr/libexec/sftp-server")


class LoopbackSshd:
    """``folder``: keys, configuration and log. ``environment``: variables of the sessions it starts.

    ``home``: where SFTP starts (default: the account's own home, which other tests share).
    """

    def __init__(self, folder: Path, environment: dict[str, str] | None = None, home: Path | None = None) -> None:
        self.folder = folder
        self.user = getpass.getuser()
        self.port = free_port()
        self.identity = folder / "user_key"
        self.known_hosts = folder / "known_hosts"
        self._environment = environment or {}
        self._home = home
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> LoopbackSshd:
        self.folder.mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0:  # privilege separation wants the folder, and a container may not have it
            os.makedirs("/run/sshd", exist_ok=True)
        if not self.identity.exists():
            make_key(self.identity)
        self.new_host_key()
        self.trust_host_key()
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def new_host_key(self) -> None:
        """As a reinstalled board, or somebody else, would have."""
        for path in self.folder.glob("host_key*"):
            path.unlink()
        make_key(self.folder / "host_key")

    def trust_host_key(self) -> None:
        """Write the present host key into ``known_hosts``."""
        key = " ".join((self.folder / "host_key.pub").read_text().split()[:2])
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {key}\n")

    def restart(self) -> None:
        """Drop every connection and listen again on the same port."""
        self.stop()
        self._start()

    def stop(self) -> None:
        """Stop listening and end all sessions."""
        process, self._process = self._process, None
        if process is not None:
            for pid in _descendants(process.pid):
                try:
                    os.kill(pid, 15)
                except ProcessLookupError:
                    continue
            process.terminate()
            process.wait(10)

    def sessions(self) -> list[int]:
        """Process ids of sshd's connection processes."""
        return _descendants(self._process.pid) if self._process else []

    def _start(self) -> None:
        (self.folder / "authorized_keys").write_text((self.folder / "user_key.pub").read_text())
        sftp = next(path for path in SFTP_SERVERS if os.path.exists(path))
        environment = " ".join(f'"{name}={value}"' for name, value in self._environment.items())
        lines = [
            f"Port {self.port}",
            "ListenAddress 127.0.0.1",
            f"HostKey {self.folder / 'host_key'}",
            f"AuthorizedKeysFile {self.folder / 'authorized_keys'}",
            f"PidFile {self.folder / 'pid'}",
            "StrictModes no",
            "UsePAM no",
            "PasswordAuthentication no",
            "PermitRootLogin yes",
            f"Subsystem sftp {sftp}" + (f" -d {self._home}" if self._home else ""),
        ]
        if environment:
            lines.append(f"SetEnv {environment}")
        config = self.folder / "sshd_config"
        config.write_text("\n".join(lines) + "\n")
        with open(self.folder / "log", "ab") as log:
            self._process = subprocess.Popen(
                [shutil.which("sshd") or "/usr/sbin/sshd", "-D", "-e", "-f", config], stderr=log
            )
        wait_for_port(self.port, self.folder / "log")


def make_key(path: Path) -> None:
    """Write an ed25519 key pair."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)


def free_port() -> int:
    """A TCP port on loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(port: int, log: Path, timeout_s: float = 10.0) -> None:
    """Wait until something listens; RuntimeError with the log where nothing does."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if time.monotonic() > deadline_s:
                raise RuntimeError(f"sshd does not listen: {log.read_text()}") from None
            time.sleep(0.02)


def _descendants(pid: int) -> list[int]:
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except (OSError, IndexError):
                continue
    found, frontier = [], [pid]
    while frontier:
        frontier = [child for child, parent in parents.items() if parent in frontier]
        found.extend(frontier)
    return found
