"""Which runs are to be compared: ids, beginnings of ids, folders, network files; and that they may be compared at all.

    o-0003            a run of the store            o-00              every finished run whose id begins so
    path/to/o-0003    a run folder                  path/to/store     every finished optimize run of another store
    net.onnx          the newest finished rig measure of that very file (by its SHA-256)

Figures of two devices, configurations, kinds or tasks are not put side by side: BadInputError names what differs.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rig.errors import BadInputError
from rig.output import warning
from rig.results import RunResult, parse_result
from rig.store.run import Run
from rig.store.store import RUN_ID, Store

COMPARABLE = ("rig.optimize/1", "rig.measure/1")
# What must be equal (device_agents.records.Configuration), as the ``device`` of a result says it.
CONFIGURATION = ("name", "serial", "runtime", "runtime_version", "threads", "spinning", "power_mode", "boundary")


class Compared(NamedTuple):
    """One run: its result, the device as the result's JSON describes it, and its folder."""

    result: RunResult
    device: dict[str, Any]
    folder: Path

    @property
    def name(self) -> str:
        """The run's id."""
        return self.result.run_id


class Found(NamedTuple):
    """The runs asked for, each once, in the order given; ``warnings``: unfinished ones that were passed over."""

    runs: tuple[Compared, ...]
    warnings: tuple[dict[str, Any], ...]


def read_runs(words: Sequence[str], store: Store) -> Found:
    """Read every run that the words name.

    Raises BadInputError for an unknown or unfinished run, one of another command, and runs that cannot be compared;
    StoreError for a damaged result.
    """
    runs: dict[Path, Compared] = {}
    notes: list[dict[str, Any]] = []
    files = [word for word in words if _is_network_file(word)]
    for word in words:
        if word in files:
            continue
        folders, several = _folders(word, store)
        for folder in folders:
            if several and not (folder / "result.json").is_file():
                notes.append(warning("unfinished-run", f"{folder.name} has no result and is left out", _resume(folder)))
                continue
            runs.setdefault(folder.resolve(), _read(folder))
    devices = {run.device.get("name") for run in runs.values()}
    for word in files:
        folder = _measured(Path(word), store, devices)
        runs.setdefault(folder.resolve(), _read(folder))
    if not runs:
        raise BadInputError(f"no finished run in {', '.join(words)}", "let a run finish: rig optimize … --resume")
    found = tuple(runs.values())
    check_comparable(found)
    return Found(found, tuple(notes))


def _is_network_file(word: str) -> bool:
    return Path(word).suffix == ".onnx"


def _folders(word: str, store: Store) -> tuple[list[Path], bool]:
    """The run folders that a word names, and whether it names several (of which unfinished ones are left out)."""
    path = Path(word)
    if (path / "manifest.json").is_file():
        return [path], False
    if path.is_dir():
        inside = path / "runs" if (path / "runs").is_dir() else path
        return _optimize_runs(inside, word), True
    known = {manifest["id"] for manifest in store.runs()}
    if word in known or RUN_ID.fullmatch(word):
        return [store.open_run(word).path], False
    begun = sorted(one for one in known if one.startswith(word))
    if not begun:
        return [store.open_run(word).path], False  # raises: no such run, and which there are
    return [store.open_run(one).path for one in begun], True


def _optimize_runs(folder: Path, word: str) -> list[Path]:
    found = [one for one in sorted(folder.iterdir()) if one.name.startswith("o-") and (one / "manifest.json").is_file()]
    if not found:
        raise BadInputError(f"{word} holds no optimize runs", "give a run id, a run folder, or the folder of a store")
    return found


def _read(folder: Path) -> Compared:
    run = Run(folder, lambda *_: None)
    command = run.manifest["command"]
    if command not in ("optimize", "measure"):
        raise BadInputError(
            f"{run.id} is a {command} run: it holds no network to compare",
            "give runs of rig optimize or rig measure",
        )
    if not (folder / "result.json").is_file():
        raise BadInputError(f"{run.id} is unfinished ({run.manifest.get('state')}): it has no result", _resume(folder))
    raw = run.read_json("result.json")
    result = parse_result(raw, str(folder / "result.json"))
    if result.schema_name not in COMPARABLE:
        raise BadInputError(f"{run.id} has a result of {result.schema_name}", f"known: {', '.join(COMPARABLE)}")
    return Compared(result, dict(raw["device"]), folder)


def _resume(folder: Path) -> str:
    manifest = Run(folder, lambda *_: None).manifest
    if manifest["command"] == "optimize" and manifest.get("argv"):
        return shlex.join([*manifest["argv"], "--resume"])
    return f"give the same rig {manifest['command']} again"


def _measured(path: Path, store: Store, devices: Iterable[Any]) -> Path:
    """The newest finished measure run of a file; one on the device of the other runs first."""
    if not path.is_file():
        raise BadInputError(f"no such file: {path}", "give the path of an ONNX model that rig measure measured")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    found: list[tuple[bool, Path]] = []
    for manifest in store.runs():  # oldest first
        folder = store.root / "runs" / manifest["id"]
        if manifest["command"] != "measure" or not (folder / "result.json").is_file():
            continue
        if digest in measured_digests(folder):
            found.append((manifest["device"] in set(devices), folder))
    if not found:
        raise BadInputError(f"{path} has not been measured", f"rig measure {path} --device DEVICE")
    return next((folder for same, folder in reversed(found) if same), found[-1][1])


def measured_digests(folder: Path) -> set[str]:
    """SHA-256 of the network file that a measure run measured; empty where the run keeps none.

    Of a run from before manifests kept it, what its records say: of a simulated board that is no file's digest.
    """
    run = Run(folder, lambda *_: None)
    if run.manifest.get("onnx_sha256"):
        return {run.manifest["onnx_sha256"]}
    records = run.measurements(arrays=False)
    return {r["subject_sha256"] for r in records if r.get("subject_sha256") and r.get("kind") != "simulated"}


def check_comparable(runs: Sequence[Compared]) -> None:
    """Raise BadInputError where a run differs from the first in device, configuration, kind or task."""
    first = runs[0]
    for other in runs[1:]:
        differing = [
            f"{_said(field)} is {first.device[field]!r} in {first.name}, {other.device[field]!r} in {other.name}"
            for field in CONFIGURATION
            if field in first.device and field in other.device and first.device[field] != other.device[field]
        ]
        kinds = [run.result.simulated for run in (first, other)]
        if kinds[0] != kinds[1]:
            words = ["simulated" if one else run.result.kind for one, run in zip(kinds, (first, other), strict=True)]
            differing.append(f"{first.name} is {words[0]}, {other.name} {words[1]}")
        if differing:
            raise BadInputError(
                f"runs of different devices or configurations cannot be compared: {'; '.join(differing)}",
                f"leave {other.name} out, or compare it with runs of its own device",
            )
    _one_task(runs)


def _said(field: str) -> str:
    return "device" if field == "name" else field.replace("_", " ")


def _one_task(runs: Sequence[Compared]) -> None:
    tasks: dict[str, str] = {}
    for run in runs:
        if run.result.task is not None:
            tasks.setdefault(run.result.task, run.name)
    if len(tasks) > 1:
        shown = ", ".join(f"{task} in {name}" for task, name in tasks.items())
        raise BadInputError(
            f"accuracies of different tasks cannot be compared: {shown}", "compare the runs of one task at a time"
        )
