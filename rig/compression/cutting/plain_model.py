"""``model(widths)`` of a network that is given as it is: the layers of a fresh one are resized.

    model() ──► channel groups, found once ──► table of layers → width of each group ──► layers resized

What the groups say about a layer (left alone, changing with another, whole units) is said of a table that asks for
something else. A block cannot be left out this way: it is taken out of the traced graph instead (``bypass``).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from rig.compression.cutting.channel_group import WIDE_LAYERS, ChannelGroup
from rig.compression.cutting.groups import find_groups
from rig.compression.cutting.rebuild import Build
from rig.compression.cutting.resizing import resized
from rig.errors import ModelError


def builder(model: Build, input_shape: Sequence[int]) -> Build:
    """``model(widths=None)`` of what a task gives: given widths by a parameter of that name, or by a first one that may
    be None or must be given; else ``with_widths``.
    """
    try:
        parameters = inspect.signature(model).parameters
    except (TypeError, ValueError):  # of what is not written in Python nothing is known
        return model
    if "widths" in parameters:
        return lambda widths=None: model(widths=widths) if widths else model()
    by_place = [p for p in parameters.values() if p.kind not in (p.VAR_KEYWORD, p.KEYWORD_ONLY)]
    if by_place and by_place[0].default in (None, inspect.Parameter.empty):
        return model
    return with_widths(model, input_shape)


def with_widths(model: Callable[[], nn.Module], input_shape: Sequence[int]) -> Build:
    """``model(widths=None)`` made of a ``model()`` that knows no widths; input_shape: without the batch dimension.

    What it gives raises ModelError for a table that the network's channel groups do not allow.
    """
    groups: list[ChannelGroup] = []

    def build(widths: Mapping[str, int] | None = None) -> nn.Module:
        network = model()
        if not widths:
            return network
        if not groups:
            groups.extend(find_groups(network, torch.zeros(1, *input_shape)))
        _require_layers(network, widths)
        return resized(network, groups, _group_widths(groups, widths))

    return build


def _require_layers(network: nn.Module, widths: Mapping[str, int]) -> None:
    layers = {name for name, module in network.named_modules() if isinstance(module, WIDE_LAYERS)}
    unknown = sorted(set(widths) - layers)
    if unknown:
        raise ModelError(f"the table of widths names {', '.join(unknown[:3])}, which the network does not have")


def _group_widths(groups: Sequence[ChannelGroup], table: Mapping[str, int]) -> dict[str, int]:
    """Units of every group that the table changes."""
    found: dict[str, int] = {}
    for group in groups:
        asked = {layer: int(table[layer]) for layer in group.writers if layer in table}
        counts = set(asked.values())
        if counts <= {group.channels}:
            continue
        said = ", ".join(f"{layer}: {width}" for layer, width in asked.items())
        if len(counts) > 1:
            raise ModelError(f"layers that change together are given different widths ({said})")
        if not group.prunable:
            raise ModelError(f"{said} cannot be had: {group.why_fixed}")
        width = counts.pop()
        if width < group.quantum or width % group.quantum:
            raise ModelError(f"{said} cannot be had: widths there are multiples of {group.quantum}, at least that")
        found[group.name] = width // group.quantum
    return found
