"""The commands with a meter in the device profile: rig devices shows it, rig measure uses it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rig.commands import devices
from rig.commands.options import DevicesOptions
from rig.store.store import Store
from tests.agent_setup import isolated, small_model
from tests.fakes.scpi_instrument import IDENTITY, ScpiInstrument, profile_text

__all__ = ["isolated"]  # a fixture

PLAN = """
[plan]
warmup_s = 0.05
warmup_max_s = 0.2
window_s = 0.05
min_windows = 3
rel_ci = 0.9
max_s = 1.0
quiet_s = 0.2
"""


def write_profiles(folder: Path, resource: str) -> None:
    for name in ("instruments", "devices"):
        (folder / "config" / name).mkdir(parents=True)
    (folder / "config" / "instruments" / "acme.toml").write_text(profile_text(rate_hz=20.0, window_s=0.05))
    meter = f'\n[meter]\nkind = "scpi"\nresource = "{resource}"\ninstrument = "acme"\n'
    (folder / "config" / "devices" / "bench.toml").write_text(f'description = "a bench"\n{meter}{PLAN}')


def rig(*words: str) -> tuple[int, dict[str, Any]]:
    """Ask, waiting while something else measures on this computer."""
    deadline_s = time.monotonic() + 60
    while True:
        done = subprocess.run([sys.executable, "-m", "rig.cli", *words, "--json"], capture_output=True, text=True)
        assert "Traceback" not in done.stderr
        said = json.loads(done.stdout)
        if said.get("error", {}).get("code") != "device-busy" or time.monotonic() > deadline_s:
            return done.returncode, said
        time.sleep(0.5)


def test_measure_reports_the_meters_watts(isolated: Path) -> None:
    model = small_model(isolated / "m.onnx")
    with ScpiInstrument(lambda t_s: 6.5) as instrument:
        write_profiles(isolated, instrument.resource)
        code, said = rig("measure", str(model), "--device", "bench")
    assert code == 0, said
    network, device = said["network"], said["device"]
    assert (device["meter"], device["boundary"]) == ("meter-acme", "board_input")
    assert network["power_w"]["value"] == pytest.approx(6.5, abs=0.02)
    assert network["power_w"]["lo"] < 6.5 < network["power_w"]["hi"]
    assert network["idle_power_w"]["value"] == pytest.approx(6.5, abs=0.02)
    assert network["energy_j"]["value"] > network["latency_s"]["value"]
    assert "no-power" not in {note["code"] for note in said["warnings"]}
    run = Store().open_run(said["run_id"])
    assert len(next(run.measurements())["trace"]["times_s"]) > 20
    kept = (run.path / "evidence" / f"{said['run_id']}-1.jsonl").read_text()
    assert IDENTITY in kept
    assert "230.1," in kept


def test_devices_shows_the_meter_or_why_not(isolated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "profile_names", lambda: ["bench"])
    with ScpiInstrument() as instrument:
        write_profiles(isolated, instrument.resource)
        row = devices.run(DevicesOptions())["devices"][0]
        assert (row["state"], row["meter"], row["sensors"][0]["state"]) == ("ready", "meter-acme", "ok")
    said = devices.run(DevicesOptions())
    row = said["devices"][0]
    assert (row["state"], row["meter"], row["sensors"][0]["state"]) == ("not set up", None, "absent")
    warned = next(note for note in said["warnings"] if note["code"] == "no-meter")
    assert "Connection refused" in warned["message"]
    assert warned["fix"]
    code, failed = rig("measure", str(small_model(isolated / "m.onnx")), "--device", "bench")
    assert (code, failed["error"]["code"]) == (3, "device-setup")
