"""What is known of a board's power sources beyond their data sheets, kept by serial number.

    $RIG_HOME/devices/<device>/<serial>/sensor-<source>.json        what ``rig doctor`` found
                                        calibration-<source>.json   what ``rig calibrate-sensor`` found
                                        step-response-<source>.png

Each record that arrives from a device gets what is known written into its ``sensor``, before it is stored: a stored
measurement then says by itself how it is to be read, and is read the same way for ever. All records of a run get what
was known when the run began (``InForce``; ``sources.json`` in the run's folder).
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rig import durable
from rig.errors import StoreError

if TYPE_CHECKING:
    from rig.profiles import DeviceProfile

FORMAT_VERSION = 1  # 1: first version

# What must be as it was when the source was characterized; else it is another sensor, or one set up otherwise.
DECLARED = ("rail", "boundary", "rate_hz", "window_s", "gain_uncertainty")
STEP_FACTOR = 1.5  # a declared step may follow the voltage of the moment

SOURCES_FILE = "sources.json"

KINDS = {"characterization": ("sensor", "rig doctor"), "calibration": ("calibration", "rig calibrate-sensor")}


def board_folder(device: str, serial: str, root: Path | None = None) -> Path:
    """The folder of one board; it need not exist."""
    if root is None:
        from rig.store.store import default_root  # brings numpy

        root = default_root()
    return root / "devices" / device / file_word(serial)


def file_word(text: str) -> str:
    """A serial number or a source's name as a part of a path; what had to be changed is told apart by its hash."""
    plain = re.sub(r"[^A-Za-z0-9._+-]", "_", text).lstrip(".")[:80] or "unknown"
    return plain if plain == text else f"{plain}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def save(kind: str, device: str, serial: str, source: str, found: Mapping[str, Any], root: Path | None = None) -> Path:
    """Write a characterization or a calibration of a source at once, over an older one; returns the path."""
    folder = board_folder(device, serial, root)
    path = folder / _file_name(kind, source)
    action = f"storing the {kind} of {source}"
    with durable.disk_errors(action, path):
        folder.mkdir(parents=True, exist_ok=True)
    whole = {"format_version": FORMAT_VERSION, "device": device, "serial": serial, "source": source, **found}
    durable.write_atomic(path, json.dumps(whole, indent=1, allow_nan=False).encode(), action)
    return path


def load(kind: str, device: str, serial: str, source: str, root: Path | None = None) -> dict[str, Any] | None:
    """What ``save`` wrote; None where nothing was. Raises StoreError for a damaged file or another format."""
    path = board_folder(device, serial, root) / _file_name(kind, source)
    if not path.is_file():
        return None
    found: dict[str, Any] = durable.read_json(path)
    if found.get("format_version") != FORMAT_VERSION:
        raise StoreError(
            f"{path}: format version {found.get('format_version')}, this rig reads {FORMAT_VERSION}",
            f"make it anew: {KINDS[kind][1]} --device {device}",
        )
    return found


def fits(found: Mapping[str, Any], described: Mapping[str, Any]) -> str | None:
    """What differs between a source as it was characterized and as it describes itself now; None where nothing does."""
    before = found.get("declared") or {}
    for field in DECLARED:
        if not _same(before.get(field), described.get(field)):
            return f"{field} was {before.get(field)!r}, is now {described.get(field)!r}"
    steps = [float(one.get("step_w") or 0.0) for one in (before, described)]
    if min(steps) * STEP_FACTOR < max(steps):
        return f"step_w was {steps[0]:.4g}, is now {steps[1]:.4g}"
    return None


