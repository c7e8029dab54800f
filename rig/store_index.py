"""The SQLite index over the run folders: a cache for looking things up, rebuilt from the folders at any time."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

SCHEMA_VERSION = 1
SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (id TEXT PRIMARY KEY, command TEXT, device TEXT, started_utc TEXT, state TEXT,
                                 kind TEXT, manifest TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS measurements (run_id TEXT NOT NULL, id TEXT NOT NULL, subject TEXT, subject_sha256 TEXT,
                                         fps REAL, started_utc TEXT, PRIMARY KEY (run_id, id));
CREATE INDEX IF NOT EXISTS measurements_by_subject ON measurements (subject);
"""
BUSY_S = 10.0


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
                connection.executescript(SCHEMA)
                connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
            with connection:
                yield connection
        finally:
            connection.close()

    def put_run(self, manifest: dict[str, Any]) -> None:
        """Insert or replace one run."""
        with self._connection() as connection:
            _put_run(connection, manifest)

    def put_measurement(self, run_id: str, record: dict[str, Any]) -> None:
        """Insert or replace one measurement."""
        with self._connection() as connection:
            _put_measurement(connection, run_id, record)

    def manifests(self) -> list[dict[str, Any]]:
        """All manifests known here, oldest first."""
        with self._connection() as connection:
            rows = connection.execute("SELECT manifest FROM runs ORDER BY started_utc, id").fetchall()
        return [json.loads(row[0]) for row in rows]

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

    def replace_all(self, runs: Iterable[tuple[dict[str, Any], list[dict[str, Any]]]]) -> None:
        """Replace the whole content by (manifest, records) pairs, in one transaction."""
        with self._connection() as connection:
            connection.execute("DELETE FROM runs")
            connection.execute("DELETE FROM measurements")
            for manifest, records in runs:
                _put_run(connection, manifest)
                for record in records:
                    _put_measurement(connection, manifest["id"], record)


def _put_run(connection: sqlite3.Connection, manifest: dict[str, Any]) -> None:
    kind = (manifest.get("run_info") or {}).get("kind")
    row = [manifest.get(key) for key in ("id", "command", "device", "started_utc", "state")]
    connection.execute("INSERT OR REPLACE INTO runs VALUES (?,?,?,?,?,?,?)", (*row, kind, json.dumps(manifest)))


def _put_measurement(connection: sqlite3.Connection, run_id: str, record: dict[str, Any]) -> None:
    row = [record.get(key) for key in ("id", "subject", "subject_sha256", "fps", "started_utc")]
    connection.execute("INSERT OR REPLACE INTO measurements VALUES (?,?,?,?,?,?)", (run_id, *row))
