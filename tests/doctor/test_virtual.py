"""``rig doctor`` and ``rig calibrate-sensor`` on the simulated board, through the real agent, against the truth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rig.commands import calibrate_sensor, doctor, measure
from rig.commands.options import CalibrateSensorOptions, DoctorOptions, MeasureOptions
from rig.errors import BadInputError, DeviceSetupError
from rig.output import exit_code
from rig.sensors import store as sensor_store
from tests.agent_setup import isolated, small_model

__all__ = ["isolated"]


def board(isolated: Path, meter: str = "{}", more: str = "", seed: int = 0) -> None:
    """The simulated board with a meter of one's own."""
    folder = isolated / "config" / "devices"
    folder.mkdir(parents=True, exist_ok=True)
    text = f'{more}\n[runtime]\noptions = {{ board = "pi4", seed = {seed}, meter = {meter} }}\n'
    (folder / "virtual-pi4.toml").write_text(text)


def examined(**options: Any) -> dict[str, Any]:
    return doctor.run(DoctorOptions("virtual-pi4", **options))


@pytest.mark.parametrize(
    ("rate_hz", "window_s", "lag_s", "step_w", "noise_w"),
    [
        (100.0, 0.010, 0.0, 0.00125, 0.010),
        (50.0, 0.100, 0.040, 0.02, 0.010),
        (10.0, 0.300, 0.0, 0.4, 0.250),
        (20.0, 1.000, 0.200, 0.1, 0.050),
    ],
)
def test_the_data_sheet_is_found_again(
    isolated: Path, rate_hz: float, window_s: float, lag_s: float, step_w: float, noise_w: float
) -> None:
    meter = f"{{ rate_hz = {rate_hz}, window_s = {window_s}, lag_s = {lag_s}, step_w = {step_w}, noise_w = {noise_w} }}"
    board(isolated, meter)
    result = examined()
    (source,) = result["sources"]
    spacing_s = 1.0 / rate_hz
    assert source["window_s"]["value"] == pytest.approx(window_s, rel=0.1, abs=0.25 * spacing_s)
    assert source["lag_s"]["value"] == pytest.approx(lag_s, abs=0.1 * window_s + 0.25 * spacing_s)
    assert source["delay_s"]["value"] == pytest.approx(lag_s + 0.5 * window_s, abs=0.05 * window_s + 0.2 * spacing_s)
    assert source["step_w"] == pytest.approx(step_w, rel=0.02)
    assert source["noise_w"] == pytest.approx(noise_w, rel=0.35, abs=0.3 * step_w)
    assert source["spacing_s"] == pytest.approx(spacing_s, rel=0.01)
    assert source["sampling"] is None, "virtual time: what sampling costs in real time says nothing"
    assert source["contradiction"] is None
    assert (result["kind"], result["verdict"], exit_code(result)) == ("simulated", "ready", 0)
    stored = json.loads(Path(result["artifacts"]["virtual"]).read_text())
    assert stored["declared"]["window_s"] == window_s
    assert (stored["serial"], stored["source"]) == ("virtual-pi4-0", "virtual")
    assert Path(result["artifacts"]["virtual step response"]).stat().st_size > 10_000


def test_a_window_that_contradicts_the_data_sheet_is_said_and_used(isolated: Path, tmp_path: Path) -> None:
    board(isolated, "{ window_s = 0.5, declared_window_s = 0.01, rate_hz = 20.0 }", more="[plan]\nmax_s = 20.0")
    result = examined(out=tmp_path / "pictures")
    assert any(note["code"] == "warn-virtual window" for note in result["warnings"])
    assert "averages over 0.5" in result["sources"][0]["contradiction"]
    assert (tmp_path / "pictures" / "step-response-virtual.png").is_file()
    measured = measure.run(MeasureOptions(small_model(tmp_path / "net.onnx"), "virtual-pi4", explain=True))
    assert measured["source"]["characterized_utc"] is not None
    assert measured["validity"]["window_s"] <= 1.0
    assert measured["network"]["power_w"]["n"] >= 3


def test_a_source_too_slow_for_the_plan_is_refused_at_once(isolated: Path, tmp_path: Path) -> None:
    board(isolated, "{ window_s = 1.0, rate_hz = 20.0 }", more="[plan]\nmax_s = 3.0\nwindow_s = 0.2")
    result = examined()
    assert any("do not fit into plan.max_s = 3" in note["message"] for note in result["warnings"])
    with pytest.raises(DeviceSetupError, match="needs windows of 2") as caught:
        measure.run(MeasureOptions(small_model(tmp_path / "net.onnx"), "virtual-pi4"))
    assert "plan.max_s = 2" in str(caught.value.fix)


