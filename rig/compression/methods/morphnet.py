"""MorphNet: channels shrink to nothing in training, the device's cost being the resource; then widths are expanded.

    trained ──► blocks ──► shrink to the budget ──► expand to OVERSHOOT of it ──► shrink ──► … ──► widths to the budget

Gordon et al., CVPR 2018 (arXiv 1711.06798). Differences:

- The resource is power (at a frame rate or flat out), energy, latency, FLOPs or parameters, from the device's tables;
  the strength follows a controller instead of a sweep; zeros are exact (see ``power_models.regularizer``).
- The paper shrinks below the budget and expands to it, so that what it ends with was never trained at its widths.
  Here the rounds before the last expand to OVERSHOOT of the budget and every round shrinks to the budget itself.
  What grows, beyond the seed network too, is built by the task's ``model(widths)`` with outgoing weights of zero, so
  that the function stays; what was dead before makes room for it.
- Whole residual blocks go before shrinking (``blocks_first``). After it more may go where that costs next to nothing
  (``rig.compression.choosing.blocks``).
- A group that everything passes through keeps a part of the width that the same ratio everywhere would leave it
  (``rig.compression.choosing.floors``).
- The paper carries dead channels to the end; with ``prune_every`` they leave the network while it is trained
  (PruneTrain, Lym et al., SC 2019), so that later epochs cost less (``rig.compression.training.removing``).
- The paper needs batch-norms; its code has group lasso for layers without, which is done here too, or, where that is
  asked for, such layers get a gate a channel while they shrink (``rig.compression.cutting.gates``).
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, nn

from power_models.regularizer import CostRegularizer, Gradient
from rig.compression.budget import Budget
from rig.compression.choosing import blocks
from rig.compression.choosing.floors import floors_of
from rig.compression.choosing.importance import taylor
from rig.compression.choosing.widths import WidthChooser
from rig.compression.cutting.gates import with_gates
from rig.compression.cutting.groups import find_groups
from rig.compression.cutting.realize import kept_channels
from rig.compression.cutting.surgery import Narrowing, bare_network, narrow
from rig.compression.cutting.template import Template
from rig.compression.methods.allocating import nothing, template_of, there
from rig.compression.methods.base import RESOURCES, Choice, Found, Workplace
from rig.compression.methods.blocks_first import without_blocks_first
from rig.compression.methods.controller import StrengthController
from rig.compression.methods.shrinker import Shrinker
from rig.compression.survey import Survey
from rig.compression.training import TrainingPlan
from rig.compression.training.removing import Removing

SHRINK_RATE = 0.05
OVERSHOOT = 1.25  # of the budget's active part, between rounds: what the next round can choose from
GRACE = 0.2  # of a later round's steps, in which nothing is condemned: what is new has to learn first


class Start(NamedTuple):
    """What shrinking begins with: a network, the template of its groups, the blocks that it has no longer, the record
    of those that were tried, and the epochs that this took."""

    network: nn.Module
    template: Template
    removed: list[str]
    trials: list[dict[str, Any]]
    epochs: float


class Shrunk(NamedTuple):
    """What a round of shrinking leaves: a network, the template of its groups, the widths alive, the record."""

    network: nn.Module
    template: Template
    alive: dict[str, int]
    history: list[dict[str, Any]]


class MorphNet:
    """The method; ``search`` shrinks ``settings.morph_rounds`` times, ``choose`` rounds, cuts and expands."""

    name = "morphnet"
    serves = RESOURCES
    from_scratch = False

    def __init__(self) -> None:
        self.expand = True

    def search(self, workplace: Workplace, baseline: nn.Module, survey: Survey, budget: Budget) -> Found:
        """Shrink a copy of the baseline, less some blocks, until its predicted cost is at the budget."""
        self.expand = workplace.settings.ablation.expand
        start = _start(workplace, copy.deepcopy(baseline), survey, budget)
        history: list[dict[str, Any]] = []
        rounds = workplace.settings.morph_rounds
        for number in range(1, rounds + 1):
            shrunk = _shrink(workplace, start, survey, budget, number)
            history += _continued(history, shrunk.history)
            if number < rounds:
                start = start._replace(network=_grown(workplace, start, shrunk, survey, budget, number))
        network, template = shrunk.network, shrunk.template
        with workplace.timed("removal"):
            importance = taylor(network, workplace.task, template.groups)
            _remove_more(workplace, start, shrunk, survey, budget, importance)
        state = workplace.state
        _note_removal(workplace, network, template, list(state["removed"]))
        scales = {g.name: g.scaled_by for g in template.groups if g.prunable}
        whole = survey.template.with_groups(template.groups)
        alive = whole.seed_widths() | {name: int(width) for name, width in state["alive"].items()}
        importance |= nothing(whole, importance)
        return Found(network, whole, importance, alive, list(state["removed"]), history, list(state["trials"]), scales)

    def choose(self, found: Found, survey: Survey, budget: Budget) -> Choice:
        """The alive widths rounded to what pays, cut where they are over the budget, expanded to what is left of it."""
        chooser = _chooser(found.template, survey, budget, found.importance, found.removed)
        return Choice(chooser.choose(found.alive, expand=self.expand), list(found.removed))


METHOD = MorphNet


# --- the parts of the search ----------------------------------------------------------------------------------------


def _start(workplace: Workplace, network: nn.Module, survey: Survey, budget: Budget) -> Start:
    """The trained network without the blocks that go first, and the template of what is left."""
    begun = without_blocks_first(workplace, network, survey, budget)
    template = survey.template
    if begun.removed:
        template = there(template_of(template, begun.network, workplace.example), begun.removed)
    return Start(begun.network, template, begun.removed, begun.trials, begun.epochs)


def _shrink(workplace: Workplace, begun: Start, survey: Survey, budget: Budget, number: int) -> Shrunk:
    """One round of shrinking."""
    settings = workplace.settings
    network, template = _scaled(workplace, begun.network, begun.template)
    gradient = _flops_gradient(budget, survey) if settings.ablation.steer_by_flops else budget.gradient
    tables = survey.tables.left(survey.template.removed_kernels(begun.removed), survey.template.seed_widths())
    floors = floors_of(survey.template, survey.tables, budget, begun.removed)
    regularizer = CostRegularizer(template.groups, tables, gradient, floors)
    start = budget.usage(tables.totals(template.seed_widths()))
    grace = GRACE if number > 1 else 0.0
    shrinker = Shrinker(regularizer, budget, StrengthController(start, 1.0), settings.ablation.gradient_on, grace)
    plan = TrainingPlan(
        (settings.epochs_shrink - begun.epochs) / settings.morph_rounds,
        SHRINK_RATE,
        warmup_share=0.1,
        final_share=0.1,
        seed=settings.seed + 1 + 10 * (number - 1),
    )
    checkpoint = workplace.checkpoint("shrink" if number == 1 else f"shrink-{number}")
    name = "shrink" if number == 1 else f"shrink {number}"
    if settings.prune_every:
        removing = Removing(shrinker, network, workplace.example, settings.prune_every)
        network = workplace.train(name, network, plan, checkpoint, removing)
        template = template._replace(groups=removing.groups)
    else:
        network = workplace.train(name, network, plan, checkpoint, shrinker)
    reached = budget.usage(regularizer.cost())
    share = (start - reached) / (start - 1.0) if start > 1.0 else 1.0
    workplace.note(name, network, reached=share, usage=reached)
    return Shrunk(network, template, regularizer.widths(), shrinker.history)


def _scaled(workplace: Workplace, network: nn.Module, before: Template) -> tuple[nn.Module, Template]:
    """The network as it shrinks, with gates where it has no batch-norms, and the template of its groups."""
    groups = find_groups(network, workplace.example, like=before.groups)
    if workplace.settings.without_norm == "gates" and any(g.prunable and g.scaled_by == "filters" for g in groups):
        network = with_gates(network, groups)
        groups = [g.on(network) for g in groups]
    return network, before._replace(groups=groups)


def _flops_gradient(budget: Budget, survey: Survey) -> Gradient:
    """Prices by FLOPs alone, of the budget's size: the ablation."""
    usage, macs = budget.usage(survey.predicted), float(survey.predicted[2])
    return lambda totals: np.array([0.0, 0.0, usage / macs, 0.0])


