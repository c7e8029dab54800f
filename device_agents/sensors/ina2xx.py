"""INA219, INA226, INA260: one power monitor, through its Linux driver or directly over I2C.

Data sheets: TI SBOS448 (INA219), SBOS547 (INA226), SBOS656 (INA260); Linux: Documentation/hwmon/ina2xx.rst.
"""

import glob
import os
from typing import Any, Dict, List, Optional, Tuple

from device_agents.protocol import AgentError, clock_domain, now_s
from device_agents.sensors import sysfs

HWMON = "/sys/class/hwmon"
IIO = "/sys/bus/iio/devices"

# Per chip: shunt LSB (V), most that its shunt input holds (V), cycle (s) as Linux sets it up, power LSB / current LSB.
CHIPS = {
    "ina219": (10e-6, 0.32, 1.064e-3, 20.0),
    "ina226": (2.5e-6, 0.0819175, 35.2e-3, 25.0),
    "ina260": (2.5e-6, 0.0819175, 35.2e-3, 8.0),  # 1.25 mA on its own 2 mOhm
}
INA260_OHM = 2e-3
LINUX_SHUNT_OHM = 10e-3  # what the driver counts with where nobody told it the shunt
SHORTEST_PERIOD_S = 5e-3  # four registers take about 2 ms at 100 kHz
SLOWEST = 1.1  # a conversion takes at most a tenth longer than its nominal time

# INA226 and INA260 tell who they are; INA219 has no such register.
TI, DIES = 0x5449, {0x2260: "ina226", 0x2270: "ina260"}
INA226_TIMES_S = (140e-6, 204e-6, 332e-6, 588e-6, 1.1e-3, 2.116e-3, 4.156e-3, 8.244e-3)
INA226_AVERAGES = (1, 4, 16, 64, 128, 256, 512, 1024)
INA219_TIMES_S = (84e-6, 148e-6, 276e-6, 532e-6)


class Sensor(object):
    """``options``: ``root`` (hwmon), ``iio_root``; ``chip``, ``bus``, ``address`` choose one of several; ``shunt_ohm``;

    ``via``: "hwmon" (or iio), "i2c", None for whichever is there; ``boundary``: what the shunt was wired to measure.
    Over I2C the bus is 1 and the address 0x40 unless named, and ``shunt_ohm`` is needed (INA260 has its own).
    """

    def __init__(self, options: Dict[str, Any]) -> None:
        self._options = options
        self._source: Any = None
        self._ready_s = 0.0

    def probe(self) -> Tuple[str, str, str]:
        """Whether one chip is there and its power can be read now."""
        try:
            source = self._find()
            try:
                source.watts()
            finally:
                source.close()
        except PermissionError as error:
            return "denied", "no permission: %s" % error, "sudo chmod a+r the file, or join the group i2c"
        except AgentError as error:
            return "absent", error.message, error.fix
        except (OSError, ValueError) as error:
            return "absent", "cannot be read: %s" % error, "is the chip wired, and I2C enabled?"
        return "ok", source.rail, ""

    def describe(self) -> Dict[str, Any]:
        """Gain: a 1 % shunt and the chip's 0.5 % or less; INA260 is trimmed with its shunt."""
        source = self._source or self._find()
        try:
            step_w = source.step_w()
        finally:
            if source is not self._source:
                source.close()
        return {
            "rate_hz": 1.0 / max(SHORTEST_PERIOD_S, 1.5 * source.cycle_s),
            "window_s": source.cycle_s,
            "step_w": step_w,
            "noise_w": 0.0,
            "gain_uncertainty": 0.005 if source.chip == "ina260" else 0.01,
            "boundary": str(self._options.get("boundary", "board_input")),
            "rail": source.rail,
            "clock": clock_domain(),
        }

    def open(self) -> None:
        """Find the chip; its configuration is read and left as it is."""
        self.close()
        self._source, self._ready_s = self._find(), 0.0

    def poll(self) -> List[Tuple[float, float]]:
        """One sample (s, W); none before a new conversion. OSError: no reading, overflow; ValueError: not a number."""
        before_s = now_s()
        if before_s < self._ready_s or not self._source.is_ready():
            return []
        watts = self._source.watts()
        after_s = now_s()
        if not self._source.tells_ready:
            self._ready_s = after_s + SLOWEST * self._source.cycle_s
        return [(0.5 * (before_s + after_s), watts)]

    def close(self) -> None:
        """Give the I2C bus back."""
        source, self._source = self._source, None
        if source is not None:
            source.close()

    def _find(self) -> Any:
        via = self._options.get("via")
        if via not in (None, "hwmon", "i2c"):
            raise AgentError("no-sensor", "ina2xx has no way %r" % via, "via is hwmon, i2c or not named")
        folders = _folders(self._options) if via != "i2c" else []
        if len(folders) > 1:
            names = ", ".join("%s@%s" % (chip, where) for chip, where, _ in folders)
            raise AgentError("no-sensor", "several power monitors: %s" % names, "name bus and address in the options")
        if folders:
            return _Files(folders[0], self._options)
        if via == "hwmon":
            raise AgentError("no-sensor", "no INA219, INA226 or INA260 driver", "load ina2xx, or use via = i2c")
        return _I2c(self._options)


