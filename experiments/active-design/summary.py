"""What the studies found, as tables and a figure: kernels needed for an error, by strategy.

python experiments/active-design/summary.py        # reads the JSON files beside it, writes needed.png, prints tables
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
LEVELS = (0.05, 0.03)
LOOKS = {
    "ours": ("#0072B2", "o", "-"),
    "random": ("#BBBBBB", "s", "--"),
    "sobol": ("#009E73", "^", "-."),
    "nn-meter": ("#D55E00", "v", ":"),
    "nn-meter-near": ("#CC79A7", "D", "--"),
}


def needed(counts: list[int], errors: list[float], level: float) -> float:
    """The number from which on the error stays at or below ``level``; infinite where it never does."""
    found = np.inf
    for count, error in zip(reversed(counts), reversed(errors), strict=True):
        if error > level:
            break
        found = count
    return float(found)


def simulated() -> None:
    """Kernels needed on simulated boards, and the figure."""
    data = json.loads((HERE / "simulated.json").read_text())
    counts, by_strategy = data["counts"], defaultdict(dict)
    for trial in data["trials"]:
        worst = [max(pair) for pair in zip(*trial["errors"].values(), strict=True)]
        by_strategy[trial["strategy"]][trial["board"], trial["seed"]] = worst
    shared = set.intersection(*(set(by_strategy[name]) for name in LOOKS))
    print(f"SIMULATED, {len(shared)} trials (boards and seeds): {sorted(shared)}")
    for level in LEVELS:
        table = {
            name: np.array([needed(counts, by_strategy[name][key], level) for key in sorted(shared)]) for name in LOOKS
        }
        print(f"kernels until the error stays below {100 * level:g} %: median (range)")
        for name, values in table.items():
            capped = np.where(np.isfinite(values), values, 2 * max(counts))
            reached = int(np.isfinite(values).sum())
            median = float(np.median(values))
            ratios = capped / np.where(np.isfinite(table["ours"]), table["ours"], 2 * max(counts))
            low, middle, high = (_count(value, counts) for value in (values.min(), median, values.max()))
            times = f"{float(np.median(ratios)):.1f} times ours"
            print(f"  {name:14s} {middle} ({low} to {high}), reached in {reached} of {len(values)}; {times}")
    _draw(counts, {name: np.array([by_strategy[name][key] for key in sorted(shared)]) for name in LOOKS})


def _count(value: float, counts: list[int]) -> str:
    return f"{value:.0f}" if np.isfinite(value) else f"> {max(counts)}"


def _draw(counts: list[int], errors: dict[str, np.ndarray]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(6.7, 3.8), constrained_layout=True)
    for name, (colour, marker, line) in LOOKS.items():
        middle = 100 * np.median(errors[name], axis=0)
        ax.plot(counts, middle, line, color=colour, marker=marker, mfc="none", label=f"{name} (SIMULATED)")
    for level in LEVELS:
        ax.axhline(100 * level, color="black", lw=0.6, ls="--")
    ax.set(xscale="log", yscale="log", xlabel="kernels measured", ylabel="error of unseen networks, %", ylim=(0.3, 200))
    ax.set_xticks(counts, [str(count) for count in counts], minor=False, fontsize=8)
    ax.minorticks_off()
    ax.set_title(
        "How many kernels until unseen networks are priced? Median over simulated boards and seeds", fontsize=9
    )
    ax.legend(fontsize=8)
    figure.savefig(HERE / "needed.png", dpi=150, metadata={"Software": None})


def tables() -> None:
    """Errors on rows of real tables."""
    data = json.loads((HERE / "tables.json").read_text())
    grouped = defaultdict(list)
    for trial in data["trials"]:
        grouped[trial["table"], trial["strategy"]].append(trial["errors"])
    print(f"real tables, latency / energy error in % after {data['counts']} rows")
    for (table, strategy), errors in grouped.items():
        mean = 100 * np.mean(errors, axis=0)
        print(f"  {table} {strategy:14s} " + "  ".join(f"{a:.1f}/{b:.1f}" for a, b in mean))


def transfers() -> None:
    """Transfer between boards."""
    for path in ("transfer-tables.json", "transfer-boards.json"):
        if not (HERE / path).exists():
            continue
        data = json.loads((HERE / path).read_text())
        sets = {"simulated boards": data["rows"]} if "rows" in data else {k: v for k, v in data.items() if k != "kind"}
        for what, entries in sets.items():
            grouped = defaultdict(list)
            for entry in entries:
                for label, own in entry["models"].items():
                    grouped[entry.get("given", entry.get("kernels")), label].append(own)
            print(f"{what} ({data['kind']}): latency / active energy error in %, covered in %")
            for (count, label), owns in sorted(grouped.items(), key=lambda pair: (pair[0][0], pair[0][1])):
                print(f"  {count:4d} {label:28s} {_pair(owns)}")


def _pair(owns: list[dict]) -> str:
    known = [own for own in owns if "latency_s" in own]
    if not known:
        return "none has a price"

    def mean(quantity: str, field: str) -> float:
        if isinstance(known[0][quantity], dict):
            return 100 * float(np.mean([own[quantity]["mean" if field == "error" else "coverage"] for own in known]))
        return 100 * float(np.mean([own[quantity if field == "error" else f"{quantity} covered"] for own in known]))

    errors = " / ".join(f"{mean(q, 'error'):.1f}" for q in ("latency_s", "energy_active_j"))
    return errors + ", " + " / ".join(f"{mean(q, 'covered'):.0f}" for q in ("latency_s", "energy_active_j"))


if __name__ == "__main__":
    simulated()
    if (HERE / "tables.json").exists():
        tables()
    transfers()
