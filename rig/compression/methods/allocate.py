"""Allocation: widths and residual blocks chosen exactly under the device's measured cost, in several steps.

    trained ──► scores in units of the loss ──► least loss at a budget ──► cut for real, trained ──► … ──► scores
                (importance, steering)          (allocation, milp)         budgets fall in equal ratios

Shen et al., NeurIPS 2022 (HALP: latency-constrained pruning as a knapsack, the budget lowered in exponential steps);
He et al. 2018 (AMC), Yang et al. 2018 (NetAdapt) and Yang et al. 2019 (ECC) as peers. Differences from HALP:

- A kernel costs what the device's table says of (c_in, c_out) together. HALP takes the inputs as they were before a
  step and groups channels by the latency step; here both groups of a kernel are decided at once, exactly, and a
  group's options are the widths that pay.
- Whole residual blocks may go, in the same problem: their kernels vanish, and what they are worth is measured on the
  same scale as the channels (``steering``).
- Several limits hold at once: power at a frame rate or flat out, energy, latency, FLOPs, parameters; a frame rate that
  a power limit names is kept too.
- What is cut is cut for real between the steps, so that their training gets cheaper. The last choice is left to
  ``choose``: it takes from a network that is still wider, so that what the device says can be made up for.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from rig.compression.budget import Budget
from rig.compression.choosing.allocation import Allocation, Allocator, Scores, limit_rows
from rig.compression.choosing.importance import BATCHES, IMPORTANCES
from rig.compression.choosing.milp import TIME_LIMIT_S, NoChoiceError
from rig.compression.choosing.steering import measured_scores
from rig.compression.cutting.groups import find_groups
from rig.compression.cutting.realize import realized_checked
from rig.compression.cutting.template import Template
from rig.compression.methods.base import RESOURCES, Choice, Found, Workplace
from rig.compression.survey import PACEABLE, Survey
from rig.compression.training import TrainingPlan
from rig.errors import BadInputError, InfeasibleTargetError, RigError

RATE = 0.05  # of learning, between the steps
MOST_STEPS = 4  # of training; one more choice follows the last


class NoAllocationError(RigError):
    """The solver's time was over before it had a choice, or a proof that there is none."""

    code = "no-allocation"


class Stage(NamedTuple):
    """A network on the way: its groups (named as the seed network's), and the blocks that it has no longer.

    refused: blocks that surgery put back, because the function was not the same without them.
    """

    network: nn.Module
    template: Template
    removed: list[str]
    refused: tuple[str, ...] = ()


class Allocate:
    """The method; ``search`` cuts and trains in steps, ``choose`` decides the last cut."""

    name = "allocate"
    serves = RESOURCES
    from_scratch = False

    def search(self, workplace: Workplace, baseline: nn.Module, survey: Survey, budget: Budget) -> Found:
        """Cut a copy of the baseline in steps; raises InfeasibleTargetError before training where limits clash."""
        network = copy.deepcopy(baseline)
        stage = Stage(network, _template(survey.template, network, workplace), [])
        _require_reachable(stage, survey, budget)
        steps = max(1, min(MOST_STEPS, round(workplace.settings.epochs_shrink)))
        for number in range(1, steps + 1):
            stage = _step(workplace, stage, survey, _loosened(budget, survey, number, steps), number, steps)
        scores, trials = _scores(workplace, stage, steps + 1)
        for trial in trials:
            trial["removed"] = False
        removed = [{"block": name, "removed": True} for name in stage.removed]
        return Found(
            stage.network, stage.template, scores, stage.template.seed_widths(), stage.removed, [], [*removed, *trials]
        )

    def choose(self, found: Found, survey: Survey, budget: Budget) -> Choice:
        """The widths and blocks of least loss whose predicted cost holds the budget, or those nearest to it."""
        allocation = _allocated(
            found.template, found.removed, survey, budget, found.importance, _block_losses(found.trials)
        )
        return _choice(allocation, found.removed)


METHOD = Allocate


def _step(workplace: Workplace, stage: Stage, survey: Survey, budget: Budget, number: int, steps: int) -> Stage:
    """Score, choose, cut, train: one step."""
    name = f"allocate {number} of {steps}"
    workplace.progress.stage(f"{name}: importance of channels and blocks")
    scores, trials = _scores(workplace, stage, number)
    decisions = workplace.state.setdefault("allocate", {})
    if str(number) not in decisions:
        allocation = _allocated(stage.template, stage.removed, survey, budget, scores, _block_losses(trials))
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
        settings.epochs_shrink / steps, RATE, warmup_share=0.1, final_share=0.1, seed=settings.seed + 10 * number + 1
    )
    workplace.train(name, network, plan, workplace.checkpoint(f"allocate-{number}"))
    facts = {key: decided[key] for key in ("loss", "bound", "used", "exact")}
    workplace.note(name, network, removed=choice.removed, **facts)
    refused = (*stage.refused, *(b.name for b in stage.template.blocks if b.name in built.refused))
    return Stage(network, _template(stage.template, network, workplace), choice.removed, refused)


