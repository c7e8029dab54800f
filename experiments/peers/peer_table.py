"""The tables of the README: every method at equal measured cost, and paired differences between methods over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from equal_cost import dearer
from peer_families import HAND_BASES, HAND_TAUGHT, WHOLE
from peer_pieces import ALL_OF_IT, COUNTED, OURS, SHOWN, VARIANTS, results_in

from experiments.shared.pieces import Row
from experiments.shared.tables import NOT_MEASURED, mean_interval, table, with_interval, write_behind

REFERENCE = {one.name: one.reference for size in VARIANTS.values() for one in size.networks}  # epochs of the baseline
FAMILIES = {"hand": HAND_BASES, "hand-taught": HAND_TAUGHT}  # lines of the best of each seed
MARK = "<!-- tables: python experiments/peers/peers.py table -->"
NAMES = {
    WHOLE: "the whole network, from scratch",
    "uniform": "uniform width, from scratch",
    "hand-0": "by hand, full depth",
    "hand-1": "by hand, a block fewer a stage",
    "hand-2": "by hand, two blocks fewer a stage",
    "hand": "best by hand (validation)",
    "hand-0-taught": "… full depth, with a teacher that is not counted",
    "hand-1-taught": "… a block fewer a stage, likewise",
    "hand-2-taught": "… two blocks fewer a stage, likewise",
    "hand-taught": "best of these (validation)",
    "taylor": "torch-pruning, global Taylor",
    "magnitude": "torch-pruning, global magnitude",
    "morphnet-flops": "MorphNet on FLOPs",
    "morphnet": "ours, morphnet",
    "allocate": "ours, allocate",
}
KNOWN_AS = {"resnet20": {"hand-0": "ResNet-20", "hand-1": "ResNet-14", "hand-2": "ResNet-8"}}  # by network


def change(row: Row) -> float:
    """Test accuracy less that of the row's own baseline, in points."""
    return 100.0 * (row["result_test"] - row["baseline_test"])


def best_by_hand(rows: Sequence[Row], name: str = "hand") -> list[Row]:
    """Of each seed the hand-picked network that validates best, as a row of a method of its own; of one of FAMILIES.

    Seeds for which not all of the family were looked at are left out: the best of a few says too little of it.
    """
    looked_at: dict[int, list[Row]] = {}
    for row in rows:
        if row["peer"] in FAMILIES[name]:
            looked_at.setdefault(row["seed"], []).append(row)
    whole = {seed: own for seed, own in looked_at.items() if len(own) == len(FAMILIES[name])}
    tried = {seed: kept for seed, own in whole.items() if (kept := [row for row in own if not row["void"]])}
    return [
        {
            **max(own, key=lambda row: float(row["result_val"])),
            "peer": name,
            # What it took to find the best is what all of the family took.
            "epochs": sum(row["epochs"] for row in own),
            "seconds": sum(row["seconds"] for row in own),
        }
        for _, own in sorted(tried.items())
    ]


def paired(ours: Sequence[Row], theirs: Sequence[Row]) -> dict[str, Any] | None:
    """Our change less theirs, by seed, over the seeds that both have."""
    other = {row["seed"]: change(row) for row in theirs if not row["void"]}
    return mean_interval([change(row) - other[row["seed"]] for row in ours if not row["void"] and row["seed"] in other])


def told_void(row: Row, by_peer: Mapping[str, Sequence[Row]]) -> str:
    """Why a row is void, and what its network reached where it was trained all the same: ours cost less than it."""
    told = f"seed {row['seed']} {row['void']}"
    if row["result_test"] is None:
        return told
    ahead = [
        f"{us} {change(own) - change(row):+.2f}"
        for us in OURS
        for own in by_peer[us]
        if own["seed"] == row["seed"] and not own["void"]
    ]
    bound = ahead and dearer(row["share"]["value"], row["budget"] / 100.0)
    less = f"; ours, which cost less, less it: {', '.join(ahead)}" if bound else ""
    return f"{told}; trained as it is it changes by {change(row):+.2f} points{less}"


