"""How a network is made again from a task's ``model(widths)``, found from the network itself.

    model(widths) ──► branches taken out of the graph (``bypass``) ──► gates put in (``gates``)

The last two are what surgery and training did beside the widths. A ``Recipe`` is plain data, so that it can go into
checkpoints and to other processes; a network's values are its ``state_dict``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rig.compression.cutting.bypass import bypassed, bypassed_branches
from rig.compression.cutting.gates import gate_layers, gated_layers
from rig.errors import ModelError

Build = Callable[..., nn.Module]


class Recipe(NamedTuple):
    """widths: the table for ``model(widths)``; bypassed: layers of each branch taken out; gated: layers with gates."""

    widths: dict[str, int]
    bypassed: list[list[str]]
    gated: list[str]


def recipe_of(network: nn.Module, build: Build, example: Tensor) -> Recipe:
    """How ``network`` is made again; raises ModelError where no table of widths gives its shapes."""
    widths = layer_table(network, builder_of(network, build, example))
    return Recipe(widths, bypassed_branches(network), gated_layers(network))


def made(recipe: Recipe, build: Build, example: Tensor) -> nn.Module:
    """The network of a recipe, untrained; torch's random generator stays as it was."""
    return built(_completed(build, recipe.bypassed, recipe.gated, example), recipe.widths)


def builder_of(network: nn.Module, build: Build, example: Tensor) -> Build:
    """``build`` with everything done to what it gives that was done to ``network`` beside its widths."""
    branches, gated = bypassed_branches(network), gated_layers(network)
    return _completed(build, branches, gated, example) if branches or gated else build


def _completed(build: Build, branches: list[list[str]], gated: list[str], example: Tensor) -> Build:
    def completed(widths: Mapping[str, int] | None = None) -> nn.Module:
        network = build(widths) if widths else build()
        for layers in branches:
            network = bypassed(network, layers, example)
        return gate_layers(network, gated)

    return completed


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
