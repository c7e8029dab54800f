"""A network as kernels whose channels follow the widths of its groups, and the residual blocks that could go.

The kernels come from the exported ONNX graph, as the device's runtime fuses it; the exporter keeps the names of the
weights, and those lead back to the layers and their channel groups.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from power_models.kernels import KernelNode
from power_models.tables import Channels, SizedKernel
from rig.compression.cutting.channel_group import ChannelGroup, layer_channels


class ResidualBlock(NamedTuple):
    """A residual branch that could be removed: its kernels, its layers, and the inner groups that go with it."""

    name: str
    kernels: frozenset[int]
    layers: tuple[str, ...]
    entry: str  # the layer that gets width 0 in model(widths)
    inner: frozenset[str]  # groups that vanish with the block


class Template(NamedTuple):
    """A network's kernels with symbolic channels, its groups and its removable blocks.

    refused: residual blocks that cannot be taken out after all, (name, why); bottlenecks: names of the groups that
    everything passes through (``choosing.floors``).
    """

    kernels: list[SizedKernel]
    groups: list[ChannelGroup]
    blocks: list[ResidualBlock]
    refused: tuple[tuple[str, str], ...] = ()
    bottlenecks: frozenset[str] = frozenset()

    def with_groups(self, groups: Sequence[ChannelGroup]) -> Template:
        """The template with ``groups`` in place of its own of those names; others, gone with their blocks, stay."""
        return self._replace(groups=list({g.name: g for g in (*self.groups, *groups)}.values()))

    def seed_widths(self) -> dict[str, int]:
        """The widths of the network that the groups were found in, in units (``channel_group``)."""
        return {g.name: g.width for g in self.groups}

    def layer_widths(self, widths: Mapping[str, int], removed: Sequence[str] = ()) -> dict[str, int]:
        """The table for ``model(widths)``: every layer's output channels, 0 for the entry of each removed block."""
        gone = {layer for b in self.blocks if b.name in removed for layer in b.layers}
        table = layer_channels(self.groups, widths, gone)
        table.update({b.entry: 0 for b in self.blocks if b.name in removed})
        return table

    def stages(self) -> dict[str, list[str]]:
        """Names of the removable blocks, in network order, by the channel group that they add to.

        A block that adds to none is under its own name.
        """
        writer = {layer: g.name for g in self.groups for layer in g.writers}
        found: dict[str, list[str]] = {}
        for block in self.blocks:
            found.setdefault(writer.get(block.layers[-1], block.name), []).append(block.name)
        return found

    def removed_kernels(self, removed: Sequence[str]) -> frozenset[int]:
        """Indices of the kernels that vanish with these blocks."""
        return frozenset(i for b in self.blocks if b.name in removed for i in b.kernels)


def make_template(nodes: Sequence[KernelNode], groups: Sequence[ChannelGroup]) -> Template:
    """Tie the kernels of an exported network to the channel groups of the torch network that it came from.

    A group whose channels a kernel does not follow (a split, a shuffle: the cost at other widths would be guessed) is
    left alone from then on, and says so.
    """
    while True:
        kernels, strange = _sized(nodes, groups)
        if not strange:
            return Template(kernels, list(groups), find_blocks(nodes, {w: g for g in groups for w in g.writers}))
        for group in groups:
            if group.name in strange:
                group.why_fixed = strange[group.name]


def _sized(nodes: Sequence[KernelNode], groups: Sequence[ChannelGroup]) -> tuple[list[SizedKernel], dict[str, str]]:
    """The kernels with their channels, and the groups that one of them does not follow, with why."""
    seed = {g.name: g.width for g in groups}
    written = {layer: g for g in groups for layer in g.writers}
    outputs: list[Channels] = []
    kernels: list[SizedKernel] = []
    for node in nodes:
        given = _counted(_given(node, outputs), node.spec.in_channels, seed, node.spec.kind == "fc")
        out = _counted(_written(node, given, written), node.spec.out_channels, seed, node.spec.kind == "view")
        for side, channels, count in (("in", given, node.spec.in_channels), ("out", out, node.spec.out_channels)):
            if channels.at(seed) != count:
                why = (
                    f"kernel {node.name} ({node.spec.label}): its {side} channels are {count}, "
                    f"but the channel groups give {channels.at(seed)}: its cost at other widths cannot be told"
                )
                return kernels, dict.fromkeys((group for group, _ in channels.terms), why)
        kernels.append(SizedKernel(node.name, node.spec, given, out))
        outputs.append(out)
    return kernels, {}


