"""One line of a power log → time and watts: CSV with a header, or what SPEC's PTDaemon writes (MLPerf's ``spl.txt``).

Time,02-22-2022 23:40:59.238,Watts,2.844000,Volts,249.950000,Amps,0.027200,PF,0.418400,Mark,2022-02-22_testing
"""

from __future__ import annotations

import csv
import datetime
import difflib
import re
from collections.abc import Sequence
from typing import NamedTuple

from rig.meters.answers import BadAnswer, number, power_w

PTD_TIME = "%m-%d-%Y %H:%M:%S.%f"
_PTD_TIME = re.compile(r"\d\d-\d\d-\d{4} \d\d:\d\d:\d\d\.\d+", re.ASCII)
UNITS_W = {"W": 1.0, "mW": 1e-3, "uW": 1e-6}
TIME_NAMES = ("time", "timestamp", "time_s", "t", "date", "datetime")
POWER_NAMES = ("watts", "power", "power_w", "w", "p", "active power", "power (w)")

_EPOCH = datetime.datetime(1970, 1, 1)
_EPOCH_UTC = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)


class LogLine(NamedTuple):
    """``stamp_s``: on the clock of whoever wrote it (local wall time counts from 1970); None without a time column."""

    stamp_s: float | None
    power_w: float


def time_s(text: str, form: str | None) -> float:
    """A time stamp in seconds. ``form``: ``s``, ``ms``, ``iso``, a strptime pattern, or None to tell numbers from ISO.

    Without a zone it is taken as it stands: only differences count. Raises BadAnswer.
    """
    if form in ("s", "ms"):
        return number(text) * (1e-3 if form == "ms" else 1.0)
    if form is None:
        try:
            return number(text)
        except BadAnswer:
            form = "iso"
    try:
        if form == "iso":
            when = datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
        else:
            when = datetime.datetime.strptime(text, form)
    except ValueError:
        wanted = "a number of seconds or an ISO 8601 time" if form == "iso" else f"a time like {form}"
        raise BadAnswer(f"{text!r} is not {wanted}") from None
    return (when - (_EPOCH if when.tzinfo is None else _EPOCH_UTC)).total_seconds()


def ptd_line(text: str) -> LogLine:
    """A PTDaemon line: names and values in turn, the mark last. Raises BadAnswer naming the field."""
    fields = named_fields(text)
    if "Time" in fields and not _PTD_TIME.fullmatch(fields["Time"]):  # strptime takes " 2" for a day
        raise BadAnswer(f"field Time: {fields['Time']!r} is not a time like {PTD_TIME}")
    for name in ("Time", "Watts", "Mark"):  # a line that was cut off has no mark, and perhaps half of its watts
        if name not in fields:
            raise BadAnswer(f"no field {name} (has {', '.join(fields) or 'none'})")
    return LogLine(_time("Time", fields["Time"], PTD_TIME), _watts(fields["Watts"], "Watts", 1.0, 0.0))


def named_fields(text: str) -> dict[str, str]:
    """The names and values of a PTDaemon line. Raises BadAnswer for an odd number of them."""
    parts = [part.strip() for part in text.strip().split(",")]
    if len(parts) % 2:
        raise BadAnswer(f"{len(parts)} fields, names and values in turn are an even number")
    return dict(zip(parts[::2], parts[1::2], strict=True))


class CsvColumns:
    """Which columns hold time and power. ``header``: the file's first line; the columns are named by the user or known.

    Raises BadAnswer naming the columns there are.
    """

    def __init__(
        self, header: str, time_column: str | None, power_column: str | None, time_format: str | None, unit: str
    ) -> None:
        self.header = header.strip()
        self.separator = max(",;\t", key=self.header.count)
        self._names = split(header, self.separator)
        self._power = self._find(power_column, POWER_NAMES, "power_column")
        wanted = time_column if time_column != "" else None
        self._time = None if time_column == "" else self._find(wanted, TIME_NAMES, "time_column")
        self._time_format = time_format
        self._unit_w = UNITS_W[unit]

    def parse(self, text: str, step_w: float = 0.0) -> LogLine:
        """One line of data. Raises BadAnswer naming the field."""
        fields = split(text, self.separator)
        if len(fields) != len(self._names):
            raise BadAnswer(f"{len(fields)} fields, the header has {len(self._names)}")
        watts = _watts(fields[self._power], self._names[self._power], self._unit_w, step_w)
        if self._time is None:
            return LogLine(None, watts)
        return LogLine(_time(self._names[self._time], fields[self._time], self._time_format), watts)

    def _find(self, wanted: str | None, known: Sequence[str], setting: str) -> int:
        lower = [name.lower() for name in self._names]
        for name in [wanted.lower()] if wanted is not None else known:
            if name in lower:
                return lower.index(name)
        near = difflib.get_close_matches((wanted or known[0]).lower(), lower, n=1, cutoff=0.4)
        hint = f"; nearest {near[0]!r}" if near else ""
        what = repr(wanted) if wanted is not None else f"any of {', '.join(known[:4])}"
        raise BadAnswer(f"no column {what} among {', '.join(self._names)}{hint} (meter.{setting})")


def split(text: str, separator: str) -> list[str]:
    """The fields of one CSV line, quotes undone."""
    try:
        return [field.strip() for field in next(csv.reader([text.strip()], delimiter=separator, strict=True), [])]
    except csv.Error as error:
        raise BadAnswer(f"not CSV: {error}") from error


def _watts(text: str, name: str, unit_w: float, step_w: float) -> float:
    try:
        return power_w([text], (1,), unit_w, step_w)
    except BadAnswer as bad:
        raise BadAnswer(f"field {name}: {bad}") from None


def _time(name: str, text: str, form: str | None) -> float:
    try:
        return time_s(text, form)
    except BadAnswer as bad:
        raise BadAnswer(f"field {name}: {bad}") from None
