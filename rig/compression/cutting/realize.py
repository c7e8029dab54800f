"""A chosen configuration as a network: the channels worth most, the blocks that stay, new batch-norm statistics."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rig.compression.cutting.surgery import Narrowing, keep_channels, reestimate_norms
from rig.compression.cutting.template import Template
from rig.compression.cutting.verified_surgery import verified_narrow
from rig.compression.methods.base import Choice
from rig.compression.tasks import Task
from rig.errors import ModelError

NORM_BATCHES = 20  # training batches to estimate batch-norm statistics from


class Realized(NamedTuple):
    """A network that was checked, the choice that it is, and what was put back from the one asked for, with why."""

    network: nn.Module
    choice: Choice
    refused: dict[str, str]


def realized_checked(
    network: nn.Module, template: Template, importance: Mapping[str, Tensor], choice: Choice, task: Task
) -> Realized:
    """The network at the chosen widths, with the weights of its most important channels; ``network`` stays as it is.

    What dropped channels gave on average is folded into the layers that read them (``folding``). Groups and blocks
    whose removal would change the function are put back (``verified_surgery``): the groups are left alone from then on.
    """
    kept = kept_channels(template, importance, choice)
    example = torch.zeros(1, *task.input_shape)
    batches = [inputs for inputs, _ in itertools.islice(iter(task.loaders("train")), NORM_BATCHES)]
    to = Narrowing(choice.widths, choice.removed, kept)
    found = verified_narrow(network, task.model, template, to, example, constants=batches[0], onnx=False)
    reestimate_norms(found.network, batches)
    return Realized(found.network, Choice(found.widths, found.removed), found.refused)


def realized(
    network: nn.Module, template: Template, importance: Mapping[str, Tensor], choice: Choice, task: Task
) -> nn.Module:
    """``realized_checked`` exactly as chosen; raises ModelError, naming them, where groups or blocks had to stay."""
    found = realized_checked(network, template, importance, choice, task)
    for name, why in found.refused.items():
        raise ModelError(f"{name} cannot be cut as chosen: {why}", "see 'What can be shrunk' in docs/writing-a-task.md")
    return found.network


def kept_channels(template: Template, importance: Mapping[str, Tensor], choice: Choice) -> dict[str, list[int]]:
    """Which channels of each group stay: the most important of the living.

    The dead (norm 0) make room for new ones: behind a ReLU a channel of zeros gets no gradient and would stay dead.
    """
    gone = {g for b in template.blocks if b.name in choice.removed for g in b.inner}
    kept = {}
    for group in template.groups:
        if group.prunable and group.name not in gone:
            living = group.norms().detach() > 0
            score = importance[group.name] + 1e-6 * living  # what the loss does not hang on is not dead yet
            width = min(choice.widths[group.name], max(1, int(living.sum())))
            kept[group.name] = keep_channels(group, score, width)
    return kept
