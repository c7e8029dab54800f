"""What was measured, on disk: one folder a run, and an index that can be rebuilt from the folders.

    $RIG_HOME/index.sqlite
    $RIG_HOME/identity                           the name of this store (``identity``)
    $RIG_HOME/models/<device>/
    $RIG_HOME/runs/c-0001/manifest.json          replaced at once, never edited in place
                          measurements.jsonl     one MeasureRecord a line, appended and fsynced
                          traces/<id>.npz        its arrays (power trace, latency samples), plain numpy, no pickle
                          artifacts/  events.jsonl

Several processes may use one store. A line that a kill tore is moved aside and reported, never dropped in silence.
"""

from __future__ import annotations

import errno
import importlib.metadata
import json
import os
import platform
import re
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import rig
from device_agents.records import FORMAT_VERSION
from rig.durable import disk_errors, read_json, sync_folder, write_atomic
from rig.errors import BadInputError, StoreError
from rig.store.index import Index, Span
from rig.store.run import MEASUREMENT_ID, Run, RunInfo, utc_now

__all__ = ["Run", "RunInfo", "Store", "capture_environment", "default_root", "utc_now"]

ID_LETTERS = {
    "calibrate": "c",
    "measure": "m",
    "optimize": "o",
    "import": "i",
    "fit": "f",
    "evaluate": "e",
    "fusion": "u",
}
RUN_ID = re.compile(r"[a-z]-\d{4,}")
LIBRARIES = ("numpy", "scipy", "scikit-learn", "torch", "torch-pruning", "onnx", "onnxruntime", "pydantic", "paramiko")


def default_root() -> Path:
    """``$RIG_HOME``, or the user's data folder."""
    if os.environ.get("RIG_HOME"):
        return Path(os.environ["RIG_HOME"]).expanduser()
    import platformdirs

    return Path(platformdirs.user_data_dir("rig"))


def capture_environment() -> dict[str, Any]:
    """Versions of Python, the operating system, the rig and its libraries (None: not installed)."""
    versions: dict[str, str | None] = {}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "rig": rig.__version__,
        "python": platform.python_version(),
        "implementation": sys.implementation.name,
        "system": platform.platform(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "libraries": versions,
    }


