"""INA219, INA226, INA260: driver trees, and registers through a fake smbus2."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_agents.sensors import ina2xx
from device_agents.sensors.ina2xx import Sensor


def hwmon(root: Path, **files: str) -> Sensor:
    device, folder = root / "1-0040", root / "hwmon/hwmon2"
    device.mkdir()
    folder.mkdir(parents=True)
    (folder / "device").symlink_to(device)
    for name, text in {"name": "ina226", "in1_input": "5000", "curr1_input": "400", **files}.items():
        (folder / name).write_text(text + "\n")
    return Sensor({"root": str(root / "hwmon"), "iio_root": str(root / "iio"), "via": "hwmon"})


def fake(monkeypatch: pytest.MonkeyPatch, registers: dict[int, int]) -> None:
    class SMBus:
        def __init__(self, bus: int) -> None:
            assert bus == 1

        def read_word_data(self, address: int, register: int) -> int:
            value = registers.get(register, 0)
            return (value & 0xFF) << 8 | value >> 8

        def close(self) -> None:
            pass

    monkeypatch.setitem(sys.modules, "smbus2", types.SimpleNamespace(SMBus=SMBus))


INA219 = {0x00: 0x399F, 0x01: 1000, 0x02: 1250 << 3 | 2}  # 10 mV, 5 V
INA226 = {0x00: 0x4127, 0x01: 4000, 0x02: 4000, 0x06: 8, 0xFE: 0x5449, 0xFF: 0x2260}
INA260 = {0x00: 0x6127, 0x01: 400, 0x02: 4000, 0x06: 8, 0xFE: 0x5449, 0xFF: 0x2270}


def test_hwmon_microwatts_or_product(tmp_path: Path) -> None:
    sensor = hwmon(tmp_path, power1_input="1987500")
    assert sensor.probe() == ("ok", "ina226@1-0040", "")
    sensor.open()
    assert sensor.poll()[0][1] == pytest.approx(1.9875)
    assert sensor.poll() == []  # not converted again yet
    (tmp_path / "hwmon/hwmon2/power1_input").unlink()
    sensor.open()
    assert sensor.poll()[0][1] == pytest.approx(2.0)
    (tmp_path / "hwmon/hwmon2/curr1_input").unlink()
    sensor.open()
    with pytest.raises(OSError, match="curr1_input"):
        sensor.poll()


@pytest.mark.parametrize("text", ["-8", "x", "", "8191"])
def test_negative_garbage_and_overflow_on_hwmon(tmp_path: Path, text: str) -> None:
    sensor = hwmon(tmp_path, power1_input="5", curr1_input=text)
    assert sensor.probe()[0] == "absent"


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
    sensor.open()
    assert sensor.poll()[0][1] == pytest.approx(watts)
    flag = 0x02 if registers is INA219 else 0x06
    seen[flag] &= ~0xA if flag == 6 else ~2
    assert sensor.poll() == []
    seen[flag] = registers[flag] | (1 if flag == 2 else 4)
    with pytest.raises(OSError, match="overflow"):
        sensor.poll()
    seen.update(registers)
    seen[0x01] = 0x8001
    with pytest.raises(OSError, match="negative"):
        sensor.poll()


def test_unknown_chip_or_shunt_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, dict(INA226))
    assert "shunt" in Sensor({"via": "i2c"}).probe()[1]
    fake(monkeypatch, {})
    assert Sensor({"via": "i2c", "shunt_ohm": 0.1}).probe()[0] == "absent"
    monkeypatch.setitem(sys.modules, "smbus2", None)
    assert "smbus2" in Sensor({"via": "i2c"}).probe()[1]


def test_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sensor = hwmon(tmp_path)

    def refuse(self: object) -> float:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(ina2xx._Files, "watts", refuse)
    assert sensor.probe()[0] == "denied"


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF))
def test_any_register_is_a_true_number_or_an_error(shunt: int, bus: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        fake(patch, {**INA219, 0x01: shunt, 0x02: bus | 2})
        sensor = Sensor({"via": "i2c", "chip": "ina219", "shunt_ohm": 0.1})
        sensor.open()
        try:
            watts = sensor.poll()[0][1]
        except OSError:
            return
        assert watts == pytest.approx((bus >> 3) * 4e-3 * shunt * 1e-4)
        assert shunt < 32000
        assert not bus & 1
