"""A run is read by one calibration of its power source, whatever is found out of the source while it goes on."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from synthetic_records import synthetic_record

from device_agents.records import KernelSpec, MeasurePlan
from rig.connection.session import Session, Subject
from rig.errors import StoreError
from rig.profiles import load_profile
from rig.quality.verdict import assess
from rig.sensors import store as sensor_store
from rig.sensors.calibration import fit_sensor
from rig.sensors.store import SOURCES_FILE, InForce
from tests.agent_setup import isolated

__all__ = ["isolated"]

KERNEL = KernelSpec("conv", 1, 16, 14, 14, 16, 14, 14, 3, 3, 1, 1)
PLAN = MeasurePlan(rel_ci=0.5, max_s=3.0, min_windows=3, window_s=0.3, quiet_s=0.5)


def calibration(sensor: dict[str, Any], gain: float, day: int) -> dict[str, Any]:
    """As ``rig calibrate-sensor`` stores it."""
    read = [2.0, 3.0, 4.0, 5.0, 6.0]
    fit = fit_sensor(read, [gain * watts for watts in read], 0.001).to_json()
    declared = {key: value for key, value in sensor.items() if key not in ("name", "calibration", "characterization")}
    return {"made_utc": f"2026-01-{day:02d}", "declared": declared, "against": "meter", "fit": fit}


def test_what_was_known_when_a_run_began_counts_for_all_of_it(tmp_path: Path) -> None:
    record = synthetic_record()
    sensor = record["sensor"]

    def found(gain: float, day: int) -> None:
        sensor_store.save("calibration", "pi4", "s1", "virtual", calibration(sensor, gain, day), tmp_path)

    def read_by(folder: Path) -> dict[str, Any]:
        in_force = InForce("pi4", folder / SOURCES_FILE, tmp_path)
        return sensor_store.with_sensor_knowledge(record, "pi4", tmp_path, in_force)

    first, second = tmp_path / "c-0001", tmp_path / "c-0002"
    for folder in (first, second):
        folder.mkdir()
    found(1.02, 1)
    before = read_by(first)
    found(1.10, 2)
    after, fresh = read_by(first), read_by(second)
    assert assess(after).power_w == assess(before).power_w
    ratio = assess(fresh).power_w.value / assess(before).power_w.value  # type: ignore[union-attr, operator]
    assert ratio == pytest.approx(1.10 / 1.02)
    stored = json.loads((first / SOURCES_FILE).read_text())["s1 virtual"]
    assert (stored["calibration"]["made_utc"], stored["characterization"]) == ("2026-01-01", None)
    assert InForce("pi4", second / SOURCES_FILE, tmp_path).superseded("s1", "virtual") == []
    (words,) = InForce("pi4", first / SOURCES_FILE, tmp_path).superseded("s1", "virtual")
    assert words == (
        "calibration of virtual made 2026-01-02 (rig calibrate-sensor) is not used, but that of 2026-01-01"
    )


def test_a_calibration_that_came_later_is_not_there_for_a_run_that_began_without(tmp_path: Path) -> None:
    record = synthetic_record()
    in_force = InForce("pi4", tmp_path / SOURCES_FILE, tmp_path)
    assert sensor_store.with_sensor_knowledge(record, "pi4", tmp_path, in_force) is record
    sensor_store.save("calibration", "pi4", "s1", "virtual", calibration(record["sensor"], 1.1, 3), tmp_path)
    again = InForce("pi4", tmp_path / SOURCES_FILE, tmp_path)
    assert sensor_store.with_sensor_knowledge(record, "pi4", tmp_path, again) is record
    (words,) = again.superseded("s1", "virtual")
    assert words.endswith("is not used, but none")
    assert "calibration" in sensor_store.with_sensor_knowledge(record, "pi4", tmp_path)["sensor"]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / SOURCES_FILE).write_text("{")
    with pytest.raises(StoreError, match="damaged"):
        InForce("pi4", tmp_path / SOURCES_FILE, tmp_path)


def test_a_run_that_goes_on_after_a_new_calibration_keeps_the_old_one(isolated: Path, tmp_path: Path) -> None:
    """Through the real agent: two sessions of one run, a calibration made between them, then another run."""
    profile = load_profile("virtual-pi4")

    def measured(folder: Path, identity: str) -> tuple[dict[str, Any], list[str]]:
        folder.mkdir(exist_ok=True)
        with Session(profile, "test") as session:
            session.measures_for(folder)
            record = session.measure(Subject("net", kernels=[KERNEL]), PLAN, request_id=identity)
            session.ack([record["id"]])
            return record, [str(problem["message"]) for problem in session.problems]

    plain, _ = measured(tmp_path / "m-0000", "look")
    serial, sensor = plain["serial"], copy.deepcopy(plain["sensor"])
    assert "calibration" not in sensor
    sensor_store.save("calibration", profile.name, serial, "virtual", calibration(sensor, 1.02, 1))
    begun, problems = measured(tmp_path / "c-0001", "before")
    assert problems == []
    sensor_store.save("calibration", profile.name, serial, "virtual", calibration(sensor, 1.10, 2))
    resumed, problems = measured(tmp_path / "c-0001", "after")
    anew, none = measured(tmp_path / "c-0002", "anew")
    days = [record["sensor"]["calibration"]["made_utc"] for record in (begun, resumed, anew)]
    assert days == ["2026-01-01", "2026-01-01", "2026-01-02"]
    assert none == []
    (said,) = problems
    assert "c-0001 began with what was known then" in said
    assert "2026-01-02" in said
    powers = [assess(record).power_w.value for record in (begun, resumed, anew)]  # type: ignore[union-attr]
    assert powers[1] == pytest.approx(powers[0], rel=0.01)
    assert powers[2] == pytest.approx(powers[0] * 1.10 / 1.02, rel=0.01)  # type: ignore[operator]
