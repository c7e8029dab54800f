"""INA3221 on trees in the forms of JetPack 4 (iio) and JetPack 5 (hwmon)."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from device_agents.protocol import AgentError
from device_agents.sensors import ina3221
from device_agents.sensors.ina3221 import Sensor

NANO = {"POM_5V_IN": (5000, 1022), "POM_5V_GPU": (5000, 0), "POM_5V_CPU": (5000, 204)}
ORIN_40 = {"VDD_GPU_SOC": (19800, 260), "VDD_CPU_CV": (19800, 165), "VIN_SYS_5V0": (5040, 1091)}


def iio(root: Path, rails: dict[str, tuple[int, int]], address: str = "6-0040", number: int = 0) -> Path:
    """JetPack 4; ``rails``: label -> (mV, mW)."""
    folder = root / "ina3221x" / address / f"iio:device{number}"
    folder.mkdir(parents=True)
    (root / "ina3221x" / "bind").write_text("")
    for index, (label, (millivolts, milliwatts)) in enumerate(rails.items()):
        (folder / f"rail_name_{index}").write_text(label + "\n")
        (folder / f"in_voltage{index}_input").write_text(f"{millivolts}\n")
        (folder / f"in_current{index}_input").write_text(f"{milliwatts * 1000 // millivolts}\n")
        (folder / f"in_power{index}_input").write_text(f"{milliwatts}\n")
    return folder


def hwmon(root: Path, rails: dict[str, tuple[int, int]], address: str = "1-0040", number: int = 3) -> Path:
    """JetPack 5; ``rails``: label -> (mV, mA)."""
    folder = root / "ina3221" / address / "hwmon" / f"hwmon{number}"
    folder.mkdir(parents=True)
    (folder / "name").write_text("ina3221\n")
    for index, (label, (millivolts, milliamperes)) in enumerate(rails.items(), 1):
        (folder / f"in{index}_label").write_text(label + "\n")
        (folder / f"in{index}_input").write_text(f"{millivolts}\n")
        (folder / f"curr{index}_input").write_text(f"{milliamperes}\n")
        (folder / f"in{index + 3}_input").write_text("1234\n")
        (folder / f"shunt{index}_resistor").write_text("2000\n")
    (folder / "in7_label").write_text("sum of shunt voltages\n")
    (folder / "in7_input").write_text("3702\n")
    (folder / "curr4_input").write_text("999999\n")
    return folder


def sensor_of(root: Path, **options: object) -> Sensor:
    return Sensor({"root": str(root), **options})


def watts_of(sensor: Sensor) -> float:
    sensor.open()
    [(_, watts)] = sensor.poll()
    return watts


def test_nano_reads_its_total_alone(tmp_path: Path) -> None:
    iio(tmp_path, NANO)
    sensor = sensor_of(tmp_path)
    assert sensor.probe() == ("ok", "POM_5V_IN", "")
    assert watts_of(sensor) == pytest.approx(1.022)
    seen = sensor.describe()
    assert (seen["boundary"], seen["rail"]) == ("board_input", "POM_5V_IN")
    assert seen["window_s"] == pytest.approx(6.6e-3)
    assert seen["step_w"] == pytest.approx(0.04)  # 40 uV on 5 mOhm at 5 V
    assert sensor_of(tmp_path, shunt_ohm=0.01).describe()["step_w"] == pytest.approx(0.02)


def test_tx2_total_is_on_the_second_chip(tmp_path: Path) -> None:
    iio(tmp_path, {"VDD_SYS_GPU": (19000, 152), "VDD_SYS_SOC": (19000, 687)}, "0-0040")
    iio(tmp_path, {"VDD_IN": (19000, 3056), "VDD_SYS_CPU": (19000, 152)}, "0-0041", 1)
    assert watts_of(sensor_of(tmp_path)) == pytest.approx(3.056)


def test_orin_nx_total_multiplies_and_steps_by_its_shunt(tmp_path: Path) -> None:
    hwmon(tmp_path, {"VDD_IN": (20000, 265), "VDD_CPU_GPU_CV": (20000, 39), "VDD_SOC": (20000, 71)})
    sensor = sensor_of(tmp_path)
    assert watts_of(sensor) == pytest.approx(5.3)
    assert sensor.describe()["step_w"] == pytest.approx(0.4)
    assert sensor.describe()["boundary"] == "board_input"


def test_agx_orin_has_no_total_and_sums_its_module_rails(tmp_path: Path) -> None:
    hwmon(tmp_path, ORIN_40)
    hwmon(tmp_path, {"NC": (0, 0), "VDDQ_VDD2_1V8AO": (5040, 200)}, "1-0041", 4)
    sensor = sensor_of(tmp_path)
    assert sensor.probe()[:2] == ("ok", "VDD_GPU_SOC+VDD_CPU_CV+VIN_SYS_5V0; not wired: NC")
    # The memory is within VIN_SYS_5V0 already.
    assert watts_of(sensor) == pytest.approx(19.8 * (0.260 + 0.165) + 5.04 * 1.091)
    seen = sensor.describe()
    assert (seen["boundary"], seen["rail"]) == ("module", "VDD_GPU_SOC+VDD_CPU_CV+VIN_SYS_5V0")
    assert seen["step_w"] == pytest.approx(0.02 * (2 * 19.8**2 + 5.04**2) ** 0.5)


def test_a_named_rail_is_found_whatever_its_hwmon_number(tmp_path: Path) -> None:
    folder = hwmon(tmp_path, ORIN_40)
    sensor = sensor_of(tmp_path, rail="VDD_CPU_CV")
    assert watts_of(sensor) == pytest.approx(3.267)
    assert (sensor.describe()["boundary"], sensor.describe()["rail"]) == ("rail", "VDD_CPU_CV")
    folder.rename(folder.parent / "hwmon0")
    assert watts_of(sensor) == pytest.approx(3.267)


def test_missing_rail_names_those_there_are(tmp_path: Path) -> None:
    iio(tmp_path, NANO)
    state, reason, fix = sensor_of(tmp_path, rail="VDD_GPU").probe()
    assert (state, reason) == (
        "absent",
        "0 INA3221 channels are called VDD_GPU; there are POM_5V_IN, POM_5V_GPU, POM_5V_CPU",
    )
    assert "option rail" in fix
    assert sensor_of(tmp_path / "none").probe()[0] == "absent"
    with pytest.raises(AgentError, match="no INA3221"):
        sensor_of(tmp_path / "none").open()


def refuse(monkeypatch: pytest.MonkeyPatch, path: Path, number: int) -> None:
    """Reading ``path`` fails, as the driver does it; root may read everything otherwise."""
    original = ina3221.sysfs.text

    def read(name: str) -> str:
        if name == str(path):
            raise OSError(number, os.strerror(number), name)
        return original(name)

    monkeypatch.setattr(ina3221.sysfs, "text", read)


@pytest.mark.parametrize("number", [errno.ENODATA, errno.EIO])
def test_channel_not_wired_is_left_out_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    folder = hwmon(tmp_path, ORIN_40)
    refuse(monkeypatch, folder / "curr2_input", number)
    sensor = sensor_of(tmp_path)
    assert sensor.probe()[:2] == ("ok", "VDD_GPU_SOC+VIN_SYS_5V0; not wired: VDD_CPU_CV")
    assert sensor.describe()["rail"] == "VDD_GPU_SOC+VIN_SYS_5V0"


def test_all_channels_unwired_is_absent(tmp_path: Path) -> None:
    hwmon(tmp_path, {"NC": (0, 0)})
    assert sensor_of(tmp_path).probe()[:2] == ("absent", "no INA3221 channel of NC is wired")


def test_unreadable_total_is_not_replaced_by_its_parts(tmp_path: Path) -> None:
    folder = hwmon(tmp_path, {"VDD_IN": (20000, 265), "VDD_SOC": (20000, 71)})
    (folder / "curr1_input").unlink()
    assert sensor_of(tmp_path).probe()[0] == "absent"
    (folder / "curr1_input").mkdir()  # reading it fails
    assert sensor_of(tmp_path).probe()[0] == "absent"


def test_unlabelled_channels_are_not_summed(tmp_path: Path) -> None:
    folder = hwmon(tmp_path, ORIN_40)
    (folder / "in2_label").unlink()
    state, reason, _ = sensor_of(tmp_path).probe()
    assert (state, "without a label" in reason) == ("absent", True)
    assert watts_of(sensor_of(tmp_path, rail="1-0040:2")) == pytest.approx(3.267)


def test_without_permission_the_fix_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = hwmon(tmp_path, ORIN_40)
    refuse(monkeypatch, folder / "curr1_input", errno.EACCES)
    state, _, fix = sensor_of(tmp_path).probe()
    assert (state, fix) == ("denied", f"sudo chmod a+r {folder / 'curr1_input'}")


@pytest.mark.parametrize("text", ["-8x", "garbage", "", "1.5", "1_0", "nan", "\xb2", "9" * 400])
def test_garbage_is_never_a_number(tmp_path: Path, text: str) -> None:
    folder = hwmon(tmp_path, ORIN_40)
    sensor = sensor_of(tmp_path)
    sensor.open()
    (folder / "curr1_input").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"curr1_input|ascii"):
        sensor.poll()
    assert sensor.probe()[0] == "absent"


def test_a_rail_that_vanishes_while_measuring_is_an_error(tmp_path: Path) -> None:
    folder = hwmon(tmp_path, ORIN_40)
    sensor = sensor_of(tmp_path)
    sensor.open()
    (folder / "curr3_input").unlink()
    with pytest.raises(OSError, match="curr3_input"):
        sensor.poll()


def test_no_conversion_is_returned_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock_s = [100.0]
    monkeypatch.setattr(ina3221, "now_s", lambda: clock_s[0])
    folder = hwmon(tmp_path, ORIN_40)
    (folder / "update_interval").write_text("20\n")
    sensor = sensor_of(tmp_path)
    sensor.open()
    assert sensor.describe()["window_s"] == pytest.approx(0.02)
    assert len(sensor.poll()) == 1
    clock_s[0] += 0.0219
    assert sensor.poll() == []
    clock_s[0] += 0.0002
    assert len(sensor.poll()) == 1
    sensor.close()
    assert 1.0 / sensor.describe()["rate_hz"] > 0.022


@pytest.mark.parametrize(("milliamperes", "is_load"), [(-1, True), (-60, True), (-61, False), (-4000, False)])
def test_no_load_reads_as_low_as_offset_and_a_step(tmp_path: Path, milliamperes: int, is_load: bool) -> None:
    # 80 uV of offset and a step of 40 uV on 2 mOhm.
    hwmon(tmp_path, {**ORIN_40, "VDD_CPU_CV": (19800, milliamperes)})
    sensor = sensor_of(tmp_path, rail="VDD_CPU_CV")
    if is_load:
        assert watts_of(sensor) == pytest.approx(19.8e-3 * milliamperes)
        return
    state, reason, fix = sensor.probe()
    assert (state, "VDD_CPU_CV: " in reason, "flows backwards" in reason) == ("absent", True, True)
    assert "option rail" in fix


def test_a_power_file_below_zero_goes_by_the_volts(tmp_path: Path) -> None:
    # 120 uV on the 5 mOhm that are assumed where the driver tells none, at 5 V.
    folder = iio(tmp_path, NANO)
    for milliwatts, state in ((-120, "ok"), (-121, "absent")):
        (folder / "in_power0_input").write_text(f"{milliwatts}\n")
        assert sensor_of(tmp_path).probe()[0] == state


def test_parts_are_not_taken_for_the_total_that_is_missing(tmp_path: Path) -> None:
    iio(tmp_path, {name: power for name, power in NANO.items() if name != "POM_5V_IN"})
    state, reason, fix = sensor_of(tmp_path).probe()
    assert (state, reason) == ("absent", "POM_5V_IN is missing: there are only its parts, POM_5V_GPU, POM_5V_CPU")
    assert "option rail" in fix


def test_it_says_which_rails_there_are_and_which_it_sums(tmp_path: Path) -> None:
    iio(tmp_path, NANO)
    sensor = sensor_of(tmp_path)
    sensor.open()
    seen = sensor.describe()
    assert (seen["rails"], seen["total"]) == (list(NANO), ["POM_5V_IN"])
    assert seen["includes"].startswith("all that flows into the module's supply input")
