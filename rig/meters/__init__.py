"""Power meters wired to the host, one file each; docs/meters.md shows how to use one and how to add one.

A meter module offers ``Meter(settings)`` (the device profile's ``[meter]``) with

- ``name``; ``probe() -> (state, reason, fix)``: state is "ok", "absent" (not reachable, not there),
  "denied" or "busy" (another process has it); nothing in it is changed;
- ``describe() -> dict``: rate_hz, window_s, step_w, noise_w, gain_uncertainty (relative), boundary, rail, as a sensor
  on the device does (``device_agents/sensors/__init__.py``);
- ``open()``, ``close()``; ``identity``: what the instrument or file says it is, once open;
- ``samples(stop) -> list[Sample]``: waits for the next sample (or ``stop``) and returns every new one, oldest first;
- ``own_clock``: whether a sample's ``stamp_s`` is on the meter's clock rather than on the host's ``now_s``;
- ``stamp_uncertainty_s()``: of a sample's time once it is on the host's clock;
- ``clear_evidence()``, ``evidence()``: what the meter said since, word for word (parts of a record's evidence).

Opening fails by raising DeviceSetupError, or DeviceBusyError (one process at a time has an instrument), reading by
raising TransientDeviceError: a failed reading is never a number.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    import threading

    from rig.profiles import MeterSettings

METERS = {"scpi": "rig.meters.scpi", "log": "rig.meters.log"}


class Sample(NamedTuple):
    """One reading: its time (end of the averaging window), its power, and when it reached the host (``now_s``)."""

    stamp_s: float
    power_w: float
    arrived_s: float


class Meter(Protocol):
    """What ``rig.meters.host_meter`` needs of a meter; see above."""

    name: str
    identity: str
    own_clock: bool

    def probe(self) -> tuple[str, str, str]: ...
    def describe(self) -> dict[str, Any]: ...
    def open(self) -> None: ...
    def close(self) -> None: ...
    def samples(self, stop: threading.Event) -> list[Sample]: ...
    def stamp_uncertainty_s(self) -> float: ...
    def clear_evidence(self) -> None: ...
    def evidence(self) -> dict[str, Any]: ...


def make_meter(settings: MeterSettings) -> Meter:
    """The meter of a device profile, not open yet. Raises BadInputError where its settings cannot be used."""
    meter: Meter = importlib.import_module(METERS[settings.kind]).Meter(settings)
    return meter
