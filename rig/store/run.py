"""One run folder: manifest, append-only measurements with their arrays, events, artifacts."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import io
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from device_agents.records import FORMAT_VERSION, Configuration
from rig import durable
from rig.durable import disk_errors, locked_for_append, read_json
from rig.errors import BadInputError, StoreError
from rig.store.evidence import FOLDER, to_lines
from rig.store.index import Span

MEASUREMENT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}")
TRACE_ARRAYS = ("times_s", "power_w", "energy_counter_j")


class RunInfo(NamedTuple):
    """What all measurements of a run share: the configuration, the agent's code, how the numbers came about."""

    configuration: Configuration
    agent_hash: str
    started_utc: str
    kind: str = "measured"
    basis: str | None = None
    format_version: int = FORMAT_VERSION

    def to_json(self) -> dict[str, Any]:
        """The fields as a plain dict."""
        return {**self._asdict(), "configuration": self.configuration.to_json()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> RunInfo:
        """Read the JSON form."""
        return cls(**{**data, "configuration": Configuration(**data["configuration"])})


def utc_now() -> str:
    """The time of day as a label: ISO 8601, UTC, milliseconds."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Run:
    """One run folder; made by ``Store.new_run`` or ``Store.open_run``.

    ``path``, ``id``, ``manifest``; ``problems``: damage found on opening, as ``{"code", "message", "fix"}``.
    """

    def __init__(self, path: Path, on_change: Callable[..., None]) -> None:
        self.path = path
        self.id = path.name
        self.problems: list[dict[str, str]] = []
        self._on_change = on_change  # (manifest), or (manifest, record, Span): keeps the index up to date
        self._measurements = path / "measurements.jsonl"
        self._ids: set[str] = set()
        self._read_up_to = 0
        self.manifest: dict[str, Any] = read_json(path / "manifest.json")
        version = self.manifest.get("format_version")
        if version != FORMAT_VERSION:
            raise StoreError(
                f"{path}: format version {version}, this rig reads {FORMAT_VERSION}", "use the rig that wrote it"
            )
        self._mend()

    @property
    def info(self) -> RunInfo | None:
        """What all measurements share, once it has been set."""
        data = self.manifest["run_info"]
        return RunInfo.from_json(data) if data else None

    def set_info(self, info: RunInfo) -> None:
        """Fix the run's configuration; a second one that differs is refused (BadInputError, naming each difference).

        Another agent hash is allowed (a resumed run after an upgrade) and written to the events.
        """
        before = self.info
        if before is None:
            self.update(run_info=info.to_json())
            return
        pairs = [*before.configuration.differences(info.configuration)]
        pairs += [
            (f, getattr(before, f), getattr(info, f))
            for f in ("kind", "basis")
            if getattr(before, f) != getattr(info, f)
        ]
        if pairs:
            shown = "; ".join(f"{field} was {mine!r}, is now {theirs!r}" for field, mine, theirs in pairs)
            raise BadInputError(
                f"run {self.id} belongs to another configuration: {shown}",
                "set the device back, or start a new run (rig calibrate: --fresh)",
            )
        if before.agent_hash != info.agent_hash:
            self.add_event("agent-changed", before=before.agent_hash, now=info.agent_hash)

    def update(self, **facts: Any) -> None:
        """Set manifest fields (state, finished_utc, ...) and write it at once."""
        action = f"writing the manifest of {self.id}"
        with locked_for_append(self.path / ".manifest.lock", action):
            self.manifest = {**read_json(self.path / "manifest.json"), **facts}
            durable.write_atomic(self.path / "manifest.json", json.dumps(self.manifest, indent=1).encode(), action)
        self._on_change(self.manifest)

    @contextlib.contextmanager
    def held(self) -> Iterator[bool]:
        """Hold the run for as long as the block lasts and the process lives; False where another process holds it."""
        with disk_errors(f"holding {self.id}", self.path):
            handle = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True
        finally:
            os.close(handle)

    def add_measurement(self, record: dict[str, Any]) -> None:
        """Store a MeasureRecord durably before returning; one whose id is stored already changes nothing.

        Raises StoreError (disk full, rights) with nothing half-written, ValueError for an id that is no file name.
        """
        identity = record["id"]
        if not MEASUREMENT_ID.fullmatch(identity):
            raise ValueError(f"measurement id {identity!r}: letters, digits and . _ + - only, at most 128")
        action = f"storing measurement {identity} in {self.id}"
        light, arrays = _split_arrays({name: value for name, value in record.items() if name != "evidence"})
        line = durable.dump_json(light)
        with locked_for_append(self._measurements, action) as handle:
            self._mend_tail(handle)
            self._read_ids()
            if identity in self._ids:
                return
            begin = os.fstat(handle).st_size
            trace = self.path / "traces" / f"{identity}.npz"
            if arrays:
                durable.write_atomic(trace, _npz(arrays), action)
            try:
                self._keep_evidence(identity, record.get("evidence"), action)
                durable.append_line(handle, line, action, self._measurements)
            except StoreError:
                trace.unlink(missing_ok=True)
                (self.path / FOLDER / f"{identity}.jsonl").unlink(missing_ok=True)
                raise
            span = Span(begin, os.fstat(handle).st_size)
            self._read_ids()
        self._on_change(self.manifest, light, span)

    def _keep_evidence(self, identity: str, evidence: Mapping[str, Any] | None, action: str) -> None:
        if not evidence:
            return
        folder = self.path / FOLDER
        with disk_errors(action, folder):
            folder.mkdir(exist_ok=True)
        durable.write_atomic(folder / f"{identity}.jsonl", to_lines(evidence), action)

    def measurement_ids(self) -> set[str]:
        """The ids of everything stored, by this process or another."""
        self._read_ids()
        return set(self._ids)

    def measurements(self, *, arrays: bool = True) -> Iterator[dict[str, Any]]:
        """The stored records in order.

        ``arrays=False`` leaves the arrays on the disk (faster): the trace lacks its columns, and a phase's
        ``latency_s`` is the number of its samples.
        """
        for line in self._lines(0):
            record = self._parse(line)
            if record is not None:
                yield self.with_arrays(record) if arrays else record

    def measurement(self, identity: str) -> dict[str, Any]:
        """One record by id, with its arrays; StoreError if it is not there."""
        for record in self.measurements(arrays=False):
            if record["id"] == identity:
                return self.with_arrays(record)
        raise StoreError(f"no measurement {identity} in {self.id}", "see its measurements.jsonl for the ids there are")

    def write_json(self, name: str, obj: Any) -> Path:
        """Write ``obj`` as JSON at ``name`` under the run folder (``result.json``), at once; returns the path."""
        path = self._inside(name)
        with disk_errors(f"writing {name} of {self.id}", path):
            path.parent.mkdir(parents=True, exist_ok=True)
        durable.write_atomic(path, json.dumps(obj, indent=1, allow_nan=False).encode(), f"writing {name} of {self.id}")
        return path

    def read_json(self, name: str) -> Any:
        """Read what ``write_json`` wrote; StoreError if it is missing or damaged."""
        return read_json(self._inside(name))

    def add_event(self, name: str, **fields: Any) -> None:
        """Append ``{"utc", "event": name, ...}`` to events.jsonl."""
        event = {"utc": utc_now(), "event": name, **fields}
        durable.append_json(self.path / "events.jsonl", event, f"writing an event of {self.id}")

    def events(self) -> list[dict[str, Any]]:
        """All events, oldest first."""
        path = self.path / "events.jsonl"
        if not path.exists():
            return []
        found = []
        for line in path.read_text(errors="replace").splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                message = f"{path}: a line that is no event was left out: {line[:60]!r}"
                self._report("damaged-line", message, "nothing is lost but that note; the line stays in the file")
        return found

    def _inside(self, name: str) -> Path:
        path = (self.path / name).resolve()
        if not path.is_relative_to(self.path.resolve()):
            raise ValueError(f"{name!r} is not inside the run folder")
        return path

    def _lines(self, offset: int) -> Iterator[bytes]:
        """Complete lines from ``offset`` on (a line still being written, or torn, has no newline yet)."""
        if not self._measurements.exists():
            return
        with disk_errors(f"reading {self.id}", self._measurements), self._measurements.open("rb") as file:
            file.seek(offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                yield line

    def _read_ids(self) -> None:
        for line in self._lines(self._read_up_to):
            self._read_up_to += len(line)
            record = self._parse(line)
            if record is not None:
                self._ids.add(record["id"])

    def _parse(self, line: bytes) -> dict[str, Any] | None:
        record = _parsed_record(line)
        if record is None:
            start = line[:60].decode(errors="replace").strip()
            message = f"{self._measurements}: a line that is no record was left out: {start!r}"
            self._report("damaged-line", message, "that measurement is taken again; the line stays in the file")
        return record

    def _report(self, code: str, message: str, fix: str) -> None:
        if not any(problem["message"] == message for problem in self.problems):
            self.problems.append({"code": code, "message": message, "fix": fix})

    def _mend(self) -> None:
        """Look for a torn last line on opening; a folder that may only be read is left as it is."""
        if self._measurements.exists() and os.access(self._measurements, os.W_OK) and os.access(self.path, os.W_OK):
            with locked_for_append(self._measurements, f"opening {self.id}") as handle:
                self._mend_tail(handle)
        self._read_ids()

    def _mend_tail(self, handle: int) -> None:
        """A missing newline means that a writer was killed: keep a whole record, move a torn one aside."""
        tail = durable.torn_tail(handle)
        if not tail:
            return
        action = f"mending {self.id} after an interruption"
        if _parsed_record(tail) is not None:
            durable.append_line(handle, "", action, self._measurements)
            return
        aside = self.path / f"torn-{utc_now().replace(':', '')}.jsonl"
        durable.write_atomic(aside, tail, action)
        with disk_errors(action, self._measurements):
            durable.cut_tail(handle, len(tail))
        message = f"{self.id}: the last line was torn by an interruption ({len(tail)} bytes), moved to {aside.name}"
        self._report("torn-line", message, "that measurement is taken again on resuming")
        self.add_event("torn-line", bytes=len(tail), moved_to=aside.name)

    def with_arrays(self, record: dict[str, Any]) -> dict[str, Any]:
        """A record that ``measurements(arrays=False)`` gave, with its arrays put back into it."""
        if not record.pop("arrays", False):
            return record
        path = self.path / "traces" / f"{record['id']}.npz"
        action = f"reading the trace of {record['id']}"
        try:
            with disk_errors(action, path), np.load(path, allow_pickle=False) as archive:
                arrays = {name: archive[name].tolist() for name in archive.files}
        except (ValueError, EOFError, KeyError) as error:
            raise StoreError(
                f"{action}: {path}: {error}", "delete that measurement's line and measure it again"
            ) from error
        return _joined(record, arrays)


def _parsed_record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("id"), str) else None


def _split_arrays(record: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(record without its long lists, the lists by name): the trace's columns and each phase's latency samples."""
    light = dict(record)
    arrays: dict[str, Any] = {}
    if record.get("trace"):
        light["trace"] = {key: value for key, value in record["trace"].items() if key not in TRACE_ARRAYS}
        for name in TRACE_ARRAYS:
            if record["trace"].get(name) is not None:
                arrays[name] = record["trace"][name]
    samples: list[float] = []
    phases = []
    for phase in record.get("phases") or []:
        if phase.get("latency_s"):
            samples += phase["latency_s"]
            phase = {**phase, "latency_s": len(phase["latency_s"])}  # how many of them, in the place of the samples
        phases.append(phase)
    if samples:
        arrays["latency_s"] = samples
    if "phases" in record:
        light["phases"] = phases
    if arrays:
        light["arrays"] = True
    return light, arrays


def _joined(record: dict[str, Any], arrays: dict[str, list[float]]) -> dict[str, Any]:
    if record.get("trace") is not None:
        columns = {name: arrays.get(name) for name in TRACE_ARRAYS}
        record["trace"] = {**record["trace"], **columns}
    first = 0
    for phase in record.get("phases") or []:
        if isinstance(phase.get("latency_s"), int):
            count = phase["latency_s"]
            phase["latency_s"] = arrays["latency_s"][first : first + count]
            first += count
    return record


def _npz(arrays: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{name: np.asarray(values, dtype=np.float64) for name, values in arrays.items()})
    return buffer.getvalue()
