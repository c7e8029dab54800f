"""INA219, INA226, INA260: driver trees of hwmon and iio, and registers through a fake smbus2."""

from __future__ import annotations

import errno
import sys
import types
from pathlib import Path

import pytest

from device_agents.protocol import AgentError
from device_agents.sensors.ina2xx import Sensor


def hwmon(root: Path, **files: object) -> Sensor:
    device, folder = root / "1-0040", root / "hwmon/hwmon2"
    device.mkdir(exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "device").exists():
        (folder / "device").symlink_to(device)
    for name, text in {"name": "ina226", "in1_input": 5000, "curr1_input": 400, **files}.items():
        (folder / name).write_text(f"{text}\n")
    return Sensor({"root": str(root / "hwmon"), "iio_root": str(root / "iio"), "via": "hwmon"})


def iio(root: Path, **files: object) -> Sensor:
    """The tree of drivers/iio/adc/ina2xx-adc.c for an INA226 on 10 mOhm: register numbers and the driver's scales."""
    folder = root / "1-0040/iio:device0"
    folder.mkdir(parents=True, exist_ok=True)
    attributes = {
        "name": "ina226",
        "in_voltage0_raw": 1600,
        "in_voltage0_scale": "0.002500000",
        "in_voltage1_raw": 4000,
        "in_voltage1_scale": "1.250000000",
        "in_power2_raw": 320,
        "in_power2_scale": "6.250000000",
        "in_current3_raw": 1600,
        "in_current3_scale": "0.250000000",
        "in_shunt_resistor": "0.010000000",
        "in_sampling_frequency": 114,
    }
    for name, text in {**attributes, **files}.items():
        (folder / name).write_text(f"{text}\n")
    return Sensor({"root": str(root / "hwmon"), "iio_root": str(root / "1-0040"), "via": "hwmon"})


def watts_of(sensor: Sensor) -> float:
    sensor.open()
    [(_, watts)] = sensor.poll()
    return watts


def fake(monkeypatch: pytest.MonkeyPatch, registers: dict[int, int], error: int = 0) -> None:
    class SMBus:
        def __init__(self, bus: int) -> None:
            assert bus == 1
            if error:
                raise OSError(error, "refused", "/dev/i2c-1")

        def read_word_data(self, address: int, register: int) -> int:
            assert address == 0x40
            value = registers.get(register, 0)
            return (value & 0xFF) << 8 | value >> 8

        def close(self) -> None:
            pass

    monkeypatch.setitem(sys.modules, "smbus2", types.SimpleNamespace(SMBus=SMBus))


INA219 = {0x00: 0x399F, 0x01: 1000, 0x02: 1250 << 3 | 2}  # 10 mV, 5 V
INA226 = {0x00: 0x4127, 0x01: 4000, 0x02: 4000, 0x06: 8, 0xFE: 0x5449, 0xFF: 0x2260}
INA260 = {0x00: 0x6127, 0x01: 400, 0x02: 4000, 0x06: 8, 0xFE: 0x5449, 0xFF: 0x2270}


# --- hwmon ------------------------------------------------------------------------------------------------------


def test_hwmon_microwatts_or_product(tmp_path: Path) -> None:
    sensor = hwmon(tmp_path, power1_input="1987500")
    assert sensor.probe() == ("ok", "ina226@1-0040", "")
    assert watts_of(sensor) == pytest.approx(1.9875)
    assert sensor.poll() == []  # not converted again yet
    (tmp_path / "hwmon/hwmon2/power1_input").unlink()
    assert watts_of(sensor) == pytest.approx(2.0)


@pytest.mark.parametrize("milliamperes", [-1, -0, 1])
def test_a_reading_a_little_below_zero_is_a_noisy_zero(tmp_path: Path, milliamperes: int) -> None:
    # 10 uV of offset and a step of 2.5 uV on 10 mOhm are 1.25 mA, rounded to mA by the driver.
    sensor = hwmon(tmp_path, curr1_input=milliamperes, power1_input=abs(milliamperes) * 5000)
    assert watts_of(sensor) == pytest.approx(5e-3 * milliamperes)


def test_a_reversed_shunt_names_the_fix_though_the_power_file_has_no_sign(tmp_path: Path) -> None:
    # Recorded from an INA219 that was wired for a battery (networkupstools/nut#2960).
    sensor = hwmon(
        tmp_path,
        name="ina219",
        in0_input=-4,
        in1_input=4228,
        power1_input=176000,
        curr1_input=-40,
        shunt_resistor=100000,
    )
    state, reason, fix = sensor.probe()
    assert (state, fix) == ("absent", "the shunt is wired the other way round: swap IN+ and IN-")
    assert "the current is negative (-0.004 V at the shunt" in reason


