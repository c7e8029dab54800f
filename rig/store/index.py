"""The SQLite index over the run folders: a cache for looking things up, rebuilt from the folders at any time.

A kill may fall between a write to a folder and its row here. So a run's row holds what the folder looked like when it
was read (``stamp`` of the manifest, ``indexed_bytes`` of measurements.jsonl): where that differs, the row is old.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

SCHEMA_VERSION = 2  # 2: stamp, indexed_bytes; 1: first version
SCHEMA = """
DROP TABLE IF EXISTS runs;
DROP TABLE IF EXISTS measurements;
CREATE TABLE runs (id TEXT PRIMARY KEY, command TEXT, device TEXT, started_utc TEXT, state TEXT, kind TEXT,
                   manifest TEXT NOT NULL, stamp TEXT, indexed_bytes INTEGER NOT NULL DEFAULT 0);
CREATE TABLE measurements (run_id TEXT NOT NULL, id TEXT NOT NULL, subject TEXT, subject_sha256 TEXT, fps REAL,
                           started_utc TEXT, PRIMARY KEY (run_id, id));
CREATE INDEX measurements_by_subject ON measurements (subject);
"""
BUSY_S = 10.0


class Span(NamedTuple):
    """Where in measurements.jsonl a record's line stands, in bytes."""

    begin: int
    end: int


class Known(NamedTuple):
    """What the index last saw of a run's folder."""

    stamp: str | None
    indexed_bytes: int


class Index:
    """Rows about runs and measurements in ``path``; the folders stay the truth.

    Every method raises sqlite3.Error where the file cannot be used (read-only, damaged, locked for longer than 10 s).
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextlib.contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        connection = sqlite3.connect(self.path, timeout=BUSY_S)
        try:
            if connection.execute("PRAGMA user_version").fetchone()[0] != SCHEMA_VERSION:
                connection.execute("PRAGMA journal_mode=WAL")
                self._make(connection)
            with connection:
                yield connection
        finally:
            connection.close()

    @staticmethod
    def _make(connection: sqlite3.Connection) -> None:
        """Make the tables, unless another process does so at the same moment; an older version's are dropped."""
        connection.execute("BEGIN EXCLUSIVE")
        with connection:
            if connection.execute("PRAGMA user_version").fetchone()[0] != SCHEMA_VERSION:
                for statement in (*SCHEMA.split(";"), f"PRAGMA user_version={SCHEMA_VERSION}"):
                    connection.execute(statement)

    def put_run(self, manifest: dict[str, Any], stamp: str | None) -> None:
        """Insert or replace one run; its measurements stay as they are."""
        with self._connection() as connection:
            _put_run(connection, manifest, stamp)

    def put_measurement(self, run_id: str, record: dict[str, Any], span: Span) -> None:
        """Insert or replace one measurement; where another process's line before it is missing, that shows."""
        with self._connection() as connection:
            _put_measurement(connection, run_id, record)
            connection.execute(
                "UPDATE runs SET indexed_bytes = ? WHERE id = ? AND indexed_bytes = ?", (span.end, run_id, span.begin)
            )

    def put_measurements(self, run_id: str, records: Iterable[dict[str, Any]], indexed_bytes: int) -> None:
        """Replace all measurements of a run."""
        with self._connection() as connection:
            connection.execute("DELETE FROM measurements WHERE run_id = ?", (run_id,))
            for record in records:
                _put_measurement(connection, run_id, record)
            connection.execute("UPDATE runs SET indexed_bytes = ? WHERE id = ?", (indexed_bytes, run_id))

    def manifests(self) -> list[dict[str, Any]]:
        """All manifests known here, oldest first."""
        with self._connection() as connection:
            rows = connection.execute("SELECT manifest FROM runs ORDER BY started_utc, id").fetchall()
        return [json.loads(row[0]) for row in rows]

    def known(self) -> dict[str, Known]:
        """What was last seen of each run's folder, by run id."""
        with self._connection() as connection:
            rows = connection.execute("SELECT id, stamp, indexed_bytes FROM runs").fetchall()
        return {row[0]: Known(row[1], row[2]) for row in rows}

    def drop_runs(self, run_ids: Iterable[str]) -> None:
        """Forget runs whose folders are gone."""
        with self._connection() as connection:
            for run_id in run_ids:
                connection.execute("DELETE FROM runs WHERE id = ?", (run_id,))
                connection.execute("DELETE FROM measurements WHERE run_id = ?", (run_id,))

    def find_measurements(self, subject: str) -> list[tuple[str, str]]:
        """(run id, measurement id) of everything measured under that subject name, oldest first."""
        query = "SELECT run_id, id FROM measurements WHERE subject = ? ORDER BY started_utc, run_id, id"
        with self._connection() as connection:
            return [(row[0], row[1]) for row in connection.execute(query, (subject,))]


def _put_run(connection: sqlite3.Connection, manifest: dict[str, Any], stamp: str | None) -> None:
    kind = (manifest.get("run_info") or {}).get("kind")
    row = [manifest.get(key) for key in ("id", "command", "device", "started_utc", "state")]
    connection.execute(
        "INSERT INTO runs (id, command, device, started_utc, state, kind, manifest, stamp) VALUES (?,?,?,?,?,?,?,?) "
        "ON CONFLICT (id) DO UPDATE SET command = excluded.command, device = excluded.device, "
        "started_utc = excluded.started_utc, state = excluded.state, kind = excluded.kind, "
        "manifest = excluded.manifest, stamp = excluded.stamp",
        (*row, kind, json.dumps(manifest), stamp),
    )


def _put_measurement(connection: sqlite3.Connection, run_id: str, record: dict[str, Any]) -> None:
    row = [record.get(key) for key in ("id", "subject", "subject_sha256", "fps", "started_utc")]
    connection.execute("INSERT OR REPLACE INTO measurements VALUES (?,?,?,?,?,?)", (run_id, *row))
