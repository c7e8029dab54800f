"""Training step with the regularizer against without it, in turns: ``python benchmarks/regularizer_step.py``.

ResNet-20, Fashion-MNIST shapes, batch 128, bfloat16; prices are MACs, so that no calibration is needed (where the
tables come from does not change their use). Prints the ratio of the mean step times with its 95 % interval
over pairs of blocks; target ≤ 1.05.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
import torch

from power_models.kernels import kernel_graph
from power_models.regularizer import CostRegularizer
from power_models.tables import NetworkTables
from rig.compression.budget import Budget, resolve
from rig.compression.cutting.groups import find_groups
from rig.compression.cutting.template import make_template
from rig.compression.export import to_onnx
from rig.compression.methods.controller import StrengthController
from rig.compression.methods.shrinker import Shrinker
from rig.compression.networks import build
from rig.units import parse_limit

BATCH, BLOCK_STEPS = 128, 8
SHAPE = (1, 28, 28)


def main() -> None:
    """Time blocks of steps with and without in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=12)
    pairs = parser.parse_args().pairs
    torch.manual_seed(0)
    network = build("resnet20")
    shrinker = _shrinker(network)
    network.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, nesterov=True)
    inputs = torch.randn(BATCH, *SHAPE).contiguous(memory_format=torch.channels_last)
    targets = torch.randint(0, 10, (BATCH,))

    def steps(hook: Shrinker | None) -> float:
        start = time.perf_counter()
        for _ in range(BLOCK_STEPS):
            with torch.autocast("cpu", torch.bfloat16):
                outputs = network(inputs)
            loss = torch.nn.functional.cross_entropy(outputs.float(), targets)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            seen = float(loss.detach())
            if hook is not None:
                steps.count += 1
                hook.after_step(steps.count, 1500, 0.01, seen)
        return (time.perf_counter() - start) / BLOCK_STEPS

    steps.count = 0
    steps(None), steps(shrinker)  # warm-up
    times = np.array([(steps(None), steps(shrinker)) for _ in range(pairs)])
    logs = np.log(times[:, 1] / times[:, 0])
    half = 2.2 * logs.std(ddof=1) / np.sqrt(pairs)
    print(
        json.dumps(
            {
                "step_without_ms": 1e3 * float(np.median(times[:, 0])),
                "step_with_ms": 1e3 * float(np.median(times[:, 1])),
                "ratio": float(np.exp(np.median(logs))),
                "ratio_lo": float(np.exp(logs.mean() - half)),
                "ratio_hi": float(np.exp(logs.mean() + half)),
                "pairs": pairs,
            }
        )
    )


def _shrinker(network: torch.nn.Module) -> Shrinker:
    nodes = kernel_graph(to_onnx(network, SHAPE))
    groups = find_groups(network, torch.zeros(1, *SHAPE))
    template = make_template(nodes, groups)

    def macs(specs):  # type: ignore[no-untyped-def]
        counts = np.array([float(s.macs) for s in specs])
        return counts * 1e-9, counts * 1e-9

    tables = NetworkTables(template.kernels, macs, template.seed_widths(), block=8)
    budget: Budget = resolve([parse_limit("flops", "50%")], None, 0.0, tables.totals(template.seed_widths()))
    regularizer = CostRegularizer(groups, tables, budget.gradient)
    return Shrinker(regularizer, budget, StrengthController(2.0, 1.0))


if __name__ == "__main__":
    main()
