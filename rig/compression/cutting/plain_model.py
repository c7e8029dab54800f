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

from rig.compression.cutting.channel_group import ChannelGroup, group_widths
from rig.compression.cutting.groups import find_groups
from rig.compression.cutting.rebuild import Build
from rig.compression.cutting.resizing import resized


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

    What it gives raises BadInputError for a table that the network's channel groups do not allow.
    """
    groups: list[ChannelGroup] = []

    def build(widths: Mapping[str, int] | None = None) -> nn.Module:
        network = model()
        if not widths:
            return network
        if not groups:
            groups.extend(find_groups(network, torch.zeros(1, *input_shape)))
        return resized(network, groups, group_widths(groups, widths))

    return build