def test_a_step_too_coarse_for_the_asked_interval_is_said_at_once_and_afterwards(
    isolated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = "[plan]\nrel_ci = 0.01\nmax_s = 10.0\nmin_windows = 5"
    board(isolated, "{ step_w = 0.4, noise_w = 0.0 }", more=plan)
    assert any("±1 % cannot be reached" in note["message"] for note in examined()["warnings"])
    measured = measure.run(MeasureOptions(small_model(tmp_path / "net.onnx"), "virtual-pi4", explain=True))
    assert "note: ±1 % cannot be reached" in capsys.readouterr().err
    assert any(note["code"] == "step-too-coarse" for note in measured["warnings"])
    assert measured["explain"]["energy_j"]["quantization"] > 0.0


def test_a_calibration_against_the_finer_meter_takes_the_gain_error_away(isolated: Path, tmp_path: Path) -> None:
    board(isolated, "{ gain_uncertainty = 0.03 }", seed=5)
    model = small_model(tmp_path / "net.onnx", size=64)
    before = measure.run(MeasureOptions(model, "virtual-pi4", explain=True))
    result = calibrate_sensor.run(CalibrateSensorOptions("virtual-pi4", "virtual", "virtual_reference"))
    after = measure.run(MeasureOptions(model, "virtual-pi4", explain=True))
    fit = result["calibration"]["fit"]
    assert fit["levels"] == 6
    assert fit["highest_w"] > fit["lowest_w"] + 1.0
    assert result["gain"]["hi"] - result["gain"]["lo"] < 0.02
    assert after["source"]["against"] == "virtual_reference"
    for name in ("power_w", "energy_active_j"):
        assert after["explain"][name]["gain"] < 0.15 * before["explain"][name]["gain"]
    quiet = [one["network"]["idle_power_w"]["value"] for one in (before, after)]
    # 2.7 W is what the simulated board waits with; the meter's gain error is drawn from 3 %.
    assert quiet[0] * fit["gain"] + fit["offset_w"] == pytest.approx(quiet[1], rel=0.005)
    assert result["warnings"] == []
    assert sensor_store.load("calibration", "virtual-pi4", "virtual-pi4-5", "virtual") is not None


def test_pairs_read_by_a_person(isolated: Path, tmp_path: Path) -> None:
    board(isolated)
    points = tmp_path / "pairs.csv"
    points.write_text("source W, reference W\n# bench meter\n2,2.06\n3,3.07\n4,4.06\n5,5.07\n6,6.06\n")
    asked = CalibrateSensorOptions("virtual-pi4", "virtual", points=points, reference_uncertainty="0.1%")
    result = calibrate_sensor.run(asked)
    assert result["gain"]["value"] == pytest.approx(1.0, abs=0.01)
    assert result["offset_w"]["value"] == pytest.approx(0.065, abs=0.01)
    assert result["against"] == str(points)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1,1\n2,2\n", "5 or more"),
        ("1,1\n2,x\n", "line 2"),
        ("1\n", "line 1"),
        ("1,1\n-2,2\n", "no powers"),
        ("\n".join(["3,3"] * 5), "do not differ"),
    ],
)
def test_pairs_that_are_none_are_refused(isolated: Path, tmp_path: Path, text: str, words: str) -> None:
    from rig.doctor.levels import read_points

    points = tmp_path / "pairs.csv"
    points.write_text(text)
    with pytest.raises(BadInputError, match=words):
        read_points(points, 0.001).fit()


def test_mistakes_of_the_command_line(isolated: Path) -> None:
    board(isolated)
    for options, words in (
        (CalibrateSensorOptions("virtual-pi4", "virtual"), "either --against"),
        (CalibrateSensorOptions("virtual-pi4", "virtual", "virtual"), "against itself"),
        (CalibrateSensorOptions("virtual-pi4", "virtuall", "virtual"), "virtuall"),
        (CalibrateSensorOptions("virtual-pi4", "virtual", "meter"), "no meter at the host"),
    ):
        with pytest.raises(BadInputError, match=words):
            calibrate_sensor.run(options)
    with pytest.raises(BadInputError, match=r"known: .*rapl"):
        examined(source=("volts",))
