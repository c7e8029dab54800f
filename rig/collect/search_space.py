"""The networks that a person will price: one network at other widths and with fewer blocks.

    kernels of an ONNX file ─► channel groups (what must have one width) and removable blocks ─► drawn configurations

Channels are followed through the kernels: a convolution or fully connected layer begins a group, additions tie groups
together, concatenations add them up. Where channels cannot be followed (shuffles, slices), and at the network's
outputs, widths stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import exp, lcm, log

import numpy as np

from power_models.kernels import KernelNode

NARROWEST, WIDEST = 0.25, 1.1  # of a drawn network, relative to the seed's widths
JITTER = 0.3  # standard deviation (log) of a group about its network's width
MOST_REMOVED = 0.5  # of the removable blocks, in a drawn network at most, on average
ALIGNED = 0.5  # share of groups at a multiple of 8; the others at any width, as pruning leaves them
FOLLOWING = ("max_pool", "avg_pool", "global_avg_pool", "lrn")  # groups = channels
PASSING = (*FOLLOWING, "activation", "batch_norm", "softmax", "reorder")


@dataclass(frozen=True)
class Width:
    """A channel count: ``constant + Σ factor · width of group``."""

    constant: int = 0
    terms: tuple[tuple[int, int], ...] = ()

    def at(self, widths: Sequence[int]) -> int:
        """The count at these widths."""
        return self.constant + sum(factor * widths[group] for group, factor in self.terms)

    def times(self, factor: int) -> Width:
        """A multiple, as a flattened image or a depth multiplier gives."""
        return Width(self.constant * factor, tuple((group, own * factor) for group, own in self.terms))


@dataclass
class SearchSpace:
    """A network with symbolic channels; ``seed`` holds each group's width, ``free`` those that may change."""

    nodes: list[KernelNode]
    given: list[Width] = field(default_factory=list)
    written: list[Width] = field(default_factory=list)
    seed: list[int] = field(default_factory=list)
    step: list[int] = field(default_factory=list)
    frozen: set[int] = field(default_factory=set)
    blocks: list[frozenset[int]] = field(default_factory=list)
    _parent: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, nodes: Sequence[KernelNode]) -> SearchSpace:
        """Follow the channels of a network through its kernels (by rules under which additions stand alone)."""
        space = cls(list(nodes))
        for node in nodes:
            space._follow(node)
        read = {i for node in nodes for i in node.inputs}
        for i in range(len(nodes)):
            if i not in read:
                space._freeze(space.written[i])
        space.blocks = _removable(nodes)
        return space

    @property
    def free(self) -> list[int]:
        """The groups whose width may change."""
        return [g for g in range(len(self.seed)) if self._root(g) == g and g not in self._frozen_roots()]

    def at(self, widths: Sequence[int], removed: frozenset[int] = frozenset()) -> list[KernelNode]:
        """The network at ``widths`` (one a group), without the ``removed`` kernels."""
        kept: list[KernelNode] = []
        place = {-1: -1}
        for i, node in enumerate(self.nodes):
            if i in removed:
                place[i] = place[self._entry(i, removed)]
                continue
            channels, out = self.given[i].at(widths), self.written[i].at(widths)
            follows = node.spec.kind in FOLLOWING or node.spec.kind == "depthwise"
            groups = channels if follows and node.spec.groups > 1 else node.spec.groups
            spec = node.spec._replace(in_channels=channels, out_channels=out, groups=groups)
            place[i] = len(kept)
            kept.append(node._replace(spec=spec, inputs=tuple(place[j] for j in node.inputs)))
        return kept

    def _entry(self, position: int, removed: frozenset[int]) -> int:
        """What stands in for a removed kernel: for an addition its shortcut, for the others whatever they read."""
        inputs = self.nodes[position].inputs
        outside = [j for j in inputs if j not in removed]
        return outside[0] if outside else inputs[0]

    def draw(self, count: int, seed: int) -> list[list[KernelNode]]:
        """``count`` configurations, the same for the same arguments; each differs from the seed where it can."""
        random = np.random.default_rng([seed, 77])
        return [self._draw_one(random) for _ in range(count)]

    def _draw_one(self, random: np.random.Generator) -> list[KernelNode]:
        scale = exp(random.uniform(log(NARROWEST), log(WIDEST)))
        frozen, widths = self._frozen_roots(), list(self.seed)
        for group in range(len(self.seed)):
            ratio, aligned = scale * exp(random.normal(0.0, JITTER)), random.random() < ALIGNED
            if self._root(group) != group or group in frozen:
                continue
            step = lcm(self.step[group], 8) if aligned and self.seed[group] >= 16 else self.step[group]
            wanted = min(max(ratio, 0.5 * NARROWEST), 1.25) * self.seed[group]
            widths[group] = max(round(wanted / step), 1) * step
        for group in range(len(self.seed)):
            widths[group] = widths[self._root(group)]
        share, removed = random.uniform(0.0, MOST_REMOVED), frozenset[int]()
        for block in self.blocks:
            if random.random() < share and not removed & block:
                removed |= block
        return self.at(widths, removed)

    def _frozen_roots(self) -> set[int]:
        return {self._root(group) for group in self.frozen}

    def _root(self, group: int) -> int:
        while self._parent[group] != group:
            group = self._parent[group]
        return group

    def _new(self, width: int, step: int = 1) -> Width:
        self.seed.append(width)
        self.step.append(step)
        self._parent.append(len(self.seed) - 1)
        return Width(0, ((len(self.seed) - 1, 1),))

    def _freeze(self, *widths: Width) -> None:
        self.frozen |= {group for width in widths for group, _ in width.terms}

    def _tie(self, a: Width, b: Width) -> None:
        """Two tensors that are added have one width; sums of groups are not taken apart but kept as they are."""
        single = all(w.constant == 0 and len(w.terms) == 1 and w.terms[0][1] == 1 for w in (a, b))
        if a == b:
            return
        if not single:
            self._freeze(a, b)
            return
        first, second = self._root(a.terms[0][0]), self._root(b.terms[0][0])
        self._parent[second] = first
        self.step[first] = lcm(self.step[first], self.step[second])

    def _follow(self, node: KernelNode) -> None:
        spec, real = node.spec, [i for i in node.inputs if i >= 0]
        inputs = [self.written[i] for i in real]
        given = inputs[0] if inputs else Width(spec.in_channels)
        if spec.kind == "concat" and len(inputs) == len(node.inputs):
            given = Width(sum(w.constant for w in inputs), tuple(term for w in inputs for term in w.terms))
        elif spec.kind in ("add", "mul") and len(inputs) == 2:
            self._tie(inputs[0], inputs[1])
        count = given.at(self.seed)
        if count != spec.in_channels:
            if count and spec.in_channels % count == 0 and spec.kind == "fc":
                given = given.times(spec.in_channels // count)  # a flattened map
            else:
                self._freeze(*inputs)
                given = Width(spec.in_channels)
        self.given.append(given)
        self.written.append(self._output(node, given))

    def _output(self, node: KernelNode, given: Width) -> Width:
        spec = node.spec
        if spec.kind == "fc" or (spec.kind == "conv" and spec.groups == 1):
            return self._new(spec.out_channels)
        if spec.kind == "conv":
            single = given.constant == 0 and len(given.terms) == 1
            if single:
                root = self._root(given.terms[0][0])
                self.step[root] = lcm(self.step[root], spec.groups)
            else:
                self._freeze(given)
            return self._new(spec.out_channels, spec.groups)
        if spec.kind == "depthwise" and spec.out_channels % spec.in_channels == 0:
            return given.times(spec.out_channels // spec.in_channels)
        if spec.kind in (*PASSING, "add", "mul", "concat") and spec.in_channels == spec.out_channels:
            return given
        self._freeze(given)
        return Width(spec.out_channels)


def _removable(nodes: Sequence[KernelNode]) -> list[frozenset[int]]:
    """Residual branches that could go with their addition: kernels that only lead from the shortcut to the addition."""
    before: list[frozenset[int]] = []
    readers: dict[int, set[int]] = {}
    for i, node in enumerate(nodes):
        before.append(frozenset([i]).union(*(before[j] for j in node.inputs if j >= 0)))
        for j in node.inputs:
            readers.setdefault(j, set()).add(i)
    found = []
    for i, node in enumerate(nodes):
        if node.spec.kind != "add" or len(node.inputs) != 2 or min(node.inputs) < 0:
            continue
        for short, long in (node.inputs, node.inputs[::-1]):
            if short not in before[long] or short == long:
                continue
            block = (before[long] - before[short]) | {i}
            inner = block - {i}
            if inner and all(readers[j] <= block for j in inner) and _same_shape(nodes[short], node):
                found.append(block)
    return found


def _same_shape(a: KernelNode, b: KernelNode) -> bool:
    def shape(node: KernelNode) -> tuple[int, int, int]:
        return node.spec.out_channels, node.spec.out_height, node.spec.out_width

    return shape(a) == shape(b)
