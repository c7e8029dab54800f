"""Dead channels and blocks taken out of a network while it is trained, so that the rest of training is cheaper.

    dead channels of each group ──► Cut ──► task.model(widths) of what is left
    where every value goes (``placement``) ──► weights, momentum and averaged weights, all by the same plan

A channel whose batch-norm scale and shift are zero gives act(0), which is 0 for the activations used behind
batch-norms, so that the network's function stays; that is tested on the two networks before the old one is let go.
MorphNet (Gordon et al., CVPR 2018) trains all channels to the end and removes them then; PruneTrain (Lym et al., SC
2019, arXiv 1901.09290) makes the network smaller every few epochs, as is done here. Difference: its channels are judged
by a threshold on group-lasso norms, these are exact zeros, so nothing is lost at a cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rig.compression.cutting.channel_group import NORMS, ChannelGroup, layer_channels
from rig.compression.cutting.placement import Placement, place_weights, placements
from rig.compression.cutting.rebuild import Build, built
from rig.compression.cutting.surgery import function_difference
from rig.compression.cutting.template import ResidualBlock
from rig.errors import ModelError

TOLERANCE = 1e-4  # of the largest output: float32's rounding over some dozen layers
PROBES = 4  # random inputs on which the two networks are compared


class Cut(NamedTuple):
    """What is kept of a network: of each of ``groups`` the units ``kept``; ``blocks`` are residual blocks that go.

    table: what ``model(widths)`` must be given beside what it was given for the network as it is.
    """

    groups: list[ChannelGroup]
    kept: dict[str, list[int]]
    blocks: list[ResidualBlock]
    table: dict[str, int]

    def places(self, network: nn.Module) -> dict[str, Placement]:
        """For every parameter and buffer where its values go."""
        return placements(network, self.groups, self.kept, {name: len(units) for name, units in self.kept.items()})


def dead_channels(groups: Sequence[ChannelGroup]) -> dict[str, Tensor]:
    """Per prunable group the units whose scales and shifts are all exactly zero, bool (width,)."""
    return {g.name: g.norms().detach() == 0 for g in groups if g.prunable}


def silent_blocks(network: nn.Module, blocks: Sequence[ResidualBlock]) -> list[ResidualBlock]:
    """Residual blocks that add nothing: the batch-norm behind their last layer has neither scale nor shift left."""
    modules = dict(network.named_modules())
    names = list(modules)
    found = []
    for block in blocks:
        behind = (modules[name] for name in names[names.index(block.layers[-1]) + 1 :])
        norm = next((m for m in behind if isinstance(m, NORMS)), None)
        if norm is not None and norm.affine and not bool(norm.weight.any() | norm.bias.any()):
            found.append(block)
    return found


def cut_of(
    groups: Sequence[ChannelGroup], dead: Mapping[str, Tensor], blocks: Sequence[ResidualBlock] = ()
) -> Cut | None:
    """The cut that takes out the dead units, bool (width,) by group, and the blocks; None where that is nothing.

    A group keeps one unit at least, unless it vanishes with a block; two, where a convolution in groups is in it: with
    one it would be depthwise, and tie its inputs to its outputs.
    """
    vanishing = {name for block in blocks for name in block.inner}
    cut = [g for g in groups if g.prunable and g.name not in vanishing]
    kept = {}
    for group in cut:
        units = torch.nonzero(~dead[group.name]).flatten().tolist() if group.name in dead else list(range(group.width))
        least = 1 if group.quantum == 1 else 2
        spared = [unit for unit in range(group.width) if unit not in units][: max(0, least - len(units))]
        kept[group.name] = sorted([*units, *spared])
    if not blocks and all(len(kept[g.name]) == g.width for g in cut):
        return None
    gone = [layer for block in blocks for layer in block.layers]
    table = layer_channels(cut, {name: len(units) for name, units in kept.items()}, gone)
    return Cut(cut, kept, list(blocks), {**table, **{block.entry: 0 for block in blocks}})


def narrowed(network: nn.Module, cut: Cut, build: Build, table: Mapping[str, int]) -> nn.Module:
    """The network that ``build(table)`` gives, holding what the cut keeps; ``network`` is not changed.

    Raises ModelError where it has other layers or shapes than the cut leaves.
    """
    target = built(build, table).to(next(network.parameters()).device)
    place_weights(network, target, cut.places(network), [block.name for block in cut.blocks])
    return target.train(network.training)


def answers_apart(old: nn.Module, new: nn.Module, input_shape: Sequence[int]) -> float:
    """Largest difference of two networks' answers to the same random inputs, of the largest answer (in evaluation)."""
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn(PROBES, *input_shape, generator=generator).to(next(new.parameters()).device)
    return function_difference(old, new, probe)


def require_same_function(old: nn.Module, new: nn.Module, input_shape: Sequence[int], cut: Cut) -> None:
    """Raise ModelError, naming what was cut, where the two networks answer differently (in evaluation)."""
    difference = answers_apart(old, new, input_shape)
    if not difference <= TOLERANCE:
        channels = [g.name for g in cut.groups if len(cut.kept[g.name]) < g.width]
        raise ModelError(
            f"taking dead channels out of {', '.join([*(b.name for b in cut.blocks), *channels][:6])} changes the "
            f"network's answers by {difference:.1g} of the largest",
            "an activation is not zero at zero, or channels are used in a way that is not seen; they stay",
        )


def carry_over(
    old: nn.Module, optimizer: torch.optim.Optimizer, new: nn.Module, fresh: torch.optim.Optimizer, cut: Cut
) -> None:
    """Give ``fresh``, an optimizer of the same kind over ``new``, the settings and the state of the old one.

    State of a parameter's shape (momentum) goes where the parameter went; other state is taken as it stands.
    """
    places, before = cut.places(old), dict(old.named_parameters())
    for group, source in zip(fresh.param_groups, optimizer.param_groups, strict=True):
        group.update({key: value for key, value in source.items() if key != "params"})
    for name, parameter in new.named_parameters():
        for key, value in optimizer.state.get(before[name], {}).items():
            if isinstance(value, Tensor) and value.shape == before[name].shape:
                moved = torch.zeros_like(parameter, requires_grad=False)
                places[name].move(value, moved)
                fresh.state[parameter][key] = moved
            else:
                fresh.state[parameter][key] = value
