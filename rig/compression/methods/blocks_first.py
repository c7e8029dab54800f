"""Residual blocks go before anything else: those that the budget has no room for, of the trained network.

    trained ──► what channels and blocks are worth ──► exact choice of widths and blocks at the whole budget
                                                         │ (its widths are not used)
                                                         ▼
                                     the network without those blocks, every width as it was

The training that follows makes up for them, and not for narrower groups, so that what a block's trial adds to the loss
counts BLOCKS_KEEP here (experiments/recovery). Channels alone cannot save a kernel's fixed cost: to 45 % of the joules
of ResNet-20 on a simulated board they left one channel in a whole stage. And blocks decided one after the other, each
where the last ones are gone and little was trained since, stay longer than they are worth: to 30 % of those joules the
first stage kept one of its blocks, and the second stage lost all of its own.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn

from rig.compression.budget import Budget
from rig.compression.cutting.realize import realized_checked
from rig.compression.methods.allocating import (
    NoAllocationError,
    Worth,
    allocated,
    block_losses,
    scored,
    template_of,
)
from rig.compression.methods.base import Choice, Workplace
from rig.compression.survey import Survey

KEY = "blocks_first"  # of the run's decisions
BLOCKS_KEEP = 0.25  # of the loss that a block's trial adds: what training leaves of it, beside a group's


class Begun(NamedTuple):
    """What a method begins with.

    removed: blocks that the network has no longer; refused: those that surgery put back, because the function was not
    the same without them; trials: the record of all; epochs: of training that finding out took.
    """

    network: nn.Module
    removed: list[str]
    refused: tuple[str, ...]
    trials: list[dict[str, Any]]
    epochs: float


def without_blocks_first(workplace: Workplace, network: nn.Module, survey: Survey, budget: Budget) -> Begun:
    """The trained network without the blocks that the budget has no room for; decided once in a run."""
    if KEY not in workplace.state:
        workplace.state[KEY] = _decided(workplace, network, survey, budget)
        workplace.save_state()
    decided = workplace.state[KEY]
    begun = Begun(network, list(decided["removed"]), (), decided["trials"], float(decided["epochs"]))
    if not begun.removed:
        return begun
    template = template_of(survey.template, network, workplace.example)
    even = {g.name: torch.ones(g.width) for g in template.groups if g.prunable}
    choice = Choice(template.seed_widths(), begun.removed)
    built = realized_checked(network, template, even, choice, workplace.task)
    for layer, why in built.refused.items():
        workplace.progress.stage(f"blocks: {layer} stays as it is: {why}")
    workplace.note("blocks", built.network, removed=built.choice.removed)
    refused = tuple(b.name for b in template.blocks if b.name in built.refused)
    return begun._replace(network=built.network, removed=built.choice.removed, refused=refused)


def _decided(workplace: Workplace, network: nn.Module, survey: Survey, budget: Budget) -> dict[str, Any]:
    """The blocks that go, what was tried, and the epochs of training that it took."""
    if not survey.template.blocks or not workplace.settings.ablation.remove_blocks:
        return {"removed": [], "trials": [], "epochs": 0.0}
    workplace.progress.stage("blocks: which of them the budget has room for")
    template = template_of(survey.template, network, workplace.example)
    scores, trials, epochs = scored(workplace, network, template, [], (), 0)
    try:
        blocks = {name: BLOCKS_KEEP * added for name, added in block_losses(trials).items()}
        removed = allocated(Worth(template, [], scores, blocks), survey, budget).removed
    except NoAllocationError as error:
        workplace.progress.stage(f"blocks: all stay while the network shrinks: {error.message}")
        removed = []
    return {"removed": sorted(removed), "trials": trials, "epochs": epochs}
