"""Channels taken out while training goes on, against carrying them to the end: wall time, accuracy, cost.

    python study.py --device virtual-pi4 [--task fashion-mnist] [--model resnet20] [--limit latency] [--share 50%]
                    [--epochs BASELINE SHRINK FINETUNE] [--ramp 0.7] [--seeds 0 1 2 3 4] [--tiny]

Rows, a variant a seed, model, budget and ramp (the share of the shrinking over which the wanted cost comes down to the
budget), of one trained baseline and the same numbers of epochs:

    kept       shrink with every channel to the end (MorphNet as published), then take the dead out, fine-tune
    removed    the same, with surgery after every epoch of shrinking
    start      widths chosen without training (``starting_widths``), trained from scratch for all the epochs together
    published  the seed network shrunk from its first step in the epochs of baseline and shrinking, dead channels to the
               end, then the narrow network trained from scratch (MorphNet's loop, once)
    published-removed   the same with surgery after every epoch

``seconds`` are wall time and ``processor_s`` processor time of training alone; the baseline's count where a variant
needs it, and come from the row that trained it. Costs are predicted from the device's cost model. Finished rows are
kept in results-<device>.json and not done again; a row that was stopped begins anew, so that its time is whole.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torch import nn

from experiments.shared.pieces import Results, Row
from power_models.kernels import kernel_graph
from power_models.regularizer import CostRegularizer
from power_models.tables import NetworkTables, Price
from rig.compression.budget import Budget, resolve
from rig.compression.choosing.starting_widths import starting_widths
from rig.compression.cutting.groups import ChannelGroup, find_groups
from rig.compression.cutting.surgery import bare_network
from rig.compression.cutting.template import Template, make_template
from rig.compression.export import to_onnx
from rig.compression.loop import finetune_rate
from rig.compression.methods.controller import Gains, StrengthController
from rig.compression.methods.morphnet import SHRINK_RATE
from rig.compression.methods.shrinker import Shrinker
from rig.compression.tasks import Task, batches_per_epoch, load_task
from rig.compression.training import Trained, TrainingPlan, train
from rig.compression.training.removing import Removing
from rig.cost_models import kernel_rules, load_cost_model
from rig.store.store import Store
from rig.units import parse_limit

HERE = Path(__file__).parent
VARIANTS = ("kept", "removed", "start", "published", "published-removed")
PRECISION = "float32"  # the same for all rows: a choice by measurement might fall differently
TINY = {"task": "digits", "model": "resnet8", "epochs": (2, 3, 1), "seeds": (0,)}


class Setting(NamedTuple):
    """What all rows share.

    asked: the limited cost and the share of it that may stay; epochs: of baseline, shrinking and fine-tuning; ramp: the
    share of the shrinking in which the cost is to come down.
    """

    task: Task
    template: Template
    tables: NetworkTables
    budget: Budget
    asked: tuple[str, str]
    epochs: tuple[int, int, int]
    ramp: float = Gains().ramp

    @property
    def words(self) -> dict[str, Any]:
        """What tells its rows from those of another."""
        limit, share = self.asked
        return {"model": self.task.model_name, "limit": limit, "share": share, "ramp": self.ramp}

    @property
    def example(self) -> torch.Tensor:
        """One input of zeros."""
        return torch.zeros(1, *self.task.input_shape)


def main() -> None:
    """Parse, do the rows that are missing, write each as it is done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="virtual-pi4")
    parser.add_argument("--task", default="fashion-mnist")
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--limit", default="latency", choices=["latency", "energy"])
    parser.add_argument("--share", default="50%")
    parser.add_argument("--epochs", type=int, nargs=3, default=[6, 3, 7])
    parser.add_argument("--ramp", type=_share, default=Gains().ramp, help="of the shrinking (default: as rig optimize)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    parser.add_argument("--tiny", action="store_true", help="digits, resnet8, a few epochs: to see that it works")
    asked = parser.parse_args()
    if asked.tiny:
        vars(asked).update(TINY)
    model = load_cost_model(Store(), asked.device)

    def price(specs: Any) -> Any:
        costs = model.predict(specs)
        return costs.latency_s, costs.energy_j

    task = load_task(asked.task, asked.model)
    setting = setting_of(task, price, kernel_rules(model), asked.limit, asked.share, tuple(asked.epochs))
    setting = setting._replace(ramp=asked.ramp)
    folder = Path(tempfile.mkdtemp()) if asked.tiny else HERE  # a tiny run shows nothing worth keeping
    path = folder / f"results-{asked.device}.json"
    do_missing(setting, asked.seeds, asked.variants, path)


def _share(text: str) -> float:
    """A share above 0 and up to 1."""
    share = float(text)
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a share above 0 and up to 1")
    return share


def setting_of(task: Task, price: Price, rules: str, limit: str, share: str, epochs: tuple[int, int, int]) -> Setting:
    """The seed network's tables under a device's prices, and the budget."""
    network = task.model()
    groups = find_groups(network, torch.zeros(1, *task.input_shape))
    template = make_template(kernel_graph(to_onnx(network, task.input_shape), rules), groups)
    tables = NetworkTables(template.kernels, price, {g.name: g.width for g in groups})
    budget = resolve([parse_limit(limit, share)], None, 0.0, tables.totals(template.seed_widths()))
    return Setting(task, template, tables, budget, (limit, share), epochs)


def place(row: Row) -> tuple[Any, ...]:
    """What tells one row from another, in the order in which they are shown."""
    return row["model"], row["limit"], row["share"], row["ramp"], row["seed"], VARIANTS.index(row["variant"])


def do_missing(setting: Setting, seeds: Any, variants: Any, path: Path) -> list[Row]:
    """Every row that is not in the results yet; returns all of them."""
    results = Results(path, place)
    for seed in seeds:
        wanted = {**setting.words, "seed": seed}
        done = {row["variant"] for row in results.rows() if {key: row[key] for key in wanted} == wanted}
        missing = [variant for variant in variants if variant not in done]
        baseline = trained_baseline(setting, seed) if {"kept", "removed"} & set(missing) else None
        for variant in missing:
            row = row_of(setting, variant, seed, baseline)
            results.keep(row)
            print(json.dumps(row), flush=True)
    return results.rows()


class Clock:
    """Adds up the wall and processor time of trainings, and keeps what they said of themselves."""

    def __init__(self) -> None:
        self.seconds = self.processor_s = 0.0
        self.removals: list[dict[str, Any]] = []

    def train(
        self, network: nn.Module, task: Task, plan: TrainingPlan, hook: Any = None, teacher: Any = None
    ) -> Trained:
        """``train`` on this clock, surgery and the finding of groups included."""
        wall_s, processor_s = time.monotonic(), time.process_time()
        trained = train(network, task, plan, hook=hook, teacher=teacher)
        self.seconds += time.monotonic() - wall_s
        self.processor_s += time.process_time() - processor_s
        self.removals += trained.facts["removals"]
        return trained


def trained_baseline(setting: Setting, seed: int) -> tuple[nn.Module, Clock]:
    """The seed network, trained, with the time that it took."""
    clock, network = Clock(), fresh(setting, seed)
    plan = TrainingPlan(setting.epochs[0], seed=seed, precision=PRECISION)
    return clock.train(network, setting.task, plan).network, clock


def row_of(setting: Setting, variant: str, seed: int, baseline: tuple[nn.Module, Clock] | None) -> Row:
    """One variant with one seed."""
    clock = Clock()
    removing = variant in ("removed", "published-removed")
    _, shrinking, finetuning = setting.epochs
    if variant == "start":
        torch.manual_seed(seed)
        network = fresh(setting, seed)
        groups = find_groups(network, setting.example, like=setting.template.groups)
        widths = starting_widths(network, setting.task, groups, setting.tables, setting.budget)
        result = scratch(setting, widths, seed, sum(setting.epochs), clock)
    elif variant in ("kept", "removed") and baseline is not None:
        trained, spent = baseline
        clock.seconds, clock.processor_s = spent.seconds, spent.processor_s
        shrunk, groups = shrink(setting, copy.deepcopy(trained), seed, shrinking, removing, clock)
        bare, widths = bare_network(shrunk, setting.task, setting.template._replace(groups=groups), [])
        rate = finetune_rate(bare, finetuning * batches_per_epoch(setting.task))
        plan = TrainingPlan(finetuning, rate, seed=seed + 2, precision=PRECISION)
        result = clock.train(bare, setting.task, plan, teacher=trained).network
    else:
        epochs = setting.epochs[0] + shrinking
        shrunk, groups = shrink(setting, fresh(setting, seed), seed, epochs, removing, clock)
        widths = {g.name: int((g.norms() > 0).sum()) if g.prunable else g.width for g in groups}
        result = scratch(setting, widths, seed, finetuning, clock)
    return {
        **setting.words,
        "variant": variant,
        "seed": seed,
        "seconds": clock.seconds,
        "processor_s": clock.processor_s,
        "usage": setting.budget.usage(setting.tables.totals(widths)),
        "accuracy_val": setting.task.evaluate(result, "val"),
        "accuracy_test": setting.task.evaluate(result, "test"),
        "parameters": sum(p.numel() for p in result.parameters()),
        "widths": widths,
        "removals": clock.removals,
        "epochs": list(setting.epochs),
        "threads": torch.get_num_threads(),
    }


def fresh(setting: Setting, seed: int) -> nn.Module:
    """The seed network, untrained."""
    torch.manual_seed(seed)
    return setting.task.model()


def scratch(setting: Setting, widths: dict[str, int], seed: int, epochs: int, clock: Clock) -> nn.Module:
    """The network of these widths trained from its initialization."""
    torch.manual_seed(seed + 3)
    network = setting.task.model(setting.template.layer_widths(widths))
    plan = TrainingPlan(epochs, seed=seed + 3, precision=PRECISION)
    return clock.train(network, setting.task, plan).network


def shrink(
    setting: Setting, network: nn.Module, seed: int, epochs: int, removing: bool, clock: Clock
) -> tuple[nn.Module, list[ChannelGroup]]:
    """MorphNet's shrinking to the budget; the network that is left and its groups."""
    groups = find_groups(network, setting.example, like=setting.template.groups)
    regularizer = CostRegularizer(groups, setting.tables, setting.budget.gradient)
    start = setting.budget.usage(setting.tables.totals(setting.template.seed_widths()))
    controller = StrengthController(start, 1.0, gains=Gains(ramp=setting.ramp))
    hook: Any = Shrinker(regularizer, setting.budget, controller)
    if removing:
        hook = Removing(hook, network, setting.example)
    plan = TrainingPlan(epochs, SHRINK_RATE, warmup_share=0.1, final_share=0.1, seed=seed + 1, precision=PRECISION)
    trained = clock.train(network, setting.task, plan, hook=hook)
    return trained.network, hook.groups if removing else groups


if __name__ == "__main__":
    main()
