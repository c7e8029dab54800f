"""Where the channels of each group lie along the axes of each layer, in a network of any widths.

An axis (the output or the input channels of a layer) is a row of parts; each is a channel group's or stays:

    DenseNet layer, in     [ stem: 12 ][ layer 0: 4 ][ layer 1: 4 ]      concatenated groups
    linear layer, in       [ conv: 32 units × 49 features ]              an image flattened: ``repeat`` 49
    grouped convolution    [ a0 a1 a2 | b0 b1 b2 ]                       unit 0 is a0 and b0: ``blocks`` 2
    first layer, in        [ 3 that stay ]

A part's positions are a formula of its start and its units, so that the same row tells where a channel lies in the
wide network, in the narrow one, and in one that has grown: parts behind it just move.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rig.compression.cutting.channel_group import ChannelGroup, Member

Axis = tuple[str, str]  # layer, "out" or "in"


class Part(NamedTuple):
    """A stretch of an axis: ``units`` of a group, or as many channels that stay (``group`` empty).

    Position of unit u: ``start + (block · units + u) · repeat + k`` for every block and k < repeat.
    """

    group: str
    start: int
    units: int
    blocks: int = 1
    repeat: int = 1

    def length(self, units: int) -> int:
        """Channels of the part at another width."""
        return self.blocks * units * self.repeat

    def positions(self, chosen: Sequence[int], start: int, units: int) -> list[int]:
        """Where the chosen units lie if the part starts at ``start`` and has ``units``."""
        return [
            start + (block * units + unit) * self.repeat + k
            for block in range(self.blocks)
            for unit in chosen
            for k in range(self.repeat)
        ]


class AxisMap(NamedTuple):
    """What goes where along one axis: ``source[i]`` of the old becomes ``target[i]`` of the new, of ``length``."""

    source: Tensor
    target: Tensor
    length: int


def axis_length(module: nn.Module, axis: str) -> int:
    """Channels along an axis of a layer."""
    if isinstance(module, nn.Conv2d):
        return module.out_channels if axis == "out" else module.in_channels
    if isinstance(module, nn.Linear):
        return module.out_features if axis == "out" else module.in_features
    return int(getattr(module, "num_features", 0) or getattr(module, "num_parameters", 0))


def member_parts(group: ChannelGroup, member: Member) -> list[Part] | None:
    """The parts that a group has on one axis, or None where its channels lie in no order that a part can tell."""
    order = torch.argsort(member.index)
    index, root = member.index[order].tolist(), member.root[order].tolist()
    repeat = next((i for i, unit in enumerate(root) if unit != root[0]), len(root))
    repeat = len(root) // group.quantum if group.width == 1 else repeat
    size = group.width * group.quantum * repeat
    if not size or len(index) % size:
        return None
    parts = [Part(group.name, index[at], group.width, group.quantum, repeat) for at in range(0, len(index), size)]
    for number, part in enumerate(parts):
        span = slice(number * size, (number + 1) * size)
        units = [unit for _ in range(part.blocks) for unit in range(part.units) for _ in range(repeat)]
        if root[span] != units or index[span] != list(range(part.start, part.start + size)):
            return None
    return parts


def rows_of_parts(groups: Iterable[ChannelGroup]) -> dict[Axis, list[Part]]:
    """Every axis that a prunable group lies on, as its row of parts from start to end.

    Raises ValueError, naming the layer, where two groups claim one channel or an order is not understood.
    """
    claimed: dict[Axis, list[Part]] = {}
    modules: dict[str, nn.Module] = {}
    for group in groups:
        for member in group.members if group.prunable else []:
            parts = member_parts(group, member)
            if parts is None:
                raise ValueError(
                    f"the channels of {group.name} lie in {member.layer} in an order that is not understood"
                )
            claimed.setdefault((member.layer, member.axis), []).extend(parts)
            modules[member.layer] = member.module
    return {axis: _filled(axis, parts, axis_length(modules[axis[0]], axis[1])) for axis, parts in claimed.items()}


def _filled(axis: Axis, parts: list[Part], length: int) -> list[Part]:
    """The row with what no group claims between its parts."""
    row: list[Part] = []
    at = 0
    for part in sorted(parts, key=lambda p: p.start):
        if part.start < at:
            raise ValueError(f"two groups claim one channel of {axis[0]}")
        if part.start > at:
            row.append(Part("", at, part.start - at))
        row.append(part)
        at = part.start + part.length(part.units)
    if at > length:
        raise ValueError(f"{axis[0]} has fewer channels than its groups")
    return [*row, Part("", at, length - at)] if at < length else row


def axis_map(row: Sequence[Part], kept: Mapping[str, Sequence[int]], widths: Mapping[str, int]) -> AxisMap:
    """Old and new positions along an axis; ``kept`` units of each group become its first, ``widths`` is what it has."""
    source: list[int] = []
    target: list[int] = []
    start = 0
    for part in row:
        chosen = list(kept.get(part.group, range(part.units)))
        units = int(widths.get(part.group, len(chosen)))
        source += part.positions(chosen, part.start, part.units)
        target += part.positions(range(len(chosen)), start, units)
        start += part.length(units)
    return AxisMap(torch.tensor(source, dtype=torch.long), torch.tensor(target, dtype=torch.long), start)
