"""``rig devices``: profiles → what each device has now (asked of its agent), what is missing and why."""

from __future__ import annotations

import getpass
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rig.commands import recover
from rig.commands.options import DevicesOptions
from rig.cost_models import calibrated_devices, shipped_devices
from rig.errors import BadInputError, DeviceBusyError, ProfileError, RigError, StoreError
from rig.output import warning, warning_of
from rig.profiles import WITHOUT_A_BOARD, DeviceProfile, config_folder, load_profile, profile_names
from rig.store.store import Store, default_root
from rig.wording import label

if TYPE_CHECKING:
    from rig.console import Console

AT_ONCE = 4  # devices asked at the same time

_meter = threading.Lock()  # boards that are wired to one meter in turn find it busy by nobody but each other


def run(options: DevicesOptions) -> dict[str, Any]:
    """Look at every profile; a profile or device that fails is a row and a warning, never the end of the list."""
    root = default_root()
    calibrated = set(calibrated_devices(root))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        rows = list(pool.map(lambda name: _row(name, options.probe, calibrated, root), profile_names()))
    rows += [_priced_only(name) for name in sorted(calibrated - {row["name"] for row in rows})]
    ready = [row["name"] for row in rows if row["state"] == "ready"]
    first = WITHOUT_A_BOARD if WITHOUT_A_BOARD in ready else ready[0] if ready else None
    return {
        "devices": [{key: value for key, value in row.items() if key != "warnings"} for row in rows],
        "warnings": [*_without_host(rows), *(note for row in rows for note in row["warnings"])],
        "next": f"rig calibrate --device {first}" if first else None,
    }


def _without_host(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One warning for all boards whose host is not set; the rows hold each board's own words."""
    names = [row["name"] for row in rows if row["state"] == "not set up" and row.get("missing")]
    if not names:
        return []
    own = config_folder() / "devices" / f"{names[0] if len(names) == 1 else 'NAME'}.toml"
    fix = f'write host = "NAME-OR-ADDRESS" in section [transport] of {own}, or use --device {WITHOUT_A_BOARD}'
    return [warning("no-host", f"{', '.join(names)}: no host is set", fix)]


def _priced_only(name: str) -> dict[str, Any]:
    """A name that has a cost model (``rig fit``) and no profile."""
    row: dict[str, Any] = {"name": name, "state": "priced only", "kind": None, "runtime": None, "sensors": []}
    about = "a cost model fitted to tables or runs; no profile, so it cannot be measured"
    return {**row, "meter": None, "calibrated": True, "shipped_model": False, "description": about, "warnings": []}


def _row(name: str, probe: bool, calibrated: set[str], root: Path) -> dict[str, Any]:
    """One device: state, runtime, power sources and what is missing."""
    row: dict[str, Any] = {"name": name, "state": "bad profile", "description": "", "kind": None}
    row |= {"runtime": None, "sensors": [], "meter": None, "calibrated": name in calibrated, "warnings": []}
    row["shipped_model"] = name in shipped_devices()
    try:
        profile = load_profile(name)
    except ProfileError as error:
        return {**row, "warnings": [warning_of(error)]}
    row |= {"description": profile.description, "runtime": profile.runtime.name}
    row["kind"] = "simulated" if profile.simulated else "measured"
    missing = profile.missing_host()
    if missing is not None:
        return {**row, "state": "not set up", "missing": missing.message, "fix": missing.fix}
    if profile.transport.kind == "ssh" and not probe:
        return {**row, "state": "not asked"}
    try:
        return {**row, **_asked(profile, root)}
    except DeviceBusyError as error:
        return {**row, "state": "busy", "warnings": [warning_of(error)]}
    except RigError as error:
        return {**row, "state": "unreachable", "warnings": [warning_of(error)]}


def _asked(profile: DeviceProfile, root: Path) -> dict[str, Any]:
    """What the device's agent says it has; what it kept of a killed ``rig measure`` is taken into the store."""
    from rig.connection.session import Session

    with Session(profile, getpass.getuser()) as session:
        hello = session.hello
        try:
            left_behind = recover.take_left_behind(session, Store(root))
        except StoreError as error:  # the device answers: it is this computer that cannot store
            left_behind = [warning_of(error)]
        left_behind += session.problems
    runtime = hello["runtimes"].get(profile.runtime.name)
    meter, sensors, without = _power_sources(profile, hello["sensors"])
    notes = left_behind if without is None else [*left_behind, without]
    if runtime is None or runtime["state"] != "ok":
        reason = runtime["reason"] if runtime else f"this version has no runtime {profile.runtime.name}"
        notes.append(warning("no-runtime", f"{profile.name}: {reason}", runtime["fix"] if runtime else None))
    elif (provider := str(profile.runtime.options.get("provider", "cpu"))) not in runtime.get("providers", [provider]):
        message = f"{profile.name}: the {profile.runtime.name} there cannot use {provider}, only the CPU"
        notes.append(warning("no-runtime", message, "on the device: python3 -m pip install onnxruntime-gpu"))
    codes = {note["code"] for note in notes}
    return {
        "state": "not set up" if codes & {"no-runtime", "no-meter"} else "busy" if "meter-busy" in codes else "ready",
        "serial": hello.get("serial"),
        "sensors": sensors,
        "meter": meter,
        "warnings": notes,
    }


def _power_sources(
    profile: DeviceProfile, states: Mapping[str, Any]
) -> tuple[str | None, list[dict[str, Any]], dict[str, Any] | None]:
    """(what gives the watts, all sources with their states, a warning where nothing does); a host's meter is first."""
    sensors = [{"name": name, **states.get(name, {"state": "unknown"})} for name in profile.sensors]
    if profile.meter is None:
        meter = next((sensor["name"] for sensor in sensors if sensor["state"] == "ok"), None)
        return meter, sensors, _no_meter(profile, sensors) if meter is None else None
    from rig.meters import make_meter

    try:
        own = make_meter(profile.meter)
        with _meter:
            name, (state, reason, fix) = own.name, own.probe()
    except BadInputError as error:
        name, state, reason, fix = f"meter ({profile.meter.kind})", "bad profile", error.message, error.fix or ""
    sensors.insert(0, {"name": name, "state": state, "reason": reason, "fix": fix})
    if state == "ok":
        return name, sensors, None
    code = "meter-busy" if state == "busy" else "no-meter"
    return None, sensors, warning(code, f"{profile.name}: its meter cannot be used: {reason}", fix)


def _no_meter(profile: DeviceProfile, sensors: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One warning for all the power sources that do not work."""
    reasons = "; ".join(f"{sensor['name']}: {sensor.get('reason') or sensor['state']}" for sensor in sensors)
    fixes = [sensor["fix"] for sensor in sensors if sensor.get("fix")]
    message = f"{profile.name}: no power source, time only ({reasons or 'the profile names none'})"
    return warning("no-power", message, fixes[0] if fixes else f"name a power source in {profile.own_file}")


def show(result: Mapping[str, Any], console: Console) -> None:
    """One line a device."""
    rows = [
        [
            row["name"],
            row["state"],
            row["meter"] or ("none (time only)" if row["state"] == "ready" else "-"),
            label(row["kind"], None) if row["kind"] else "-",
            "yes" if row["calibrated"] else "public model" if row["shipped_model"] else "-",
            row["description"],
        ]
        for row in result["devices"]
    ]
    console.table(["ID", "STATE", "METER", "KIND", "CALIBRATED", "DESCRIPTION"], rows)
