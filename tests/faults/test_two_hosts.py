"""Two hosts want one board: two processes with homes of their own, each over its own SSH session to one real sshd."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from rig.connection.session import Session, Subject
from rig.connection.transport import LocalTransport
from tests.agent_setup import QUICK, isolated, local_profile, small_model, wait_until
from tests.fakes.sshd import LoopbackSshd
from tests.faults.boards import board_profile
from tests.faults.test_host_killed import entries

__all__ = ["isolated"]  # a fixture

# Measures under one id until it may, and says what it was told and what came of it.
HOST = """
import json, sys, time
from pathlib import Path
from device_agents.records import MeasurePlan
from rig.connection.session import Session, Subject
from rig.errors import DeviceBusyError
from rig.profiles import DeviceProfile
asked = json.loads(sys.argv[1])
told, record = [], None
with Session(DeviceProfile.model_validate(asked["profile"]), asked["holder"]) as session:
    print("connected", flush=True)
    sys.stdin.readline()
    while record is None:
        try:
            record = session.measure(
                Subject("net", path=Path(asked["model"])), MeasurePlan(**asked["plan"]), request_id="same-id",
                on_progress=lambda progress: print("measuring", flush=True),
            )
        except DeviceBusyError as busy:
            told.append(busy.message)
            print("busy", flush=True)
            time.sleep(0.2)
    session.ack([record["id"]])
kept = {field: record[field] for field in ("id", "started_utc", "plan")}
print(json.dumps({"told": told, "record": kept}), flush=True)
"""


class Host:
    """One host's process. ``go()`` lets it measure, ``said`` are its lines so far."""

    def __init__(self, folder: Path, asked: dict[str, Any]) -> None:
        home = {"RIG_HOME": str(folder / "home"), "XDG_CACHE_HOME": str(folder / "cache")}
        self.said: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOST, json.dumps(asked)],
            env={**os.environ, **home},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def until(self, word: str) -> None:
        """Read what it says up to this word."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(line.strip())
            if line.strip() == word:
                return
        raise AssertionError(f"it ended without {word}: {self.said}")

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def result(self) -> dict[str, Any]:
        out, _ = self.process.communicate(timeout=60)
        return dict(json.loads(out.splitlines()[-1]))


def test_the_second_is_told_who_measures_and_both_get_their_own(sshd: LoopbackSshd, isolated: Path) -> None:
    plan = {"warmup_s": 0.05, "warmup_max_s": 0.1, "window_s": 0.05, "rel_ci": 0.9, "quiet_s": 0.05}
    common = {
        "profile": board_profile(sshd).model_dump(mode="json"),
        "model": str(small_model(isolated / "m.onnx")),
    }
    alice = Host(isolated / "a", {**common, "holder": "alice", "plan": {**plan, "min_windows": 30, "max_s": 2.0}})
    bob = Host(isolated / "b", {**common, "holder": "bob", "plan": {**plan, "min_windows": 3, "max_s": 1.0}})
    try:
        for host in (alice, bob):
            host.until("connected")
        assert alice.process.pid != bob.process.pid
        alice.go()
        alice.until("measuring")
        bob.go()
        bob.until("busy")
        first, second = alice.result(), bob.result()
    finally:
        for host in (alice, bob):
            host.process.kill()
            host.process.wait()
    assert first["told"] == []
    assert all("alice of " in words and "is measuring on this device since 20" in words for words in second["told"])
    assert first["record"]["plan"]["min_windows"] == 30
    assert second["record"]["plan"]["min_windows"] == 3, "not answered with the other's, which had the same id"
    assert second["record"]["started_utc"] > first["record"]["started_utc"]
    wait_until(lambda: not entries(isolated / "device-home/.cache/rig/state/board/spool.jsonl"))
    left = sorted(path.name for path in (isolated / "device-home/.cache/rig").iterdir())
    assert [name for name in left if name.endswith(".onnx")] == []


class Leaving(LocalTransport):
    """Another host used the same model, and takes it away right after it was found there."""

    def exists(self, remote_name: str) -> str | None:
        found = super().exists(remote_name)
        if found is not None and remote_name.endswith(".onnx") and not self.gone:
            self.gone = True
            self.remove(remote_name)
        return found

    gone = False


def test_a_model_that_another_host_takes_away_is_sent_again(isolated: Path) -> None:
    model = small_model(isolated / "m.onnx")
    transport = Leaving()
    transport.put(model, f"model-{hashlib.sha256(model.read_bytes()).hexdigest()}.onnx")
    with Session(local_profile(sensors=()), "test", transport=transport) as session:
        assert session.measure(Subject("net", path=model), QUICK, request_id="a")["id"] == "a"
        session.ack(["a"])
    assert transport.gone
