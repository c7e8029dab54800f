"""The agent's own sampler process, started as the agent starts it, with the rights of an ordinary user."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from device_agents.child import Child

ROOT = Path(__file__).resolve().parents[2]

# A file without read permission refuses everybody but root, whom capabilities 1 and 2 let read it all the same.
START = f"""
import ctypes, os, sys
if os.geteuid() == 0:
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()
    if libc.capget(header, sets) == 0:
        sets[0] &= ~0b110
        if libc.capset(header, sets) != 0:
            raise OSError(ctypes.get_errno(), "capset")
sys.path.insert(0, {str(ROOT)!r})
from device_agents.sampler import main
main()
"""

DEADLINE_S = 60.0  # of a test on a machine that is busy with other things


class SamplerProcess:
    """One process for many sensors, one open at a time."""

    def __init__(self) -> None:
        self._child = Child("sampler", [sys.executable, "-c", START])
        self._child.start()

    def probe(self, name: str, options: dict[str, Any]) -> dict[str, str]:
        """State, reason and fix of one sensor."""
        answer = self._child.ask({"op": "probe", "names": [name], "options": {name: options}}, DEADLINE_S)
        found: dict[str, str] = answer[name]
        return found

    def open(self, name: str, options: dict[str, Any]) -> dict[str, Any]:
        """Start sampling; the sensor's description."""
        return self._child.ask({"op": "open", "name": name, "options": options}, DEADLINE_S)

    def drain(self) -> tuple[list[list[float]], str | None]:
        """New samples, and the problem that ended them."""
        answer = self._child.ask({"op": "drain"}, DEADLINE_S)
        return answer["samples"], answer["problem"]

    def samples(self, count: int) -> list[list[float]]:
        """At least so many samples; AssertionError for a problem before."""
        found: list[list[float]] = []
        deadline_s = time.monotonic() + DEADLINE_S
        while len(found) < count:
            new, problem = self.drain()
            found.extend(new)
            assert problem is None, problem
            assert time.monotonic() < deadline_s, f"{len(found)} samples of {count} in {DEADLINE_S} s"
            time.sleep(0.01)
        return found

    def until_problem(self) -> tuple[list[list[float]], str]:
        """The samples before a problem, and the problem."""
        found: list[list[float]] = []
        deadline_s = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline_s:
            new, problem = self.drain()
            found.extend(new)
            if problem is not None:
                return found, problem
            time.sleep(0.01)
        raise AssertionError(f"no problem in {DEADLINE_S} s, but {len(found)} samples, at last {found[-1:]}")

    def close(self) -> None:
        """Stop sampling; the process stays."""
        self._child.ask({"op": "close"}, DEADLINE_S)

    def stop(self) -> None:
        """End the process."""
        self._child.stop()

    def held(self) -> tuple[list[str], list[int]]:
        """The files that the process has open, and its child processes."""
        process = self._child._process
        assert process is not None
        files = []
        for descriptor in Path(f"/proc/{process.pid}/fd").iterdir():
            try:
                files.append(os.readlink(descriptor))
            except FileNotFoundError:
                continue  # closed while we looked
        children = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except (OSError, IndexError):
                continue  # it ended while we looked
            if parent == process.pid:
                children.append(int(entry.name))
        return sorted(files), children
