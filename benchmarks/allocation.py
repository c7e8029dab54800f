"""How long the exact choice of widths and blocks takes for a ResNet-50: ``python benchmarks/allocation.py``.

The network is the ResNet-50 of ``benchmarks/pricing.py`` at 224×224, priced by a cost model of the simulated board; up
to 12 widths a group, every residual block may go. Scores are drawn (lognormal; each group and block with a scale of its
own), because solving does not depend on where they come from; ``--draws`` of them a budget. Budgets are shares of the
latency, of the active energy, and of both with the parameters.

Printed a budget: seconds to build the problem from the tables and to solve it to a gap of 0.5 % of the *lost*
importance (median and worst), the gap that was proven, options left to the solver; with ``--whole`` also solved
without the bounds that take options out first. ``gap_of_kept`` is the same gap as a share of the importance kept, which
is how it is usually stated. Target: at most 2 s. ``refined_s`` is what refining the choice takes beyond that (twice,
with options between the neighbours of what was chosen), ``refined_loss_ratio`` what it leaves of the lost importance.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import numpy as np
import torch
from pricing import SHAPE, ResNet50, rebuild, simulated_model

from power_models.kernels import kernel_graph
from power_models.tables import NetworkTables
from rig.compression.budget import resolve
from rig.compression.choosing.allocation import Allocator, Scores, limit_rows
from rig.compression.choosing.milp import GAP, solve
from rig.compression.cutting.groups import find_groups
from rig.compression.cutting.template import Template, make_template
from rig.compression.export import to_onnx
from rig.units import parse_limit

LIMIT_S = 2.0
BUDGETS = (
    {"latency": "75%"},
    {"latency": "50%"},
    {"latency": "30%"},
    {"latency": "15%"},
    {"energy": "50%"},
    {"latency": "50%", "energy": "45%", "params": "40%"},
)


def drawn(template: Template, seed: int) -> Scores:
    """Scores of every channel and block."""
    random = np.random.default_rng(seed)
    channels = {
        g.name: random.lognormal(0.0, 1.0) * random.lognormal(0.0, 1.0, g.width) for g in template.groups if g.prunable
    }
    blocks = {
        b.name: float(random.lognormal(-0.5, 0.7) * max(channels[g].sum() for g in b.inner if g in channels))
        for b in template.blocks
    }
    return Scores(channels, blocks)


def timed(template: Template, tables: NetworkTables, limits: dict[str, str], seed: int, whole: bool) -> dict[str, Any]:
    """One problem, built and solved."""
    widths = template.seed_widths()
    totals = tables.totals(widths)
    budget = resolve([parse_limit(name, text) for name, text in limits.items()], None, 0.0, totals)
    start_s, busy_s = time.perf_counter(), time.process_time()
    allocator = Allocator(
        tables, widths, widths, template.blocks, frozenset(), drawn(template, seed), limit_rows(budget, totals)
    )
    problem, exact = allocator.problem(widths)
    built_s, build_busy_s = time.perf_counter(), time.process_time() - busy_s
    busy_s = time.process_time()
    solution = solve(problem)
    solved_s = time.perf_counter()
    all_lost = sum(float(losses.max()) for losses in problem.losses)
    found = {
        "built_s": built_s - start_s,
        "built_processor_s": build_busy_s,
        "solved_s": solved_s - built_s,
        "solved_processor_s": time.process_time() - busy_s,
        "gap": solution.gap,
        "gap_of_kept": (solution.loss - solution.bound) / max(all_lost - solution.loss, 1e-12),
        "options": sum(map(len, allocator.options)),
        "left": solution.left,
        "groups": len(allocator.parts),
        "most_widths": max(sum(1 for w in options if w) for options in allocator.options),
        "pairs": len(problem.pairs),
        "exact": exact,
        "holds": problem.holds(solution.chosen),
    }
    chosen = allocator.choose()
    start_s = time.perf_counter()
    refined = allocator.refined(chosen)
    found["refined_s"] = time.perf_counter() - start_s
    found["refined_loss_ratio"] = refined.loss / chosen.loss
    if whole:
        start_s = time.perf_counter()
        other = solve(problem, reduce=False)
        found["whole_s"] = time.perf_counter() - start_s
        found["whole_gap"] = other.gap
        found["whole_loss_ratio"] = other.loss / solution.loss
    return found


def main() -> None:
    """Solve every budget with every draw and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--whole", action="store_true")
    asked = parser.parse_args()
    torch.manual_seed(0)
    network = ResNet50()
    nodes = kernel_graph(to_onnx(network, SHAPE), "virtual")
    template = make_template(nodes, find_groups(network, torch.zeros(1, *SHAPE)))
    tables = rebuild(template, simulated_model([node.spec for node in nodes]))
    rows = []
    for limits in BUDGETS:
        found = [timed(template, tables, limits, seed, asked.whole) for seed in range(asked.draws)]
        rows.append(
            {
                "budget": limits,
                **{
                    f"{name}_{how}": round(function([f[name] for f in found]), 5)
                    for name in found[0]
                    for how, function in (("median", statistics.median), ("worst", max))
                    if isinstance(found[0][name], float)
                },
                **{name: found[0][name] for name in ("groups", "pairs", "options", "most_widths", "exact")},
                "left_most": max(f["left"] for f in found),
                "all_hold": all(f["holds"] for f in found),
            }
        )
    print(json.dumps({"gap": GAP, "limit_s": LIMIT_S, "draws": asked.draws, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
