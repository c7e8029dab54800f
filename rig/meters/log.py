"""A power log that another program appends to (PTDaemon, a vendor's logger): read as it grows, from its present end.

Time is the log's own time column, placed on the host's clock by when its lines come in (``rig.meters.clock``), or else
the moment when a line came in.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from device_agents.protocol import now_s
from rig.errors import DeviceSetupError, TransientDeviceError
from rig.meters import Sample
from rig.meters.answers import BadAnswer
from rig.meters.evidence import Evidence
from rig.meters.log_lines import CsvColumns, LogLine, ptd_line
from rig.meters.tail import Line, Tail

if TYPE_CHECKING:
    from rig.profiles import MeterSettings

LONGEST_POLL_S = 0.05
LOOKS_A_PERIOD = 5.0


class Meter:
    """One log file. ``settings``: the ``[meter]`` table of a device profile."""

    def __init__(self, settings: MeterSettings) -> None:
        self._settings = settings
        self._path = Path(str(settings.path)).expanduser()
        self._rate_hz = float(settings.rate_hz or 1.0)
        self.name = "meter-log"
        self.identity = f"{self._path.name} ({settings.format})"
        self.own_clock = settings.format == "ptd" or settings.time_column != ""
        self._poll_s = min(LONGEST_POLL_S, 1.0 / (LOOKS_A_PERIOD * self._rate_hz))
        self._tail: Tail | None = None
        self._columns: CsvColumns | None = None
        self._evidence = Evidence()

    def describe(self) -> dict[str, Any]:
        """The fields of a sensor's description, all from the device profile; a log does not say them."""
        settings = self._settings
        return {
            "rate_hz": self._rate_hz,
            "window_s": 1.0 / self._rate_hz if settings.window_s is None else settings.window_s,
            "step_w": settings.step_w or 0.0,
            "noise_w": settings.noise_w or 0.0,
            "gain_uncertainty": settings.gain_uncertainty or 0.0,
            "boundary": settings.boundary,
            "rail": settings.rail or "input",
        }

    def probe(self) -> tuple[str, str, str]:
        """Read the header and the last whole line; whether the file grows is seen only while measuring."""
        try:
            self.open()
        except DeviceSetupError as error:
            return ("denied" if "ermission" in error.message else "absent"), error.message, error.fix or ""
        finally:
            self.close()
        return "ok", "", ""

    def open(self) -> None:
        """Go to the end of the file, having read its header and checked its last line."""
        self.close()
        fix = "start the program that writes it, or correct meter.path in the device profile"
        try:
            self._tail = Tail(self._path)
            first, last = self._tail.to_end()
            for line in (first, last if last != first else None):
                if line is not None:
                    self._parsed(line)
        except OSError as error:
            self.close()
            raise DeviceSetupError(f"meter log {self._path} cannot be read: {error.strerror}", fix=fix) from error
        except ValueError as error:
            self.close()
            raise DeviceSetupError(f"meter log {self._path}: {error}", fix=fix) from error
        except TransientDeviceError as error:
            self.close()
            raise DeviceSetupError(error.message, fix=error.fix) from error
        self._evidence.clear()

    def close(self) -> None:
        """Let go of the file."""
        tail, self._tail = self._tail, None
        if tail is not None:
            tail.close()

    def samples(self, stop: threading.Event) -> list[Sample]:
        """What was appended since the last look, after waiting a moment; nothing appended is no sample."""
        if stop.wait(self._poll_s) or self._tail is None:
            return []
        try:
            lines = self._tail.new_lines()
        except (OSError, ValueError) as error:
            raise TransientDeviceError(f"meter log {self._path}: {error}", fix="look at that file") from error
        arrived_s = now_s()
        read = [found for found in map(self._parsed, lines) if found is not None]
        return [Sample(arrived_s if one.stamp_s is None else one.stamp_s, one.power_w, arrived_s) for one in read]

    def stamp_uncertainty_s(self) -> float:
        """How late a line may be seen: written up to ``delay_s`` after its reading, and looked for every so often."""
        return self._settings.delay_s + self._poll_s

    def clear_evidence(self) -> None:
        """A measurement begins."""
        self._evidence.clear()

    def evidence(self) -> dict[str, Any]:
        """The lines word for word."""
        return self._evidence.to_json(self.identity)

    def _parsed(self, line: Line) -> LogLine | None:
        """A line's reading; None for an empty line and for a header, which every file of the log may begin with."""
        if not line.text.strip():
            return None
        self._evidence.add(line.text)
        settings = self._settings
        try:
            if settings.format == "ptd":
                return ptd_line(line.text)
            if self._columns is not None and not (line.first or line.text.strip() == self._columns.header):
                return self._columns.parse(line.text, settings.step_w or 0.0)
            self._columns = CsvColumns(
                line.text, settings.time_column, settings.power_column, settings.time_format, settings.unit
            )
        except BadAnswer as bad:
            raise TransientDeviceError(
                f"meter log {self._path}, line {line.number}: {bad}: {line.text[:120]!r}",
                fix="look at that line; the meter.* fields of the device profile say which columns are read",
            ) from bad
        return None
