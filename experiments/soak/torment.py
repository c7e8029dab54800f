"""The board under torment, and the faults that it is given."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path
from typing import NamedTuple

from tests.agent_setup import children_of, exists
from tests.fakes.sshd import LoopbackSshd
from tests.faults.proxy import LinkProxy

# Fault → how often it comes, relative to the others.
WEIGHTS = {
    "link cut": 5,
    "link half open": 1,
    "supervisor killed": 5,
    "runtime killed": 5,
    "sampler killed": 5,
    "board without power, spool torn": 3,
    "host killed": 4,
    "host killed, store torn": 2,
    "power source died": 2,
    "power source printed garbage": 2,
    "power source broke": 2,
}

# Notes every result that the device's spool has taken: what may then neither be lost nor be measured again.
AUDIT = """
import importlib.abc, importlib.util, json, os, sys

class Audit(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name != "device_agents.spool":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module
        def exec_module(module):
            load(module)
            if module.__name__ != name:
                return  # the loader is one for all modules of the zipapp
            add = module.Spool.add
            def audited(self, key, record):
                add(self, key, record)
                fd = os.open({path!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
                os.write(fd, (json.dumps([record["id"], record["started_utc"]]) + "\\n").encode())
                os.close(fd)
            module.Spool.add = audited
        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Audit())
"""


class Board(NamedTuple):
    """The board under torment: its sshd and cable, and where it keeps its files."""

    sshd: LoopbackSshd
    cable: LinkProxy
    home: Path
    orders: Path
    root: Path

    def agents(self) -> list[int]:
        """Process ids of the supervisors."""
        found = []
        for pid in self.sshd.sessions():
            with contextlib.suppress(OSError):
                if b"supervise" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                    found.append(pid)
        return found


def inflict(fault: str, board: Board, host: subprocess.Popen[bytes], lines: Path) -> bool:
    """Do it; False where it found nobody (the agent is just being replaced). ``lines``: the measurements stored."""
    if fault == "link cut":
        board.cable.cut()
    elif fault == "link half open":
        board.cable.freeze()
    elif fault.startswith("power source"):
        if board.orders.exists():
            return False  # the one before still waits for its turn
        order = {"died": "die", "printed garbage": "print garbage", "broke": "break"}[fault[len("power source ") :]]
        board.orders.write_text(order)
    elif fault.startswith("host killed"):
        host.kill()
        host.wait()
        if fault.endswith("store torn"):
            _tear(lines, b'{"id":"torn","phases":[{"na')
    elif fault.startswith("board without power"):
        agents = board.agents()
        for pid in board.sshd.sessions():
            _kill(pid)
        for name in ("soak-virtual", "soak-real"):
            _tear(board.home / ".cache/rig/state" / name / "spool.jsonl", b'{"key":"torn@0","record":{"id":"to')
        return bool(agents)
    else:
        return _kill_process(fault.split()[0], board)
    return True


def _kill_process(role: str, board: Board) -> bool:
    for agent in board.agents():
        pid = agent if role == "supervisor" else children_of(agent).get(role)
        if pid is not None:
            return _kill(pid)
    return False


def _tear(path: Path, half: bytes) -> None:
    """As a kill or a power cut within the writing of a line leaves it."""
    if path.exists() and (not path.stat().st_size or path.read_bytes().endswith(b"\n")):
        with path.open("ab") as file:
            file.write(half)


def _kill(pid: int) -> bool:
    if not exists(pid):
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        return True
    return False
