"""A ``rig measure`` is killed; what the device made of it is taken into the store by the next command that asks it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rig import cli
from rig.commands import devices
from rig.commands.options import MeasureOptions, command_words, measure_options_of
from rig.connection.session import Session, Subject
from rig.profiles import load_profile
from rig.store.identity import IDENTITY_FILE
from rig.store.store import Run, Store
from tests.agent_setup import QUICK, isolated, small_model, wait_until
from tests.faults.test_host_killed import agents_of, entries

__all__ = ["isolated"]  # a fixture

pytestmark = pytest.mark.alone  # what is measured beside other work may be rejected, and then has no result

# About a second of windows, whatever they show.
PLAN = """
sensors = []
[plan]
warmup_s = 0.05
warmup_max_s = 0.1
window_s = 0.05
min_windows = 15
rel_ci = 0.9
max_s = 1.0
cooldown_s = 1.0
"""


@pytest.fixture
def model(isolated: Path) -> Path:
    """A small network, and a device "bench" to measure it on."""
    folder = isolated / "config" / "devices"
    folder.mkdir(parents=True)
    (folder / "bench.toml").write_text(f'description = "a bench"{PLAN}')
    return small_model(isolated / "net.onnx")


def spool(isolated: Path) -> Path:
    return isolated / "home" / "agent" / "bench" / "spool.jsonl"


def killed(isolated: Path, model: Path, *words: str) -> Run:
    """Kill ``rig measure`` while its agent measures, and wait until that agent has finished and left."""
    command = [sys.executable, "-m", "rig.cli", "measure", str(model), "--device", "bench", *words]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    lock = isolated / "rig-device.lock"
    wait_until(lambda: lock.exists() and lock.stat().st_size > 0, 60.0)
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_until(lambda: not agents_of(isolated / "home"), 60.0)
    run = Store().latest("measure")
    assert run is not None
    assert (run.manifest["state"], run.measurement_ids()) == ("running", set())
    return run


def rig(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert cli.main([*words, "--json"]) == 0
    return dict(json.loads(capsys.readouterr().out))


def recovered(said: dict[str, Any]) -> list[str]:
    return [note["message"] for note in said["warnings"] if note["code"] == "recovered"]


def test_the_next_measure_takes_what_the_killed_one_left(
    isolated: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    left = killed(isolated, model, "--fps", "50")
    (kept,) = entries(spool(isolated))
    said = rig(capsys, "measure", str(model), "--device", "bench")
    (message,) = recovered(said)
    assert left.id in message
    run = Store().open_run(left.id)
    (record,) = run.measurements()
    assert (record["id"], record["started_utc"]) == (kept["id"], kept["started_utc"]), "not measured again"
    assert (run.manifest["state"], run.manifest["recovered"]) == ("done", True)
    result = run.read_json("result.json")
    assert (result["network"]["fps"], result["measurements"]) == (50.0, [record["id"]])
    assert said["run_id"] != left.id
    assert Store().open_run(said["run_id"]).measurement_ids() == {f"{said['run_id']}-1"}, "its own, and no other"
    assert entries(spool(isolated)) == []
    assert recovered(rig(capsys, "measure", str(model), "--device", "bench")) == [], "once"


def test_devices_takes_it_too_but_no_other_hosts(
    isolated: Path, model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    left = killed(isolated, model)
    with monkeypatch.context() as other:  # another host, whose store has a killed run of the same number
        other.setattr(Session, "asked_by", property(lambda session: "another"))
        with Session(load_profile("bench"), "other") as session:
            session.measure(Subject("net", path=model), QUICK, request_id=f"{left.id}-1")
    assert len(entries(spool(isolated))) == 2
    monkeypatch.setattr(devices, "profile_names", lambda: ["bench"])
    with Store().open_run(left.id).held():  # its command lives: it takes its result itself
        assert recovered(rig(capsys, "devices")) == []
    assert len(entries(spool(isolated))) == 2
    (message,) = recovered(rig(capsys, "devices"))
    assert f"that was stopped in {left.id}; it is stored now: a result" in message
    assert Store().open_run(left.id).measurement_ids() == {f"{left.id}-1"}
    assert [record["asked_by"] for record in entries(spool(isolated))] == ["another"], "the other host's stays for it"


def test_devices_says_that_the_store_is_a_stranger_to_the_device(
    isolated: Path, model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    killed(isolated, model)
    (isolated / "home" / IDENTITY_FILE).write_text("damaged\n")
    monkeypatch.setattr(devices, "profile_names", lambda: ["bench"])
    said = rig(capsys, "devices")
    assert [note["code"] for note in said["warnings"] if note["code"] == "store-name"] == ["store-name"]
    assert recovered(said) == []
    assert len(entries(spool(isolated))) == 1


def test_a_result_that_was_stored_before_the_kill_is_only_acknowledged(
    isolated: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    left = killed(isolated, model)
    (kept,) = entries(spool(isolated))
    Store().open_run(left.id).add_measurement(kept)  # killed between the two
    model.unlink()
    monkey = small_model(isolated / "other.onnx")
    said = rig(capsys, "measure", str(monkey), "--device", "bench")
    assert len(recovered(said)) == 1
    run = Store().open_run(left.id)
    assert len(list(run.measurements())) == 1
    assert run.read_json("result.json")["network"]["size_bytes"] is None, "its file is gone"
    assert entries(spool(isolated)) == []


@pytest.mark.parametrize(
    "options",
    [
        MeasureOptions(Path("a b.onnx"), "pi4"),
        MeasureOptions(Path("n.onnx"), "pi4", fps="60", shape="1,3,8,8", explain=True),
    ],
)
def test_a_commands_words_are_read_back(options: MeasureOptions) -> None:
    assert measure_options_of(command_words("measure", options)) == options