def summary(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One line for each method of a device, network and budget."""
    rows = [*rows, *(row for name in FAMILIES for row in best_by_hand(rows, name))]
    by_peer = {peer: [r for r in rows if r["peer"] == peer] for peer in NAMES}
    lines = []
    for peer, own in by_peer.items():
        if not own:
            continue
        valid = [row for row in own if not row["void"]]
        lines.append(
            {
                "peer": peer,
                "void": [told_void(row, by_peer) for row in own if row["void"]],
                "seeds": len(valid),
                "share": mean_interval([row["share"]["value"] for row in valid]),
                "change": mean_interval([change(row) for row in valid]),
                "ahead": {us: paired(by_peer[us], own) for us in OURS if us != peer},
                "epochs": mean_interval([row["epochs"] for row in valid]),
                "seconds": mean_interval([row["seconds"] for row in valid]),
                "macs": mean_interval([row["macs_share"] for row in valid]),
                "modes": sum(row["modes"] is not None for row in own),
                "aligned": [row["aligned"]["value"] / row["planned"]["value"] for row in valid if row["aligned"]],
            }
        )
    return lines


# --- as text ------------------------------------------------------------------------------------------------------


def markdown(rows: Sequence[Row], device: str, network: str, budget: int) -> str:
    """The table of a device, a network and a budget."""
    cost = SHOWN[COUNTED[device]]
    simulated = any(row["kind"] == "simulated" for row in rows)
    title = f"### {network} at {budget} % of its {cost}, {device}"
    kind = "costs SIMULATED, accuracies real" if simulated else "all measured"
    baseline = {row["seed"]: row["baseline_test"] for row in rows}
    images = rows[0]["images"]
    accuracy = with_interval(mean_interval(list(baseline.values())), 2, 100.0)
    of = REFERENCE[network]
    under = f"{kind}; the baseline of {of} epochs {accuracy} % on {images:,} test images, {len(baseline)} seeds"
    head = ["method", "seeds", "share of the cost, %", "change, points", "MACs left, %"]
    head += [f"{us} less it, points" for us in OURS] + ["epochs", "training, s"]
    lines, notes = [], []
    for line in summary(rows):
        known_as = KNOWN_AS.get(network, {}).get(line["peer"])
        name = NAMES[line["peer"]] + (f" ({known_as})" if known_as else "")
        cells = [name, str(line["seeds"]), with_interval(line["share"], 1, 100.0)]
        cells += [with_interval(line["change"], 2, sign=True), with_interval(line["macs"], 0, 100.0).split(" ")[0]]
        cells += [with_interval(line["ahead"].get(us), 2, sign=True) for us in OURS]
        cells += [_middle(line["epochs"]), _middle(line["seconds"])]
        lines.append(cells)
        notes += [f"- VOID: {name}: {why}" for why in line["void"]]
        if line["modes"]:
            notes.append(f"- {name}: the host ran the network of {line['modes']} seed(s) at two speeds")
        if line["aligned"]:
            low, high = min(line["aligned"]), max(line["aligned"])
            notes.append(f"- {name}: widths raised to multiples of 16 cost {low:.2f} to {high:.2f} times as much")
    versions = sorted({row["loop"] for row in rows if "loop" in row})
    if len(versions) > 1:
        notes.append(f"- rows of versions {' and '.join(map(str, versions))} of training and shrinking")
    return "\n".join([title, "", under, "", table(head, lines), "", *notes]).rstrip() + "\n"


def _middle(found: dict[str, Any] | None) -> str:
    return "–" if found is None else f"{found['value']:.0f}"


def all_tables(folder: Path) -> str:
    """Every table that there is a row for, each with the rows of the whole network; the full variant only."""
    rows = results_in(folder, "full").rows()
    size = VARIANTS["full"]
    parts = [
        markdown([*_rows_at(rows, device, network.name, ALL_OF_IT), *own], device, network.name, budget)
        for device in COUNTED
        for network in size.networks
        for budget in size.budgets
        if budget != ALL_OF_IT and (own := _rows_at(rows, device, network.name, budget))
    ]
    return "\n".join(parts) or NOT_MEASURED


def _rows_at(rows: Sequence[Row], device: str, network: str, budget: int) -> list[Row]:
    return [row for row in rows if (row["device"], row["network"], row["budget"]) == (device, network, budget)]


def write_readme(folder: Path) -> None:
    """Put the tables behind the mark in README.md."""
    write_behind(MARK, folder, all_tables(folder))
