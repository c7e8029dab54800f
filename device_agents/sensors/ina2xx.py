"""INA219, INA226, INA260: one power monitor, through its Linux driver or directly over I2C.

Data sheets of Texas Instruments, from which the constants are:

- INA219, SBOS448G, electrical characteristics and register maps: shunt LSB 10 uV over 40 to 320 mV (PGA), bus LSB 4 mV
  over 16 or 32 V, 12 bits in 532 us (586 at most) times 2 to 128 averages, offset at most 100 to 200 uV (by PGA,
  grade A), current and bus 0.5 % at 25 C;
- INA226, SBOS547B, the same: shunt LSB 2.5 uV over 81.9175 mV, bus LSB 1.25 mV over 40.96 V, conversions of 140 us to
  8.244 ms (a tenth more at most) times 1 to 1024 averages, offset at most 10 uV, gains 0.1 % at 25 C;
- INA260, SBOS656C, the same: its own 2 mOhm, current LSB 1.25 mA (2.5 uV there), power LSB 10 mW, the INA226's bus
  LSB and conversions, offset at most 5 mA (10 uV there), current 0.15 % and bus 0.1 % at 25 C.

Linux: Documentation/hwmon/ina2xx.rst, drivers/hwmon/ina2xx.c, drivers/iio/adc/ina2xx-adc.c.
"""

import errno
import glob
import os
import re
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from device_agents.protocol import AgentError, clock_domain, now_s
from device_agents.sensors import sysfs

HWMON = "/sys/class/hwmon"
IIO = "/sys/bus/iio/devices"


class Chip(NamedTuple):
    """A chip as Linux sets it up."""

    shunt_lsb_v: float
    most_v: float  # at its shunt input
    cycle_s: float  # shunt and bus, averaged
    power_factor: float  # power LSB / current LSB
    offset_v: float  # of the shunt input, at most


CHIPS = {
    "ina219": Chip(10e-6, 0.32, 1.064e-3, 20.0, 200e-6),
    "ina226": Chip(2.5e-6, 0.0819175, 35.2e-3, 25.0, 10e-6),
    "ina260": Chip(2.5e-6, 0.0819175, 35.2e-3, 8.0, 10e-6),
}
INA260_OHM = 2e-3
LINUX_SHUNT_OHM = 10e-3  # what the driver counts with where nobody told it the shunt
SHORTEST_PERIOD_S = 5e-3  # four registers take about 2 ms at 100 kHz
SLOWEST = 1.1  # a conversion takes at most a tenth longer than its nominal time
STALE_CYCLES, STALE_AT_LEAST_S = 10.0, 1.0

# INA226 and INA260 tell who they are; INA219 has no such register.
TI, DIES = 0x5449, {0x2260: "ina226", 0x2270: "ina260"}
INA226_TIMES_S = (140e-6, 204e-6, 332e-6, 588e-6, 1.1e-3, 2.116e-3, 4.156e-3, 8.244e-3)
INA226_AVERAGES = (1, 4, 16, 64, 128, 256, 512, 1024)
INA219_TIMES_S = (84e-6, 148e-6, 276e-6, 532e-6)
INA219_OFFSETS_V = (100e-6, 125e-6, 150e-6, 200e-6)

_NUMBER = re.compile(r"-?[0-9]{1,12}(\.[0-9]{1,12})?\Z", re.ASCII)
_INCLUDES = {
    "wall": "what flows through the shunt: wired before the power supply",
    "board_input": "what flows through the shunt: wired into the board's supply, all that hangs on it included",
    "module": "what flows through the shunt: wired into the module's supply, its carrier board excluded",
    "package": "what flows through the shunt: wired into the processor's supply",
    "rail": "what flows through the shunt: one rail of the board",
}


