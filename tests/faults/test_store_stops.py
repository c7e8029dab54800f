"""The host stops in the middle of writing to its store: what was stored is there, and the index follows the folders."""

from __future__ import annotations

import json
import random
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from rig.store.store import Store

ROOT = Path(__file__).resolve().parents[2]
KILLS = 6
SEED = 3

# Stores measurements until it is killed, and says each one that is stored.
WRITER = textwrap.dedent(
    """
    import sys
    from rig.store.store import Store
    store = Store(sys.argv[1])
    run = store.latest() or store.new_run("calibrate", "pi4")
    print("ready", flush=True)
    number = len(run.measurement_ids())
    while True:
        values = [float(i) for i in range(200)]
        trace = {"source": "s", "rail": "r", "boundary": "b", "clock": "c", "times_s": values, "power_w": values}
        run.add_measurement({"id": f"m-{number}", "subject": "conv", "phases": [], "trace": trace, "note": "x" * 2000})
        run.add_event("stored", number=number)
        if number % 3 == 0:
            run.update(state=f"after {number}")
        print(number, flush=True)
        number += 1
    """
)


def record(identity: str) -> dict[str, Any]:
    return {"id": identity, "subject": "conv", "phases": [], "trace": None}


def test_killed_while_storing_nothing_that_was_stored_is_lost(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    said: list[int] = []
    for _ in range(KILLS):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        time.sleep(chance.uniform(0.0, 0.15))
        writer.send_signal(signal.SIGKILL)
        said += [int(line) for line in writer.stdout.read().splitlines() if line]
        writer.wait()
        writer.stdout.close()
    store = Store(tmp_path)
    found = store.find_measurements("conv")  # by the index
    run = store.open_run("c-0001")
    ids = [one["id"] for one in run.measurements()]  # with the traces
    assert len(ids) == len(set(ids))
    assert {f"m-{number}" for number in said} <= set(ids)
    assert sorted(found) == sorted(("c-0001", identity) for identity in ids)
    assert store.runs()[0] == json.loads((run.path / "manifest.json").read_text())
    assert all("event" in event for event in run.events())
    print(f"{KILLS} kills (seed {SEED}) while storing: {len(said)} said to be stored, all of {len(ids)} found once")


def test_the_index_is_brought_up_to_date_with_what_a_kill_kept_from_it(tmp_path: Path) -> None:
    run = Store(tmp_path).new_run("calibrate", "pi4")
    run.add_measurement(record("a"))
    run._on_change = lambda *_: None  # killed after the folder's write, before the index's
    run.add_measurement(record("b"))
    run.update(state="done")
    other = Store(tmp_path).open_run(run.id)
    other.add_measurement(record("c"))  # another process goes on: its row must not hide the missing one
    fresh = Store(tmp_path)
    assert fresh.runs()[0]["state"] == "done"
    assert fresh.find_measurements("conv") == [(run.id, "a"), (run.id, "b"), (run.id, "c")]


def test_an_index_of_an_older_version_is_made_anew(tmp_path: Path) -> None:
    store = Store(tmp_path)
    run = store.new_run("calibrate", "pi4")
    run.add_measurement(record("a"))
    for path in tmp_path.glob("index.sqlite*"):
        path.unlink()
    old = sqlite3.connect(tmp_path / "index.sqlite")
    old.execute("CREATE TABLE runs (id TEXT PRIMARY KEY, manifest TEXT NOT NULL)")
    old.execute("PRAGMA user_version=1")
    old.commit()
    old.close()
    fresh = Store(tmp_path)
    assert [manifest["id"] for manifest in fresh.runs()] == [run.id]
    assert fresh.find_measurements("conv") == [(run.id, "a")]
    assert fresh.problems == []


@pytest.mark.parametrize("torn", [b'{"utc":"2026', b'{"utc":"2026","event":"x","fields":{"a":1}'])
def test_a_torn_event_is_left_out_and_said(tmp_path: Path, torn: bytes) -> None:
    run = Store(tmp_path).new_run("calibrate", "pi4")
    run.add_event("one")
    with (run.path / "events.jsonl").open("ab") as file:
        file.write(torn)
    again = Store(tmp_path).open_run(run.id)
    again.add_event("two")
    assert [event["event"] for event in again.events()] == ["one", "two"]
    assert again.problems[-1]["code"] == "damaged-line"
