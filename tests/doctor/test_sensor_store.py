"""What is known of a source is kept by serial, put into each record, and left out where the source has changed."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from synthetic_records import synthetic_record

from device_agents.records import MeasurePlan
from rig.commands import explain
from rig.errors import StoreError
from rig.profiles import load_profile
from rig.quality.limits import Shortfall
from rig.quality.verdict import assess
from rig.sensors import limits as sensor_limits
from rig.sensors import store as sensor_store
from rig.sensors.calibration import fit_sensor


def declared(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record["sensor"].items() if key != "name"}


def characterization(record: dict[str, Any], **facts: Any) -> dict[str, Any]:
    known = {"made_utc": "2026-01-02T03:04:05.678Z", "agent_hash": "a" * 64, "kind": "simulated"}
    known |= {"declared": declared(record), "spacing_s": 0.01, "update_period_s": 0.01, "held": False}
    known |= {"window_s": 0.01, "delay_s": 0.005, "delay_half_width_s": 0.001, "step_w": 0.00125, "noise_w": 0.01}
    known |= {"busy_noise_w": 0.01, "quiet_w": 2.9, "active_w": 3.0}
    return known | facts


@pytest.fixture
def record() -> dict[str, Any]:
    return synthetic_record(windows=12)


def test_a_record_gets_what_is_known_and_says_it_for_ever(tmp_path: Path, record: dict[str, Any]) -> None:
    found = characterization(record, noise_w=0.02)
    path = sensor_store.save("characterization", "pi4", record["serial"], "virtual", found, tmp_path)
    assert path == tmp_path / "devices/pi4/s1/sensor-virtual.json"
    known = sensor_store.with_sensor_knowledge(record, "pi4", tmp_path)
    assert known["sensor"]["characterization"]["noise_w"] == 0.02
    assert known["sensor"]["characterization"]["serial"] == "s1"
    assert "characterization" not in record["sensor"], "the record itself is not changed"
    path.unlink()
    assert assess(known).budget == assess(known).budget
    for other in ("local", "pi4"):
        serial = record["serial"] if other == "local" else "s2"
        unknown = sensor_store.with_sensor_knowledge({**record, "serial": serial}, other, tmp_path)
        assert "characterization" not in unknown["sensor"]


def test_a_record_without_a_source_stays_as_it_is(tmp_path: Path, record: dict[str, Any]) -> None:
    bare = {**record, "sensor": None}
    assert sensor_store.with_sensor_knowledge(bare, "pi4", tmp_path) is bare


@pytest.mark.parametrize(
    ("field", "value"), [("window_s", 0.5), ("rail", "VDD_CPU"), ("step_w", 0.01), ("rate_hz", 10.0)]
)
def test_a_source_set_up_otherwise_is_another(
    tmp_path: Path, record: dict[str, Any], field: str, value: object
) -> None:
    sensor_store.save("characterization", "pi4", "s1", "virtual", characterization(record), tmp_path)
    changed = {**record, "sensor": {**record["sensor"], field: value}}
    known = sensor_store.with_sensor_knowledge(changed, "pi4", tmp_path)
    assert "characterization" not in known["sensor"]
    (words,) = known["sensor"]["outdated"]
    assert field in words
    assert "rig doctor again" in words
    assert words in assess(known).warnings


def test_a_calibration_against_another_boundary_changes_what_the_watts_are_of(
    tmp_path: Path, record: dict[str, Any]
) -> None:
    fit = fit_sensor([2.0, 3.0, 4.0], [2.1, 3.1, 4.1], 0.001).to_json()
    found = {"made_utc": "x", "declared": declared(record), "against": "meter", "boundary": "wall", "fit": fit}
    sensor_store.save("calibration", "pi4", "s1", "virtual", found, tmp_path)
    sensor = sensor_store.with_sensor_knowledge(record, "pi4", tmp_path)["sensor"]
    assert (sensor["boundary"], sensor["boundary_read"]) == ("wall", "board_input")


def test_serials_and_names_become_safe_paths(tmp_path: Path) -> None:
    folders = {
        sensor_store.board_folder("pi4", serial, tmp_path) for serial in ("a/b", "a_b", "../../x", "", ".", "a b")
    }
    assert len(folders) == 6
    assert all(folder.resolve().parent == (tmp_path / "devices" / "pi4").resolve() for folder in folders)


def test_a_damaged_or_newer_file_is_named(tmp_path: Path, record: dict[str, Any]) -> None:
    path = sensor_store.save("characterization", "pi4", "s1", "virtual", characterization(record), tmp_path)
    path.write_text(path.read_text().replace('"format_version": 1', '"format_version": 9'))
    with pytest.raises(StoreError, match="format version 9") as caught:
        sensor_store.load("characterization", "pi4", "s1", "virtual", tmp_path)
    assert caught.value.fix == "make it anew: rig doctor --device pi4"
    path.write_text("{")
    with pytest.raises(StoreError, match="damaged"):
        sensor_store.load("characterization", "pi4", "s1", "virtual", tmp_path)


def test_the_serial_of_a_simulated_board_is_its_own() -> None:
    profile = load_profile("virtual-pi4")
    assert sensor_store.serial_of(profile, {"serial": "host"}) == "virtual-pi4-0"
    options = {**profile.runtime.options, "seed": 7, "perturb": 3}
    sibling = profile.model_copy(update={"runtime": profile.runtime.model_copy(update={"options": options})})
    assert sensor_store.serial_of(sibling, {}) == "virtual-pi4~3-7"
    assert sensor_store.serial_of(load_profile("local"), {"serial": "host"}) == "host"


def known_record(record: dict[str, Any], **facts: Any) -> dict[str, Any]:
    return {**record, "sensor": {**record["sensor"], "characterization": characterization(record, **facts)}}


def longer_trace(record: dict[str, Any], more_s: float = 3.0) -> dict[str, Any]:
    """The same with samples of the quiet board before and after: what a slow source's samples reach over."""
    times, watts = record["trace"]["times_s"], record["trace"]["power_w"]
    more = [0.01 * (i + 1) for i in range(int(more_s / 0.01))]
    before, after = [times[0] - t for t in reversed(more)], [times[-1] + t for t in more]
    quiet = [watts[i % 40] for i in range(len(more))]
    trace = {**record["trace"], "times_s": before + times + after, "power_w": quiet + watts + quiet}
    return {**record, "trace": trace}


