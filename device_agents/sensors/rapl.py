"""RAPL: the energy counters of an x86 processor, Intel's or AMD's, as Linux shows them.

    /sys/class/powercap/intel-rapl:0       package-0   cores, cache, graphics, memory controller
                        intel-rapl:0:0     core        a part of the package
                        intel-rapl:0:1     uncore      a part of the package (graphics)
                        intel-rapl:0:2     dram        the memory modules: beside the package, not in it
                        intel-rapl:1       psys        the platform, packages included
                        intel-rapl-mmio:0  package-0   the same package once more

The total is every package and its dram. psys is read only by its name: which supplies a mainboard's maker has put
behind it, and whether it was ever calibrated, is stated nowhere (https://hubblo-org.github.io/scaphandre-documentation,
"RAPL domains"), so that no board would be comparable with another.
Sources: Linux, Documentation/power/powercap/powercap.rst; Intel SDM vol. 3, 15.10 (domains, units, update).
"""

import math
import os
import re
import time
from typing import Any, Dict, List, Optional, Tuple

from device_agents.protocol import AgentError, clock_domain, now_s
from device_agents.sensors import sysfs

SYSFS = "/sys/class/powercap"

UPDATE_S = 1e-3  # Intel SDM vol. 3, 15.10.3: about every millisecond
RATE_HZ = 50.0
STEP_J = 61e-6  # 2^-14 J, the coarsest energy unit in use; servers' memory and AMD count in 15.3 uJ
GAIN = 0.05  # no vendor states one
PSYS_GAIN = 0.1

MOVES_WITHIN_S = 0.5  # a counter that stands still for so long before a measurement is none
STALE_S, STALE_READINGS = 1.0, 10  # both: this process may have been kept from running
# A counter wraps after 262 kJ, or 65 kJ in units of 15.3 uJ: minutes at full load. Beyond this gap between two readings
# a wrap may have gone unseen; and more power than this is a counter that was reset, not one that wrapped.
LONGEST_GAP_S = 60.0
MOST_W = 10e3

_ZONE = re.compile(r"intel-rapl(?P<twin>-mmio)?:(?P<top>[0-9]+)(?P<sub>:[0-9]+)?\Z", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,19}\Z", re.ASCII)


