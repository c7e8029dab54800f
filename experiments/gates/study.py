"""Gates or filters: what should shrink in a network without batch-norm? ``python study.py [--seeds 0 1 2] [--tiny]``

A VGG-like network without batch-norm on the digits, one trained baseline a seed; from it, at each share of the cost:

    gates     MorphNet on factors put behind the layers, folded into them afterwards (``cutting.gates``)
    filters   MorphNet on the norms of the filters (group lasso)

Both choose widths for the same budget by the same cost model and are fine-tuned alike, taught by the baseline. The cost
is predicted seconds of the shipped model of a Raspberry Pi 4; no device is asked. Finished rows are kept in
results.json and not done again.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from power_models.kernels import kernel_graph
from power_models.tables import NetworkTables
from rig.compression.budget import resolve
from rig.compression.cutting.groups import find_groups
from rig.compression.cutting.realize import realized
from rig.compression.cutting.template import make_template
from rig.compression.export import to_onnx
from rig.compression.loop import finetune_rate
from rig.compression.methods import WITHOUT_NORM
from rig.compression.methods.base import Workplace
from rig.compression.methods.morphnet import MorphNet
from rig.compression.survey import Settings, Survey
from rig.compression.tasks import Task, batches_per_epoch, load_task
from rig.compression.training import TrainingPlan, train
from rig.cost_models import kernel_rules, load_cost_model
from rig.store.store import Store
from rig.units import parse_limit

HERE = Path(__file__).parent
PLAN = ((16, 1), (32, 2), (32, 1), (64, 2), (64, 1))  # output channels and stride of each convolution
DEVICE = "pi4"
PRECISION = "float32"  # the same for all rows
RATE = 0.05  # of learning, of a network without batch-norm
BATCH = 32  # images a step: more steps for the few images
TINY = {"epochs": [1, 1, 1], "shares": ["50%"], "seeds": [0]}


class PlainVGG(nn.Module):
    """As the configurations of Simonyan and Zisserman (ICLR 2015) without batch-norm; strides in place of max pools."""

    def __init__(self, widths: dict[str, int] | None = None, plan: Sequence[tuple[int, int]] = PLAN) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        previous = 1
        for seed_width, stride in plan:
            width = int((widths or {}).get(f"features.{len(layers)}", seed_width))
            layers += [nn.Conv2d(previous, width, 3, stride, padding=1), nn.ReLU()]
            previous = width
        self.features = nn.Sequential(*layers)
        self.fc = nn.Linear(previous, 10)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 1, h, w) → logits (n, 10)."""
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(self.features(x), 1), 1))


class Quiet:
    """A console that says nothing."""

    def stage(self, text: str) -> None:
        """Ignore it."""

    def update(self, text: str) -> None:
        """Ignore it."""


def main() -> None:
    """Parse, do the rows that are missing, say the means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--shares", nargs="+", default=["50%"])
    parser.add_argument("--epochs", type=int, nargs=3, default=[8, 8, 5], help="baseline, shrinking, fine-tuning")
    parser.add_argument("--tiny", action="store_true", help="an epoch each, into a temporary folder")
    asked = parser.parse_args()
    if asked.tiny:
        vars(asked).update(TINY)
    folder = Path(tempfile.mkdtemp()) if asked.tiny else HERE
    rows = do_missing(asked.seeds, asked.shares, asked.epochs, folder / "results.json")
    for share in asked.shares:
        for way in WITHOUT_NORM:
            found = [row["accuracy_test"] for row in rows if (row["share"], row["way"]) == (share, way)]
            print(share, way, " ".join(f"{100 * value:.2f}" for value in found), f"mean {100 * mean(found):.2f} %")


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean."""
    return sum(values) / len(values)


def do_missing(seeds: Sequence[int], shares: Sequence[str], epochs: Sequence[int], path: Path) -> list[dict[str, Any]]:
    """Every row that is not in the results yet; returns all of them."""
    rows: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
    torch.set_num_threads(1)
    task = load_task("digits", "resnet8", BATCH)._replace(model=PlainVGG, model_name="plain-vgg")
    for seed in seeds:
        done = {(row["share"], row["way"]) for row in rows if row["seed"] == seed}
        missing = [(share, way) for share in shares for way in WITHOUT_NORM if (share, way) not in done]
        if not missing:
            continue
        baseline = trained_baseline(task, seed, epochs[0])
        for share, way in missing:
            rows.append({"seed": seed, "share": share, "way": way, **row_of(task, baseline, seed, share, way, epochs)})
            path.write_text(json.dumps(rows, indent=1) + "\n")
            print(json.dumps(rows[-1]), flush=True)
    return rows


def trained_baseline(task: Task, seed: int, epochs: int) -> nn.Module:
    """The seed network, trained."""
    torch.manual_seed(seed)
    return train(task.model(), task, TrainingPlan(epochs, RATE, seed=seed, precision=PRECISION)).network


def survey_of(task: Task) -> Survey:
    """The network's tables under the device's cost model; what is measured elsewhere is what is predicted here."""
    model = load_cost_model(Store(), DEVICE)

    def price(specs: Any) -> Any:
        costs = model.predict(specs)
        return costs.latency_s, costs.energy_j

    network = task.model()
    groups = find_groups(network, torch.zeros(1, *task.input_shape), task.model)
    template = make_template(kernel_graph(to_onnx(network, task.input_shape), kernel_rules(model)), groups)
    tables = NetworkTables(template.kernels, price, {g.name: round(1.5 * g.width) for g in groups})
    totals = tables.totals(template.seed_widths())
    return Survey(HERE, template, tables, totals, totals, 0.0, None, None)  # type: ignore[arg-type]


def row_of(task: Task, baseline: nn.Module, seed: int, share: str, way: str, epochs: Sequence[int]) -> dict[str, Any]:
    """One way with one seed at one share of the cost."""
    start_s = time.monotonic()
    survey = survey_of(task)
    limits = (parse_limit("latency", share),)
    budget = resolve(limits, None, 0.0, survey.measured)
    settings = Settings(limits, None, seed, *epochs, rounds=1, without_norm=way)
    with tempfile.TemporaryDirectory() as folder:
        workplace = Workplace(task, settings, Path(folder), Quiet(), {}, lambda state: None)
        method = MorphNet()
        found = method.search(workplace, copy.deepcopy(baseline), survey, budget)
    stage = next(stage for stage in workplace.stages if stage["name"] == "shrink")
    choice = method.choose(found, survey, budget)
    network = realized(found.network, found.template, found.importance, choice, task)
    plan = TrainingPlan(
        epochs[2], finetune_rate(network, epochs[2] * batches_per_epoch(task)), seed=seed + 2, precision=PRECISION
    )
    network = train(network, task, plan, teacher=baseline).network
    return {
        "accuracy_baseline": task.evaluate(baseline, "test"),
        "accuracy_shrunk_val": stage["accuracy_val"],
        "reached": stage["reached"],
        "accuracy_val": task.evaluate(network, "val"),
        "accuracy_test": task.evaluate(network, "test"),
        "usage": budget.usage(survey.tables.totals(choice.widths)),
        "alive": {name: found.alive[name] for name in found.scales},
        "widths": {name: choice.widths[name] for name in found.scales},
        "epochs": list(epochs),
        "seconds": time.monotonic() - start_s,
    }


if __name__ == "__main__":
    main()
