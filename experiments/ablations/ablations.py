"""What the parts of MorphNet contribute: each switched off in turn, the rest the same, at the same measured cost.

    python experiments/ablations/ablations.py list --device virtual-pi4
    python experiments/ablations/ablations.py run  --device virtual-pi4 --budget 30 --minutes 20
    python experiments/ablations/ablations.py run  --device local --off flops --seed 0     # one piece
    python experiments/ablations/ablations.py table                                        # README.md

A piece is one ``rig optimize --method morphnet`` run to a share of the baseline's measured cost, with one part off:
``gradient`` (the regularizer presses nothing, importance alone chooses), ``flops`` (it prices channels by FLOPs instead
of the device's joules or seconds), ``expand`` (what is left of the budget stays unused), ``blocks`` (no residual block
may go); ``none`` is the whole method, the same runs as the peers study's. Rows go into ``results-<variant>.json``. Runs
with a part off have a store of their own below the user's, so that nothing takes them for ordinary ones.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from experiments.shared.pieces import Results, Row, deadline_s, exit_code, run_pieces, usual_options
from experiments.shared.stored_runs import environment, optimized
from experiments.shared.tables import NOT_MEASURED, mean_interval, table, with_interval, write_behind
from rig.commands.options import OptimizeOptions
from rig.compression.survey import Ablation
from rig.store.store import Store
from rig.units import Quantity

HERE = Path(__file__).resolve().parent
MARK = "<!-- tables: python experiments/ablations/ablations.py table -->"
OFF = {
    "none": Ablation(),
    "gradient": Ablation(gradient_on=False),
    "flops": Ablation(steer_by_flops=True),
    "expand": Ablation(expand=False),
    "blocks": Ablation(remove_blocks=False),
}
NAMES = {
    "none": "whole method",
    "gradient": "regularizer's gradient off",
    "flops": "FLOPs in place of the device's cost",
    "expand": "no expansion",
    "blocks": "no block removed",
}
LIMITED = {"virtual-pi4": "energy", "local": "latency"}
SHARED = ("models", "baselines")  # folders of the user's store that the ablations' stores use too


class Variant(NamedTuple):
    """A size of the study; epochs of baseline, shrinking and fine-tuning; rounds on the device (None: as usual)."""

    task: str
    model: str
    epochs: tuple[int, int, int]
    budgets: tuple[int, ...]
    seeds: tuple[int, ...]
    rounds: int | None


VARIANTS = {
    "full": Variant("fashion-mnist", "resnet20", (2, 1, 13), (50, 30), (0, 1, 2, 3, 4), None),
    "tiny": Variant("digits", "resnet8", (1, 2, 1), (80,), (0,), 1),
}


class Piece(NamedTuple):
    """One run: ``budget`` in percent of the baseline's cost, ``off`` a key of OFF."""

    device: str
    budget: int
    off: str
    seed: int
    variant: str

    @property
    def name(self) -> str:
        """How a person calls it."""
        return f"{self.budget} % on {self.device}, {NAMES[self.off]}, seed {self.seed}"


def pieces(device: str, variant: str, budgets: Any = None, off: Any = None, seeds: Any = None) -> list[Piece]:
    """The pieces asked for, all parts of a seed after each other, so that seeds are paired early."""
    size = VARIANTS[variant]
    return [
        Piece(device, budget, part, seed, variant)
        for budget in size.budgets
        if budgets is None or budget in budgets
        for seed in size.seeds
        if seeds is None or seed in seeds
        for part in OFF
        if off is None or part in off
    ]


@contextmanager
def store_of(off: str) -> Iterator[None]:
    """The store of an ablation: below the user's, with the user's cost models and baselines."""
    if off == "none":
        yield
        return
    user = Store().root
    own = user / "ablations" / off
    own.mkdir(parents=True, exist_ok=True)
    for folder in SHARED:
        (user / folder).mkdir(parents=True, exist_ok=True)
        if not (own / folder).exists():
            (own / folder).symlink_to(user / folder)
    with environment(RIG_HOME=str(own)):
        yield


def options_of(piece: Piece) -> OptimizeOptions:
    """What ``rig optimize`` is asked."""
    size = VARIANTS[piece.variant]
    epochs = dict(zip(("epochs_baseline", "epochs_shrink", "epochs_finetune"), size.epochs, strict=True))
    target = {f"target_{LIMITED[piece.device]}": f"{piece.budget}%"}
    asked = {"method": "morphnet", "rounds": size.rounds, **epochs, **target}
    return OptimizeOptions(piece.device, size.task, size.model, seed=piece.seed, **asked)


def run_piece(piece: Piece) -> Row:
    """The row of a piece: finished earlier, resumed, or new."""
    with store_of(piece.off):
        return row_of(piece, optimized(options_of(piece), OFF[piece.off]))