def test_windows_too_short_for_the_measured_source_are_refused_with_what_would_do(record: dict[str, Any]) -> None:
    refused = assess(known_record(longer_trace(record), window_s=3.0, delay_s=1.5))
    assert refused.verdict == "rejected"
    assert "too few windows for this sensor" in str(refused.reason)
    assert "averages over 3 s" in str(refused.reason)
    assert "raise plan.window_s to 6 s and plan.max_s to at least 18 s" in str(refused.reason)
    held = assess(known_record(record, update_period_s=1.0))
    assert "a new value every 1 s" in str(held.reason)
    assert "plan.window_s to 5 s" in str(held.reason)


def test_measured_step_noise_and_delay_take_the_place_of_the_declared(record: dict[str, Any]) -> None:
    plain = assess(record).budget["energy_j"]
    coarse = assess(known_record(record, step_w=0.5)).budget["energy_j"]
    assert coarse["quantization"] > 20.0 * max(plain["quantization"], 1e-6)
    unsure = assess(known_record(record, delay_half_width_s=0.2)).budget["power_w"]
    assert unsure["clock"] > assess(record).budget["power_w"]["clock"]


def test_a_measured_lag_puts_the_samples_where_they_belong() -> None:
    late = synthetic_record(windows=6, window_s=0.5, quiet_s=1.0)
    late["trace"]["times_s"] = [time_s + 0.25 for time_s in late["trace"]["times_s"]]
    true_w = 2.9 + 0.030 / 0.010
    corrected = assess(known_record(late, delay_s=0.255)).power_w
    assert corrected.value == pytest.approx(true_w, rel=0.003)
    assert "edges are +250" in str(assess(late).reason), "without it the samples cannot be placed"


def test_what_a_source_cannot_reach_is_said_before(record: dict[str, Any]) -> None:
    plan = MeasurePlan(window_s=1.0, max_s=60.0, rel_ci=0.02)

    def codes(**facts: Any) -> dict[str, sensor_limits.Limit]:
        known = characterization(record, **facts)
        sensor = {**known["declared"], "name": "virtual", "characterization": known}
        return {limit.code: limit for limit in sensor_limits.before(sensor, plan)}

    assert codes() == {}
    coarse = codes(step_w=0.8, noise_w=0.001, busy_noise_w=0.001)["step-too-coarse"]
    assert "±2 % cannot be reached" in coarse.message
    assert "rel_ci = " in coarse.fix
    assert codes(step_w=0.8, noise_w=0.8, busy_noise_w=0.9) == {}, "noise of a step averages it away"
    slow = codes(window_s=12.0)["source-too-slow"]
    assert "plan.window_s = 24 and plan.max_s = 240" in slow.fix
    assert "plan.max_s = 80" in codes(window_s=4.0)["few-windows"].fix


def test_explain_and_the_warnings_say_the_same(record: dict[str, Any]) -> None:
    coarse = copy.deepcopy(record)
    coarse["sensor"] |= {"step_w": 0.5, "gain_uncertainty": 0.0}
    coarse["trace"]["power_w"] = [0.5 * round(watts / 0.5) for watts in coarse["trace"]["power_w"]]
    made = assess(coarse)
    (row,) = [row for row in explain.limits(made, coarse) if row["quantity"] == "energy_j"]
    assert (row["limited_by"], row["share"] > 0.9, row["certain"]) == ("quantization", True, True)
    (said,) = [warning for warning in made.warnings if warning.startswith("energy_j")]
    assert said == Shortfall(**row).sentence
    assert row["fix"] in said
    fine = copy.deepcopy(record)
    fine["sensor"]["gain_uncertainty"] = 0.0
    assert explain.limits(assess(fine), fine) == []
