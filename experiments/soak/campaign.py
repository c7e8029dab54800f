"""The host of a soak, a process of its own that may be killed at any moment: measure what is not stored yet.

Run by soak.py with its settings as one argument of JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from device_agents.records import KernelSpec, MeasurePlan
from rig.connection.session import Session, Subject
from rig.errors import DeviceError
from rig.profiles import DeviceProfile, RuntimeSettings, TransportSettings, load_profile
from rig.store.store import Run, Store

PLAN = MeasurePlan(warmup_s=0.05, warmup_max_s=0.2, window_s=0.05, min_windows=3, rel_ci=0.5, max_s=0.5, quiet_s=0.1)
KERNELS = [KernelSpec("conv", 1, 16, 28, 28, 16, 28, 28, 3, 3, 1, 1, fused="relu")] * 4
BLOCK = 100  # measurements of one runtime, then of the other: one session each
RETRIES = 20  # of one measurement; each fault costs one


def profiles(settings: dict[str, Any]) -> dict[str, DeviceProfile]:
    """One board, by its two runtimes: the simulated one in virtual time, and ONNX Runtime in real time."""
    transport = TransportSettings(
        kind="ssh",
        host="127.0.0.1",
        **{name: settings[name] for name in ("user", "port", "identity_file", "known_hosts")},
    )
    virtual = load_profile("virtual-pi4").model_copy(
        update={"name": "soak-virtual", "transport": transport, "python": settings["python"]}
    )
    real = load_profile("local").model_copy(
        update={
            "name": "soak-real",
            "transport": transport,
            "python": settings["python"],
            "sensors": ("battery",),
            "power_mode": "performance",
            "runtime": RuntimeSettings(name="onnxruntime", options={"threads": 1, "spinning": False}),
        }
    )
    return {"virtual": virtual, "real": real}


def subject_of(runtime: str, folder: Path) -> Subject:
    """Four convolutions on the simulated board; a small network for the real engine."""
    if runtime == "virtual":
        return Subject("chain", kernels=KERNELS)
    path = folder / "small.onnx"
    if not path.exists():
        import onnx  # half a second of each start of the host
        from onnx import TensorProto, helper

        weights = helper.make_tensor("w", TensorProto.FLOAT, [8, 8, 3, 3], [0.01 * (i % 7 - 3) for i in range(576)])
        nodes = [helper.make_node("Conv", ["x", "w"], ["y"], name="conv", pads=[1, 1, 1, 1])]
        ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8, 32, 32]) for name in ("x", "y")]
        graph = helper.make_graph(nodes, "small", ends[:1], ends[1:], [weights])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        partial = path.with_suffix(".part")
        onnx.save(model, partial)
        partial.replace(path)
    return Subject("small", path=path)


def blocks(count: int, real_share: float) -> Iterator[tuple[str, list[str]]]:
    """(runtime, measurement ids), in order."""
    for start in range(0, count, BLOCK):
        members = range(start, min(start + BLOCK, count))
        real = round(real_share * len(members))
        yield "virtual", [f"s{i:05d}-0" for i in members[real:]]
        if real:
            yield "real", [f"s{i:05d}-0" for i in members[:real]]


def measure_block(run: Run, profile: DeviceProfile, subject: Subject, ids: list[str]) -> None:
    """Measure what is missing of a block, whatever happens on the way."""
    failures = 0
    while missing := [identity for identity in ids if identity not in run.measurement_ids()]:
        try:
            with Session(profile, "soak", heartbeat_s=0.3, lost_after_s=2.0) as session:
                for record in session.pending():
                    keep(session, run, record)
                for identity in missing:
                    if identity not in run.measurement_ids():
                        keep(session, run, session.measure(subject, PLAN, request_id=identity))
                        failures = 0
        except DeviceError as error:
            failures += 1
            sys.stderr.write(f"{missing[0]}: {type(error).__name__}: {error.message[:300]}\n")
            if failures > RETRIES:
                raise


def keep(session: Session, run: Run, record: dict[str, Any]) -> None:
    """Store, then acknowledge: in this order nothing is lost."""
    run.add_measurement(record)
    session.ack([record["id"]])


def main(settings: dict[str, Any]) -> None:
    """Measure all blocks."""
    store = Store()
    run = store.latest("calibrate") or store.new_run("calibrate", "soak")
    devices = profiles(settings)
    for runtime, ids in blocks(settings["measurements"], settings["real_share"]):
        measure_block(run, devices[runtime], subject_of(runtime, Path(settings["folder"])), ids)
    for profile in devices.values():  # the next start puts back and clears away what a killed agent left
        with Session(profile, "soak") as session:
            for record in session.pending():
                keep(session, run, record)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