def row_of(piece: Piece, result: dict[str, Any]) -> Row:
    """What the tables need of a run."""
    stages = {stage["name"]: stage for stage in result["stages"]}
    before, after = result["baseline"], result["result"]
    share = Quantity.from_json(result["usage"][LIMITED[piece.device]]).scaled(piece.budget / 100.0)
    return {
        **piece._asdict(),
        "kind": result["kind"],
        "verdict": result["verdict"],
        "share": {"value": share.value, "lo": share.lo, "hi": share.hi, "n": share.n},
        "baseline_test": before["accuracy_test"]["value"],
        "result_test": after["accuracy_test"]["value"],
        "images": after["accuracy_test"]["n"],
        "reached": stages["shrink"].get("reached"),
        "drop_at_removal": stages["removal"]["accuracy_drop"],
        "removed": list(result["blocks"]["removed"]),
        "macs_share": after["macs"] / before["macs"],
        "rounds": len(result["rounds"]),
        "seconds": sum(stage["seconds"] for stage in result["stages"] if stage["name"] != "baseline"),
    }


# --- results ------------------------------------------------------------------------------------------------------


def place(row: Row) -> tuple[Any, ...]:
    """What tells one row from another."""
    return tuple(row[field] for field in ("device", "budget", "off", "seed"))


def accuracy(row: Row) -> float:
    """Test accuracy, in percent: what all parts start from, two epochs of the baseline, is nothing to compare with."""
    return 100.0 * float(row["result_test"])


def table_of(rows: Sequence[Row]) -> str:
    """One line a part: what it did, and by how much the whole method is ahead, paired by seed."""
    head = ["off", "seeds", "met", "share of the cost, %", "test accuracy, %", "whole method less it, points"]
    head += ["by the regularizer, %", "drop at removal, points", "blocks gone", "MACs left, %"]
    whole = {row["seed"]: accuracy(row) for row in rows if row["off"] == "none"}
    lines = []
    for part, name in NAMES.items():
        own = [row for row in rows if row["off"] == part]
        if not own:
            continue
        ahead = [whole[row["seed"]] - accuracy(row) for row in own if row["seed"] in whole]
        reached = [100 * row["reached"] for row in own if row["reached"] is not None]
        lines.append(
            [
                name,
                str(len(own)),
                str(sum(row["verdict"] == "met" for row in own)),
                f"{100 * np.mean([row['share']['value'] for row in own]):.1f}",
                with_interval(mean_interval([accuracy(row) for row in own]), 2),
                "–" if part == "none" else points(ahead),
                f"{np.mean(reached):.0f}" if reached else "–",
                f"{100 * np.mean([row['drop_at_removal'] for row in own]):.2f}",
                f"{np.mean([len(row['removed']) for row in own]):.1f}",
                f"{100 * np.mean([row['macs_share'] for row in own]):.0f}",
            ]
        )
    return table(head, lines)


def points(values: Sequence[float]) -> str:
    """Mean and interval of differences."""
    return with_interval(mean_interval(values), 2, sign=True)


def all_tables(folder: Path) -> str:
    """Every table that there is a row for; the full variant only."""
    rows = Results(folder / "results-full.json", place).rows()
    parts = []
    for device in LIMITED:
        for budget in VARIANTS["full"].budgets:
            own = [row for row in rows if (row["device"], row["budget"]) == (device, budget)]
            if own:
                simulated = ", costs SIMULATED" if own[0]["kind"] == "simulated" else ""
                title = f"### {VARIANTS['full'].model} at {budget} % of its {LIMITED[device]}, {device}{simulated}"
                parts.append(f"{title}\n\n{table_of(own)}\n")
    return "\n".join(parts) or NOT_MEASURED


def write_readme(folder: Path) -> None:
    """Put the tables behind the mark in README.md."""
    write_behind(MARK, folder, all_tables(folder))


def main() -> int:
    """List or run the pieces asked for, or write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["list", "run", "table"])
    parser.add_argument("--device", choices=list(LIMITED))
    parser.add_argument("--budget", type=int, action="append")
    parser.add_argument("--off", choices=list(OFF), action="append")
    parser.add_argument("--seed", type=int, action="append")
    usual_options(parser, VARIANTS, HERE)
    asked = parser.parse_args()
    if asked.what == "table":
        write_readme(asked.out)
        return 0
    if asked.device is None:
        parser.error(f"--device is needed: {' or '.join(LIMITED)}")
    chosen = pieces(asked.device, asked.variant, asked.budget, asked.off, asked.seed)
    if not chosen:
        size = VARIANTS[asked.variant]
        print(f"no such piece; budgets {size.budgets}, seeds {size.seeds}", file=sys.stderr)
        return 2
    results = Results(asked.out / f"results-{asked.variant}.json", place)
    done = results.by_place()
    if asked.what == "list":
        for piece in chosen:
            row = done.get(place(piece._asdict()))
            print(f"{piece.name}: {'missing' if row is None else f'done, {accuracy(row):.2f} %'}")
        return 0
    missing = [piece for piece in chosen if place(piece._asdict()) not in done]
    return exit_code(lambda: run_pieces(missing, run_piece, results, deadline_s(asked.minutes)))


if __name__ == "__main__":
    sys.exit(main())
