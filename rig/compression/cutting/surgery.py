"""Narrow a trained network for real: keep chosen channels of each group, drop removed blocks, grow where asked.

    wide network ──► folded gates, constants ──► model(widths) built fresh ──► weights placed (``layouts``)
                                                       │
                                                       └─ a block that model(widths) cannot leave out: ``bypass``

The narrow network is built by the task's own ``model(widths)``, so that the table of widths rebuilds it; where each old
channel goes is computed from the groups' layouts alone, through concatenations, flattened images and grouped
convolutions. What is checked afterwards is in ``verified_surgery``.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rig.compression.cutting.bypass import bypassed
from rig.compression.cutting.channel_group import ChannelGroup
from rig.compression.cutting.folding import fold_constants
from rig.compression.cutting.gates import fold_gates
from rig.compression.cutting.placement import place_weights, placements
from rig.compression.cutting.template import Template
from rig.compression.cutting.tracing import FOREIGN_ERRORS, in_inference
from rig.compression.tasks import Task
from rig.errors import ModelError, RigError

Build = Callable[[Mapping[str, int]], nn.Module]


class Narrowing(NamedTuple):
    """What becomes of a network: the width of each group, the blocks that go, the units that stay of each group.

    kept: at most as many as its width of a group that is named, all of one that is not; a group that grows keeps all
    and gains new channels.
    """

    widths: Mapping[str, int]
    removed: Sequence[str] = ()
    kept: Mapping[str, Sequence[int]] = MappingProxyType({})

    def cut(self, template: Template) -> list[ChannelGroup]:
        """Groups that may change and that do not go with a block."""
        vanishing = {g for b in template.blocks if b.name in self.removed for g in b.inner}
        return [g for g in template.groups if g.prunable and g.name not in vanishing]

    def staying(self, group: ChannelGroup) -> list[int]:
        """The units of a group that stay."""
        return list(self.kept.get(group.name, range(group.width)))

    def dropped(self, groups: Iterable[ChannelGroup]) -> dict[str, list[int]]:
        """The units of each group that go."""
        return {g.name: sorted(set(range(g.width)) - set(self.staying(g))) for g in groups}


def keep_channels(group: ChannelGroup, importance: Tensor, width: int) -> list[int]:
    """The ``width`` most important units of a group, in their old order; ties go to the lower index."""
    order = torch.argsort(importance, descending=True, stable=True)
    return sorted(order[: min(width, group.width)].tolist())


def narrow(
    model: nn.Module,
    build: Build,
    template: Template,
    to: Narrowing,
    example: Tensor,
    constants: Tensor | None = None,
) -> nn.Module:
    """The network that ``model`` becomes, with the weights of the channels that stay.

    New channels have outgoing weights of zero, so that the function does not change. constants: a batch of inputs; with
    it, the mean of what each dropped channel gave is folded into the layers that read it (``folding``), exactly where
    it was constant. Gates are folded. Raises ModelError where the task's model(widths) does not have the layers or
    shapes that the table asks for; ``model`` is not changed.
    """
    source = fold_gates(copy.deepcopy(model))
    cut = to.cut(template)
    chosen = {g.name: to.staying(g) for g in cut}
    for name, units in chosen.items():
        if len(units) > int(to.widths[name]) or not units:
            raise ModelError(f"{name}: {len(units)} of its channels are to be kept at width {to.widths[name]}")
    if constants is not None:
        fold_constants(source, cut, to.dropped(cut), constants)
    target, gone = built(build, template, to.widths, to.removed, example)
    place_weights(source, target, placements(source, cut, chosen, to.widths), to.removed, gone)
    return target.train(model.training)


def built(
    build: Build, template: Template, widths: Mapping[str, int], removed: Sequence[str], example: Tensor
) -> tuple[nn.Module, set[str]]:
    """A fresh network at the widths, and the tensors that went with blocks that had to be taken out of it."""
    left = [name for name in removed if not expresses(build, template, name)]
    inner = {g for b in template.blocks if b.name in left for g in b.inner}
    seed = template.seed_widths()
    table = {name: seed.get(name, width) if name in inner else width for name, width in widths.items()}
    network = build(template.layer_widths(table, [name for name in removed if name not in left]))
    there = _tensors(network)
    for block in template.blocks:
        if block.name in left:
            network = bypassed(network, block.layers, example)
    return network, there - _tensors(network)


def _tensors(network: nn.Module) -> set[str]:
    return {name for name, _ in [*network.named_parameters(), *network.named_buffers()]}


def expresses(build: Build, template: Template, block: str) -> bool:
    """Whether model(widths) leaves a block out when the width of its first layer is 0."""
    layers = next(b.layers for b in template.blocks if b.name == block)
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a layer without channels may be built before it fails
            network = build(template.layer_widths(template.seed_widths(), [block]))
    except (*FOREIGN_ERRORS, RigError):
        return False  # a width of 0 is nothing that this model(widths) knows
    there = {name for name, _ in network.named_modules()}
    return not there & set(layers)


def function_difference(a: nn.Module, b: nn.Module, example: Tensor) -> float:
    """Largest difference of two networks' outputs, relative to the largest output (inference mode)."""
    with in_inference(a), in_inference(b), torch.inference_mode():
        first, second = a(example), b(example)
    return float((first - second).abs().max() / first.abs().max().clamp_min(1e-12))


def reestimate_norms(model: nn.Module, inputs: Iterable[Tensor]) -> None:
    """Estimate the running statistics of every batch-norm anew: other channels went in when they were learned."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    momenta = [m.momentum for m in norms]
    was_training = model.training
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over the batches
    model.train()
    with torch.no_grad():
        for batch in inputs:
            model(batch)
    model.train(was_training)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def bare_network(
    shrunk: nn.Module, task: Task, template: Template, removed: Sequence[str], constants: Tensor | None = None
) -> tuple[nn.Module, dict[str, int]]:
    """The shrunk network without its dead channels and its removed blocks, and the widths that are left.

    constants: as for ``narrow``.
    """
    kept = {g.name: torch.nonzero(g.norms().detach() > 0).flatten().tolist() for g in template.groups if g.prunable}
    widths = {**template.seed_widths(), **{name: len(channels) for name, channels in kept.items()}}
    example = torch.zeros(1, *task.input_shape)
    return narrow(shrunk, task.model, template, Narrowing(widths, removed, kept), example, constants), widths


def without_blocks(model: nn.Module, task: Task, template: Template, removed: Sequence[str]) -> nn.Module:
    """The network with blocks taken out and every width as it is."""
    example = torch.zeros(1, *task.input_shape)
    return narrow(model, task.model, template, Narrowing(template.seed_widths(), removed), example)
