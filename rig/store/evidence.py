"""What an auditor needs beside the records: raw readings, device trees, clock exchanges, profile, the runtime's graphs.

    evidence/<measurement id>.jsonl    of one measurement, as the agent handed it over (device_agents/sensors/raw.py)
             session.jsonl             of each session: what the agent said of itself and the device; clock exchanges
             inspect-<job>.json.gz     what the runtime made of a model: its optimized graph and the profiled nodes
    assessments.jsonl                  each verdict at the time, with its quantities: what a replay compares with

A line is a part of the evidence (``part``) and an entry of it. No analysis reads any of it; ``rig replay`` does.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rig import durable

if TYPE_CHECKING:
    from rig.connection.session import Session
    from rig.measurement import Measurement
    from rig.profiles import DeviceProfile
    from rig.store.store import Run

FOLDER = "evidence"
SESSION_FILE = f"{FOLDER}/session.jsonl"
ASSESSMENTS_FILE = "assessments.jsonl"

# Of a profile: how to reach a device is nobody's business but its owner's.
PRIVATE_FIELDS = ("host", "user", "port", "identity_file", "known_hosts", "run", "resource", "path")


def profile_facts(profile: DeviceProfile) -> dict[str, Any]:
    """The profile under which a run measures, for its manifest; without addresses, names and keys."""
    facts = profile.model_dump(mode="json", exclude_none=True)
    for section in ("transport", "meter"):
        if section in facts:
            facts[section] = {k: v for k, v in facts[section].items() if k not in PRIVATE_FIELDS}
    return facts


def to_lines(evidence: Mapping[str, Any]) -> bytes:
    """The evidence of one measurement, a JSON line an entry."""
    lines = [durable.dump_json({"part": part, **entry}) for part, entries in evidence.items() for entry in entries]
    return "".join(line + "\n" for line in lines).encode()


def of_measurement(run_folder: Path, identity: str) -> dict[str, Any]:
    """What ``to_lines`` wrote; empty where a measurement has none (a simulated one)."""
    path = run_folder / FOLDER / f"{identity}.jsonl"
    found: dict[str, Any] = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            found.setdefault(entry.pop("part"), []).append(entry)
    return found


def keep_session(run: Run, session: Session) -> None:
    """What the agent says of the device and of itself, and how its clock stands to this computer's."""
    hello = {key: value for key, value in session.hello.items() if key not in ("id", "event")}
    clock = session.clock()
    path = run.path / SESSION_FILE
    action = f"storing what {session.profile.name} is in {run.id}"
    with durable.disk_errors(action, path):
        path.parent.mkdir(exist_ok=True)
    durable.append_json(path, {"part": "hello", **hello}, action)
    exchanges = [list(exchange) for exchange in session.clock_exchanges]
    durable.append_json(path, {"part": "clock", **clock._asdict(), "exchanges": exchanges}, action)


def keep_inspection(run: Run, job: str, model: Path, facts: Mapping[str, Any]) -> None:
    """The runtime's answer to ``inspect``, whole."""
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    answer = {key: value for key, value in facts.items() if key not in ("id", "event")}
    data = gzip.compress(json.dumps({"subject_sha256": digest, "answer": answer}).encode(), mtime=0)
    path = run.path / FOLDER / f"inspect-{job}.json.gz"
    action = f"storing the runtime's graph of {job} in {run.id}"
    with durable.disk_errors(action, path):
        path.parent.mkdir(exist_ok=True)
    durable.write_atomic(path, data, action)


def inspections(run_folder: Path) -> dict[str, dict[str, Any]]:
    """Digest of the model → the runtime's answer, of all that was inspected."""
    found = {}
    for path in sorted((run_folder / FOLDER).glob("inspect-*.json.gz")):
        data = json.loads(gzip.decompress(path.read_bytes()))
        found[data["subject_sha256"]] = data["answer"]
    return found


def last_hello(run_folder: Path) -> dict[str, Any] | None:
    """What the agent last said of the device; None for a run of an older rig."""
    path = run_folder / SESSION_FILE
    if not path.exists():
        return None
    entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
    return next((entry for entry in reversed(entries) if entry["part"] == "hello"), None)


def keep_assessment(run: Run, measurement: Measurement) -> None:
    """The verdict and the quantities, as made of the record now."""
    from rig.output import plain

    action = f"storing the verdict of {measurement.id} in {run.id}"
    durable.append_json(run.path / ASSESSMENTS_FILE, plain(measurement.to_json()), action)


def assessments(run_folder: Path) -> dict[str, dict[str, Any]]:
    """Measurement id → what ``keep_assessment`` wrote last."""
    path = run_folder / ASSESSMENTS_FILE
    if not path.exists():
        return {}
    entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
    return {entry["id"]: entry for entry in entries}
