"""The table of widths by which a task's ``model(widths)`` builds a network again, found from the network itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from rig.errors import ModelError

Build = Callable[..., nn.Module]


def built(build: Build, table: Mapping[str, int] | None) -> nn.Module:
    """``model(widths)``, or the seed network for an empty table; torch's random generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        return build(dict(table)) if table else build()


def layer_table(network: nn.Module, build: Build) -> dict[str, int]:
    """Layer → channels wherever the network differs from the seed, 0 for the first layer of a missing block.

    Raises ModelError where no table gives a network of these shapes.
    """
    wanted, have = _shapes(network), _widths(network)
    table: dict[str, int] = {}
    while True:
        candidate = built(build, table)
        there = _widths(candidate)
        if _shapes(candidate) == wanted:
            return table
        found = {name: have[name] for name, width in there.items() if name in have and have[name] != width}
        missing = next((name for name in there if name not in have), None)
        if missing is not None:
            found[missing] = 0
        if all(table.get(name) == width for name, width in found.items()):
            raise ModelError(
                "model(widths) gives no network of these shapes, so that it cannot be built again",
                "model(widths) must apply the widths that it is given: see docs/writing-a-task.md",
            )
        table.update(found)


def _widths(network: nn.Module) -> dict[str, int]:
    return {n: m.weight.shape[0] for n, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}


def _shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}
