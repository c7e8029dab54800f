"""What a cut costs at once, and what is left of it after more and more training.

    python experiments/recovery/study.py run --model resnet20 --seeds 0 1 2      # rows that are missing
    python experiments/recovery/study.py table                                   # README.md from what there is

Of a trained network, one after the other: each residual block taken out, and each channel group down to its most
important half and eighth. The loss on the steering split (512 images) above that of the same network with nothing
taken out but the same training: at once, with batch-norm statistics estimated anew, and after 5, 20 and 80 steps
(``rig.compression.choosing.recovery``, all of the same batches). No device is needed and nothing is measured on one.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torch import nn

from experiments.shared.pieces import Results, Row
from experiments.shared.tables import NOT_MEASURED, table, write_behind
from power_models.kernels import kernel_graph
from rig.compression.baseline import trained_baseline
from rig.compression.choosing import steering
from rig.compression.choosing.importance import IMPORTANCES
from rig.compression.choosing.recovery import Recovery
from rig.compression.cutting.channel_group import ChannelGroup
from rig.compression.cutting.groups import find_groups
from rig.compression.cutting.surgery import without_blocks
from rig.compression.cutting.template import Template, make_template
from rig.compression.export import to_onnx
from rig.compression.tasks import Task, load_task
from rig.compression.training import TrainingPlan, train
from rig.store.store import Store

HERE = Path(__file__).resolve().parent
MARK = "<!-- tables: python experiments/recovery/study.py table -->"
AFTER = (0, 5, 20, 80)  # steps of training, after the statistics
KEPT = (2, 8)  # parts of a group
Cut = Callable[[nn.Module], tuple[nn.Module, Callable[[], None] | None]]


def place(row: Row) -> tuple[Any, ...]:
    """What tells one row from another."""
    return row["model"], row["seed"], row["what"], row["kept"]


def cuts(network: nn.Module, task: Task, template: Template) -> list[tuple[str, str, float, Cut]]:
    """(what, "block" or "group", the part that is kept, how to make it) of everything that is tried."""

    def removing(name: str) -> Cut:
        return lambda model: (without_blocks(model, task, template, [name]), None)

    def silencing(group: ChannelGroup, silent: torch.Tensor) -> Cut:
        return lambda model: steering.silenced(model, group, silent)

    scores = IMPORTANCES["taylor"](network, task, template.groups, 20)
    found = [(block.name, "block", 0.0, removing(block.name)) for block in template.blocks]
    for group in template.groups:
        for part in KEPT:
            if group.prunable and group.width >= part:
                order = torch.argsort(scores[group.name], descending=True, stable=True)
                found.append((group.name, "group", 1.0 / part, silencing(group, order[group.width // part :])))
    return found


def losses(network: nn.Module, task: Task, cut: Cut, recoveries: Sequence[Recovery]) -> list[float]:
    """The loss at once and after each recovery."""
    batches = steering.steering_batches(task)
    found = [steering.mean_loss(cut(network)[0], task, batches)]
    for recovery in recoveries:
        trial, hold = cut(network)
        recovery(trial, hold)
        found.append(steering.mean_loss(trial, task, batches))
    return found


def study(task: Task, seed: int, epochs: float, results: Results, folder: Path) -> None:
    """The rows of one trained network that are missing."""
    plan = TrainingPlan(epochs, seed=seed)
    network = trained_baseline(task, plan, folder, lambda net: train(net, task, plan))
    groups = find_groups(network, torch.zeros(1, *task.input_shape))
    template = make_template(kernel_graph(to_onnx(network, task.input_shape), "virtual"), groups)
    torch.manual_seed(seed)
    recoveries = [Recovery(task, steps) for steps in AFTER]
    every = cuts(network, task, template)
    done = results.by_place()
    missing = [one for one in every if (task.model_name, seed, one[0], one[2]) not in done]
    if not missing:
        return
    nothing = losses(network, task, lambda model: (copy.deepcopy(model), None), recoveries)
    for what, kind, kept, cut in missing:
        added = [a - b for a, b in zip(losses(network, task, cut, recoveries), nothing, strict=True)]
        row = {"model": task.model_name, "seed": seed, "what": what, "kind": kind, "kept": kept, "added": added}
        results.keep(row)
        print(what, kept, " ".join(f"{value:.4f}" for value in added), flush=True)


def tables(rows: Sequence[Row]) -> str:
    """A table a model: the median over cuts and seeds; then every cut, the median over seeds."""
    head = ["cut", "at once", "statistics anew", *(f"{n} steps" for n in AFTER[1:]), "of that at 5 steps left at 80"]
    kinds = [("block", 0.0, "all blocks, median")]
    kinds += [("group", 1.0 / part, f"all groups to 1/{part}, median") for part in KEPT]
    found = []
    for model in sorted({row["model"] for row in rows}):
        mine = [row for row in rows if row["model"] == model]
        lines = [
            _line(shown, [r for r in mine if (r["kind"], r["kept"]) == (kind, kept)]) for kind, kept, shown in kinds
        ]
        for what, kept in dict.fromkeys((r["what"], r["kept"]) for r in mine):
            shown = f"{what} to 1/{round(1 / kept)}" if kept else f"without block {what}"
            lines.append(_line(shown, [r for r in mine if (r["what"], r["kept"]) == (what, kept)]))
        seeds = ", ".join(map(str, sorted({row["seed"] for row in mine})))
        found.append(f"### {model}, seeds {seeds}: loss added\n\n{table(head, lines)}\n")
    return "\n".join(found)


def _line(shown: str, rows: Sequence[Row]) -> list[str]:
    medians = [statistics.median(row["added"][i] for row in rows) for i in range(len(AFTER) + 1)]
    left = f"{medians[-1] / medians[2]:.2f}" if medians[2] > 0 else "–"
    return [shown, *(f"{value:.4f}" for value in medians), left]


def main() -> None:
    """Run what is missing, or write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "table"])
    parser.add_argument("--task", default="fashion-mnist")
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=float, default=6.0, help="of the baseline")
    parser.add_argument("--out", type=Path, default=HERE)
    asked = parser.parse_args()
    results = Results(asked.out / "results.json", place)
    if asked.what == "run":
        for seed in asked.seeds:
            study(load_task(asked.task, asked.model), seed, asked.epochs, results, Store().root / "baselines")
    else:
        write_behind(MARK, asked.out, tables(results.rows()) or NOT_MEASURED)


if __name__ == "__main__":
    main()
