"""EXAMPLE optimize and measure runs to put side by side: invented numbers, written into a store without records."""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path
from typing import Any

import example_runs as example
import numpy as np

from rig.comparison.answers import ANSWERS_FILE, Answers, to_json
from rig.store.store import Run, Store

BASE_LATENCY_S, BASE_ENERGY_J, QUIET_W, FPS = 0.004, 0.009, 2.9, 60.0


def network(name: str, accuracy: float | None, cost: float, powered: bool, kind: str = "simulated") -> dict[str, Any]:
    """A network whose latency and energies are ``cost`` times the baseline's."""
    latency, active = cost * BASE_LATENCY_S, cost * BASE_ENERGY_J
    shown = example.network(name, example.resnet_layers(blocks=1), accuracy or 0.5, kind == "simulated", powered, "x")
    return {
        **shown,
        "accuracy_test": None if accuracy is None else example.quantity(accuracy, 0.005, "measured", 10000),
        "macs": 40_000_000,
        "params": 270_000,
        "latency_s": example.quantity(latency, 0.01 * latency, kind),
        "energy_active_j": example.quantity(active, 0.01 * active, kind) if powered else None,
        "energy_j": example.quantity(active + QUIET_W * latency, 0.001, kind) if powered else None,
        "power_w": example.quantity(QUIET_W + FPS * active, 0.01, kind) if powered else None,
        "fps": FPS if powered else None,
    }


def optimize(
    method: str | None = "morphnet",
    seed: int = 0,
    accuracy: float = 0.920,
    baseline: float = 0.925,
    cost: float = 0.5,
    share: float = 0.5,
    powered: bool = True,
    simulated: bool = True,
    in_turn: bool = True,
) -> dict[str, Any]:
    """``result.json`` of an example run on a target of ``share`` of the latency; ``method`` None: an older rig's."""
    kind = "simulated" if simulated else "measured"
    whole = example.optimize_result(simulated, powered)
    result = {
        **whole,
        "seed": seed,
        "baseline": network("resnet20", baseline, 1.0, powered, kind),
        "result": network("resnet20, compressed", accuracy, cost, powered, kind),
        "budget": [
            {"quantity": "latency", "limit": share * BASE_LATENCY_S, "unit": "s", "fps": None, "relative": share}
        ],
        "stages": [
            {"name": "baseline", "seconds": 100.0, "peak_memory_bytes": 900_000_000},
            {"name": "shrink", "seconds": 40.0, "peak_memory_bytes": 800_000_000},
            {"name": "fine-tune", "seconds": 80.0, "peak_memory_bytes": 700_000_000},
        ],
    }
    if method is not None:
        result["method"] = method
    if in_turn:
        costs = ("latency_s", "energy_active_j") if powered else ("latency_s",)
        result["cost_ratio"] = {name: example.quantity(cost, 0.004, kind, 6) for name in costs}
    return copy.deepcopy(result)


def put(root: Path, result: dict[str, Any], right: dict[str, np.ndarray] | None = None, images: str = "same") -> Run:
    """Put a result into the store under ``root`` as a finished run, with answers to the test images where given."""
    command = result["schema"].split(".")[1].split("/")[0]
    run = Store(root).new_run(command, result["device"]["name"], argv=["rig", command, "--seed", "0"])
    run.write_json("result.json", {**result, "run_id": run.id})
    if right is not None:
        run.write_json(ANSWERS_FILE, to_json(Answers(images, right)))
    run.update(state="done")
    return run


def measured(
    root: Path, file: Path, cost: float = 0.4, fps: float | None = None, older: bool = False, **device: Any
) -> Run:
    """A finished ``rig measure`` run of a network file; ``older``: its digest only in the record of a real board."""
    whole = example.measure_result()
    shown = {**network(file.stem, None, cost, True), "fps": fps, "onnx": str(file), "macs": None, "params": None}
    run = put(root, {**whole, "network": shown, "device": {**whole["device"], **device}})
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    if not older:
        run.update(onnx_sha256=digest)
    facts = ("measured", digest) if older else ("simulated", "digest of kernels")
    run.add_measurement({"id": f"{run.id}-1", "subject": file.stem, "kind": facts[0], "subject_sha256": facts[1]})
    return run