def test_the_drivers_shunt_is_not_overruled(tmp_path: Path) -> None:
    sensor = hwmon(tmp_path, shunt_resistor=10000)
    sensor._options["shunt_ohm"] = 0.1
    state, reason, fix = sensor.probe()
    assert (state, "a shunt of 0.01 ohm, not 0.1" in reason, "shunt_resistor" in fix) == ("absent", True, True)


# --- iio --------------------------------------------------------------------------------------------------------


def test_iio_scales_raw_numbers(tmp_path: Path) -> None:
    sensor = iio(tmp_path)
    assert sensor.probe() == ("ok", "ina226@1-0040", "")
    assert watts_of(sensor) == pytest.approx(2.0)
    seen = sensor.describe()
    assert seen["step_w"] == pytest.approx(6.25e-3)
    assert seen["window_s"] == pytest.approx(1 / 114)


def test_iio_tells_the_shunt_in_micro_ohm_before_linux_4_16(tmp_path: Path) -> None:
    # With the current in whole mA and the power in 25 mW, as that driver set its chip up.
    old = {"in_shunt_resistor": 10000, "in_current3_raw": 400, "in_current3_scale": 1}
    sensor = iio(tmp_path, in_power2_raw=80, in_power2_scale="25.000000000", **old)
    assert watts_of(sensor) == pytest.approx(2.0)
    assert sensor.describe()["step_w"] == pytest.approx(0.025)
    assert iio(tmp_path, **{**old, "in_current3_raw": 8190}).probe()[0] == "absent"  # 81.9 mV of 81.9175


@pytest.mark.parametrize(("raw", "watts"), [(-5, -6.25e-3), (-6, None), (-1600, None), (32767, None), (-32768, None)])
def test_iio_below_zero_and_beyond_range(tmp_path: Path, raw: int, watts: float | None) -> None:
    sensor = iio(tmp_path, in_current3_raw=raw, in_power2_raw=abs(raw) // 5)
    if watts is not None:
        assert watts_of(sensor) == pytest.approx(watts)
        return
    sensor.open()
    with pytest.raises(AgentError, match="negative" if -30000 < raw < 0 else "overflow"):
        sensor.poll()


# --- registers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("registers", "options", "watts"),
    [
        (INA219, {"chip": "ina219", "shunt_ohm": 0.1}, 0.5),
        (INA226, {"shunt_ohm": 0.01}, 5.0),
        (INA260, {}, 2.5),
    ],
)
def test_registers(
    monkeypatch: pytest.MonkeyPatch, registers: dict[int, int], options: dict[str, object], watts: float
) -> None:
    seen = dict(registers)
    fake(monkeypatch, seen)
    sensor = Sensor(dict(options, via="i2c"))
    assert watts_of(sensor) == pytest.approx(watts)
    flag = 0x02 if registers is INA219 else 0x06
    seen[flag] &= ~0xA if flag == 6 else ~2
    assert sensor.poll() == []
    seen[flag] = registers[flag] | (1 if flag == 2 else 4)
    with pytest.raises(AgentError, match="overflow"):
        sensor.poll()
    seen.update(registers)
    seen[0x01] = 0x8001
    with pytest.raises(AgentError, match="negative"):
        sensor.poll()


@pytest.mark.parametrize(
    ("registers", "options", "steps", "watts"),
    [
        (INA219, {"chip": "ina219", "shunt_ohm": 0.1}, 21, -5.0 * 210e-6 / 0.1),  # 200 uV at PGA /8, and a step
        ({**INA219, 0x00: 0x219F}, {"chip": "ina219", "shunt_ohm": 0.1}, 11, -5.0 * 110e-6 / 0.1),  # 100 uV at PGA /1
        (INA226, {"shunt_ohm": 0.01}, 5, -5.0 * 12.5e-6 / 0.01),
        (INA260, {}, 5, -5.0 * 6.25e-3),  # 5 mA, and a step of 1.25 mA
    ],
)
def test_no_load_reads_as_low_as_offset_and_a_step(
    monkeypatch: pytest.MonkeyPatch, registers: dict[int, int], options: dict[str, object], steps: int, watts: float
) -> None:
    seen = {**registers, 0x01: 0x10000 - steps}
    fake(monkeypatch, seen)
    sensor = Sensor(dict(options, via="i2c"))
    assert watts_of(sensor) == pytest.approx(watts)
    seen[0x01] -= 1
    with pytest.raises(AgentError, match="negative") as caught:
        sensor.poll()
    assert "swap IN+ and IN-" in caught.value.fix


