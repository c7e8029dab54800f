"""Answers as a device's agent would, from a stored run: the process at the other end of ``ReplayTransport``.

     request ─► what was measured? (digest of the model or the kernels, plan, runtime) ─► the stored record, id replaced

A measurement is found by its content, not by its id: a served device has a name of its own, and ids follow from names.
Where the same was measured several times, the attempts come in their order. What the run does not hold is refused.
"""

from __future__ import annotations

import copy
import json
import os
import platform
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from device_agents.link import error_message
from device_agents.protocol import MAGIC, PROTOCOL_VERSION, AgentError, clock_domain, encode, now_s
from device_agents.records import KernelSpec, MeasurePlan
from device_agents.runtimes.virtual import kernels_digest
from rig.errors import StoreError
from rig.store import evidence
from rig.store.run import Run

MODEL_NAME = re.compile(r"model-([0-9a-f]{64})\.onnx")
ATTEMPT = re.compile(r"-(\d+)$")


class ReplayDevice:
    """``run``: what answers. Raises AgentError for what the run does not hold."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._records = list(run.measurements(arrays=False))
        self._inspections = evidence.inspections(run.path)
        self._served: dict[str, str] = {}  # request id → id of the stored record

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The result of a request."""
        handlers = {
            "hello": self.hello,
            "clock": self.clock,
            "inspect": self.inspect,
            "measure": self.measure,
            "ack": lambda request: {"spool": []},
            "ping": lambda request: {},
        }
        handler = handlers.get(str(request.get("op")))
        if handler is None:
            raise AgentError(
                "bad-request", f"the stored run {self._run.id} cannot {request.get('op')}", "use the device"
            )
        return handler(request)

    def hello(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """What the device said when the run was made; for older runs, what the records tell."""
        kept = evidence.last_hello(self._run.path) or self._told_by_records(request)
        kept = {key: value for key, value in kept.items() if key not in ("part", "agent")}
        return {**kept, "spool": [], "journal_problems": [], "replayed": self._run.id}

    def clock(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Two of the four time stamps, of this process."""
        received_s = now_s()
        return {"received_s": received_s, "replied_s": now_s()}

    def inspect(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The stored answer for the same model."""
        digest = _digest_of(request["subject"])
        if digest in self._inspections:
            return dict(self._inspections[digest])
        raise AgentError("bad-request", f"run {self._run.id} holds no graph of {request['subject']['name']}")

    def measure(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The stored record of the same subject, plan and runtime."""
        found = self._stored(request)
        self._served[request["id"]] = found["id"]
        record = self._run.with_arrays(copy.deepcopy(found))
        record["id"] = request["id"]
        record["replayed"] = {"run": self._run.id, "id": found["id"]}
        kept = evidence.of_measurement(self._run.path, found["id"])
        if kept:
            record["evidence"] = kept
        return {"key": f"replay:{request['id']}", "record": record}

    def _stored(self, request: Mapping[str, Any]) -> dict[str, Any]:
        earlier = self._served.get(request["id"])
        same = self._same(request)
        left = [record for record in same if record["id"] == earlier or record["id"] not in self._served.values()]
        attempt = _attempt(request["id"])
        chosen = next((record for record in left if record["id"] == earlier), None)
        chosen = chosen or next((record for record in left if _attempt(record["id"]) == attempt), None)
        if chosen is None and not left:
            again = " further" if same else ""
            name = request["subject"].get("name")
            raise AgentError(
                "bad-request",
                f"run {self._run.id} holds no{again} measurement of {name} under this plan and runtime",
                "ask for what the run asked for: its command line is in its manifest",
            )
        return chosen or left[0]

    def _same(self, request: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The stored records of what is asked for, in their order."""
        plan = MeasurePlan(**request["plan"]).to_json()
        alike = [
            record
            for record in self._records
            if record["runtime"] == request["runtime"]
            and record["options"] == request.get("options", {})
            and all(plan.get(field) == value for field, value in record["plan"].items())
        ]
        digest = _digest_of(request["subject"])
        found = [record for record in alike if record["subject_sha256"] == digest]
        if found:
            return found
        # A later rig may write the same chain in other bytes: the name will do, where it meant one thing only.
        named = [record for record in alike if record["subject"] == request["subject"].get("name")]
        return named if len({record["subject_sha256"] for record in named}) == 1 else []

    def _told_by_records(self, request: Mapping[str, Any]) -> dict[str, Any]:
        if not self._records:
            raise AgentError("no-runtime", f"run {self._run.id} holds no measurement", "replay another run")
        first = self._records[0]
        meter = (first.get("sensor") or {}).get("name")
        absent = {"state": "absent", "reason": f"not in run {self._run.id}", "fix": ""}
        working = {"state": "ok", "reason": "", "fix": ""}
        return {
            "device": self._run.manifest["device"],
            "serial": first["serial"],
            "identity": {"machine": platform.machine()},
            "runtimes": {first["runtime"]: {"state": "ok", "reason": "", "fix": ""}},
            "sensors": {name: working if name == meter else absent for name in request.get("sensors", [])},
            "clock": clock_domain(),
        }


def _digest_of(subject: Mapping[str, Any]) -> str | None:
    """The digest under which a record has this subject; None where the request does not tell."""
    if subject.get("format") == "kernels":
        return kernels_digest([KernelSpec.from_json(kernel) for kernel in subject["kernels"]])
    name = MODEL_NAME.fullmatch(Path(str(subject.get("path"))).name)
    return name.group(1) if name else None


def _attempt(identity: str) -> int | None:
    found = ATTEMPT.search(identity)
    return int(found.group(1)) if found else None


def main(arguments: list[str]) -> int:
    """Serve the run folder ``arguments[0]`` over stdin and stdout, as the agent whose hash is ``arguments[1]``."""
    try:
        run = Run(Path(arguments[0]), lambda *_: None)
    except StoreError as error:
        sys.stderr.write(f"{error.message}\n")
        return 1
    device = ReplayDevice(run)
    magic = {
        "protocol": PROTOCOL_VERSION,
        "agent_hash": arguments[1],
        "python": platform.python_version(),
        "pid": os.getpid(),
    }
    output = sys.stdout.buffer
    output.write(MAGIC.encode("ascii") + encode(magic))
    output.flush()
    for line in sys.stdin.buffer:
        request = json.loads(line)
        if request.get("op") == "bye":
            return 0
        if "id" not in request:
            continue  # a heartbeat
        try:
            message = {**device.answer(request), "id": request["id"], "event": "result"}
        except AgentError as error:
            message = error_message(request["id"], error)
        output.write(encode(message))
        output.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
