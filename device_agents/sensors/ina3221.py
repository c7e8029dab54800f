"""INA3221: the three-channel power monitors of a Jetson, by sysfs.

TI SBOS576A, electrical characteristics: shunt LSB 40 uV over 163.8 mV, bus LSB 8 mV, conversions of 1.1 ms (1.21 at
most), offset at most 80 uV, gain 0.25 % at 25 C. Linux: Documentation/hwmon/ina3221.rst.

Two drivers: ``ina3221x`` (JetPack 4, an iio tree with power in mW) and ``ina3221`` (JetPack 5 and later, a hwmon tree
with mV and mA). In the latter in4 to in6 are shunt voltages and in7 is their sum; they are not read.
"""

import glob
import math
import os
import re
from typing import Any, Dict, List, Optional, Tuple

from device_agents.protocol import AgentError, clock_domain, now_s
from device_agents.sensors import sysfs
from device_agents.sensors.jetson_rails import INCLUDES, TOTAL_RAILS, missing_total

SYSFS = "/sys/bus/i2c/drivers"

# Assumed to be measured once more behind VIN_SYS_5V0 (AGX Orin: memory and always-on supply).
PART_OF = {"VDDQ_VDD2_1V8AO": "VIN_SYS_5V0"}

# Power-on configuration: no averaging, 1.1 ms for each of shunt and bus of three channels; at most a tenth slower.
CYCLE_S = 6.6e-3
SLOWEST = 1.1
READ_S = 0.55e-3  # one register over I2C
SHUNT_STEP_V = 40e-6
OFFSET_V = 80e-6
# Where the driver does not say: the design guides' 5 mOhm; the currents of Nano and TX2 go in its 8 mA.
SHUNT_OHM = 5e-3


