"""Which configuration a measurement belongs to, and the device as outputs describe it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from device_agents.records import Configuration

if TYPE_CHECKING:
    from rig.profiles import DeviceProfile


def configuration_of(profile: DeviceProfile, record: Mapping[str, Any]) -> Configuration:
    """The configuration under which a MeasureRecord was taken: what must be equal to pool it with others.

    The boundary is that of the power source in use; "" where there was none.
    """
    options = record["options"]
    sensor = record.get("sensor") or {}
    return Configuration(
        device=profile.name,
        serial=record["serial"],
        runtime=record["runtime"],
        runtime_version=record["runtime_version"],
        threads=int(options.get("threads", 1)),
        spinning=bool(options.get("spinning", False)),
        power_mode=_mode(profile, record),
        boundary=str(sensor.get("boundary", "")),
    )


def _mode(profile: DeviceProfile, record: Mapping[str, Any]) -> str:
    """The power mode that was pinned; a simulated board has the profile's, elsewhere "" means left as it was."""
    pinned = (record.get("environment") or {}).get("power_mode")
    if profile.simulated:
        return profile.power_mode or ""
    return str(pinned["wanted"]) if isinstance(pinned, Mapping) and pinned.get("pinned") else ""


def described(configuration: Configuration, meter: str | None, simulated: bool) -> dict[str, Any]:
    """The ``device`` of an output."""
    return {
        "name": configuration.device,
        "serial": configuration.serial,
        "runtime": configuration.runtime,
        "runtime_version": configuration.runtime_version,
        "threads": configuration.threads,
        "spinning": configuration.spinning,
        "power_mode": configuration.power_mode or None,
        "meter": meter,
        "boundary": configuration.boundary or None,
        "simulated": simulated,
    }
