"""Allocation: widths and residual blocks chosen exactly under the device's measured cost, in several steps.

    trained ──► first blocks ──► scores in units of the loss ──► least loss at a budget ──► cut for real, trained ──► …
                                 (importance, steering)          (allocation, milp)         budgets fall in equal ratios

Shen et al., NeurIPS 2022 (HALP: latency-constrained pruning as a knapsack, the budget lowered in exponential steps);
He et al. 2018 (AMC), Yang et al. 2018 (NetAdapt) and Yang et al. 2019 (ECC) as peers. Differences from HALP:

- A kernel costs what the device's table says of (c_in, c_out) together. HALP takes the inputs as they were before a
  step and groups channels by the latency step; here both groups of a kernel are decided at once, exactly, and a
  group's options are the widths that pay.
- Whole residual blocks may go, in the same problem: their kernels vanish, and what they are worth is measured on the
  same scale as the channels (``steering``). Those that the whole budget has no room for go first (``blocks_first``),
  later ones only where widths alone cannot hold a budget.
- Several limits hold at once: power at a frame rate or flat out, energy, latency, FLOPs, parameters; a frame rate that
  a power limit names is kept too.
- What is cut is cut for real between the steps, so that their training gets cheaper. The last choice is left to
  ``choose``: it takes from a network that is still wider, so that what the device says can be made up for.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from rig.compression.budget import Budget
from rig.compression.choosing.allocation import Allocation
from rig.compression.cutting.realize import realized_checked
from rig.compression.cutting.template import Template
from rig.compression.methods.allocating import (
    Worth,
    allocated_in_blocks,
    allocator_of,
    block_losses,
    least,
    scored,
    template_of,
)
from rig.compression.methods.base import RESOURCES, Choice, Found, Workplace
from rig.compression.methods.blocks_first import Begun, without_blocks_first
from rig.compression.survey import Survey
from rig.compression.training import TrainingPlan
from rig.errors import InfeasibleTargetError

RATE = 0.05  # of learning, between the steps
MOST_STEPS = 4  # of training; one more choice follows the last
LEAST_EPOCHS = 1.0  # of training in a step, or there are fewer of them
LATER_SHARE = 0.1  # of the search's epochs: what the trials of each choice after the first blocks may take


class Stage(NamedTuple):
    """A network on the way: its groups (named as the seed network's), and the blocks that it has no longer.

    refused: blocks that surgery put back, because the function was not the same without them.
    """

    network: nn.Module
    template: Template
    removed: list[str]
    refused: tuple[str, ...] = ()


class Part(NamedTuple):
    """Which step of how many; epochs: that it may take, its trials among them."""

    number: int
    steps: int
    epochs: float


class Allocate:
    """The method; ``search`` cuts and trains in steps, ``choose`` decides the last cut."""

    name = "allocate"
    serves = RESOURCES
    from_scratch = False

    def search(self, workplace: Workplace, baseline: nn.Module, survey: Survey, budget: Budget) -> Found:
        """Cut a copy of the baseline in steps; raises InfeasibleTargetError before training where limits clash."""
        network = copy.deepcopy(baseline)
        _require_reachable(template_of(survey.template, network, workplace.example), survey, budget)
        begun = without_blocks_first(workplace, network, survey, budget)
        template = template_of(survey.template, begun.network, workplace.example)
        stage = Stage(begun.network, template, begun.removed, begun.refused)
        epochs = workplace.settings.epochs_shrink
        left = epochs * (1.0 - LATER_SHARE) - begun.epochs  # the last choice has its trials too
        steps = max(1, min(MOST_STEPS, int(left / (LEAST_EPOCHS + LATER_SHARE * epochs))))
        for number in range(1, steps + 1):
            part = Part(number, steps, left / steps)
            stage = _step(workplace, stage, survey, _loosened(budget, survey, begun, part), part)
        with workplace.timed("importance of the last choice"):
            scores, trials, _ = scored(workplace, *stage, steps + 1, LATER_SHARE)
        for trial in trials:
            trial["removed"] = False
        first = {trial["block"]: trial for trial in begun.trials}
        removed = [{"block": name, **first.get(name, {}), "removed": True} for name in stage.removed]
        return Found(
            stage.network, stage.template, scores, stage.template.seed_widths(), stage.removed, [], [*removed, *trials]
        )

    def choose(self, found: Found, survey: Survey, budget: Budget) -> Choice:
        """The widths and blocks of least loss whose predicted cost holds the budget, or those nearest to it."""
        worth = Worth(found.template, found.removed, found.importance, block_losses(found.trials))
        return _choice(allocated_in_blocks(worth, survey, budget), found.removed)


METHOD = Allocate


def _step(workplace: Workplace, stage: Stage, survey: Survey, budget: Budget, part: Part) -> Stage:
    """Score, choose, cut, train: one step."""
    number, steps, _ = part
    name = f"allocate {number} of {steps}"
    workplace.progress.stage(f"{name}: importance of channels and blocks")
    with workplace.timed(f"importance {number} of {steps}"):
        scores, trials, tried_epochs = scored(workplace, *stage, number, LATER_SHARE)
    decisions = workplace.state.setdefault("allocate", {})
    if str(number) not in decisions:
        worth = Worth(stage.template, stage.removed, scores, block_losses(trials))
        allocation = allocated_in_blocks(worth, survey, budget)
        choice = _choice(allocation, stage.removed)
        decisions[str(number)] = {
            "widths": choice.widths,
            "removed": choice.removed,
            "loss": allocation.loss,
            "bound": allocation.bound,
            "used": float(allocation.used.max()),
            "exact": allocation.exact,
            "options": allocation.options,
            "left": allocation.left,
        }
        workplace.save_state()
    decided = decisions[str(number)]
    if decided["used"] > 1.0:
        workplace.progress.stage(
            f"{name}: nothing found within the step's budget; the nearest uses {decided['used']:.1%}"
        )
    choice = Choice({group: int(width) for group, width in decided["widths"].items()}, list(decided["removed"]))
    built = realized_checked(stage.network, stage.template, scores, choice, workplace.task)
    for layer, why in built.refused.items():
        workplace.progress.stage(f"{name}: {layer} stays as it is: {why}")
    network, choice = built.network, built.choice
    settings = workplace.settings
    plan = TrainingPlan(
        part.epochs - tried_epochs,
        RATE,
        warmup_share=0.1,
        final_share=0.1,
        seed=settings.seed + 10 * number + 1,
    )
    workplace.train(name, network, plan, workplace.checkpoint(f"allocate-{number}"))
    facts = {key: decided[key] for key in ("loss", "bound", "used", "exact")}
    workplace.note(name, network, removed=choice.removed, **facts)
    refused = (*stage.refused, *(b.name for b in stage.template.blocks if b.name in built.refused))
    return Stage(network, template_of(stage.template, network, workplace.example), choice.removed, refused)


def _loosened(budget: Budget, survey: Survey, begun: Begun, part: Part) -> Budget:
    """The budget of a step: from the cost without the first blocks towards the target in equal ratios."""
    share = 1.0 - part.number / (part.steps + 1)
    totals = survey.tables.totals(survey.template.seed_widths(), survey.template.removed_kernels(begun.removed))
    start = {b.name: b.used(b.value(totals)) for b in budget.bounds}
    return budget.scaled({name: max(1.0, used) ** share for name, used in start.items()})


def _choice(allocation: Allocation, removed: Sequence[str]) -> Choice:
    return Choice(dict(allocation.widths), [*removed, *allocation.removed])


def _require_reachable(template: Template, survey: Survey, budget: Budget) -> None:
    """Raise InfeasibleTargetError where no widths and blocks hold all limits at once."""
    equal = {g.name: torch.ones(g.width) for g in template.groups if g.prunable}
    blocks = {b.name: 1.0 for b in template.blocks}
    allocator = allocator_of(Worth(template, [], equal, blocks), survey, budget)
    if (allocator.narrowest().used <= 1.0).all():
        return
    nearest = least(allocator)
    if (nearest.used <= 1.0).all():
        return
    totals = survey.tables.totals(nearest.widths, template.removed_kernels(nearest.removed))
    said = ", ".join(f"{b.quantity} {b.value(totals):.4g} {b.unit} (limit {b.limit:.4g})" for b in budget.bounds)
    raise InfeasibleTargetError(
        f"no widths and blocks of this network hold all limits at once; the nearest reach {said}, predicted",
        "raise the limits that clash, or take a smaller model",
    )
