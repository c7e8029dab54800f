"""One exact choice of widths and blocks for a network as it stands: what methods with an allocation in them share.

    network ──► scores of channels and blocks in units of the loss (importance, steering) ──► the least loss that holds
                the budget, exactly (allocation, milp)

A network may have lost blocks already; its template names their groups still, which then have no say.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from rig.compression.budget import Budget
from rig.compression.choosing.allocation import Allocation, Allocator, Scores, limit_rows
from rig.compression.choosing.floors import floors_of
from rig.compression.choosing.importance import BATCHES, IMPORTANCES
from rig.compression.choosing.milp import TIME_LIMIT_S, NoChoiceError
from rig.compression.choosing.recovery import STEPS as RECOVERY_STEPS
from rig.compression.choosing.steering import measured_scores, trials_of
from rig.compression.cutting.groups import find_groups
from rig.compression.cutting.template import Template
from rig.compression.methods import TRIAL_SHARE
from rig.compression.methods.base import Workplace
from rig.compression.survey import PACEABLE, Survey
from rig.errors import BadInputError, RigError


class NoAllocationError(RigError):
    """The solver's time was over before it had a choice, or a proof that there is none."""

    code = "no-allocation"


class Worth(NamedTuple):
    """What the parts of a network as it stands are worth, in units of the loss.

    template: its groups; removed: blocks that it has no longer; channels: by group, (width,) each; blocks: what the
    removal of each block adds.
    """

    template: Template
    removed: Sequence[str]
    channels: Mapping[str, Tensor]
    blocks: Mapping[str, float]


class Scored(NamedTuple):
    """Scores of channels (width,) by group, the record of the blocks that were tried, the epochs of training spent."""

    channels: dict[str, Tensor]
    trials: list[dict[str, Any]]
    epochs: float


def template_of(before: Template, network: nn.Module, example: Tensor) -> Template:
    """The template with the groups of a narrower network; what went with a block, or was put back, stays so."""
    known = {g.name: g for g in before.groups}
    found = find_groups(network, example, like=before.groups)
    for group in found:
        group.put_back = group.put_back or known[group.name].put_back
    return before.with_groups(found)


def there(template: Template, removed: Sequence[str]) -> Template:
    """The template without the groups that went with their blocks."""
    gone = {name for b in template.blocks if b.name in removed for name in b.inner}
    return template._replace(groups=[g for g in template.groups if g.name not in gone])


def scored(
    workplace: Workplace,
    network: nn.Module,
    template: Template,
    removed: Sequence[str],
    refused: Collection[str],
    number: int,
    share: float = TRIAL_SHARE,
) -> Scored:
    """What channels and blocks are worth; the same whenever asked, as far as training on the device at hand repeats.

    removed: blocks that ``network`` has no longer; refused: blocks that surgery put back; number: of the choice in its
    run, which draws the batches; share: of the search's epochs that the trials may be trained for.
    """
    kind = workplace.settings.importance
    if kind not in IMPORTANCES:
        raise BadInputError(f"unknown importance {kind!r}", f"known: {', '.join(IMPORTANCES)}")
    settings = workplace.settings
    torch.manual_seed(settings.seed + 1000 * number)
    here = there(template, removed)
    own = IMPORTANCES[kind](network, workplace.task, here.groups, BATCHES)
    offered = [b for b in here.blocks if settings.ablation.remove_blocks and b.name not in refused]
    here = here._replace(blocks=offered)
    per_epoch, tried = workplace.per_epoch, trials_of(here, removed)
    steps = min(RECOVERY_STEPS, int(share * settings.epochs_shrink * per_epoch / tried))
    scores, trials = measured_scores(network, workplace.task, here, removed, own, steps)
    return Scored({**scores, **nothing(template, scores)}, trials, steps * tried / per_epoch)


def nothing(template: Template, known: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Scores of zero for the prunable groups that are not known: those that went with their blocks."""
    return {g.name: torch.zeros(g.width) for g in template.groups if g.prunable and g.name not in known}


def block_losses(trials: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """What each block's removal adds to the loss, of those that were tried."""
    return {trial["block"]: float(trial["loss_added"]) for trial in trials if "loss_added" in trial}


def allocator_of(
    worth: Worth, survey: Survey, budget: Budget, floors: Mapping[str, int] = MappingProxyType({})
) -> Allocator:
    """The problem: the groups and blocks that are left, at their worth, under the budget, no group below its floor."""
    template, removed = worth.template, worth.removed
    frame_s = None
    rates = [b.fps for b in budget.bounds if b.quantity == "power" and b.fps]
    if rates:
        # The frame's time as the device keeps it, in the seconds that the tables predict.
        frame_s = PACEABLE / max(rates) * float(survey.predicted[0] / survey.measured[0])
    seed = survey.template.seed_widths()
    widths = there(template, removed).seed_widths()
    staying = {g.name for g in template.groups if g.put_back or not g.prunable}
    channels = {
        name: values.detach().numpy().astype(np.float64)
        for name, values in worth.channels.items()
        if name in widths and name not in staying
    }
    left = [b for b in template.blocks if b.name not in removed]
    rows = limit_rows(budget, survey.predicted, frame_s)
    without = template.removed_kernels(removed)
    return Allocator(survey.tables, widths, seed, left, without, Scores(channels, worth.blocks), rows, floors)


def allocated(worth: Worth, survey: Survey, budget: Budget, *, refine: bool = False) -> Allocation:
    """The best allocation within the budget, refined on demand; the nearest to it, where it is proven that none is.

    Bottlenecks are not narrowed below their floors where anything else holds the budget.
    """
    floors = floors_of(survey.template, survey.tables, budget, worth.removed)
    if floors:  # else it is the same problem as below
        with contextlib.suppress(NoAllocationError):  # undecided: then lower widths may make it easier
            found = _best(allocator_of(worth, survey, budget, floors), refine=refine)
            if found is not None and (found.used <= 1.0).all():
                return found
    allocator = allocator_of(worth, survey, budget)
    found = _best(allocator, refine=refine)
    return least(allocator) if found is None else found


def _best(allocator: Allocator, *, refine: bool) -> Allocation | None:
    """What the solver chooses, refined on demand; None where it is proven that nothing holds the budget."""
    try:
        found = allocator.choose()
    except NoChoiceError as error:
        if not error.proven:
            raise _undecided() from error
        return None
    return allocator.refined(found) if refine else found


def allocated_in_blocks(worth: Worth, survey: Survey, budget: Budget) -> Allocation:
    """The best widths, refined, with every block that is left; blocks too only where widths alone cannot hold it.

    A block that goes late leaves room that groups which were cut already cannot take.
    """
    if not worth.blocks:
        return allocated(worth, survey, budget, refine=True)
    with contextlib.suppress(NoAllocationError):  # undecided: then blocks may make it easier
        found = allocated(worth._replace(blocks={}), survey, budget, refine=True)
        if (found.used <= 1.0).all():
            return found
    return allocated(worth, survey, budget, refine=True)


def least(allocator: Allocator) -> Allocation:
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
