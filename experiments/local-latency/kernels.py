"""Kernels of networks that the calibration held out, measured inside these networks, against the cost model.

    python experiments/local-latency/kernels.py RUN   # of `rig calibrate --device local`; writes kernels.json

A kernel's time in a network is what the runtime's profiler says of it, set right by the unprofiled total
(``rig.collect.profile``). Counted are kernels with more than 1 % of their network's time. Beside it stands what no
model of single kernels can do better than: the same kernel inside other networks of the campaign, taken for a forecast.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from device_agents.records import KernelSpec
from power_models.kernel_cost import KernelRow
from rig.collect.rows import read_campaign
from rig.cost_models import load_cost_model
from rig.store.store import Store

HERE = Path(__file__).parent
SHARE, WITHIN = 0.01, 0.15


def compare(run_id: str) -> dict[str, Any]:
    """Errors of the kernels with a share, by network and by kind."""
    store = Store()
    run = store.open_run(run_id)
    validation = run.read_json("result.json")["validation"]
    names = sorted({row["name"] for row in validation if row["what"] == "network"})
    inside = [row for row in read_campaign(run).rows if row.source == "profile"]
    rows = [row for row in inside if row.group in names]
    costs = load_cost_model(store, run.manifest["device"]).predict([row.kernel for row in rows])
    errors = costs.latency_s / np.array([row.latency_s for row in rows]) - 1.0
    networks, kinds = [], defaultdict(list)
    for name in names:
        own = [i for i, row in enumerate(rows) if row.group == name]
        whole = sum(rows[i].latency_s for i in own)
        counted = [i for i in own if rows[i].latency_s > SHARE * whole]
        for i in counted:
            kinds[rows[i].kernel.kind].append(abs(float(errors[i])))
        networks.append(
            {
                "name": name,
                "error": float(sum(costs.latency_s[own])) / whole - 1.0,
                "kernels": len(counted),
                "within": sum(abs(float(errors[i])) <= WITHIN for i in counted),
            }
        )
    return {
        "schema": "rig.local-kernels/1",
        "run": run_id,
        "networks": networks,
        "same_kernel_in_other_networks": repeated(inside),
        "kinds": {
            kind: {"kernels": len(found), "median": float(np.median(found)), "within": sum(e <= WITHIN for e in found)}
            for kind, found in sorted(kinds.items())
        },
    }


def repeated(rows: Sequence[KernelRow]) -> dict[str, float]:
    """Errors of a kernel's mean time in the other networks that have it, as a forecast of its time in one of them."""
    whole: dict[str, float] = defaultdict(float)
    times: dict[KernelSpec, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        whole[row.group] += row.latency_s
        times[row.kernel][row.group].append(row.latency_s)
    errors = []
    for own in times.values():
        means = {group: float(np.mean(found)) for group, found in own.items()}
        for group, mean in means.items():
            others = [other for name, other in means.items() if name != group]
            if others and mean > SHARE * whole[group]:
                errors.append(abs(float(np.mean(others)) / mean - 1.0))
    return {
        "kernels": len(errors),
        "median": float(np.median(errors)),
        "within": float(np.mean(np.array(errors) <= WITHIN)),
    }


def main() -> None:
    """Compare, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="the calibrate run")
    found = compare(parser.parse_args().run)
    (HERE / "kernels.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    kernels = sum(one["kernels"] for one in found["networks"])
    within = sum(one["within"] for one in found["networks"])
    print(f"{within} of {kernels} kernels ({100 * within / kernels:.0f} %) within ±{100 * WITHIN:.0f} %")
    again = found["same_kernel_in_other_networks"]
    print(f"the same kernel in other networks: {100 * again['within']:.0f} % of {again['kernels']} within that")
    for kind, one in found["kinds"].items():
        print(f"{kind}: {one['within']} of {one['kernels']}, median error {100 * one['median']:.1f} %")


if __name__ == "__main__":
    main()