class Sensor(object):
    """The packages of the machine and their memory, summed.

    ``options``: ``root``, the powercap folder; ``rail``, one zone alone: "psys", "package-0", "package-0/dram", ....
    """

    def __init__(self, options: Dict[str, Any]) -> None:
        self._root = str(options.get("root", SYSFS))
        self._rail: Optional[str] = options.get("rail")
        self._zones: List[_Zone] = []
        self._notes: List[str] = []
        self._last: Any = None

    def probe(self) -> Tuple[str, str, str]:
        """Whether the counters are there, may be read, and move; what is left out is named in the reason."""
        try:
            zones, notes = self._choose()
        except PermissionError as error:
            return "denied", "%s may be read by root only" % error.filename, self._permission_fix()
        except AgentError as error:
            return "absent", error.message, error.fix
        except (OSError, ValueError) as error:
            return "absent", "RAPL cannot be read: %s" % error, "use another power source"
        return "ok", "; ".join(["+".join(zone.label for zone in zones)] + notes), ""

    def describe(self) -> Dict[str, Any]:
        """Step: one energy unit a sample and zone. No vendor states a gain: 5 % is declared, 10 % for psys."""
        listed = self._list()
        zones = self._zones or self._wanted(listed)
        labels = [zone.label for zone in zones] or ["package"]
        return {
            "rate_hz": RATE_HZ,
            "update_s": UPDATE_S,
            "window_s": 1.0 / RATE_HZ,
            "step_w": STEP_J * RATE_HZ * math.sqrt(len(labels)),
            "noise_w": 0.0,
            "gain_uncertainty": PSYS_GAIN if labels[0].startswith("psys") else GAIN,
            "counts_energy": True,
            "boundary": _boundary(labels),
            "rail": "+".join(labels),
            "rails": [zone.label for zone in listed] or labels,
            "total": labels,
            "includes": "; ".join([_includes(labels)] + self._notes),
            "clock": clock_domain(),
        }

    def open(self) -> None:
        """Start counting from now; AgentError or OSError where a counter cannot be read or stands still."""
        try:
            self._zones, self._notes = self._choose()
        except PermissionError as error:
            raise AgentError(
                "no-sensor", "%s may be read by root only" % error.filename, self._permission_fix()
            ) from error
        self._last = (now_s(), sum(zone.energy_j for zone in self._zones))

    def poll(self) -> List[Tuple[float, float, float]]:
        """The mean power (W) since the last sample and the energy since opening (J), once every counter has moved.

        Stamped at the middle of the reading. OSError or ValueError where a counter cannot be read, stands still for a
        second, jumps, or was not read for so long that it may have wrapped unseen.
        """
        before_s = now_s()
        for zone in self._zones:
            zone.read(before_s)
        t_s = 0.5 * (before_s + now_s())
        if t_s <= self._last[0] or not all(zone.moved for zone in self._zones):
            return []
        for zone in self._zones:
            zone.moved = False
        counter_j = sum(zone.energy_j for zone in self._zones)
        last, self._last = self._last, (t_s, counter_j)
        return [(t_s, (counter_j - last[1]) / (t_s - last[0]), counter_j)]

    def close(self) -> None:
        """Nothing is held open."""
        self._zones, self._notes = [], []

    def _choose(self) -> "Tuple[List[_Zone], List[str]]":
        """The zones to add up, each seen to move and now at its zero, and what is left out and why.

        Memory that cannot be read or stands still, as on a desktop whose firmware does not count it, is left out by
        name; a package, or a zone that was asked for, is an error.
        """
        listed = self._list()
        zones = self._wanted(listed)
        if not zones:
            wanted = "no RAPL zone %s" % self._rail if self._rail is not None else "no RAPL package zone"
            names = ", ".join(zone.label for zone in listed)
            fix = (
                "name one of them as the option rail"
                if listed
                else "use another power source, or a bare-metal x86 host"
            )
            raise AgentError("no-sensor", "%s in %s%s" % (wanted, self._root, names and "; there are " + names), fix)
        notes, readable = [], []
        for zone in zones:
            try:
                zone.read(now_s())
            except PermissionError:
                raise
            except (OSError, ValueError) as error:
                if self._rail is not None or not zone.is_memory:
                    raise
                notes.append("%s cannot be read (%s): left out" % (zone.label, error))
            else:
                readable.append(zone)
        still = _wait_until_moved(readable)
        for zone in still:
            if self._rail is not None or not zone.is_memory:
                raise AgentError(
                    "no-sensor",
                    "%s stands still at %s" % (zone.path, zone.last_uj),
                    "use another power source; a virtual machine's counter does not move",
                )
            notes.append("%s stands still: left out" % zone.label)
        chosen = [zone for zone in readable if zone not in still]
        for zone in chosen:
            zone.start()
        return chosen, notes

    def _wanted(self, listed: "List[_Zone]") -> "List[_Zone]":
        if self._rail is not None:
            return [zone for zone in listed if zone.label == self._rail]
        return [zone for zone in listed if zone.is_package or zone.is_memory]

    def _list(self) -> "List[_Zone]":
        """All zones, in the order of their numbers; those of intel-rapl-mmio only where they are no twins."""
        found: Dict[str, List[_Zone]] = {"": [], "-mmio": []}
        tops: Dict[str, str] = {}
        entries = os.listdir(self._root) if os.path.isdir(self._root) else []
        matches = [match for match in (_ZONE.match(entry) for entry in entries) if match]
        for match in sorted(matches, key=lambda m: (int(m.group("top")), int((m.group("sub") or ":-1")[1:]))):
            twin, top, sub = match.group("twin") or "", match.group("top"), match.group("sub")
            folder = os.path.join(self._root, match.group(0))
            try:
                name = sysfs.text(os.path.join(folder, "name"))
            except FileNotFoundError:
                continue  # the zone vanished while listing
            if sub is None:
                tops[twin + top] = name
            else:
                name = "%s/%s" % (tops.get(twin + top, "zone-" + top), name)
            found[twin].append(_Zone(folder, name))
        return found[""] or found["-mmio"]

    def _permission_fix(self) -> str:
        return "sudo chmod a+r %s" % os.path.join(self._root, "intel-rapl*", "energy_uj")