class _Files(object):
    """The driver's files, hwmon's or iio's."""

    tells_ready = False

    def __init__(self, found: Tuple[str, str, str], options: Dict[str, Any]) -> None:
        self.chip, where, self._folder = found
        self.rail = "%s@%s" % (self.chip, where)
        self._iio = os.path.basename(self._folder).startswith("iio")
        self._lsb_v, self._most_v, cycle_s, self._power_factor = CHIPS[self.chip]
        told_ms = self._optional("update_interval")
        told_hz = self._optional("in_sampling_frequency")
        # update_interval is rounded to milliseconds.
        self.cycle_s = told_ms * 1e-3 + 0.5e-3 if told_ms else 1.0 / told_hz if told_hz else cycle_s
        told = self._optional("in_shunt_resistor") if self._iio else self._optional("shunt_resistor")
        self._shunt_ohm = (told if self._iio else told * 1e-6) if told else LINUX_SHUNT_OHM
        wanted = options.get("shunt_ohm")
        if self.chip == "ina260":
            self._shunt_ohm = INA260_OHM
        elif wanted is not None and abs(float(wanted) - self._shunt_ohm) > 0.01 * self._shunt_ohm:
            raise AgentError(
                "no-sensor",
                "the driver counts with a shunt of %g ohm, not %g" % (self._shunt_ohm, float(wanted)),
                "write the true value to shunt_resistor in %s" % self._folder,
            )

    def is_ready(self) -> bool:
        return True

    def watts(self) -> float:
        """W. The chip's power has no sign and no overflow, so the current is read with it."""
        amperes = self._scaled("in_current3") if self._iio else self._number("curr1_input") * 1e-3
        _check_range(self.rail, amperes * self._shunt_ohm, 0.999 * self._most_v)
        if self._iio:
            return self._scaled("in_power2")
        if self._has("power1_input"):
            return self._number("power1_input") * 1e-6
        return self._number("in1_input") * 1e-3 * amperes

    def step_w(self) -> float:
        """The power register's step, or the current's at the voltage of now (W)."""
        step_a = self._lsb_v / self._shunt_ohm
        if self._iio or self._has("power1_input"):
            return self._power_factor * step_a
        return max(step_a, 1e-3) * self._number("in1_input") * 1e-3

    def close(self) -> None:
        pass

    def _scaled(self, name: str) -> float:
        return self._number(name + "_raw") * self._number(name + "_scale") * 1e-3

    def _has(self, name: str) -> bool:
        return os.path.exists(os.path.join(self._folder, name))

    def _optional(self, name: str) -> Optional[float]:
        return self._number(name) if self._has(name) else None

    def _number(self, name: str) -> float:
        path = os.path.join(self._folder, name)
        text = sysfs.text(path)
        if not text.replace(".", "", 1).isdigit() or len(text) > 20:
            raise ValueError("%s holds %r, not a number of at least 0" % (path, text[:40]))
        return float(text)


