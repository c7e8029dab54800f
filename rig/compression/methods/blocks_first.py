"""Residual blocks go before anything else: those that the budget has no room for, of the trained network.

    trained ──► what channels and blocks are worth ──► exact choices of widths and blocks at the whole budget, blocks
                counting more or less ──► all trained for a few steps ──► the one with the least loss
                                                                            │ (its widths are not used)
                                                                            ▼
                                                     the trained network without its blocks, every width as it was

The training that follows makes up for blocks, and not for narrower groups (experiments/recovery): how much a block's
trial counts beside a group's cannot be told beforehand, nor what several blocks add together, which is more than their
sum. So several exact choices are made, blocks counting WEIGHTS of what their trials say, once with all blocks to choose
from and once with those alone that keep the resolution, and the device's budget is the same for all; then training
tells. What it tells in so few steps is what does not come back, such as a stage left with its bare shortcut; neither it
nor the multiplications that are left rank the others as thousands of steps do (experiments/peers, "So far").

Channels alone cannot save a kernel's fixed cost: to 45 % of the joules of ResNet-20 on a simulated board they left one
channel in a whole stage. And blocks decided one after the other, each where the last ones are gone and little was
trained since, stay longer than they are worth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from rig.compression.budget import Budget
from rig.compression.choosing.allocation import Allocation
from rig.compression.choosing.recovery import Recovery
from rig.compression.choosing.steering import mean_loss, steering_batches
from rig.compression.cutting.realize import realized_checked
from rig.compression.methods import RACE_SHARE
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

KEY, STAGE = "blocks_first", "blocks"  # of the run's decisions, and among its stages
WEIGHTS = (1.0, 1 / 4, 1 / 16)  # of the loss that a block's trial adds; the first wins where no race is run
WELL_USED = 0.9  # of the budget: blocks that leave more of it unused went for nothing
RACE_STEPS, LEAST_STEPS = 100, 4  # of training, of each choice: at most, and for a race at all
RACE_IMAGES = 2048  # of the steering split


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
    if KEY in workplace.state:
        workplace.recall(STAGE)
    elif not survey.template.blocks or not workplace.settings.ablation.remove_blocks:
        workplace.state[KEY] = {"removed": [], "trials": [], "epochs": 0.0, "race": []}
    else:
        with workplace.timed(STAGE):
            workplace.state[KEY] = _decided(workplace, network, survey, budget)
    decided = workplace.state[KEY]
    begun = Begun(network, list(decided["removed"]), (), decided["trials"], float(decided["epochs"]))
    if not begun.removed:
        if decided["race"]:
            workplace.note(STAGE, network, removed=[], race=decided["race"])
        return begun
    template = template_of(survey.template, network, workplace.example)
    even = {g.name: torch.ones(g.width) for g in template.groups if g.prunable}
    choice = Choice(template.seed_widths(), begun.removed)
    torch.manual_seed(workplace.settings.seed)  # a resumed run drew less before it came here
    built = realized_checked(network, template, even, choice, workplace.task)
    for layer, why in built.refused.items():
        workplace.progress.stage(f"blocks: {layer} stays as it is: {why}")
    workplace.note(STAGE, built.network, removed=built.choice.removed, race=decided["race"])
    refused = tuple(b.name for b in template.blocks if b.name in built.refused)
    return begun._replace(network=built.network, removed=built.choice.removed, refused=refused)


def _decided(workplace: Workplace, network: nn.Module, survey: Survey, budget: Budget) -> dict[str, Any]:
    """The blocks that go, what was tried, and the epochs of training that it took."""
    workplace.progress.stage("blocks: which of them the budget has room for")
    template = template_of(survey.template, network, workplace.example)
    scores, trials, epochs = scored(workplace, network, template, [], (), 0)
    worth = Worth(template, [], scores, block_losses(trials))
    try:
        choices = _choices(worth, survey, budget)
    except NoAllocationError as error:
        workplace.progress.stage(f"blocks: all stay while the network shrinks: {error.message}")
        return {"removed": [], "trials": trials, "epochs": epochs, "race": []}
    race, spent = _race(workplace, network, worth, choices)
    first = min(race, key=lambda entry: math.inf if entry["loss"] is None else entry["loss"])
    return {"removed": first["removed"], "trials": trials, "epochs": epochs + spent, "race": race}


def _choices(worth: Worth, survey: Survey, budget: Budget) -> list[Choice]:
    """The exact choices that differ in their blocks and use the budget; the nearest to it alone where none does."""
    sets: dict[tuple[str, ...], None] = {}
    undecided: NoAllocationError | None = None
    for blocks in (worth.blocks, _keeping_resolution(worth)):
        for weight in WEIGHTS:
            weighted = {name: weight * added for name, added in blocks.items()}
            try:
                sets[tuple(sorted(allocated(worth._replace(blocks=weighted), survey, budget).removed))] = None
            except NoAllocationError as error:
                undecided = error
    # The weights are for the blocks alone: the widths are chosen anew, by what channels are worth.
    found: dict[tuple[str, ...], Allocation] = {}
    for removed in sets:
        try:
            found[removed] = allocated(worth._replace(removed=removed, blocks={}), survey, budget)
        except NoAllocationError as error:
            undecided = error
    if not found and undecided is not None:
        raise undecided
    using = {removed: one for removed, one in found.items() if WELL_USED <= one.used.max() <= 1.0}
    if not using:
        nearest = min(found, key=lambda removed: _off(found[removed]))
        using = {nearest: found[nearest]}
    return [Choice(dict(one.widths), list(removed)) for removed, one in using.items()]


def _off(allocation: Allocation) -> tuple[bool, float]:
    """How far an allocation is from the budget; one that is over it after all that are not."""
    used = float(allocation.used.max())
    return used > 1.0, abs(1.0 - used)


def _keeping_resolution(worth: Worth) -> dict[str, float]:
    """What the blocks without a stride add: where the others stay, no stage is left with a bare shortcut."""
    kernels = worth.template.kernels
    strided = {b.name for b in worth.template.blocks if any(kernels[k].spec.stride > 1 for k in b.kernels)}
    return {name: added for name, added in worth.blocks.items() if name not in strided}


def _race(
    workplace: Workplace, network: nn.Module, worth: Worth, choices: Sequence[Choice]
) -> tuple[list[dict[str, Any]], float]:
    """Blocks and loss of each choice once it was built and trained for a little, and the epochs that took.

    No loss where training threw it off, or surgery put something back, or there was nothing to race.
    """
    task = workplace.task
    per_epoch = workplace.per_epoch
    steps = min(RACE_STEPS, int(RACE_SHARE * workplace.settings.epochs_shrink * per_epoch / len(choices)))
    if len(choices) == 1 or steps < LEAST_STEPS:
        return [{"removed": list(choices[0].removed), "loss": None}], 0.0
    recovery = Recovery(task, steps, annealed=True)
    batches = steering_batches(task, RACE_IMAGES)
    found = []
    for number, choice in enumerate(choices, 1):
        workplace.progress.update(f"blocks: choice {number} of {len(choices)}, {steps} steps of training")
        template = template_of(worth.template, network, workplace.example)  # what is put back is of this choice alone
        built = realized_checked(network, template, worth.channels, choice, task)
        stayed = recovery(built.network)
        loss = mean_loss(built.network, task, batches)
        as_chosen = stayed and math.isfinite(loss) and not built.refused  # else it is not what the budget was for
        found.append({"removed": list(choice.removed), "loss": loss if as_chosen else None})
    return found, steps * len(choices) / per_epoch
