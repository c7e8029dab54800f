"""Training for one process or for several under torchrun: ``ranks_case.py OUT [die]``. Rank 0 writes what it gave."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from training_cases import Remover, altered, batches, fresh, small_task

from rig.compression import distributed
from rig.compression.tasks import Task
from rig.compression.training import TrainingPlan, serve, train

PLAIN = TrainingPlan(2, 0.05, precision="float32")
EVERYTHING = PLAIN._replace(ema=0.7, label_smoothing=0.1, seed=3)
STEPS = 10  # of each training
FAILING = 3 * STEPS + 7  # the seventh step of the fourth


class Shuffled:
    """Batches in an order drawn from torch's generator; two ranks cannot share the last of them evenly."""

    def __init__(self) -> None:
        self.kept = batches(5, last=15)

    def __len__(self) -> int:
        return len(self.kept)

    def __iter__(self) -> Any:
        yield from (self.kept[i] for i in torch.randperm(len(self.kept)))


def case(dying: bool = False) -> Task:
    """A task whose loss fails once, on the last rank alone; ``dying``: the last rank ends without a word."""
    calls = 0

    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += outputs.requires_grad  # a teacher's answers have none
        last = distributed.rank() == distributed.ranks() - 1
        if dying and calls == 3 and last:
            os._exit(9)
        return F.cross_entropy(outputs, targets) * (float("nan") if last and calls == FAILING else 1.0)

    return small_task(loaders=lambda split: Shuffled(), loss=loss)


def trained(task: Task) -> dict[str, Any]:
    """As simple as can be; with surgery, teacher and average; with a branch out and gates; with a step that fails."""
    network = fresh(1)
    done = {
        "plain": train(fresh(), task, PLAIN),
        "everything": train(network, task, EVERYTHING, hook=Remover(network, at=2), teacher=fresh(2)),
        "altered": train(altered(), task, PLAIN, teacher=altered(())),
        "back": train(fresh(), task, PLAIN),
    }
    return {
        name: {
            "values": dict(one.network.state_dict()),
            "loss": one.loss,
            "ranks": one.facts["ranks"],
            "removals": [r["parameters_after"] for r in one.facts["removals"]],
            "rollbacks": [r["back_to"] for r in one.facts["rollbacks"]],
            "norms": sorted({type(m).__name__ for m in one.network.modules() if "Norm" in type(m).__name__}),
        }
        for name, one in done.items()
    }


def main(out: Path, dying: bool) -> None:
    """Lead or follow, as torchrun says."""
    torch.set_num_threads(1)
    task = case(dying)
    if int(os.environ.get("RANK", "0")) == 0:
        with distributed.leading():
            torch.save(trained(task), out)
    else:
        with distributed.following():
            serve(task)
    left = [name for task in Path("/proc/self/task").glob("*/comm") if "gloo" in (name := task.read_text())]
    if left:  # a process with threads of a group that was not destroyed may abort as it ends
        raise SystemExit(f"left behind: {left}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), "die" in sys.argv)
