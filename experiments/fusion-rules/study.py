"""Which operators a runtime fuses, found by measurement, against what it says itself.

    python experiments/fusion-rules/study.py virtual-pi4     the truth: the simulated board's compiler (rules "virtual")
    python experiments/fusion-rules/study.py local           the truth: ONNX Runtime's own optimized graphs

Measures as ``rig calibrate --fusion`` does, into a store of its own, and writes ``<device>.json`` and ``<device>.md``
beside this file. ``local`` is real time: nothing else may run on the machine meanwhile.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def truth_of(roles: dict[str, Any], count: Any) -> str:
    """fused or separate, by the numbers of kernels of the four networks (k times a pair is one kernel less)."""
    from rig.workloads.fusion_pairs import UNITS, network

    base, first, second, both = (count(network(*roles[role])) for role in ("base", "first", "second", "both"))
    return "fused" if first + second - both - base >= UNITS / 2 else "separate"


def by_rules(model: Any) -> int:
    """Kernels of a network on the simulated board."""
    from power_models.kernels import kernel_graph

    return len(kernel_graph(model, "virtual"))


def by_graph(session: Any) -> Any:
    """Kernels of a network in the runtime's own graph on the device."""
    from power_models.kernels import from_optimized

    def count(model: Any) -> int:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "network.onnx"
            path.write_bytes(model.SerializeToString())
            facts = session.inspect(path, runs=3)
            return len(from_optimized(base64.b64decode(facts["model_b64"]), facts["nodes"], path))

    return count


def main() -> None:
    """Measure, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("device")
    parser.add_argument("--rounds", type=int, default=None)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        os.environ["RIG_HOME"] = home
        found = measured(asked.device, asked.rounds, asked.seed)
    (HERE / f"{asked.device}.json").write_text(json.dumps(found, indent=1) + "\n")
    (HERE / f"{asked.device}.md").write_text(table(found))
    print(table(found))


def measured(device: str, rounds: int | None, seed: int) -> dict[str, Any]:
    """Every pair: what it saves, the verdict, and what the runtime itself does."""
    from rig.collect.fusion import measure_fusion, networks_of
    from rig.commands.calibrate_fusion import ROUNDS, ROUNDS_SIMULATED, pair_row
    from rig.connection.session import Session
    from rig.profiles import load_profile
    from rig.store.store import Store
    from rig.workloads.calibration_networks import plans_of
    from rig.workloads.fusion_pairs import PAIRS, UNITS

    profile = load_profile(device)
    rounds = rounds or (ROUNDS_SIMULATED if profile.simulated else ROUNDS)
    run = Store().new_run("fusion", device)
    began_s = time.monotonic()
    with Session(profile, "experiments/fusion-rules") as session:
        plan = plans_of(profile).chains
        pairs = measure_fusion(session, run, PAIRS, plan, profile.runtime.name, rounds, seed, print_progress)
        took_s = time.monotonic() - began_s
        count = by_rules if profile.simulated else by_graph(session)
        side = int(run.manifest["side"])
        truths = [truth_of(roles, count) for roles in networks_of(PAIRS, side).roles.values()]
    kind = "simulated" if profile.simulated else "measured"
    rows = [{**pair_row(pair, kind), "truth": truth} for pair, truth in zip(pairs, truths, strict=True)]
    version = run.info.configuration.runtime_version if run.info else ""
    return {
        "device": device,
        "kind": kind,
        "runtime": f"{profile.runtime.name} {version}",
        "rounds": rounds,
        "units": UNITS,
        "side": side,
        "seed": seed,
        "networks": len(networks_of(PAIRS).networks),
        "seconds": round(took_s, 1),
        "right": sum(row["verdict"] == row["truth"] for row in rows),
        "wrong": sum(row["verdict"] not in (row["truth"], "undecided") for row in rows),
        "undecided": sum(row["verdict"] == "undecided" for row in rows),
        "pairs": rows,
    }


def print_progress(text: str) -> None:
    """One line a round's end, not one a network."""
    if "network 1 of" in text:
        print(text, flush=True)


def table(found: dict[str, Any]) -> str:
    """The figures as a Markdown table."""
    head = f"{found['device']} ({found['kind'].upper()}), {found['runtime']}, {found['rounds']} rounds"
    counts = f"{found['wrong']} wrong, {found['undecided']} undecided, at {found['side']}×{found['side']}"
    lines = [
        f"{head}: {found['right']} of {len(found['pairs'])} right, {counts}",
        "",
        "| pair | saving, µs a pair [95 %] | second alone, µs | measured | truth |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in found["pairs"]:
        saving = row["saving_s"]
        value, low, high = (1e6 * saving[part] for part in ("value", "lo", "hi"))
        lines.append(
            f"| {row['first']} · {row['second']} | {value:.2f} [{low:.2f}, {high:.2f}] | {1e6 * row['second_s']:.2f}"
            f" | {row['verdict']} | {row['truth']} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