def _counted(channels: Channels, count: int, seed: Mapping[str, int], flattens: bool) -> Channels:
    """The channels as the kernel counts them: those that stay are its own count, a flattened image multiplies."""
    if not channels.terms:
        return Channels(count)
    here = channels.at(seed)
    return channels.times(count // here) if flattens and here != count and count % here == 0 else channels


def _given(node: KernelNode, outputs: Sequence[Channels]) -> Channels:
    """The channels that a kernel reads."""
    real = [i for i in node.inputs if i >= 0]
    if not real:
        return Channels(node.spec.in_channels)
    if node.spec.kind == "concat":
        total = Channels()
        for i in real:
            total = total.plus(outputs[i])
        return total
    return outputs[real[0]]


def _written(node: KernelNode, given: Channels, written: Mapping[str, ChannelGroup]) -> Channels:
    """The channels that a kernel writes."""
    if node.spec.kind in ("conv", "fc", "depthwise"):
        layer = (node.weight or "").removesuffix(".weight")
        group = written.get(layer)
        if group is not None and group.prunable and node.spec.out_channels == group.channels:
            return Channels(0, ((group.name, group.quantum),))
        return Channels(node.spec.out_channels)
    return given


def find_blocks(nodes: Sequence[KernelNode], written: Mapping[str, ChannelGroup]) -> list[ResidualBlock]:
    """Residual branches, found where two paths meet in an addition; one is nothing, or one projection."""
    before: list[frozenset[int]] = []
    for i, node in enumerate(nodes):
        reach = frozenset([i]).union(*(before[j] for j in node.inputs if j >= 0)) if node.inputs else frozenset([i])
        before.append(reach)
    runs = Counter(node.weight for node in nodes if node.weight)
    blocks = []
    for i, node in enumerate(nodes):
        adds = node.spec.kind == "add" or "add" in node.spec.fused.split("+")
        if not adds or len(node.inputs) != 2 or min(node.inputs) < 0:
            continue
        branch = _branch(nodes, before, i)
        block = _block(nodes, branch, written, runs) if branch else None
        if block is not None:
            blocks.append(block)
    return blocks


def _branch(nodes: Sequence[KernelNode], before: Sequence[frozenset[int]], add: int) -> frozenset[int] | None:
    """Kernels of the residual branch that ends in kernel ``add``, that kernel included; None if it is no such block."""
    a, b = nodes[add].inputs
    only_a, only_b = before[a] - before[b], before[b] - before[a]
    short, long = sorted((only_a, only_b), key=len)
    if nodes[add].spec.kind != "add":  # the addition is fused into the branch's last convolution
        short, long = (only_b, only_a) if len(only_b) <= 1 else (only_a, only_b)
    if len(short) > 1:
        return None
    if short and nodes[next(iter(short))].spec.kind != "conv":
        return None
    return (long - short) | {add}


def _block(
    nodes: Sequence[KernelNode],
    branch: frozenset[int],
    written: Mapping[str, ChannelGroup],
    runs: Mapping[str | None, int],
) -> ResidualBlock | None:
    layers = [
        (nodes[i].weight or "").removesuffix(".weight")
        for i in sorted(branch)
        if nodes[i].spec.kind in ("conv", "depthwise", "fc")
    ]
    if len(layers) < 2 or any(layer not in written for layer in layers):
        return None
    if any(runs[nodes[i].weight] > 1 for i in branch if nodes[i].weight):
        return None  # a layer that also runs elsewhere would be missed there
    inner = [
        g.name
        for g in {written[layer].name: written[layer] for layer in layers}.values()
        if set(g.writers) <= set(layers)
    ]
    if written[layers[0]].name not in inner:
        return None
    name = _common_prefix(layers)
    return ResidualBlock(name, branch, tuple(layers), layers[0], frozenset(inner))


def _common_prefix(names: Sequence[str]) -> str:
    parts = [name.split(".")[:-1] for name in names]
    shared = []
    for pieces in zip(*parts, strict=False):
        if len(set(pieces)) > 1:
            break
        shared.append(pieces[0])
    return ".".join(shared) or "+".join(names)
