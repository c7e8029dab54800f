"""Small tasks, and hooks that kill channels, for the tests of training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from rig.compression import tasks
from rig.compression.cutting.bypass import bypassed
from rig.compression.cutting.gates import gate_layers
from rig.compression.cutting.groups import find_groups
from rig.compression.cutting.removal import Cut, cut_of, dead_channels
from rig.compression.networks import ResNet

INPUT = (1, 8, 8)
BATCH = 16
BRANCH = ["layer1.0.conv1", "layer1.0.conv2"]


def build(widths: dict[str, int] | None = None) -> ResNet:
    return ResNet((1, 1), (8, 8), widths=widths)


def fresh(seed: int = 0) -> ResNet:
    torch.manual_seed(seed)
    return build()


def altered(gates: Sequence[str] = ("conv1",), branch: bool = True) -> nn.Module:
    """A network with a branch taken out of its graph and with gates."""
    network = fresh()
    return gate_layers(bypassed(network, BRANCH, torch.zeros(1, *INPUT)) if branch else network, gates)


def batches(count: int = 6, last: int = BATCH) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    sizes = [BATCH] * (count - 1) + [last]
    return [
        (torch.randn(n, *INPUT, generator=generator), torch.randint(0, 10, (n,), generator=generator)) for n in sizes
    ]


def small_task(**changes: Any) -> tasks.Task:
    data = batches()
    task = tasks.Task(
        name="small",
        model_name="resnet",
        model=build,
        loss=nn.functional.cross_entropy,
        loaders=lambda split: data,
        evaluate=lambda network, split: 0.0,
        input_shape=INPUT,
        test_count=BATCH,
        logits=True,
    )
    return task._replace(**changes)


def values(network: nn.Module) -> torch.Tensor:
    """All parameters and floating buffers, in a row."""
    own = [*network.parameters(), *network.buffers()]
    return torch.cat([v.detach().reshape(-1) for v in own if v.is_floating_point()])


class Killer:
    """A hook that holds the first channels of a group at zero from a step on; asked, it has them taken out."""

    def __init__(self, network: nn.Module, at: int, group: str = "layer1.0.conv1", first: int = 3) -> None:
        self.at, self.group, self.first = at, group, first
        self.seen: list[int] = []
        self.left = first
        self.adopt(network)

    def adopt(self, network: nn.Module) -> None:
        self.network = network
        self.groups = find_groups(network, torch.zeros(1, *INPUT))
        if next(g for g in self.groups if g.name == self.group).width < 8:
            self.left = 0

    def after_step(self, step: int, total: int, learning_rate: float, loss: float) -> None:
        self.seen.append(step)
        if step >= self.at and self.left:
            group = next(g for g in self.groups if g.name == self.group)
            with torch.no_grad():
                for scale in group.scales:
                    rows = scale.index[scale.root < self.left]
                    scale.weight[rows] = 0.0
                    scale.bias[rows] = 0.0

    def state(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def restore(self, state: dict[str, Any]) -> None:
        self.seen = list(state["seen"])


class Remover(Killer):
    """The same, whose dead channels are taken out between epochs."""

    def surgery(self, epoch: int) -> Cut | None:
        return cut_of(self.groups, dead_channels(self.groups))