@pytest.mark.parametrize(
    ("chip", "config", "cycle_s"),
    [
        ("ina219", 0x399F, 2 * 532e-6),  # power-on
        ("ina219", 0x3807, 2 * 84e-6),  # nine bits
        ("ina219", 0x3FFF, 2 * 68.1e-3),  # 128 averages
        ("ina219", 0x3C87, 1.064e-3 + 84e-6),  # bus twice, shunt in nine bits
        ("ina226", 0x4127, 2 * 1.1e-3),  # power-on
        ("ina226", 0x4527, 16 * 2 * 1.1e-3),  # as Linux sets it up
        ("ina226", 0x4007, 2 * 140e-6),
        ("ina226", 0x4FFF, 1024 * 2 * 8.244e-3),
        ("ina260", 0x6127, 2 * 1.1e-3),
    ],
)
def test_conversion_times_are_the_data_sheets(
    monkeypatch: pytest.MonkeyPatch, chip: str, config: int, cycle_s: float
) -> None:
    registers = {"ina219": INA219, "ina226": INA226, "ina260": INA260}[chip]
    fake(monkeypatch, {**registers, 0x00: config})
    described = Sensor({"via": "i2c", "chip": chip, "shunt_ohm": 0.1}).describe()
    assert described["window_s"] == described["update_s"] == pytest.approx(cycle_s, rel=2e-3)
    assert described["rate_hz"] * described["update_s"] < 1.0


def test_full_scale_follows_the_range_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for pga, most in enumerate((3999, 7999, 15999, 31999)):
        registers = {**INA219, 0x00: 0x219F | pga << 11, 0x01: most}
        fake(monkeypatch, registers)
        sensor = Sensor({"via": "i2c", "chip": "ina219", "shunt_ohm": 0.1})
        assert watts_of(sensor) == pytest.approx(5.0 * most * 1e-4)
        registers[0x01] += 1
        with pytest.raises(AgentError, match="overflow"):
            sensor.poll()


def test_a_chip_that_stops_converting_is_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    clock_s = [100.0]
    monkeypatch.setattr("device_agents.sensors.ina2xx.now_s", lambda: clock_s[0])
    seen = dict(INA226)
    fake(monkeypatch, seen)
    sensor = Sensor({"via": "i2c", "shunt_ohm": 0.01})
    assert watts_of(sensor) == pytest.approx(5.0)
    seen[0x06] = 0
    clock_s[0] += 0.9
    assert sensor.poll() == []
    clock_s[0] += 0.2
    with pytest.raises(OSError, match=r"stale: no conversion ended for 1\.1 s"):
        sensor.poll()


def test_unknown_chip_or_shunt_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, dict(INA226))
    assert "shunt" in Sensor({"via": "i2c"}).probe()[1]
    fake(monkeypatch, {})
    assert Sensor({"via": "i2c", "shunt_ohm": 0.1}).probe()[0] == "absent"
    fake(monkeypatch, {**INA226, 0x00: 0x4120})
    assert "does not convert continuously" in Sensor({"via": "i2c", "shunt_ohm": 0.1}).probe()[1]
    monkeypatch.setitem(sys.modules, "smbus2", None)
    assert "smbus2" in Sensor({"via": "i2c"}).probe()[1]
    with pytest.raises(AgentError, match="boundary is 'socket'"):
        Sensor({"boundary": "socket"})


@pytest.mark.parametrize(
    ("error", "state", "fix"),
    [
        (errno.EBUSY, "absent", "unset via, or set via = hwmon"),
        (errno.EACCES, "denied", "sudo usermod -aG i2c $USER"),
        (errno.ENOENT, "absent", "i2cdetect -y 1"),
    ],
)
def test_what_the_bus_refuses_has_its_fix(monkeypatch: pytest.MonkeyPatch, error: int, state: str, fix: str) -> None:
    fake(monkeypatch, dict(INA226), error)
    seen = Sensor({"via": "i2c", "shunt_ohm": 0.1}).probe()
    assert seen[0] == state
    assert fix in seen[2]
