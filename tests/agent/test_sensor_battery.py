"""The battery sensor on trees as laptops have them; no battery is needed."""

from __future__ import annotations

from pathlib import Path

import pytest

from device_agents.protocol import AgentError
from device_agents.sensors.battery import Sensor


def supply(root: Path, name: str, **files: object) -> Path:
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    for file, value in files.items():
        (folder / file).write_text(f"{value}\n")
    return folder


@pytest.fixture
def laptop(tmp_path: Path) -> Path:
    """ACPI in mW: power_now; an unplugged adapter; the battery of a mouse."""
    supply(tmp_path, "AC", type="Mains", online=0)
    supply(tmp_path, "hidpp_battery_0", type="Battery", scope="Device", status="Discharging", power_now=1)
    supply(
        tmp_path,
        "BAT0",
        type="Battery",
        present=1,
        status="Discharging",
        voltage_now=11_900_000,
        power_now=12_340_000,
        energy_now=31_000_000,
    )
    return tmp_path


def sensor_of(root: Path) -> Sensor:
    return Sensor({"root": str(root)})


def test_a_sample_comes_only_with_an_update(laptop: Path) -> None:
    sensor = sensor_of(laptop)
    assert sensor.probe() == ("ok", "BAT0", "")
    sensor.open()
    assert sensor.poll() == []  # of unknown age
    supply(laptop, "BAT0", power_now=15_000_000)
    [(_, watts)] = sensor.poll()
    assert watts == pytest.approx(15.0)
    assert sensor.poll() == []
    supply(laptop, "BAT0", energy_now=30_990_000)  # the same power, measured again
    [(_, watts)] = sensor.poll()
    assert watts == pytest.approx(15.0)
    assert sensor.poll() == []
    sensor.close()


def test_describe_is_honest_about_a_slow_gauge(laptop: Path) -> None:
    seen = Sensor({"root": str(laptop), "update_s": 10}).describe()
    assert (seen["rate_hz"], seen["window_s"]) == (pytest.approx(0.2), 10.0)
    assert (seen["boundary"], seen["rail"]) == ("board_input", "BAT0")
    assert sensor_of(laptop).describe()["rate_hz"] == pytest.approx(0.5)


@pytest.mark.parametrize("current_ua", [1_500_000, -1_500_000])
def test_voltage_times_current_of_either_sign(tmp_path: Path, current_ua: int) -> None:
    supply(tmp_path, "BAT1", type="Battery", status="Discharging", voltage_now=8_000_000, current_now=current_ua)
    sensor = sensor_of(tmp_path)
    sensor.open()
    supply(tmp_path, "BAT1", voltage_now=7_900_000)
    [(_, watts)] = sensor.poll()
    assert watts == pytest.approx(7.9 * 1.5)


def test_two_batteries_are_summed_and_a_resting_one_adds_nothing(laptop: Path) -> None:
    supply(laptop, "BAT1", type="Battery", status="Discharging", power_now=-2_000_000)
    supply(laptop, "BAT2", type="Battery", present=0, status="Unknown")
    sensor = sensor_of(laptop)
    assert sensor.describe()["rail"] == "BAT0+BAT1"
    sensor.open()
    supply(laptop, "BAT1", power_now=-3_000_000)
    [(_, watts)] = sensor.poll()
    assert watts == pytest.approx(15.34)
    supply(laptop, "BAT1", status="Not charging")
    [(_, watts)] = sensor.poll()
    assert watts == pytest.approx(12.34)


@pytest.mark.parametrize(
    ("name", "files", "text"),
    [
        ("BAT0", {"status": "Charging"}, "BAT0 is charging"),
        ("BAT0", {"status": "Full"}, "no battery is discharging"),
        ("BAT0", {"status": "Not charging"}, "no battery is discharging"),
        ("BAT1", {"type": "Battery", "status": "Charging", "power_now": 5_000_000}, "BAT1 is charging"),
        ("AC", {"online": 1}, "AC is online"),
        ("ucsi-source-psy-1", {"type": "USB", "online": 1}, "ucsi-source-psy-1 is online"),
    ],
)
def test_on_mains_is_absent_and_ends_a_trace(laptop: Path, name: str, files: dict[str, object], text: str) -> None:
    sensor = sensor_of(laptop)
    sensor.open()
    supply(laptop, name, **files)
    if name == "BAT1":  # put in while measuring: not looked at before the next open
        sensor = sensor_of(laptop)
    state, reason, fix = sensor.probe()
    assert (state, fix) == ("absent", "unplug the charger")
    assert reason.startswith(f"on mains: {text}")
    with pytest.raises(AgentError, match=text):
        sensor.open()
    if name != "BAT1":
        with pytest.raises(AgentError, match="on mains"):
            sensor.poll()


def test_no_battery(tmp_path: Path) -> None:
    for root in (tmp_path / "none", tmp_path):
        assert sensor_of(root).probe()[:2] == ("absent", f"no battery in {root}")
        with pytest.raises(AgentError, match="no battery"):
            sensor_of(root).open()
    assert sensor_of(tmp_path).describe()["rail"] == "battery"


@pytest.mark.parametrize("value", ["garbage", "", "1.5", "1_000", "99999999999", "9" * 500, "٣", "0"])
def test_a_value_that_is_none_is_an_error_not_a_watt(laptop: Path, value: str) -> None:
    sensor = sensor_of(laptop)
    sensor.open()
    (laptop / "BAT0/power_now").write_text(value, encoding="utf-8")
    assert sensor_of(laptop).probe()[0] == "absent"
    with pytest.raises((OSError, ValueError)):
        sensor.poll()


def test_neither_power_nor_current(laptop: Path) -> None:
    (laptop / "BAT0/power_now").unlink()
    state, reason, _ = sensor_of(laptop).probe()
    assert state == "absent"
    assert "current_now" in reason


def test_a_battery_that_vanishes_is_an_error(laptop: Path) -> None:
    sensor = sensor_of(laptop)
    sensor.open()
    (laptop / "BAT0").rename(laptop / "gone")
    with pytest.raises(OSError, match="status"):
        sensor.poll()


@pytest.mark.parametrize("update_s", [0, -1.0, "4", None, True, float("nan"), float("inf")])
def test_bad_options_are_named(update_s: object) -> None:
    with pytest.raises(AgentError, match="update_s") as error:
        Sensor({"update_s": update_s})
    assert error.value.code == "bad-request"