class Sensor(object):
    """``options``: ``root`` (hwmon), ``iio_root``; ``chip``, ``bus``, ``address`` choose one of several; ``shunt_ohm``;

    ``via``: "hwmon" (or iio), "i2c", None for whichever is there; ``boundary``: what the shunt was wired to measure.
    Over I2C the bus is 1 and the address 0x40 unless named, and ``shunt_ohm`` is needed (INA260 has its own).

    At no load a chip reads a little below zero: down to its offset and one step that is a sample like any other, and
    is kept negative. Beyond it the shunt is wired the other way round, which is an error.
    """

    def __init__(self, options: Dict[str, Any]) -> None:
        self._options = options
        self._boundary = str(options.get("boundary", "board_input"))
        if self._boundary not in _INCLUDES:
            raise AgentError(
                "bad-request", "ina2xx: boundary is %r" % self._boundary, "one of %s" % ", ".join(sorted(_INCLUDES))
            )
        self._source: Any = None
        self.ready_s = self._since_s = 0.0

    def probe(self) -> Tuple[str, str, str]:
        """Whether one chip is there and its power can be read now."""
        try:
            source = self._find()
            try:
                source.watts()
            finally:
                source.close()
        except PermissionError as error:
            name = str(error.filename or "the device file")
            group = "sudo usermod -aG i2c $USER, then log in again"
            return "denied", "no permission: %s" % error, group if "/i2c-" in name else "sudo chmod a+r %s" % name
        except AgentError as error:
            return "absent", error.message, error.fix
        except (OSError, ValueError) as error:
            if getattr(error, "errno", None) == errno.EBUSY:
                return "absent", "a driver of the kernel owns the chip: %s" % error, "unset via, or set via = hwmon"
            fix = "i2cdetect -y 1 shows the chips that answer; sudo raspi-config nonint do_i2c 0 switches I2C on"
            return "absent", "cannot be read: %s" % error, fix
        return "ok", source.rail, ""

    def describe(self) -> Dict[str, Any]:
        """Gain: a 1 % shunt, against which the chip's own is small; INA260 is trimmed with its shunt."""
        source = self._source or self._find()
        try:
            step_w = source.step_w()
        finally:
            if source is not self._source:
                source.close()
        return {
            "rate_hz": 1.0 / max(SHORTEST_PERIOD_S, 1.5 * source.cycle_s),
            "update_s": source.cycle_s,
            "window_s": source.cycle_s,
            "step_w": step_w,
            "noise_w": 0.0,
            "gain_uncertainty": 0.005 if source.chip == "ina260" else 0.01,
            "counts_energy": False,
            "boundary": self._boundary,
            "rail": source.rail,
            "rails": [source.rail],
            "total": [source.rail],
            "includes": _INCLUDES[self._boundary],
            "clock": clock_domain(),
        }

    def open(self) -> None:
        """Find the chip; its configuration is read and left as it is."""
        self.close()
        self._source, self.ready_s, self._since_s = self._find(), 0.0, now_s()

    def poll(self) -> List[Tuple[float, float]]:
        """One sample (s, W); none before a new conversion.

        OSError: no reading, or no conversion ended for a second; ValueError: not a number; AgentError: out of range.
        """
        source, before_s = self._source, now_s()
        if before_s < self.ready_s and not source.tells_ready:
            return []
        if not source.is_ready():
            if before_s - self._since_s > max(STALE_AT_LEAST_S, STALE_CYCLES * source.cycle_s):
                raise OSError("%s is stale: no conversion ended for %.1f s" % (source.rail, before_s - self._since_s))
            return []
        watts = source.watts()
        after_s = self._since_s = now_s()
        self.ready_s = after_s + SLOWEST * source.cycle_s
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
        self._open = sysfs.OpenAttributes()
        self.rail = "%s@%s" % (self.chip, where)
        self._iio = os.path.basename(self._folder).startswith("iio")
        self._data = CHIPS[self.chip]
        told_ms = self._optional("update_interval")
        told_hz = self._optional("in_sampling_frequency")
        # update_interval is rounded to milliseconds.
        self.cycle_s = told_ms * 1e-3 + 0.5e-3 if told_ms else 1.0 / told_hz if told_hz else self._data.cycle_s
        self._shunt_ohm = self._told_shunt_ohm() or LINUX_SHUNT_OHM
        wanted = options.get("shunt_ohm")
        if self.chip == "ina260":
            self._shunt_ohm = INA260_OHM
        elif wanted is not None and abs(float(wanted) - self._shunt_ohm) > 0.01 * self._shunt_ohm:
            raise AgentError(
                "no-sensor",
                "the driver counts with a shunt of %g ohm, not %g" % (self._shunt_ohm, float(wanted)),
                "write the true value to %sshunt_resistor in %s" % ("in_" if self._iio else "", self._folder),
            )
        self._has_power = self._iio or self._has("power1_input")
        # hwmon rounds the current to milliamperes.
        rounding_a = 0.0 if self._iio else 0.5e-3
        self._lowest_v = -(self._data.offset_v + self._data.shunt_lsb_v + rounding_a * self._shunt_ohm)

    def is_ready(self) -> bool:
        return True

    def watts(self) -> float:
        """W. The chip's power has no sign and no overflow, so the current is read with it."""
        amperes = self._amperes()
        _check_range(self.rail, amperes * self._shunt_ohm, self._lowest_v, 0.999 * self._data.most_v)
        if amperes < 0.0 or not self._has_power:
            return self._volts() * amperes
        watts = self._scaled("in_power2") if self._iio else self._number("power1_input") * 1e-6
        if watts == 0.0 and amperes * self._shunt_ohm > -self._lowest_v:
            raise AgentError(
                "no-sensor", "%s gives 0 W at %g A" % (self.rail, amperes), "wire VBUS (IN-) to the supply's output"
            )
        return watts

    def step_w(self) -> float:
        """The power register's step, or the current's at the voltage of now (W)."""
        if self._iio:
            return self._number("in_power2_scale") * 1e-3
        step_a = self._data.shunt_lsb_v / self._shunt_ohm
        if self._has_power:
            return self._data.power_factor * step_a
        return max(step_a, 1e-3) * self._volts()

    def close(self) -> None:
        self._open.close()

    def _amperes(self) -> float:
        if not self._iio:
            return self._number("curr1_input", signed=True) * 1e-3
        raw = self._number("in_current3_raw", signed=True)
        if abs(raw) >= 0x7FFF:
            raise _overflow(self.rail, "its current register")
        return raw * self._number("in_current3_scale") * 1e-3

    def _volts(self) -> float:
        return self._scaled("in_voltage1") if self._iio else self._number("in1_input") * 1e-3

    def _told_shunt_ohm(self) -> Optional[float]:
        """The shunt that the driver counts with: in uOhm, except in iio since Linux 4.16, which has a decimal point."""
        name = "in_shunt_resistor" if self._iio else "shunt_resistor"
        if not self._has(name):
            return None
        value = self._number(name)
        return value if "." in sysfs.text(os.path.join(self._folder, name)) else value * 1e-6

    def _scaled(self, name: str) -> float:
        return self._number(name + "_raw") * self._number(name + "_scale") * 1e-3

    def _has(self, name: str) -> bool:
        return os.path.exists(os.path.join(self._folder, name))

    def _optional(self, name: str) -> Optional[float]:
        return self._number(name) if self._has(name) else None

    def _number(self, name: str, signed: bool = False) -> float:
        path = self._folder + "/" + name
        text = self._open.text(path)
        if not _NUMBER.match(text) or (text.startswith("-") and not signed):
            raise ValueError("%s holds %.40r, not a number%s" % (path, text, "" if signed else " of at least 0"))
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
        shunt_v = (shunt - 0x10000 if shunt & 0x8000 else shunt) * CHIPS[self.chip].shunt_lsb_v
        if self.chip == "ina219":
            self._read(0x03)
            overflow, volts = bus & 1, (bus >> 3) * 4e-3
        else:
            overflow, volts = self._read(0x06) & 4, bus * 1.25e-3
        if overflow or volts >= self._most_bus_v:
            raise _overflow(self.rail, "%g V; it holds %g V" % (volts, self._most_bus_v))
        _check_range(self.rail, shunt_v, self._lowest_v, self._most_v)
        if volts == 0.0:
            raise AgentError("no-sensor", "%s sees 0 V" % self.rail, "wire VBUS (IN-) to the supply's output")
        return volts * shunt_v / self._shunt_ohm

    def step_w(self) -> float:
        """The current's step at the voltage of now (W)."""
        bus = self._read(0x02)
        volts = (bus >> 3) * 4e-3 if self.chip == "ina219" else bus * 1.25e-3
        return CHIPS[self.chip].shunt_lsb_v / self._shunt_ohm * volts

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
        pga, data = config >> 11 & 3, CHIPS[self.chip]
        offset_v = INA219_OFFSETS_V[pga] if self.chip == "ina219" else data.offset_v
        self._lowest_v = -(offset_v + data.shunt_lsb_v)
        self._most_v = 0.04 * (1 << pga) - 5e-6 if self.chip == "ina219" else 0.081916
        self._most_bus_v = (32.0 if config & 0x2000 else 16.0) if self.chip == "ina219" else 40.95

    def _read(self, register: int) -> int:
        """A register; the chip sends the high byte first, SMBus takes it for the low one."""
        word = int(self._bus.read_word_data(self._address, register))
        return (word & 0xFF) << 8 | word >> 8


def _check_range(rail: str, shunt_v: float, lowest_v: float, most_v: float) -> None:
    """AgentError where the shunt's voltage is below what no load gives, or beyond what the chip holds."""
    if shunt_v < lowest_v - 1e-9:
        raise AgentError(
            "no-sensor",
            "%s: the current is negative (%g V at the shunt; no load reads %g V or more)" % (rail, shunt_v, lowest_v),
            "the shunt is wired the other way round: swap IN+ and IN-",
        )
    if shunt_v >= most_v:
        raise _overflow(rail, "%g V at the shunt" % shunt_v)


def _overflow(rail: str, what: str) -> AgentError:
    return AgentError(
        "no-sensor", "%s overflows: %s" % (rail, what), "use a smaller shunt, or a wider range of the chip"
    )


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