class Sensor(object):
    """The total rail of the board, or the sum of the module's rails.

    ``options``: ``root``, the folder of the I2C drivers; ``rail``, the label of one rail (or "1-0040:2", channel 2 at
    that address, where it has no label); ``shunt_ohm``, for the step where the driver does not tell the shunt.

    At no load a channel reads a little below zero: down to its offset and one step that is a sample like any other, and
    is kept negative. Beyond it the current flows backwards, which is an error.
    """

    def __init__(self, options: Dict[str, Any]) -> None:
        self._root = str(options.get("root", SYSFS))
        self._rail = options.get("rail")
        self._shunt_ohm = float(options.get("shunt_ohm", SHUNT_OHM))
        self._rails: List[_Channel] = []
        self._listed: List[str] = []
        self._left_out: List[str] = []
        self.ready_s = 0.0

    def probe(self) -> Tuple[str, str, str]:
        """Whether the rail, or every rail of the sum, can be read now; channels left out are named in the reason."""
        try:
            rails, left_out = self._choose()
        except PermissionError as error:
            return "denied", "%s may be read by root only" % error.filename, "sudo chmod a+r %s" % error.filename
        except AgentError as error:
            return "absent", error.message, error.fix
        except (OSError, ValueError) as error:
            return "absent", "an INA3221 cannot be read: %s" % error, "use another power source"
        return "ok", _joined(rails) + _not_wired(left_out), ""

    def describe(self) -> Dict[str, Any]:
        """Assumes the power-on configuration where the driver tells no update_interval, as JetPack 4's does.

        The step is the shunt's 40 uV at the voltage of now, added in quadrature over summed rails. The gain is the 1 %
        of the shunts; the chip's own 0.25 % and its offset of up to 80 uV are within the same order.
        """
        rails = self._rails or self._choose()[0]
        listed = self._listed or [channel.label for channel in self._channels()]
        cycle_s = max(rail.cycle_s for rail in rails)
        names = [rail.label for rail in rails]
        total = names[0] in TOTAL_RAILS
        steps_w = [SHUNT_STEP_V / rail.shunt_ohm * rail.volts() for rail in rails]
        return {
            "rate_hz": 1.0 / (1.5 * cycle_s + READ_S * sum(rail.reads for rail in rails)),
            "update_s": cycle_s,
            "window_s": cycle_s,
            "step_w": math.sqrt(sum(step * step for step in steps_w)),
            "noise_w": 0.0,
            "gain_uncertainty": 0.01,
            "counts_energy": False,
            "boundary": "board_input" if total else "module" if self._rail is None else "rail",
            "rail": _joined(rails),
            "rails": listed,
            "total": names,
            "includes": INCLUDES["board_input" if total else "module" if self._rail is None else "rail"]
            + _not_wired(self._left_out),
            "clock": clock_domain(),
        }

    def open(self) -> None:
        """Find the channels by address and label: hwmonN and iio:deviceN change from boot to boot."""
        self._listed = [channel.label for channel in self._channels()]
        self._rails, self._left_out = self._choose()
        self.ready_s = 0.0

    def poll(self) -> List[Tuple[float, float]]:
        """One sample (s, W), stamped at the middle; none until every channel has converted since the last one.

        Raises OSError where a rail cannot be read, ValueError where it holds no number, AgentError for a current that
        flows backwards.
        """
        before_s = now_s()
        if before_s < self.ready_s:
            return []
        watts = sum(rail.watts() for rail in self._rails)
        after_s = now_s()
        self.ready_s = after_s + SLOWEST * max(rail.cycle_s for rail in self._rails)
        return [(0.5 * (before_s + after_s), watts)]

    def close(self) -> None:
        """Nothing is held open."""
        self._rails, self._listed, self._left_out = [], [], []

    def _channels(self) -> "List[_Channel]":
        channels = _channels(self._root)
        for channel in channels:
            channel.shunt_ohm = channel.shunt_ohm or self._shunt_ohm
        return channels

    def _choose(self) -> "Tuple[List[_Channel], List[str]]":
        """The channels to add up, each read once, and the names of those that are not wired."""
        channels = self._channels()
        if not channels:
            raise AgentError("no-sensor", "no INA3221 in %s" % self._root, "use another power source")
        labels = [channel.label for channel in channels]
        wanted = [self._rail] if self._rail is not None else [rail for rail in TOTAL_RAILS if rail in labels][:1]
        if wanted:
            rails = [channel for channel in channels if channel.label == wanted[0]]
            if len(rails) != 1:
                raise AgentError(
                    "no-sensor",
                    "%d INA3221 channels are called %s; there are %s" % (len(rails), wanted[0], ", ".join(labels)),
                    "name one of them as the option rail",
                )
            rails[0].watts()  # an unreadable total is an error: its parts are not the total
            return rails, []
        lacking = missing_total(labels)
        if lacking is not None:
            raise AgentError(
                "no-sensor",
                "%s is missing: there are only its parts, %s" % (lacking, ", ".join(labels)),
                "load the driver of every INA3221, or name one rail as the option rail",
            )
        parts = [channel for channel in channels if PART_OF.get(channel.label) not in labels]
        rails = [channel for channel in parts if channel.is_wired()]
        unnamed = [rail.label for rail in rails if not rail.has_label]
        if unnamed or not rails:
            raise AgentError(
                "no-sensor",
                "INA3221 channels without a label, perhaps parts of one another: %s" % ", ".join(unnamed)
                if unnamed
                else "no INA3221 channel of %s is wired" % ", ".join(labels),
                "name one rail as the option rail" if unnamed else "use another power source",
            )
        return rails, [channel.label for channel in parts if channel not in rails]