class _Zone(object):
    """One counter, unwrapped. ``moved``: since this was last set to False."""

    def __init__(self, folder: str, label: str) -> None:
        self.label = label
        self.is_package = label.startswith("package") and "/" not in label
        self.is_memory = label.startswith("package") and label.endswith("/dram")
        self.path = os.path.join(folder, "energy_uj")
        self._range_path = os.path.join(folder, "max_energy_range_uj")
        self.last_uj: Optional[int] = None
        self._read_s = self._moved_s = 0.0
        self._still = 0
        self._total_uj = 0
        self.moved = False

    @property
    def energy_j(self) -> float:
        """Energy since ``start``."""
        return self._total_uj * 1e-6

    def start(self) -> None:
        """Count from here on."""
        self._total_uj = 0
        self.moved = False

    def read(self, at_s: float) -> None:
        """Take the counter's step since the last reading; it wraps at max_energy_range_uj."""
        value = _integer(self.path)
        if self.last_uj is None:
            self._moved_s = at_s
        else:
            self._advance(value - self.last_uj, at_s)
        self.last_uj, self._read_s = value, at_s

    def _advance(self, step_uj: int, at_s: float) -> None:
        gap_s = at_s - self._read_s
        if gap_s > LONGEST_GAP_S:
            raise OSError("%s was not read for %.0f s: it may have wrapped unseen" % (self.path, gap_s))
        if step_uj < 0:
            step_uj += _integer(self._range_path)
        # The counter may be up to an update older than its reading.
        if step_uj < 0 or step_uj * 1e-6 > MOST_W * (gap_s + UPDATE_S):
            raise OSError(
                "%s jumped from %s by %d uJ in %.3f s: was it reset?" % (self.path, self.last_uj, step_uj, gap_s)
            )
        if step_uj:
            self._total_uj += step_uj
            self._moved_s, self._still, self.moved = at_s, 0, True
            return
        self._still += 1
        if at_s - self._moved_s > STALE_S and self._still >= STALE_READINGS:
            raise OSError("%s is stale: it stands still for %.1f s" % (self.path, at_s - self._moved_s))


def _wait_until_moved(zones: List[_Zone]) -> List[_Zone]:
    """The zones that stand still for MOVES_WITHIN_S; a running processor's move within milliseconds."""
    begun_s = at_s = now_s()
    while not all(zone.moved for zone in zones) and at_s - begun_s < MOVES_WITHIN_S:
        time.sleep(2.0 * UPDATE_S)
        at_s = now_s()
        for zone in zones:
            zone.read(at_s)
    return [zone for zone in zones if not zone.moved]


def _boundary(labels: List[str]) -> str:
    if labels[0].startswith("psys"):
        return "board_input"
    return "package" if labels[0].startswith("package") and (len(labels) > 1 or "/" not in labels[0]) else "rail"


def _includes(labels: List[str]) -> str:
    if labels[0].startswith("psys"):
        return "the platform as its maker wired psys, packages included; compare it with a meter before trusting it"
    if _boundary(labels) == "rail":
        return "%s alone, a part of its package or beside it" % labels[0]
    memory = any(label.endswith("/dram") for label in labels)
    return "processor package%s; not %smainboard, disks, cards, power supply" % (
        " and its memory modules" if memory else " only",
        "" if memory else "memory modules, ",
    )


def _integer(path: str) -> int:
    text = sysfs.text(path)
    if not _NUMBER.match(text):
        raise ValueError("%s holds %.40r, not a whole number of at least 0" % (path, text))
    return int(text)
