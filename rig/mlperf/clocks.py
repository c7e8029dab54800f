"""Local wall times of two machines in unlike zones on one time line: the client's seconds since 1970.

server.log  "23:29:37,031 Got command 'time'"   ─┐ same event      ─► zone of the server's local times (spl.txt)
server.json  cmd_time 1645572577.0317           ─┘
client.log, client.json                            the same        ─► zone of the client's (loadgen)
client.json ↔ server.json                          four time stamps a message ─► offset of the two clocks
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from device_agents.clocks import Exchange, fit_clock
from rig.errors import BadInputError
from rig.mlperf import logs

QUARTER_HOUR_S = 900.0  # zones differ by multiples of it
LOG_DELAY_S = 5.0  # at most, between an event's two stamps
UNKNOWN_S = 0.5  # half the least plausible error where nothing tells how the clocks stand to each other


class Clocks(NamedTuple):
    """Zones: local time minus UTC. ``offset_s``: server minus client, to within ``uncertainty_s``. ``how``: words."""

    client_zone_s: float
    server_zone_s: float
    offset_s: float
    uncertainty_s: float
    how: str

    def client_s(self, local_s: float) -> float:
        """A local time of the client (loadgen) on the client's clock."""
        return local_s - self.client_zone_s

    def server_s(self, local_s: float) -> float:
        """A local time of the server (PTDaemon) on the server's clock."""
        return local_s - self.server_zone_s

    def to_json(self) -> dict[str, Any]:
        """The fields as a plain dict."""
        return self._asdict()


def read(files: Mapping[str, Path]) -> Clocks:
    """What the run's files tell about its clocks. Raises BadInputError where they contradict each other."""
    zones = {side: _zone(files, side) for side in ("client", "server")}
    if "client.json" not in files or "server.json" not in files:
        missing = " and ".join(name for name in ("client.json", "server.json") if name not in files)
        return Clocks(
            zones["client"] or 0.0,
            zones["server"] or 0.0,
            0.0,
            UNKNOWN_S,
            f"no {missing}: both logs taken to be of one clock and zone",
        )
    exchanges = _exchanges(files)
    try:
        fitted = fit_clock(exchanges)
    except ValueError as error:
        raise BadInputError(
            f"{files['client.json']} and {files['server.json']}: {error}", fix="are they of the same run?"
        ) from error
    how = (
        f"zones UTC{_hours(zones['client'])} (client, loadgen) and UTC{_hours(zones['server'])} (server, meter) from "
        f"their logs; server minus client {1e3 * fitted.offset_s:+.1f} ms from {len(exchanges)} messages"
    )
    return Clocks(zones["client"] or 0.0, zones["server"] or 0.0, fitted.offset_s, fitted.uncertainty_s, how)


def _exchanges(files: Mapping[str, Path]) -> list[Exchange]:
    client, server = (logs.messages(files[name]) for name in ("client.json", "server.json"))
    if [m.command for m in client] != [m.command for m in server]:
        raise BadInputError(
            f"{files['client.json']} and {files['server.json']} tell of different messages",
            fix="are they of the same run?",
        )
    return [Exchange(c.asked_s, s.asked_s, s.replied_s, c.replied_s) for c, s in zip(client, server, strict=True)]


def _zone(files: Mapping[str, Path], side: str) -> float | None:
    """Local time minus UTC of one side: its log against its JSON; by declaration where there is no log."""
    told, log = files.get(f"{side}.json"), files.get(f"{side}.log")
    if told is None:
        return None
    if log is None:
        return logs.declared_zone_s(told)
    words = "Sending command to the server" if side == "client" else "Got command from the client"
    known, pairs = iter(logs.messages(told)), []
    for local_s, command in logs.logged_times(log, words):
        message = next((one for one in known if one.command == command), None)  # a log may begin later than the talk
        if message is not None:
            pairs.append((local_s, message.asked_s))
    if not pairs:
        return logs.declared_zone_s(told)
    apart = [local - utc for local, utc in pairs]
    zone_s = QUARTER_HOUR_S * round(median(apart) / QUARTER_HOUR_S)
    worst_s = max(abs(one - zone_s) for one in apart)
    if worst_s > LOG_DELAY_S:
        raise BadInputError(
            f"{log} and {told}: the same commands are {worst_s:.1f} s apart beyond the zone of {_hours(zone_s)} h",
            fix="are they of the same run? a clock that was set during it cannot be used",
        )
    return zone_s


def _hours(zone_s: float | None) -> str:
    return f"{(zone_s or 0.0) / 3600.0:+g}"
