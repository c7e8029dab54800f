"""What an optimize run found, in the form of docs/design.md (``result.json``)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from power_models.network_cost import price_network
from rig.compression.footprint import memory_facts
from rig.compression.pairing import cost_ratios, keep_answers
from rig.compression.trial import Trial
from rig.output import warning
from rig.units import Quantity
from rig.workloads.network_file import read_kernels

if TYPE_CHECKING:
    from power_models.kernels import KernelNode
    from rig.compression.budget import Budget
    from rig.compression.loop import Candidate, Loop, Outcome
    from rig.compression.methods.base import Choice, Found
    from rig.compression.survey import Survey


def result(loop: Loop, outcome: Outcome) -> dict[str, Any]:
    """The whole result; evaluates the test set, once for each of the rows."""
    found, candidate, trial, paths = outcome.found, outcome.candidate, outcome.trial, outcome.paths
    before = _network(loop, trial, "baseline", outcome.baseline, paths[0])
    after = _network(loop, trial, "result", candidate.network, paths[1])
    tightest = max(trial.usages.values(), key=lambda q: q.value or 0.0)
    networks = {"baseline": outcome.baseline, "result": candidate.network}
    nodes = tuple(_nodes(loop, path) for path in paths)
    scores = {name: row["accuracy_test"]["value"] for name, row in (("baseline", before), ("result", after))}
    keep_answers(loop.run, loop.task, networks, scores)
    choice = candidate.choice
    return {
        "kind": "simulated" if loop.profile.simulated else "measured",
        "basis": None,
        "task": loop.task.name,
        "model": loop.task.model_name,
        "seed": loop.settings.seed,
        "method": loop.method.name,
        "prune_every": loop.settings.prune_every,
        "budget": [bound.to_json() for bound in outcome.budget.bounds],
        "reachable": loop.state["reachable"],
        "tables": {name: error._asdict() for name, error in outcome.survey.tables.error.items()},
        "verdict": trial.verdict,
        "usage": {name: usage.to_json() for name, usage in trial.usages.items()},
        "budget_used": tightest.to_json(),
        "baseline": before,
        "result": after,
        "accuracy_change": _change(before, after),
        "cost_ratio": cost_ratios(trial, loop.settings.fps),
        "weights": "from scratch" if loop.method.from_scratch else "continued",
        "retrained": _retrained(loop, outcome.retrained, before, after),
        "rounds": [_round(loop, outcome, one) for one in loop.rounds],
        "controller": found.history,
        "stages": loop.workplace.stages,
        "blocks": blocks(loop, found, choice),
        "layers": _layers(loop, outcome.survey, found, choice),
        "widths": found.template.layer_widths(choice.widths, choice.removed),
        "kernels": {"before": _kernels(loop, nodes[0]), "after": _kernels(loop, nodes[1])},
        "validation": _validation(loop, trial, nodes),
        "measurements": sorted(loop.run.measurement_ids()),
        "paced_line": loop.state.get("paced_line"),
        "warnings": [
            *_warnings(loop, outcome.budget, before, after, trial),
            *not_retrained(outcome),
            *not_removed(loop.workplace.stages),
            *_unpriced(loop, nodes),
        ],
        "timings": timings(loop.workplace.stages),
    }


def blocks(loop: Loop, found: Found, choice: Choice) -> dict[str, Any]:
    """Residual blocks: gone, looked at (each with whether it went in the end), and found impossible to take out."""
    return {
        "removed": choice.removed,
        "trials": [{**trial, "removed": trial["block"] in choice.removed} for trial in found.trials],
        "refused": {**dict(found.template.refused), **loop.put_back},
    }


def timings(stages: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Seconds by stage; a stage that was run in several rounds is summed."""
    spent: dict[str, float] = {}
    for stage in stages:
        spent[stage["name"]] = spent.get(stage["name"], 0.0) + stage["seconds"]
    return spent


def not_retrained(outcome: Outcome) -> list[dict[str, Any]]:
    """A warning where training from scratch was asked for and failed."""
    if not outcome.not_retrained:
        return []
    said = f"training the result from scratch failed, so it is not compared: {outcome.not_retrained}"
    return [warning("not-retrained", said, "the result itself is complete; try artifacts/widths.json with --widths")]