class _Channel(object):
    """One channel of one chip, in either tree."""

    def __init__(self, name: str, label_path: str, factors: List[Tuple[str, float]], volts_path: str) -> None:
        self.has_label = os.path.exists(label_path)
        self.label = sysfs.text(label_path) if self.has_label else name
        self.reads = len(factors)
        self.cycle_s = CYCLE_S
        self.shunt_ohm = 0.0  # not told
        self._factors = factors
        self._volts_path = volts_path

    def watts(self) -> float:
        """The product of its files, in W; OSError or ValueError where one holds no number, AgentError backwards."""
        product = 1.0
        for path, unit in self._factors:
            product *= _number(path, signed=path != self._volts_path) * unit
        if product < 0.0:
            lowest_w = -(OFFSET_V + SHUNT_STEP_V) / self.shunt_ohm * self.volts()
            if product < 1.001 * lowest_w:
                raise AgentError(
                    "no-sensor",
                    "%s: %g W, the current flows backwards (no load reads %g W or more)"
                    % (self.label, product, lowest_w),
                    "name another rail as the option rail; is power fed into the board behind this one?",
                )
        return product

    def volts(self) -> float:
        """The bus voltage (V)."""
        return _number(self._volts_path) * 1e-3

    def is_wired(self) -> bool:
        """False for the label NC, and where the driver refuses to read (ENODATA, EIO) or has no such file."""
        if self.label.upper() == "NC":
            return False
        try:
            self.watts()
        except PermissionError:
            raise
        except OSError:
            return False
        return True


def _channels(root: str) -> List[_Channel]:
    """All channels of all chips, in the order of bus and address."""
    found = []
    for chip in sorted(glob.glob(os.path.join(glob.escape(root), "ina3221*", "*-00[0-9a-f][0-9a-f]"))):
        address = os.path.basename(chip)
        for folder in sorted(glob.glob(os.path.join(glob.escape(chip), "iio*device*"))):
            numbers = [index for index in range(3) if _is_there(folder, "rail_name_%d", "in_power%d_input", index)]
            found += [_iio_channel(address, folder, index) for index in numbers]
        for folder in sorted(glob.glob(os.path.join(glob.escape(chip), "hwmon", "hwmon*"))):
            numbers = [index for index in (1, 2, 3) if _is_there(folder, "in%d_label", "curr%d_input", index)]
            found += [_hwmon_channel(address, folder, index) for index in numbers]
    return found


def _iio_channel(address: str, folder: str, index: int) -> _Channel:
    power = os.path.join(folder, "in_power%d_input" % index)
    volts = os.path.join(folder, "in_voltage%d_input" % index)
    name = "%s:%d" % (address, index + 1)
    return _Channel(name, os.path.join(folder, "rail_name_%d" % index), [(power, 1e-3)], volts)


def _hwmon_channel(address: str, folder: str, index: int) -> _Channel:
    volts = os.path.join(folder, "in%d_input" % index)
    current = os.path.join(folder, "curr%d_input" % index)
    label = os.path.join(folder, "in%d_label" % index)
    channel = _Channel("%s:%d" % (address, index), label, [(volts, 1e-3), (current, 1e-3)], volts)
    interval_ms = _told(os.path.join(folder, "update_interval"))
    shunt_uohm = _told(os.path.join(folder, "shunt%d_resistor" % index))
    channel.cycle_s = interval_ms * 1e-3 if interval_ms else CYCLE_S
    channel.shunt_ohm = shunt_uohm * 1e-6 if shunt_uohm else 0.0
    return channel


def _is_there(folder: str, label: str, reading: str, index: int) -> bool:
    """A channel with a label alone counts: a total that cannot be read must not be taken for a board without one."""
    return any(os.path.exists(os.path.join(folder, name % index)) for name in (label, reading))


def _not_wired(labels: List[str]) -> str:
    return "; not wired: " + ", ".join(labels) if labels else ""


def _joined(rails: List[_Channel]) -> str:
    return "+".join(rail.label for rail in rails)


def _told(path: str) -> Optional[int]:
    """What an optional attribute says, None where the driver has none."""
    return _number(path) if os.path.exists(path) else None


def _number(path: str, signed: bool = False) -> int:
    text = sysfs.text(path)
    if not re.match(r"-?[0-9]{1,9}\Z" if signed else r"[0-9]{1,9}\Z", text, re.ASCII):
        raise ValueError("%s holds %.40r, not a whole number%s" % (path, text, "" if signed else " of at least 0"))
    return int(text)
