"""RAPL: the energy counter of an x86 processor package (Linux: Documentation/power/powercap/powercap.rst)."""

import os
from typing import Any, Dict, List, Tuple

from device_agents.protocol import AgentError, clock_domain, now_s
from device_agents.sensors import sysfs

SYSFS = "/sys/class/powercap"
ZONE_PREFIX = "intel-rapl:"

# The counter is updated about every millisecond (Intel SDM vol. 3, 15.10), a twentieth of the period of reading.
RATE_HZ = 50.0


class Sensor(object):
    """All packages of the machine, summed. ``options``: ``root``, the powercap folder."""

    def __init__(self, options: Dict[str, Any]) -> None:
        self._root = str(options.get("root", SYSFS))
        self._zones: List[_Zone] = []
        self._last: Any = None

    def probe(self) -> Tuple[str, str, str]:
        """Whether a package zone is there and may be read."""
        zones = self._packages()
        if not zones:
            return (
                "absent",
                "no RAPL package zone in %s" % self._root,
                "use another power source, or a bare-metal x86 host",
            )
        for zone in zones:
            try:
                zone.read_uj()
            except PermissionError:
                return (
                    "denied",
                    "%s may be read by root only" % zone.path,
                    "sudo chmod a+r %s" % os.path.join(self._root, ZONE_PREFIX + "*", "energy_uj"),
                )
            except (OSError, ValueError) as error:
                return "absent", "%s cannot be read: %s" % (zone.path, error), "use another power source"
        return "ok", "%d package(s)" % len(zones), ""

    def describe(self) -> Dict[str, Any]:
        """Step and rate; the gain is not specified by the vendor, so 5 % is declared (see docs/agent.md)."""
        return {
            "rate_hz": RATE_HZ,
            "window_s": 1.0 / RATE_HZ,
            "step_w": 61e-6 * RATE_HZ,
            "noise_w": 0.0,
            "gain_uncertainty": 0.05,
            "boundary": "package",
            "rail": "+".join(zone.name for zone in self._packages()) or "package",
            "clock": clock_domain(),
        }

    def open(self) -> None:
        """Start counting from now."""
        self._zones = self._packages()
        if not self._zones:
            raise AgentError("no-sensor", "no RAPL package zone in %s" % self._root)
        self._last = None
        self.poll()

    def poll(self) -> List[Tuple[float, float, float]]:
        """One sample, stamped at the middle of the reading: mean power since the last (W), energy since opening (J)."""
        before_s = now_s()
        counter_j = sum(zone.energy_j() for zone in self._zones)
        t_s = 0.5 * (before_s + now_s())
        last, self._last = self._last, (t_s, counter_j)
        if last is None or t_s <= last[0]:
            return []
        return [(t_s, (counter_j - last[1]) / (t_s - last[0]), counter_j)]

    def close(self) -> None:
        """Nothing is held open."""
        self._zones = []

    def _packages(self) -> "List[_Zone]":
        # intel-rapl-mmio repeats the package; psys and the children (core, uncore, dram) are other boundaries.
        zones = []
        names = sorted(os.listdir(self._root)) if os.path.isdir(self._root) else []
        for entry in names:
            if not entry.startswith(ZONE_PREFIX) or entry.count(":") != 1:
                continue
            folder = os.path.join(self._root, entry)
            try:
                name = sysfs.text(os.path.join(folder, "name"))
            except OSError:
                continue  # the zone vanished while listing
            if name.startswith("package"):
                zones.append(_Zone(folder, name))
        return zones


class _Zone(object):
    """One counter, unwrapped."""

    def __init__(self, folder: str, name: str) -> None:
        self.name = name
        self.path = os.path.join(folder, "energy_uj")
        self._range_path = os.path.join(folder, "max_energy_range_uj")
        self._last_uj: Any = None
        self._total_uj = 0

    def read_uj(self) -> int:
        """The raw counter; OSError or ValueError where it cannot be read, never 0."""
        return _integer(self.path)

    def energy_j(self) -> float:
        """Energy since the first call; the counter wraps at max_energy_range_uj."""
        value = self.read_uj()
        if self._last_uj is not None:
            step = value - self._last_uj
            if step < 0:
                step += _integer(self._range_path)
            if step < 0:
                raise ValueError("%s went back from %d to %d" % (self.path, self._last_uj, value))
            self._total_uj += step
        self._last_uj = value
        return self._total_uj * 1e-6


def _integer(path: str) -> int:
    return int(sysfs.text(path))
