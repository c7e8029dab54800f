"""The files of an MLPerf power run, read line by line; every complaint names file and line.

spl.txt                 the meter, by PTDaemon on the server        (local wall time of the server)
mlperf_log_detail.txt   loadgen on the device: begin, end, latency  (local wall time of the client)
client.json client.log  the client's side of their talk             (seconds since 1970; local wall time)
server.json server.log  the server's side, and what PTDaemon said
"""

from __future__ import annotations

import datetime
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from rig.errors import BadInputError
from rig.meters.answers import BadAnswer
from rig.meters.log_lines import PTD_TIME, named_fields, ptd_line, time_s

# As the submission folders have them, and flat.
PLACES = {
    "spl.txt": ("", "run_1", "testing"),
    "mlperf_log_detail.txt": ("", "run_1", "testing"),
    "client.json": ("", "power"),
    "client.log": ("", "power"),
    "server.json": ("", "power"),
    "server.log": ("", "power"),
}
NEEDED = ("spl.txt", "mlperf_log_detail.txt")

_LOG_TIME = re.compile(r"^\S+ (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) \[\w+\] (.*)$")
_EPOCH = datetime.datetime(1970, 1, 1)


class MeterLine(NamedTuple):
    """One line of spl.txt: local wall time (seconds since 1970 as if it were UTC), watts, mark."""

    local_s: float
    power_w: float
    mark: str


class Message(NamedTuple):
    """One command of the client to the server: when each side had it and answered, in its own seconds since 1970."""

    command: str
    asked_s: float
    replied_s: float


def find(folder: Path) -> dict[str, Path]:
    """Name → path of the files there are. Raises BadInputError where a needed one is missing."""
    if not folder.is_dir():
        raise BadInputError(f"{folder}: not a folder", fix="give the folder of one MLPerf power run")
    found = {}
    for name, places in PLACES.items():
        path = next((folder / place / name for place in places if (folder / place / name).is_file()), None)
        if path is not None:
            found[name] = path
    missing = [name for name in NEEDED if name not in found]
    if missing:
        places = ", ".join(place or "." for place in PLACES[missing[0]])
        raise BadInputError(
            f"{folder}: no {' and no '.join(missing)} (looked in {places})",
            fix="give the folder that holds run_1/ and power/, or all files side by side",
        )
    return found


def lines_of(path: Path) -> list[str]:
    """The file's lines. Raises BadInputError."""
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise BadInputError(f"{path}, byte {error.start}: not UTF-8 text", fix="is it the log?") from error
    except OSError as error:
        raise BadInputError(f"{path}: cannot be read: {error.strerror}", fix="check the file's rights") from error


def meter_lines(path: Path) -> list[MeterLine]:
    """All readings of spl.txt. Raises BadInputError for a line that is none, and for time going backwards."""
    found: list[MeterLine] = []
    for number, text in enumerate(lines_of(path), start=1):
        if not text.strip():
            continue
        try:
            line, mark = ptd_line(text), named_fields(text).get("Mark", "")
        except BadAnswer as bad:
            fix = "PTDaemon writes Time,…,Watts,…,Mark,…: is it its log, and whole?"
            raise BadInputError(f"{path}, line {number}: {bad}", fix) from bad
        reading = MeterLine(float(line.stamp_s or 0.0), line.power_w, mark)
        if found and reading.local_s <= found[-1].local_s:
            raise BadInputError(
                f"{path}, line {number}: time goes back by {found[-1].local_s - reading.local_s:.3f} s",
                fix="its clock was set during the run: this run cannot be used",
            )
        found.append(reading)
    if not found:
        raise BadInputError(f"{path}: no readings", fix="is it PTDaemon's log?")
    return found


def loadgen_facts(path: Path) -> dict[str, Any]:
    """Key → value of loadgen's detail log (the last of each key). Raises BadInputError."""
    facts: dict[str, Any] = {}
    for number, text in enumerate(lines_of(path), start=1):
        _, mark, rest = text.partition(":::MLLOG")
        if not mark:
            continue
        try:
            entry = json.loads(rest)
            facts[entry["key"]] = entry["value"]
        except (ValueError, KeyError, TypeError) as error:
            raise BadInputError(f"{path}, line {number}: not an MLLOG entry ({error})", fix="is it whole?") from error
    return facts


def needed(facts: dict[str, Any], key: str, path: Path, meaning: str) -> Any:
    """A fact that there must be."""
    if key not in facts:
        raise BadInputError(f"{path}: no {key}: {meaning}", fix="give a finished power run in performance mode")
    return facts[key]


def local_s(text: Any, path: Path, key: str) -> float:
    """A local wall time of loadgen, in seconds since 1970 as if it were UTC. Raises BadInputError."""
    try:
        return time_s(str(text), PTD_TIME)
    except BadAnswer as bad:
        raise BadInputError(
            f"{path}: {key}: {bad}", fix="a loadgen that logs power_begin as local time is needed"
        ) from bad


def messages(path: Path) -> list[Message]:
    """The talk of client and server as one side wrote it down. Raises BadInputError."""
    try:
        data = json.loads("\n".join(lines_of(path)))
        return [Message(m["cmd"], float(m["cmd_time"]), float(m["reply_time"])) for m in data["messages"]]
    except (ValueError, KeyError, TypeError) as error:
        where = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise BadInputError(
            f"{path}{where}: messages with cmd, cmd_time, reply_time: {error}", fix="is it whole?"
        ) from error


def declared_zone_s(path: Path) -> float | None:
    """Local time minus UTC as the file declares it (``timezone`` is seconds west); None where it does not."""
    data = json.loads("\n".join(lines_of(path)))
    west = data.get("timezone") if isinstance(data, dict) else None
    return -float(west) if isinstance(west, int | float) else None


def logged_times(path: Path, words: str) -> list[tuple[float, str]]:
    """(local wall time, command) of the lines that say ``words`` and a quoted command."""
    found = []
    for text in lines_of(path):
        parts = _LOG_TIME.match(text)
        if parts is None or words not in parts.group(2):
            continue
        when = datetime.datetime.strptime(parts.group(1), "%Y-%m-%d %H:%M:%S,%f")
        command = re.search(r"'(.*)'", parts.group(2))
        found.append(((when - _EPOCH).total_seconds(), command.group(1) if command else ""))
    return found


def meter_identity(path: Path) -> str | None:
    """What PTDaemon says the meter is; None where the file does not tell."""
    data = json.loads("\n".join(lines_of(path)))
    for message in data.get("ptd_messages", []) if isinstance(data, dict) else []:
        if message.get("cmd") == "Identify":
            return str(message.get("reply"))
    return None