class _I2c(object):
    """The registers themselves; nothing is written."""

    tells_ready = True

    def __init__(self, options: Dict[str, Any]) -> None:
        try:
            import smbus2
        except ImportError:
            raise AgentError("no-sensor", "smbus2 is not installed", "pip3 install smbus2 on the device") from None
        self._address = int(str(options.get("address", 0x40)), 0)
        number = int(str(options.get("bus", 1)), 0)
        self._bus = smbus2.SMBus(number)
        try:
            self.chip = self._identify(options.get("chip"))
            self._shunt_ohm = INA260_OHM if self.chip == "ina260" else float(options.get("shunt_ohm") or 0.0)
            if self._shunt_ohm <= 0.0:
                raise AgentError("no-sensor", "the shunt of the %s is not known" % self.chip, "name shunt_ohm")
            self._configure(self._read(0x00))
        except BaseException:
            self.close()
            raise
        self.rail = "%s@%d-%04x" % (self.chip, number, self._address)

    def is_ready(self) -> bool:
        """Whether a conversion ended since the last sample."""
        return bool(self._read(0x02) & 2) if self.chip == "ina219" else bool(self._read(0x06) & 8)

    def watts(self) -> float:
        """W; reading ends by clearing the ready bit, so that what ended meanwhile is not returned again."""
        shunt, bus = self._read(0x01), self._read(0x02)
        shunt_v = (shunt - 0x10000 if shunt & 0x8000 else shunt) * CHIPS[self.chip][0]
        if self.chip == "ina219":
            self._read(0x03)
            overflow, volts, most = bus & 1, (bus >> 3) * 4e-3, self._most_bus_v
        else:
            overflow, volts, most = self._read(0x06) & 4, bus * 1.25e-3, self._most_bus_v
        if overflow or volts >= most:
            raise OSError("%s overflows at %g V; it holds %g V" % (self.rail, volts, most))
        _check_range(self.rail, shunt_v, self._most_v)
        return volts * shunt_v / self._shunt_ohm

    def step_w(self) -> float:
        """The current's step at the voltage of now (W)."""
        bus = self._read(0x02)
        volts = (bus >> 3) * 4e-3 if self.chip == "ina219" else bus * 1.25e-3
        return CHIPS[self.chip][0] / self._shunt_ohm * volts

    def close(self) -> None:
        self._bus.close()

    def _identify(self, wanted: Any) -> str:
        seen = DIES.get(self._read(0xFF) & 0xFFF0) if wanted != "ina219" and self._read(0xFE) == TI else None
        chip = seen or wanted
        if chip not in CHIPS or (wanted and chip != wanted) or (chip != "ina219" and not seen):
            raise AgentError("no-sensor", "the chip says it is %s, not %s" % (seen, wanted), "name the option chip")
        return str(chip)

    def _configure(self, config: int) -> None:
        if config & 7 != 7:
            raise AgentError("no-sensor", "%s does not convert continuously" % self.chip, "reset it, or load ina2xx")
        times_s = []
        for shift in (3, 7) if self.chip == "ina219" else (3, 6):
            code = config >> shift & 15
            if self.chip != "ina219":
                times_s.append(INA226_TIMES_S[code & 7] * INA226_AVERAGES[config >> 9 & 7])
            else:
                times_s.append(532e-6 * (1 << (code & 7)) if code & 8 else INA219_TIMES_S[code & 3])
        self.cycle_s = sum(times_s)
        # The last code below full scale is taken for clipped.
        self._most_v = 0.04 * (1 << (config >> 11 & 3)) - 5e-6 if self.chip == "ina219" else 0.081916
        self._most_bus_v = (32.0 if config & 0x2000 else 16.0) if self.chip == "ina219" else 40.95

    def _read(self, register: int) -> int:
        """A register; the chip sends the high byte first, SMBus takes it for the low one."""
        word = int(self._bus.read_word_data(self._address, register))
        return (word & 0xFF) << 8 | word >> 8


def _check_range(rail: str, shunt_v: float, most_v: float) -> None:
    if shunt_v < 0.0:
        raise OSError("%s: negative current; is the shunt wired the other way round?" % rail)
    if shunt_v >= most_v:
        raise OSError("%s overflows: %g V at the shunt" % (rail, shunt_v))


def _folders(options: Dict[str, Any]) -> List[Tuple[str, str, str]]:
    """(chip, bus-address, folder) of every driver folder that fits the options; hwmon's before iio's."""
    bus, address = options.get("bus"), options.get("address")
    for root, pattern in ((options.get("root", HWMON), "hwmon*"), (options.get("iio_root", IIO), "iio:device*")):
        found = []
        for folder in sorted(glob.glob(os.path.join(glob.escape(str(root)), pattern))):
            name_path = os.path.join(folder, "name")
            chip = sysfs.text(name_path) if os.path.exists(name_path) else ""
            device = os.path.join(folder, "device") if pattern == "hwmon*" else os.path.join(folder, os.pardir)
            where = os.path.basename(os.path.realpath(device))
            number, _, place = where.partition("-")
            if chip not in CHIPS or options.get("chip") not in (None, chip):
                continue
            if bus is not None and number != str(bus):
                continue
            if address is not None and place != "%04x" % int(str(address), 0):
                continue
            found.append((chip, where, folder))
        if found:
            return found
    return []
