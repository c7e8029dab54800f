"""The host's process is killed (SIGKILL) at random points of a calibration and the same command given again.

``pytest tests/faults/test_host_killed.py -s`` prints the count and the seed.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rig.store.store import Store
from tests.agent_setup import QUICK_PLAN, exists, wait_until

KILLS = 20
SEED = 1
KERNELS = 60


def entries(spool: Path) -> list[dict[str, Any]]:
    """The results that the device keeps: what was measured and not acknowledged."""
    if not spool.exists():
        return []
    kept: dict[str, dict[str, Any]] = {}
    for line in spool.read_text().splitlines():
        entry = json.loads(line)
        if "acked" in entry:
            kept.pop(entry["acked"], None)
        else:
            kept[entry["key"]] = entry["record"]
    return list(kept.values())


def agents_of(home: Path) -> list[int]:
    """Every process of an agent that keeps its state under this home, and their children."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if any(str(home).encode() in word for word in words) and b"supervise" in words:
                found.append(int(entry.name))
    return found


@pytest.mark.slow
def test_killed_at_twenty_random_points_it_measures_everything_once(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    devices = tmp_path / "config" / "devices"
    devices.mkdir(parents=True)
    (devices / "virtual-pi4.toml").write_text(QUICK_PLAN)
    home = tmp_path / "home"
    environment = {**os.environ, "RIG_HOME": str(home), "RIG_CONFIG": str(tmp_path / "config"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "rig.cli", "calibrate", "--device", "virtual-pi4", "--kernels", str(KERNELS)]
    spool = home / "agent" / "virtual-pi4" / "spool.jsonl"
    expected: dict[str, str] = {}  # id → when it was measured, of everything that was finished before a kill
    kills, in_spool, before_any = 0, 0, 0
    while kills < KILLS:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        run = _wait_for_run(home, process) if chance.random() < 0.8 else None
        if run is None:
            time.sleep(chance.uniform(0.0, 1.5))  # within the start: imports, the run folder, the handshake
            before_any += 1
        else:
            _wait_for_one_more(run, process, chance)
        ended = process.poll() is not None
        process.send_signal(signal.SIGKILL)
        process.wait()
        if ended:
            break  # it was done before it could be killed
        kills += 1
        wait_until(lambda: not agents_of(home), timeout_s=30.0)
        in_spool += len(entries(spool))
        stored = {one["id"]: one["started_utc"] for one in _records(home)}
        for identity, started in expected.items():
            assert stored.get(identity, started) == started, "a stored measurement is never replaced"
        expected.update({one["id"]: one["started_utc"] for one in entries(spool)})
        expected.update(stored)
    done = subprocess.run([*command, "--json"], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    records = _records(home)
    ids = [one["id"] for one in records]
    assert len(ids) == len(set(ids)), "none doubled"
    stored = {one["id"]: one["started_utc"] for one in records}
    assert {identity: stored.get(identity) for identity in expected} == expected, "none lost, none measured again"
    assert result["complete"] is True
    assert result["counts"]["measured"] + result["counts"]["unusable"] == KERNELS
    assert entries(spool) == []
    assert not any(exists(pid) for pid in agents_of(home))
    assert len(Store(home).runs()) == 1, "every start went on with the same run"
    print(
        f"\n{kills} kills of the host (seed {SEED}): {len(ids)} measurements, each once; {in_spool} times a result was "
        f"taken from the device's spool; {before_any} kills fell into the start"
    )
    assert kills == KILLS


def _records(home: Path) -> list[dict[str, Any]]:
    run = Store(home).latest("calibrate")
    return [] if run is None else list(run.measurements(arrays=False))


def _wait_for_run(home: Path, process: subprocess.Popen[bytes]) -> Path | None:
    deadline_s = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline_s:
        found = sorted((home / "runs").glob("c-*"))
        if found:
            return found[-1]
        time.sleep(0.02)
    return None


def _wait_for_one_more(run: Path, process: subprocess.Popen[bytes], chance: random.Random) -> None:
    """Until this start has stored one or two measurements more, and then a random moment of the next one."""
    lines = run / "measurements.jsonl"
    size, wanted = lines.stat().st_size if lines.exists() else 0, chance.randint(1, 2)
    deadline_s = time.monotonic() + 60
    while wanted and process.poll() is None and time.monotonic() < deadline_s:
        now = lines.stat().st_size if lines.exists() else 0
        if now > size:
            size, wanted = now, wanted - 1
        time.sleep(0.002)
    time.sleep(chance.uniform(0.0, 0.08))
