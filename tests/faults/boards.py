"""The boards of the fault tests: a profile reached over SSH on loopback, and the processes of an agent on it."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterable

from rig.profiles import DeviceProfile, TransportSettings
from tests.agent_setup import children_of, local_profile
from tests.fakes.sshd import LoopbackSshd


def board_profile(sshd: LoopbackSshd, port: int | None = None, **changes: object) -> DeviceProfile:
    """This computer's profile, reached over ``sshd``, or over a proxy on ``port`` in front of it."""
    port = port or sshd.port
    key = sshd.known_hosts.read_text().split(maxsplit=1)[1]
    known_hosts = sshd.folder / f"known_hosts-{port}"
    known_hosts.write_text(f"[127.0.0.1]:{port} {key}")
    settings = TransportSettings(
        kind="ssh",
        host="127.0.0.1",
        user=sshd.user,
        port=port,
        identity_file=str(sshd.identity),
        known_hosts=str(known_hosts),
    )
    return local_profile(name="board", transport=settings, sensors=(), **{"python": sys.executable, **changes})


def processes_of(agent_pid: int) -> list[int]:
    """The supervisor and its children."""
    return [agent_pid, *children_of(agent_pid).values()]


def sent_to(pids: Iterable[int], number: signal.Signals) -> None:
    """Send a signal to processes, of which some may have ended."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