def _continued(before: list[dict[str, Any]], history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A round's record, its steps counted on from the rounds before."""
    done = before[-1]["step"] if before else 0
    return [{**entry, "step": done + entry["step"]} for entry in history]


def _grown(
    workplace: Workplace, begun: Start, shrunk: Shrunk, survey: Survey, budget: Budget, number: int
) -> nn.Module:
    """The shrunk network without its dead channels, expanded to OVERSHOOT of the budget; the function stays."""
    template = survey.template.with_groups(shrunk.template.groups)
    alive = template.seed_widths() | shrunk.alive
    importance = taylor(shrunk.network, workplace.task, shrunk.template.groups)
    importance |= nothing(template, importance)
    # Never dearer than what the training began with.
    share = min(OVERSHOOT, budget.usage(survey.predicted))
    looser = budget.scaled({bound.name: share for bound in budget.bounds})
    chooser = _chooser(template, survey, looser, importance, begun.removed)
    grown = workplace.state.setdefault("grown", {})
    if str(number) not in grown:
        start = {name: max(1, width) for name, width in alive.items()}
        grown[str(number)] = chooser.expanded(chooser.cut(start))
        workplace.save_state()
    widths = {name: int(width) for name, width in grown[str(number)].items()}
    staying = Choice({name: min(width, max(1, alive[name])) for name, width in widths.items()}, begun.removed)
    kept = kept_channels(template, importance, staying)
    to = Narrowing(widths, begun.removed, kept)
    wide = narrow(shrunk.network, workplace.task.model, template, to, workplace.example)
    workplace.note(f"expand {number}", wide, usage=budget.usage(chooser.totals(widths)), widths=widths)
    return wide


def _chooser(
    template: Template, survey: Survey, budget: Budget, importance: dict[str, Tensor], removed: list[str]
) -> WidthChooser:
    gone = {g for b in template.blocks if b.name in removed for g in b.inner}
    frozen = frozenset(gone | {g.name for g in template.groups if g.put_back})
    return WidthChooser(
        survey.tables,
        budget,
        importance,
        template.seed_widths(),
        template.removed_kernels(removed),
        frozen,
        floors_of(survey.template, survey.tables, budget, removed),
    )


def _remove_more(
    workplace: Workplace, begun: Start, shrunk: Shrunk, survey: Survey, budget: Budget, importance: dict[str, Tensor]
) -> None:
    """Put into the state which blocks go in the end, how wide everything is, and what was tried; once in a run."""
    if "removed" in workplace.state:
        return
    removed = list(begun.removed)
    trials: list[blocks.BlockTrial] = []
    if workplace.settings.ablation.remove_blocks:
        workplace.progress.stage("blocks: trying removal against narrowing")
        alive = survey.template.seed_widths() | shrunk.alive
        removed, trials = blocks.remove_blocks(
            shrunk.network, workplace.task, shrunk.template, survey.tables, budget, alive, importance, begun.removed
        )
    tried = [*begun.trials, *(t._asdict() for t in trials)]
    workplace.state.update(removed=removed, trials=tried, alive=shrunk.alive)
    workplace.save_state()


def _note_removal(workplace: Workplace, shrunk: nn.Module, template: Template, removed: list[str]) -> None:
    """What accuracy the removal itself costs: dead channels and blocks out, nothing rounded or corrected."""
    bare, widths = bare_network(shrunk, workplace.task, template, removed)
    before = workplace.accuracy(shrunk)
    stage = workplace.note("removal", bare, widths=widths)
    stage["accuracy_drop"] = before - stage["accuracy_val"]