class Store:
    """All runs under one root folder (default: ``default_root()``).

    Raises StoreError where the folder cannot be used. ``problems``: what was found damaged and worked round, as
    ``{"code", "message", "fix"}``.
    """

    def __init__(self, root: Path | str | None = None) -> None:
        self.root = Path(root) if root is not None else default_root()
        self.problems: list[dict[str, str]] = []
        self._runs = self.root / "runs"
        self._index = Index(self.root / "index.sqlite")

    def new_run(
        self, command: str, device: str, *, argv: Sequence[str] = (), info: RunInfo | None = None, **facts: Any
    ) -> Run:
        """Make the next run of ``command`` (a key of ID_LETTERS); ``facts`` go into its manifest."""
        if command not in ID_LETTERS:
            raise ValueError(f"runs are made by {', '.join(ID_LETTERS)}, not by {command!r}")
        manifest = {
            "format_version": FORMAT_VERSION,
            "id": "",
            "command": command,
            "device": device,
            "argv": list(argv),
            "started_utc": utc_now(),
            "state": "running",
            "run_info": info.to_json() if info else None,
            "environment": capture_environment(),
            **facts,
        }
        action = f"making a run folder for {command} on {device}"
        with disk_errors(action, self._runs):
            self._runs.mkdir(parents=True, exist_ok=True)
            run_id = self._allocate(ID_LETTERS[command], manifest, action)
        run = Run(self._runs / run_id, self._put_index)
        self._put_index(run.manifest)
        return run

    def _allocate(self, letter: str, manifest: dict[str, Any], action: str) -> str:
        """Build the folder aside and rename it: two processes cannot get one id, and no folder lacks a manifest."""
        prepared = Path(tempfile.mkdtemp(prefix=".new-", dir=self._runs))
        try:
            os.chmod(prepared, 0o755)
            (prepared / "traces").mkdir()
            (prepared / "artifacts").mkdir()
            number = 1 + max((int(p[2:]) for p in self._run_ids() if p.startswith(letter)), default=0)
            while True:
                run_id = f"{letter}-{number:04d}"
                text = json.dumps({**manifest, "id": run_id}, indent=1)
                write_atomic(prepared / "manifest.json", text.encode(), action)
                try:
                    os.rename(prepared, self._runs / run_id)
                except OSError as error:
                    if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                        raise
                    number += 1
                    continue
                sync_folder(self._runs)
                return run_id
        except BaseException:
            shutil.rmtree(prepared, ignore_errors=True)
            raise

    def _run_ids(self) -> list[str]:
        if not self._runs.is_dir():
            return []
        with disk_errors("listing runs", self._runs):
            return sorted(name for name in os.listdir(self._runs) if RUN_ID.fullmatch(name))

    def open_run(self, run_id: str) -> Run:
        """Open a run by id (``c-0001``); BadInputError names the runs there are."""
        known = self._run_ids()
        if run_id not in known:
            shown = ", ".join(known[-5:]) if known else "none yet"
            raise BadInputError(f"no run {run_id} in {self.root} (latest: {shown})", "give one of these run ids")
        return Run(self._runs / run_id, self._put_index)

    def runs(self) -> list[dict[str, Any]]:
        """The manifests of all runs, oldest first; the index is brought up to date with the folders first."""
        folders = set(self._run_ids())
        if not folders:
            return []
        try:
            self._refresh(folders)
            manifests = self._index.manifests()
        except sqlite3.Error as error:
            self._index_problem(error)
            manifests = [self._read_manifest(run_id) for run_id in folders]
        return sorted(manifests, key=lambda manifest: (manifest["started_utc"], manifest["id"]))

    def _refresh(self, folders: set[str]) -> None:
        """Bring the runs in the index up to date: a kill may have fallen between a folder and its row."""
        known = self._index.known()
        gone = set(known) - folders
        if gone:
            self._index.drop_runs(gone)
        for run_id in sorted(folders):
            stamp = self._stamp(run_id)
            if run_id not in known or known[run_id].stamp != stamp:
                self._index.put_run(self._read_manifest(run_id), stamp)

    def _refresh_measurements(self) -> None:
        for run_id, known in self._index.known().items():
            lines = self._runs / run_id / "measurements.jsonl"
            size = lines.stat().st_size if lines.exists() else 0
            if size != known.indexed_bytes:
                records = list(Run(self._runs / run_id, self._put_index).measurements(arrays=False))
                self._index.put_measurements(run_id, records, size)

    def _stamp(self, run_id: str) -> str:
        """What changes with every writing of the manifest."""
        with disk_errors("reading the store", self._runs / run_id):
            found = (self._runs / run_id / "manifest.json").stat()
        return f"{found.st_ino}-{found.st_mtime_ns}-{found.st_size}"

    def latest(self, command: str | None = None, device: str | None = None) -> Run | None:
        """The newest run (of that command, on that device), or None."""
        for manifest in reversed(self.runs()):
            if command in (None, manifest["command"]) and device in (None, manifest["device"]):
                return self.open_run(manifest["id"])
        return None

    def find_measurements(self, subject: str) -> list[tuple[str, str]]:
        """(run id, measurement id) of everything measured under that subject name, oldest first."""
        try:
            self._refresh(set(self._run_ids()))
            self._refresh_measurements()
            return self._index.find_measurements(subject)
        except sqlite3.Error as error:
            raise StoreError(f"reading {self._index.path}: {error}", "delete that file; it is rebuilt") from error

    def rebuild_index(self) -> int:
        """Make the index anew from the folders; returns the number of runs."""
        runs = [Run(self._runs / run_id, self._put_index) for run_id in self._run_ids()]
        with disk_errors("rebuilding the index", self._index.path):
            for suffix in ("", "-wal", "-shm"):
                Path(f"{self._index.path}{suffix}").unlink(missing_ok=True)
        try:
            self._refresh({run.id for run in runs})
            self._refresh_measurements()
        except sqlite3.Error as error:
            raise StoreError(f"rebuilding {self._index.path}: {error}", "check the disk and its rights") from error
        return len(runs)

    def model_folder(self, device: str) -> Path:
        """Where the cost model of ``device`` lives (not made here)."""
        if not MEASUREMENT_ID.fullmatch(device):
            raise BadInputError(f"device name {device!r} cannot be a folder name", "use letters, digits, '-', '_', '.'")
        return self.root / "models" / device

    def _read_manifest(self, run_id: str) -> dict[str, Any]:
        return read_json(self._runs / run_id / "manifest.json")

    def _put_index(
        self, manifest: dict[str, Any], record: dict[str, Any] | None = None, span: Span | None = None
    ) -> None:
        run_id = manifest["id"]
        try:
            if record is None or span is None:
                stamp = self._stamp(run_id)  # first: where another process writes meanwhile, the row counts as old
                self._index.put_run(self._read_manifest(run_id), stamp)
            else:
                self._index.put_measurement(run_id, record, span)
        except sqlite3.Error as error:
            self._index_problem(error)

    def _index_problem(self, error: sqlite3.Error) -> None:
        """The index is only a cache: say that it failed, and go on with the folders."""
        message = f"index {self._index.path}: {error}; the run folders are used instead"
        if not any(problem["message"] == message for problem in self.problems):
            self.problems.append({"code": "index", "message": message, "fix": "delete that file; it is rebuilt"})
