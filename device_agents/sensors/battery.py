"""A laptop's battery: what the whole machine draws while it is unplugged.

Linux: Documentation/ABI/testing/sysfs-class-power; µW, µV and µA.
"""

import os
import re
from typing import Any, Dict, List, Optional, Tuple

from device_agents.protocol import AgentError, clock_domain, now_s
from device_agents.sensors import sysfs

SYSFS = "/sys/class/power_supply"

# Fuel gauges are asked by their driver or firmware every few seconds.
UPDATE_S = 4.0

_NUMBER = re.compile(r"-?[0-9]{1,10}\Z")
_MAINS_TYPES = ("Mains", "USB", "Wireless")

# What moves with an update of the gauge, beside the power: on a constant load it alone tells new from old.
_GAUGE_FILES = ("voltage_now", "energy_now", "charge_now")


class Sensor(object):
    """All batteries of the machine, summed.

    ``options``: ``root``, the power supply folder; ``update_s``, the seconds between two updates of the fuel gauge (4).
    The folder is read twice per update, and a sample is returned only when something of a gauge moved: its power, or
    its voltage, energy or charge under a power that stayed the same. A gauge that stands still gives no samples, and
    the trace is then called stale. Raises AgentError "bad-request" where ``update_s`` is not a number above 0.
    """

    def __init__(self, options: Dict[str, Any]) -> None:
        self._root = str(options.get("root", SYSFS))
        update_s = options.get("update_s", UPDATE_S)
        if isinstance(update_s, bool) or not isinstance(update_s, (int, float)) or not 0.0 < update_s < 3600.0:
            raise AgentError("bad-request", "battery: update_s is %r" % (update_s,), "seconds, above 0 and below 3600")
        self._update_s = float(update_s)
        self._batteries: List[str] = []
        self._last: Any = None

    def probe(self) -> Tuple[str, str, str]:
        """Whether there is a battery that feeds the machine now and says how much."""
        names = self._find_batteries()
        if not names:
            return "absent", "no battery in %s" % self._root, "use another power source"
        try:
            self._read(names)
        except AgentError as error:
            return "absent", error.message, error.fix
        except PermissionError as error:
            return "denied", "%s may not be read" % error.filename, "sudo chmod a+r %s" % error.filename
        except (OSError, ValueError) as error:
            return "absent", "the battery cannot be read: %s" % error, "use another power source"
        return "ok", "+".join(names), ""

    def describe(self) -> Dict[str, Any]:
        """Rate and window follow from ``update_s``.

        Step and gain are assumptions, 10 mW and 5 %: firmware passes on a fuel gauge of which neither is stated.
        """
        names = self._batteries or self._find_batteries()
        return {
            "rate_hz": 2.0 / self._update_s,
            "update_s": self._update_s,
            "window_s": self._update_s,
            "step_w": 0.01,
            "noise_w": 0.0,
            "gain_uncertainty": 0.05,
            "counts_energy": False,
            "boundary": "board_input",
            "rail": "+".join(names) or "battery",
            "rails": names or ["battery"],
            "total": names or ["battery"],
            "includes": "the whole machine while it is unplugged, screen and converters included",
            "clock": clock_domain(),
        }

    def open(self) -> None:
        """Take the present reading as old; AgentError "no-sensor" without a battery or on mains."""
        self._batteries = self._find_batteries()
        if not self._batteries:
            raise AgentError("no-sensor", "no battery in %s" % self._root, "use another power source")
        self._last = self._read(self._batteries)

    def poll(self) -> List[Tuple[float, float]]:
        """The power (W) if the gauge was updated since the last call, stamped at the middle of the reading.

        Raises AgentError when the charger was plugged in, OSError or ValueError for a value that cannot be read.
        """
        before_s = now_s()
        reading = self._read(self._batteries)
        t_s = 0.5 * (before_s + now_s())
        if reading == self._last:
            return []
        self._last = reading
        return [(t_s, reading[0])]

    def close(self) -> None:
        """Nothing is held open."""
        self._batteries = []

    def _read(self, names: List[str]) -> Tuple[float, List[Optional[int]]]:
        """Power of the batteries that discharge (W), and the gauges' values, which move with every update."""
        self._refuse_mains()
        total_w, discharging = 0.0, False
        gauges: List[Optional[int]] = []
        for name in names:
            folder = os.path.join(self._root, name)
            status = sysfs.text(os.path.join(folder, "status"))
            if status == "Charging":
                raise _on_mains("%s is charging" % name)
            # Of two batteries one may rest ("Not charging", "Unknown", "Full") while the other feeds the machine.
            if status == "Discharging":
                discharging = True
                total_w += _power_w(folder)
                gauges.extend(_if_there(os.path.join(folder, file)) for file in _GAUGE_FILES)
        if not discharging:
            raise _on_mains("no battery is discharging")
        if total_w == 0.0:
            raise OSError("%s: discharging at 0 W, which is no reading" % "+".join(names))
        return total_w, gauges

    def _refuse_mains(self) -> None:
        # A charger may be online while a battery discharges (charge threshold, load peak): both feed the machine then.
        for name in self._supplies():
            folder = os.path.join(self._root, name)
            if _kind(folder) in _MAINS_TYPES and _if_there(os.path.join(folder, "online")):
                raise _on_mains("%s is online" % name)

    def _find_batteries(self) -> List[str]:
        names = []
        for name in self._supplies():
            folder = os.path.join(self._root, name)
            if _kind(folder) == "Battery" and _present(folder):
                names.append(name)
        return names

    def _supplies(self) -> List[str]:
        return sorted(os.listdir(self._root)) if os.path.isdir(self._root) else []


def _on_mains(seen: str) -> AgentError:
    return AgentError("no-sensor", "on mains: %s" % seen, "unplug the charger")


def _kind(folder: str) -> str:
    """The supply's type; "" for that of a mouse or a headset (scope Device), and for one that vanished meanwhile."""
    scope = os.path.join(folder, "scope")
    try:
        if os.path.exists(scope) and sysfs.text(scope) == "Device":
            return ""
        return sysfs.text(os.path.join(folder, "type"))
    except (OSError, ValueError):
        return ""


def _present(folder: str) -> bool:
    """Whether the bay holds a battery; one that does not say is read, and says there what is wrong."""
    try:
        return _if_there(os.path.join(folder, "present")) != 0
    except (OSError, ValueError):
        return True


def _power_w(folder: str) -> float:
    """Power of a battery that discharges (W): drivers disagree on the sign."""
    microwatts = _if_there(os.path.join(folder, "power_now"))
    if microwatts is not None:
        return abs(microwatts) * 1e-6
    return abs(_integer(os.path.join(folder, "voltage_now")) * _integer(os.path.join(folder, "current_now"))) * 1e-12


def _if_there(path: str) -> Optional[int]:
    try:
        return _integer(path)
    except FileNotFoundError:
        return None  # an attribute that this driver does not have


def _integer(path: str) -> int:
    text = sysfs.text(path)
    # The kernel keeps these values in an int (linux/power_supply.h, union power_supply_propval).
    if not _NUMBER.match(text) or not -(2**31) <= int(text) < 2**31:
        raise ValueError("%s holds %.40r" % (path, text))
    return int(text)
