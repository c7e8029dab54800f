"""Residual blocks go before anything else: those that the budget has no room for, of the trained network.

    trained ──► what channels and blocks are worth ──► exact choices of widths and blocks at the whole budget, blocks
                counting more or less ──► a race: each trained for a little, then those around the best one
                                                                            │ (its widths are not used)
                                                                            ▼
                                                     the trained network without its blocks, every width as it was

The training that follows makes up for blocks, and not for narrower groups (experiments/recovery): how much a block's
trial counts beside a group's cannot be told beforehand, nor what several blocks add together, which is more than their
sum. So several exact choices are made, blocks counting WEIGHTS of what their trials say, once with all blocks to choose
from and once with those alone that keep the resolution, and the device's budget is the same for all; then training
tells. What it tells in so few steps is what does not come back, such as a stage left with its bare shortcut; neither it
nor the multiplications that are left rank the others as thousands of steps do (experiments/peers/tried.md).

Channels alone cannot save a kernel's fixed cost: to 45 % of the joules of ResNet-20 on a simulated board they left one
channel in a whole stage. And blocks decided one after the other, each where the last ones are gone and little was
trained since, stay longer than they are worth.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from rig.compression.budget import Budget
from rig.compression.choosing.allocation import Allocation
from rig.compression.cutting.realize import realized_checked
from rig.compression.methods import RACE_SHARE
from rig.compression.methods.allocating import (
    NoAllocationError,
    Worth,
    allocated,
    allocator_of,
    block_losses,
    scored,
    template_of,
)
from rig.compression.methods.base import Choice, Workplace
from rig.compression.methods.race import raced
from rig.compression.survey import Survey

KEY, STAGE = "blocks_first", "blocks"  # of the run's decisions, and among its stages
WEIGHTS = (1.0, 1 / 4, 1 / 16)  # of the loss that a block's trial adds; the first wins where no race is run
WELL_USED = 0.9  # of the budget: blocks that leave more of it unused went for nothing


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
    choices = BlockChoices(worth, survey, budget)
    try:
        first = choices.first()
    except NoAllocationError as error:
        workplace.progress.stage(f"blocks: all stay while the network shrinks: {error.message}")
        return {"removed": [], "trials": trials, "epochs": epochs, "race": []}
    room = int(RACE_SHARE * workplace.settings.epochs_shrink * workplace.per_epoch)
    race = raced(workplace, network, worth, first, choices.around, room)
    spent = epochs + race.batches / workplace.per_epoch
    return {"removed": race.best, "trials": trials, "epochs": spent, "race": race.record}


class BlockChoices:
    """Exact choices at a budget, by the blocks that go; the widths are by what channels are worth."""

    def __init__(self, worth: Worth, survey: Survey, budget: Budget) -> None:
        self.worth = worth
        self.survey = survey
        self.budget = budget
        # Of two blocks that overlap the solver offers one.
        offered = {block.name for block in allocator_of(worth, survey, budget).blocks}
        stages = ([name for name in stage if name in offered] for stage in worth.template.stages().values())
        self.stages = [stage for stage in stages if stage]
        self._known: dict[tuple[str, ...], Allocation] = {}

    def first(self) -> list[Choice]:
        """The solver's, at each weight of the blocks, and the same depths with the first blocks of each stage.

        Those that use the budget; the nearest to it alone where none does. Raises NoAllocationError.
        """
        sets: dict[tuple[str, ...], None] = {}
        undecided: NoAllocationError | None = None
        for blocks in (self.worth.blocks, _keeping_resolution(self.worth)):
            for weight in WEIGHTS:
                weighted = {name: weight * added for name, added in blocks.items()}
                try:
                    found = allocated(self.worth._replace(blocks=weighted), self.survey, self.budget)
                except NoAllocationError as error:
                    undecided = error
                else:
                    sets.update(dict.fromkeys((tuple(sorted(found.removed)), self._first_stay(found.removed))))
        known: dict[tuple[str, ...], Allocation] = {}
        for removed in sets:
            try:
                known[removed] = self._allocated(removed)
            except NoAllocationError as error:
                undecided = error
        if not known and undecided is not None:
            raise undecided
        using = [removed for removed, one in known.items() if _uses(one)]
        return [self._choice(removed) for removed in using or [min(known, key=lambda removed: _off(known[removed]))]]

    def around(self, choice: Choice) -> list[Choice]:
        """A block more or less in one stage, the first blocks of each staying; those that use the budget."""
        found = []
        for stage in self.stages:
            gone = sum(name in choice.removed for name in stage)
            for count in (gone - 1, gone + 1):
                if 0 <= count <= len(stage):
                    others = [name for name in choice.removed if name not in stage]
                    removed = self._first_stay([*others, *stage[len(stage) - count :]])
                    with contextlib.suppress(NoAllocationError):  # undecided: one less to look at
                        if _uses(self._allocated(removed)):
                            found.append(self._choice(removed))
        return found

    def _first_stay(self, removed: Sequence[str]) -> tuple[str, ...]:
        """As many blocks of each stage, the last ones: the first brings the stage's own filters and its stride."""
        gone = [name for s in self.stages for name in s[len(s) - sum(n in removed for n in s) :]]
        return tuple(sorted(gone))

    def _allocated(self, removed: tuple[str, ...]) -> Allocation:
        """The widths of these blocks; the weights were for the blocks alone, here it is the channels' worth."""
        if removed not in self._known:
            self._known[removed] = allocated(self.worth._replace(removed=removed, blocks={}), self.survey, self.budget)
        return self._known[removed]

    def _choice(self, removed: tuple[str, ...]) -> Choice:
        return Choice(dict(self._known[removed].widths), list(removed))


def _uses(allocation: Allocation) -> bool:
    return bool(WELL_USED <= allocation.used.max() <= 1.0)


def _off(allocation: Allocation) -> tuple[bool, float]:
    """How far an allocation is from the budget; one that is over it after all that are not."""
    used = float(allocation.used.max())
    return used > 1.0, abs(1.0 - used)


def _keeping_resolution(worth: Worth) -> dict[str, float]:
    """What the blocks without a stride add: where the others stay, no stage is left with a bare shortcut."""
    kernels = worth.template.kernels
    strided = {b.name for b in worth.template.blocks if any(kernels[k].spec.stride > 1 for k in b.kernels)}
    return {name: added for name, added in worth.blocks.items() if name not in strided}