def _template(before: Template, network: nn.Module, workplace: Workplace) -> Template:
    """The template with the groups of a narrower network; what went with a block, or was put back, stays so."""
    groups = {g.name: g for g in before.groups}
    for group in find_groups(network, workplace.example, like=before.groups):
        group.put_back = group.put_back or groups[group.name].put_back
        groups[group.name] = group
    return before._replace(groups=list(groups.values()))


def _there(template: Template, removed: Sequence[str]) -> Template:
    """The template without the groups that went with their blocks."""
    gone = {name for b in template.blocks if b.name in removed for name in b.inner}
    return template._replace(groups=[g for g in template.groups if g.name not in gone])


def _scores(workplace: Workplace, stage: Stage, number: int) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Scores of channels, and the record of blocks; the same whenever asked."""
    kind = workplace.settings.importance
    if kind not in IMPORTANCES:
        raise BadInputError(f"unknown importance {kind!r}", f"known: {', '.join(IMPORTANCES)}")
    settings = workplace.settings
    torch.manual_seed(settings.seed + 1000 * number)
    template = _there(stage.template, stage.removed)
    own = IMPORTANCES[kind](stage.network, workplace.task, template.groups, BATCHES)
    offered = [b for b in template.blocks if settings.ablation.remove_blocks and b.name not in stage.refused]
    template = template._replace(blocks=offered)
    scores, trials = measured_scores(stage.network, workplace.task, template, stage.removed, own)
    gone = {g.name: torch.zeros(g.width) for g in stage.template.groups if g.prunable and g.name not in scores}
    return {**scores, **gone}, trials


def _block_losses(trials: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    return {trial["block"]: float(trial["loss_added"]) for trial in trials if "loss_added" in trial}


def _loosened(budget: Budget, survey: Survey, number: int, steps: int) -> Budget:
    """The budget of a step: from the seed network's cost to the target in equal ratios, the target being the last."""
    share = 1.0 - number / (steps + 1)
    start = {b.name: b.used(b.value(survey.predicted)) for b in budget.bounds}
    return budget.scaled({name: max(1.0, used) ** share for name, used in start.items()})


def _allocator(
    template: Template,
    removed: Sequence[str],
    survey: Survey,
    budget: Budget,
    scores: Mapping[str, Tensor],
    blocks: Mapping[str, float],
) -> Allocator:
    tables = survey.tables
    frame_s = None
    rates = [b.fps for b in budget.bounds if b.quantity == "power" and b.fps]
    if rates:
        # The frame's time as the device keeps it, in the seconds that the tables predict.
        frame_s = PACEABLE / max(rates) * float(survey.predicted[0] / survey.measured[0])
    seed = survey.template.seed_widths()
    widths = _there(template, removed).seed_widths()
    staying = {g.name for g in template.groups if g.put_back or not g.prunable}
    channels = {
        name: values.detach().numpy().astype(np.float64)
        for name, values in scores.items()
        if name in widths and name not in staying
    }
    left = [b for b in template.blocks if b.name not in removed]
    rows = limit_rows(budget, survey.predicted, frame_s)
    without = template.removed_kernels(removed)
    return Allocator(tables, widths, seed, left, without, Scores(channels, blocks), rows)


def _allocated(
    template: Template,
    removed: Sequence[str],
    survey: Survey,
    budget: Budget,
    scores: Mapping[str, Tensor],
    blocks: Mapping[str, float],
) -> Allocation:
    """The best allocation within the budget; the nearest to it, where it is proven that there is none."""
    allocator = _allocator(template, removed, survey, budget, scores, blocks)
    try:
        return allocator.choose()
    except NoChoiceError as error:
        if not error.proven:
            raise _undecided() from error
    return _least(allocator)


def _least(allocator: Allocator) -> Allocation:
    """What is reachable."""
    try:
        return allocator.least()
    except NoChoiceError as error:
        raise _undecided() from error


def _undecided() -> NoAllocationError:
    return NoAllocationError(
        f"no widths and blocks within the limits were found in {TIME_LIMIT_S:g} s, nor proof that there are none",
        "give looser or fewer limits, or --method morphnet, which needs no solver; or try again when the host is idle",
    )


def _choice(allocation: Allocation, removed: Sequence[str]) -> Choice:
    return Choice(dict(allocation.widths), [*removed, *allocation.removed])


def _require_reachable(stage: Stage, survey: Survey, budget: Budget) -> None:
    """Raise InfeasibleTargetError where no widths and blocks hold all limits at once."""
    equal = {g.name: torch.ones(g.width) for g in stage.template.groups if g.prunable}
    blocks = {b.name: 1.0 for b in stage.template.blocks}
    allocator = _allocator(stage.template, [], survey, budget, equal, blocks)
    if (allocator.narrowest().used <= 1.0).all():
        return
    nearest = _least(allocator)
    if (nearest.used <= 1.0).all():
        return
    totals = survey.tables.totals(nearest.widths, stage.template.removed_kernels(nearest.removed))
    said = ", ".join(f"{b.quantity} {b.value(totals):.4g} {b.unit} (limit {b.limit:.4g})" for b in budget.bounds)
    raise InfeasibleTargetError(
        f"no widths and blocks of this network hold all limits at once; the nearest reach {said}, predicted",
        "raise the limits that clash, or take a smaller model",
    )
