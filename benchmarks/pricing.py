"""How long pricing a ResNet-50 takes with everything loaded, and rebuilding its differentiable tables.

    python benchmarks/pricing.py [--device NAME | --table TABLE] [--rules virtual|onnxruntime]

The cost model is that of NAME in the store, or is fitted to TABLE; without either to 220 kernels of the simulated
board's physics. The tables are those of ``rig optimize``: every channel group up to 1.5 times its width. Best and
median of several runs; targets: 5 ms and 2 s. ``tables_error``: of the tables against the model, at widths that they
do not hold.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from device_agents.records import Configuration, KernelSpec
from device_agents.virtual_board.physics import BoardModel
from power_models.kernel_cost import KernelCostModel, KernelRow
from power_models.kernels import kernel_graph
from power_models.measured_tables import read_table
from power_models.network_cost import price_network
from power_models.table_fit import fit_rows
from power_models.tables import NetworkTables
from rig.compression.cutting.groups import find_groups
from rig.compression.cutting.template import Template, make_template
from rig.compression.export import to_onnx
from rig.compression.survey import GROWTH
from rig.cost_models import load_cost_model
from rig.store.store import Store
from rig.workloads.grid import design

SHAPE = (3, 224, 224)
STAGES = ((3, 64, 1), (4, 128, 2), (6, 256, 2), (3, 512, 2))  # blocks, inner width, stride
KERNELS, NOISE = 220, 0.01
PRICINGS, REBUILDS = 30, 3


class Bottleneck(nn.Module):
    """1×1, 3×3, 1×1 and a shortcut (He et al. 2016)."""

    def __init__(self, channels_in: int, inner: int, stride: int) -> None:
        super().__init__()
        out = 4 * inner
        self.conv1, self.bn1 = nn.Conv2d(channels_in, inner, 1, bias=False), nn.BatchNorm2d(inner)
        self.conv2, self.bn2 = nn.Conv2d(inner, inner, 3, stride, 1, bias=False), nn.BatchNorm2d(inner)
        self.conv3, self.bn3 = nn.Conv2d(inner, out, 1, bias=False), nn.BatchNorm2d(out)
        self.shortcut: nn.Module = nn.Identity()
        if channels_in != out:
            self.shortcut = nn.Sequential(nn.Conv2d(channels_in, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) → (n, 4·inner, h/stride, w/stride)."""
        y = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        return F.relu(self.bn3(self.conv3(y)) + self.shortcut(x))


class ResNet50(nn.Module):
    """The network of the target, 224×224, a thousand classes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        blocks, channels = [], 64
        for count, inner, stride in STAGES:
            for i in range(count):
                blocks.append(Bottleneck(channels, inner, stride if i == 0 else 1))
                channels = 4 * inner
        self.blocks, self.fc = nn.Sequential(*blocks), nn.Linear(channels, 1000)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, 224, 224) → logits (n, 1000)."""
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(self.blocks(x), 1), 1))


def simulated_model(network: Sequence[KernelSpec]) -> KernelCostModel:
    """A cost model of the simulated board, calibrated near the network, as ``rig calibrate --around`` would be."""
    board, rng, rows = BoardModel.load("pi4"), np.random.default_rng(0), []
    for i, spec in enumerate(design(KERNELS, 0, around=network)):
        latency_s, energy_j = (value * float(np.exp(rng.normal(0.0, NOISE))) for value in board.kernel_cost(spec))
        rows.append(KernelRow(spec, latency_s, NOISE * latency_s, energy_j, NOISE * energy_j, "chain", str(i)))
    where = Configuration("virtual-pi4", "", "virtual", "", 4, False, "", "board_input")
    return KernelCostModel.fit(rows, where, "simulated", overhead=board.inference_cost([]))


def table_model(path: Path) -> KernelCostModel:
    """A cost model fitted to a measured table."""
    table = read_table(path)
    return fit_rows([*table.kernels, *table.networks], Configuration("table", "", "", "", 0, False, "", ""), "imported")


def rebuild(template: Template, model: KernelCostModel) -> NetworkTables:
    """The tables as ``rig optimize`` builds them."""

    def price(specs: Sequence[KernelSpec]) -> tuple[np.ndarray, np.ndarray]:
        costs = model.predict(specs)
        return costs.latency_s, costs.energy_j

    largest = {g.name: round(g.width * GROWTH) if g.prunable else g.width for g in template.groups}
    return NetworkTables(template.kernels, price, largest, *model.overhead)


def seconds(action: Callable[[], object], runs: int) -> tuple[list[float], float]:
    """Wall-clock seconds of several runs, and the mean of their processor seconds (whatever else runs)."""
    found = []
    busy_s = time.process_time()
    for _ in range(runs):
        start_s = time.perf_counter()
        action()
        found.append(time.perf_counter() - start_s)
    return found, (time.process_time() - busy_s) / runs


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--device")
    source.add_argument("--table", type=Path)
    parser.add_argument("--rules", default="virtual")
    asked = parser.parse_args()
    torch.manual_seed(0)
    network = ResNet50()
    nodes = kernel_graph(to_onnx(network, SHAPE), asked.rules)
    kernels = [node.spec for node in nodes]
    if asked.device:
        model = load_cost_model(Store(), asked.device)
    else:
        model = table_model(asked.table) if asked.table else simulated_model(kernels)
    template = make_template(nodes, find_groups(network, torch.zeros(1, *SHAPE)))
    price_network(model, kernels)
    priced, priced_busy_s = seconds(lambda: price_network(model, kernels), PRICINGS)
    rebuilt, rebuilt_busy_s = seconds(lambda: rebuild(template, model), REBUILDS)
    error = {name: stated._asdict() for name, stated in rebuild(template, model).error.items()}
    print(
        json.dumps(
            {
                "kernels": len(kernels),
                "pricing_best_ms": round(1e3 * min(priced), 2),
                "pricing_median_ms": round(1e3 * statistics.median(priced), 2),
                "pricing_processor_ms": round(1e3 * priced_busy_s, 2),
                "pricing_limit_ms": 5.0,
                "tables_best_s": round(min(rebuilt), 2),
                "tables_median_s": round(statistics.median(rebuilt), 2),
                "tables_processor_s": round(rebuilt_busy_s, 2),
                "tables_limit_s": 2.0,
                "tables_error": error,
            }
        )
    )


if __name__ == "__main__":
    main()