def not_removed(stages: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A warning where dead channels were to leave the network while it was trained, and could not."""
    undone = [cut["undone"] for stage in stages for cut in stage.get("removals", []) if "undone" in cut]
    if not undone:
        return []
    said = f"dead channels stayed in training to its end after {len(undone)} of its epochs: {undone[-1]}"
    return [warning("not-removed", said, "the result is complete; it took longer to train")]


def _retrained(
    loop: Loop, network: nn.Module | None, before: Mapping[str, Any], after: Mapping[str, Any]
) -> dict[str, Any] | None:
    """The final network with fresh weights, trained for all epochs of the run; None where that was not asked."""
    if network is None:
        return None
    found = {
        "epochs": loop.settings.epochs,
        "accuracy_test": accuracy_quantity(loop.workplace.accuracy(network, "test"), loop.task.test_count).to_json(),
        "accuracy_val": loop.workplace.accuracy(network),
    }
    return {**found, "accuracy_change": _change(before, found), "against_continued": _change(after, found)}


def _nodes(loop: Loop, path: Path) -> list[KernelNode]:
    return read_kernels(path, loop.profile.runtime.name, block=loop.cost_model.layout_block)


def accuracy_quantity(share: float, count: int) -> Quantity:
    """An accuracy with its 95 % Wilson interval."""
    z, n = 1.96, max(count, 1)
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * float(np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)))
    return Quantity(share, centre - half, centre + half, n=count)


def _network(loop: Loop, trial: Trial, name: str, network: nn.Module, path: Path) -> dict[str, Any]:
    fps = loop.settings.fps
    rate = fps if (name, fps) in trial.found else None
    macs, params = loop.counts(network, path)
    shown = trial.found[name, rate]
    flat = trial.found[name, None]
    quantities = {
        "power_w": trial.quantity(name, "power_w", rate),
        "idle_power_w": trial.quantity(name, "idle_power_w", rate),
        "energy_j": trial.quantity(name, "energy_j"),
        "energy_active_j": trial.quantity(name, "energy_active_j"),
        "latency_s": trial.quantity(name, "latency_s"),
    }
    return {
        "name": loop.task.model_name if name == "baseline" else f"{loop.task.model_name}, compressed",
        "accuracy_test": accuracy_quantity(loop.workplace.accuracy(network, "test"), loop.task.test_count).to_json(),
        "accuracy_val": loop.workplace.accuracy(network),
        "macs": macs,
        "params": params,
        "size_bytes": path.stat().st_size,
        **memory_facts(_nodes(loop, path)),
        **{key: q.to_json() if q is not None else None for key, q in quantities.items()},
        "latency_p50_s": _mean(m.latency_median_s.value for m in flat),
        "latency_p99_s": _mean(m.latency_p99_s.value for m in flat),
        "fps": rate,
        "missed_deadlines": sum(m.missed for m in shown),
        "frames": sum(m.count + m.missed for m in shown),
        "measurement_id": shown[-1].id,
        "onnx": str(path),
    }


def _mean(values: Any) -> float | None:
    found = [v for v in values if v is not None]
    return float(np.mean(found)) if found else None


def _change(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Test accuracy after minus before, a fraction, with the 95 % interval of independent errors (conservative)."""
    a, b = before["accuracy_test"], after["accuracy_test"]
    half = float(np.hypot((a["hi"] - a["lo"]) / 2, (b["hi"] - b["lo"]) / 2))
    return Quantity.around(b["value"] - a["value"], half, n=a["n"]).to_json()


def _round(loop: Loop, outcome: Outcome, candidate: Candidate) -> dict[str, Any]:
    kind = "simulated" if loop.profile.simulated else "measured"
    predicted = {
        b.name: Quantity(b.value(candidate.predicted), kind="predicted", basis=kind).to_json()
        for b in outcome.budget.bounds
    }
    chosen = [g for g in outcome.survey.template.groups if g.prunable]
    return {
        "round": candidate.round,
        "width": sum(candidate.choice.widths[g.name] for g in chosen) / sum(g.width for g in chosen),
        "predicted": predicted,
        "measured": {name: value.to_json() for name, value in candidate.trial.values.items()},
        "usage": {name: usage.to_json() for name, usage in candidate.trial.usages.items()},
        "accuracy_val": candidate.accuracy_val,
        "verdict": candidate.trial.verdict,
    }


def _layers(loop: Loop, survey: Survey, found: Found, choice: Choice) -> list[dict[str, Any]]:
    """Every layer's width before and after, in the order in which the network runs them."""
    ran = [(node.weight or "").removesuffix(".weight") for node in _nodes(loop, survey.path)]
    order = {layer: i for i, layer in enumerate(ran)}
    before = survey.template.layer_widths(survey.template.seed_widths())
    after = found.template.layer_widths(choice.widths, choice.removed)
    gone = {layer for b in found.template.blocks if b.name in choice.removed for layer in b.layers}
    put_back = {g.name: g.put_back for g in found.template.groups}
    rows = []
    for group in survey.template.groups:
        for layer in group.writers:
            rows.append(
                {
                    "name": layer,
                    "group": group.name,
                    "before": before.get(layer, group.channels),
                    "after": 0 if layer in gone else after.get(layer, before.get(layer, group.channels)),
                    "prunable": group.prunable,
                    "removed": layer in gone,
                    "shrunk_by": found.scales.get(group.name),
                    "why": group.why_fixed or put_back.get(group.name) or None,
                }
            )
    return sorted(rows, key=lambda row: order.get(str(row["name"]), len(order)))


def _kernels(loop: Loop, network: Sequence[KernelNode]) -> list[dict[str, Any]]:
    """Each distinct kernel of a network that the cost model prices; ``calls`` of it together."""
    nodes = [node for node in network if loop.cost_model.knows(node.spec)]
    if not nodes:
        return []
    costs = loop.cost_model.predict([n.spec for n in nodes], [n.name for n in nodes])
    basis = "simulated" if loop.profile.simulated else "measured"
    rows: dict[Any, dict[str, Any]] = {}
    for i, node in enumerate(nodes):
        calls = rows[node.spec]["calls"] + 1 if node.spec in rows else 1

        def priced(values: Any, i: int = i, calls: int = calls) -> dict[str, Any] | None:
            value, low, high = (float(v[i]) * calls for v in values)
            if not np.isfinite(value):
                return None
            return Quantity(value, low, high, n=None, kind="predicted", basis=basis).to_json()

        rows[node.spec] = {
            "name": node.name,
            "label": node.spec.label,
            "kind": node.spec.kind,
            "calls": calls,
            "macs": node.spec.macs * calls,
            "latency_s": priced((costs.latency_s, costs.latency_lo_s, costs.latency_hi_s)),
            "energy_active_j": priced((costs.energy_j, costs.energy_lo_j, costs.energy_hi_j)),
            "extrapolated": bool(costs.extrapolated[i]),
            "source": "cost model",
        }
    return list(rows.values())


def _unpriced(loop: Loop, networks: Sequence[Sequence[KernelNode]]) -> list[dict[str, Any]]:
    """A warning that names the kernels without a price, which no table of the result holds.

    What is cut may bring a kind that the seed network did not have: a change of layout between blocks.
    """
    names = [node.name for nodes in networks for node in nodes if not loop.cost_model.knows(node.spec)]
    if not names:
        return []
    said = f"the cost model has no price for {', '.join(dict.fromkeys(names))}: of a kind that was never measured"
    fix = f"what is said of the whole is measured; for their share: rig calibrate --device {loop.profile.name}"
    return [warning("unpriced-kernels", said, fix)]


def _validation(loop: Loop, trial: Trial, networks: Sequence[Sequence[KernelNode]]) -> list[dict[str, Any]]:
    """Networks of this run, predicted against measured, behind what the calibration held out."""
    rows = list(loop.held_out)
    basis = "simulated" if loop.profile.simulated else "measured"
    for name, nodes in zip(("baseline", "result"), networks, strict=True):
        if not all(loop.cost_model.knows(node.spec) for node in nodes):
            continue
        cost = price_network(loop.cost_model, [n.spec for n in nodes], [n.name for n in nodes])
        pairs = (("latency_s", cost.latency_s), ("energy_active_j", cost.energy_j))
        for quantity, (value, low, high) in pairs:
            measured = trial.quantity(name, quantity)
            if measured is None or not np.isfinite(value):
                continue
            rows.append(
                {
                    "name": f"{loop.task.model_name} ({name})",
                    "what": "network",
                    "quantity": quantity,
                    "measured": measured.to_json(),
                    "predicted": Quantity(value, low, high, kind="predicted", basis=basis).to_json(),
                    "extrapolated": bool(cost.kernels.extrapolated.any()),
                }
            )
    return rows


def _warnings(
    loop: Loop, budget: Budget, before: Mapping[str, Any], after: Mapping[str, Any], trial: Trial
) -> list[dict[str, Any]]:
    notes = []
    fps = loop.settings.fps
    if fps and before["fps"] is None and loop.bench.meter:
        notes.append(
            warning(
                "baseline-rate",
                f"the baseline cannot keep {fps:g} fps, so its power is given back to back",
                "compare energies above idle",
            )
        )
    if trial.verdict == "undecided":
        notes.append(
            warning(
                "undecided",
                "the interval still straddles the target after the longest measurement allowed",
                "stop other work on the device, or raise plan.max_s of its profile",
            )
        )
    idle, power = after["idle_power_w"], after["power_w"]
    if any(b.quantity == "power" for b in budget.bounds) and idle and power and power["value"]:
        share = idle["value"] / power["value"]
        notes.append(
            warning("idle", f"quiet power is {100 * share:.0f} % of what remains; compression cannot remove it", None)
        )
    line = loop.state.get("paced_line")
    if line and not line["linear"]:
        notes.append(
            warning(
                "not-linear",
                f"power does not rise in a line with the frame rate (off by {1e3 * line['worst_residual_w']:.0f} mW)",
                "targets at other frame rates than the measured one are not covered by this run",
            )
        )
    return notes