class InForce:
    """What is known of a device's sources, the same for as long as it is asked: of a session, or of a whole run.

    Sources are characterized and calibrated anew now and then, also between two sessions of one campaign. Records
    that are put together must be read by one calibration, or a gain that was found in the middle of a campaign would
    look like a cost of the kernels that came after it. So what is known when a source is first asked for is what
    counts. ``path``: a run's file that keeps it (``SOURCES_FILE``), read where it is there; None keeps it in memory.
    """

    def __init__(self, device: str, path: Path | None = None, root: Path | None = None) -> None:
        self.device = device
        self._path = path
        self._root = root
        self._known: dict[str, Any] = {}
        if path is not None and path.is_file():
            self._known = durable.read_json(path)

    def of(self, serial: str, source: str) -> dict[str, Any]:
        """Kind → what is in force of one source of a board; a kind that was not known at the time is None."""
        key = f"{serial} {source}"
        if key not in self._known:
            found = {kind: load(kind, self.device, serial, source, self._root) for kind in KINDS}
            self._known = {**self._known, key: found}
            self._keep()
        return dict(self._known[key])

    def keep_in(self, path: Path) -> None:
        """From now on it is a run's: what its file holds counts, and what is asked for besides is added to it."""
        self._path = path
        if path.is_file():
            self._known = durable.read_json(path)
        else:
            self._keep()

    def superseded(self, serial: str, source: str) -> list[str]:
        """In words, what was found since of a source and is not used."""
        words = []
        for kind, (_, command) in KINDS.items():
            used, newest = self.of(serial, source)[kind], load(kind, self.device, serial, source, self._root)
            if newest is not None and (used is None or used.get("made_utc") != newest.get("made_utc")):
                before = f"that of {used.get('made_utc')}" if used else "none"
                words.append(f"{kind} of {source} made {newest.get('made_utc')} ({command}) is not used, but {before}")
        return words

    def _keep(self) -> None:
        if self._path is None:
            return
        data = json.dumps(self._known, indent=1, allow_nan=False).encode()
        durable.write_atomic(self._path, data, f"keeping what is known of {self.device}'s power sources")


def with_sensor_knowledge(
    record: dict[str, Any], device: str, root: Path | None = None, in_force: InForce | None = None
) -> dict[str, Any]:
    """The record with what is known of its power source in ``sensor``: ``characterization``, ``calibration``.

    Where the source has changed since, ``outdated`` says how, and what was known is left out. ``in_force``: what a
    session or a run goes by; None asks the store now.
    """
    sensor = record.get("sensor")
    if not sensor or "name" not in sensor:
        return record
    known: dict[str, Any] = {}
    all_known = (in_force or InForce(device, root=root)).of(str(record.get("serial")), str(sensor["name"]))
    for kind, (_, command) in KINDS.items():
        found = all_known.get(kind)
        if found is None:
            continue
        changed = fits(found, sensor)
        if changed is None:
            known[kind] = found
        else:
            known.setdefault("outdated", []).append(f"{kind} of {found.get('made_utc')}: {changed}; {command} again")
    boundary = (known.get("calibration") or {}).get("boundary")
    if boundary and boundary != sensor.get("boundary"):  # its watts now stand for what the reference sees
        known |= {"boundary": boundary, "boundary_read": sensor.get("boundary")}
    return {**record, "sensor": {**sensor, **known}} if known else record


def _file_name(kind: str, source: str) -> str:
    return f"{KINDS[kind][0]}-{file_word(source)}.json"


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, int | float) and isinstance(b, int | float):
        return math.isclose(a, b, rel_tol=1e-3, abs_tol=1e-12)
    return bool(a == b)


def serial_of(profile: DeviceProfile, hello: Mapping[str, Any]) -> str:
    """The serial number under which a session's records will come, before the first has: a simulated board's is its
    own, of its runtime's options, and not the host's."""
    if not profile.simulated:
        return str(hello.get("serial"))
    options = profile.runtime.options
    sibling = "" if options.get("perturb") is None else f"~{int(options['perturb'])}"
    return f"virtual-{options.get('board', 'pi4')}{sibling}-{int(options.get('seed', 0))}"


def sensor_known(
    profile: DeviceProfile, hello: Mapping[str, Any], source: str | None, in_force: InForce | None = None
) -> dict[str, Any] | None:
    """What the agent is told of a source before it measures with it: how long its samples reach back."""
    if source is None:
        return None
    found = (in_force or InForce(profile.name)).of(serial_of(profile, hello), source)["characterization"]
    if found is None:
        return None
    known = {name: found.get(name) for name in ("window_s", "delay_s", "update_period_s")}
    return {**known, "declared_window_s": found["declared"].get("window_s")}
