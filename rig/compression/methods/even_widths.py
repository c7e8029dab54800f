"""Whether channels are worth what was measured of them, or alike in ratio: a race between the widths that follow.

    worth of channels, measured ──► exact widths at the whole budget ──► a heat ─┐
                      in ratio  ──► exact widths at the whole budget ──► a heat ─┴─► the less loss

What is measured is of a group in a network that is whole but for it, which has little to say where most of every group
goes: the solver leaves a few groups nearly nothing and fills others up, and a network is as good as its narrowest
layer. *In ratio* a group's k-th channel is worth log(k / (k − 1)), the first one as much as the second, times the root
of how many kernels read or write the group: to halve a group hurts alike however wide it is, as if drawn by hand.
Which channels stay is by importance in both.

The rule was set by looking at ResNet-20 on Fashion-MNIST at 15 % of the joules of a simulated board (seed 0); the race
is there because it is no law (experiments/peers, "So far").
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from typing import NamedTuple

import torch
from torch import Tensor

from rig.compression.budget import Budget
from rig.compression.choosing.steering import living_channels
from rig.compression.methods.allocating import NoAllocationError, Worth, allocated_in_blocks
from rig.compression.methods.base import Choice, Workplace
from rig.compression.methods.race import LEAST, Judge
from rig.compression.survey import Survey

HEAT = 40  # batches each: 16 take the widths in ratio at 30 % of the joules, where 430 steps do not
SHARE = 0.2  # of the search's epochs, at most, for both heats
SEED = 2000  # beside the run's: what the heats draw is theirs alone


class Heats(NamedTuple):
    """The losses after both heats (None: thrown off, or not run) and the epochs of training that they took."""

    measured: float | None
    in_ratio: float | None
    epochs: float

    @property
    def even(self) -> bool:
        """Whether worth in ratio won; of equals what was measured stays."""
        return self.in_ratio is not None and (self.measured is None or self.in_ratio < self.measured)


NONE = Heats(None, None, 0.0)


def in_ratio(worth: Worth, survey: Survey) -> Worth:
    """The same with channels worth log(k / (k − 1)) by their rank; all together as much as what was measured."""
    uses: Counter[str] = Counter()
    gone = worth.template.removed_kernels(worth.removed)
    for index, kernel in enumerate(survey.tables.kernels):
        if index not in gone:
            uses.update(name for side in (kernel.channels_in, kernel.channels_out) for name, _ in side.terms)
    found = {name: _by_rank(values) * math.sqrt(uses[name]) for name, values in worth.channels.items()}
    total = sum(float(values.sum()) for values in found.values())
    before = sum(float(values.double().sum()) for values in worth.channels.values())
    scale = before / total if total > 0 else 1.0
    return worth._replace(channels={n: (scale * v).to(worth.channels[n].dtype) for n, v in found.items()})


def _by_rank(scores: Tensor) -> Tensor:
    """Worth (width,) of channels by their rank in ``scores``; those without a score have none."""
    living = living_channels(scores)
    rank = torch.arange(1, len(living) + 1, dtype=torch.float64)
    worth = torch.zeros(len(scores), dtype=torch.float64)
    # The first a little more than the second, so that it still leads.
    worth[living.cpu()] = torch.log1p(1.0 / (rank - 1).clamp(min=1.0 - 1e-5))
    return worth.to(scores.device)


def heats(workplace: Workplace, network: torch.nn.Module, worth: Worth, survey: Survey, budget: Budget) -> Heats:
    """Both widths at the budget, built from ``network`` (which stays as it is) and trained a little alike."""
    batches = min(HEAT, int(SHARE * workplace.settings.epochs_shrink * workplace.per_epoch / 2))
    found = []
    for one in (worth, in_ratio(worth, survey)):
        with contextlib.suppress(NoAllocationError):
            allocation = allocated_in_blocks(one, survey, budget)
            if (allocation.used <= 1.0).all():
                found.append(Choice(dict(allocation.widths), [*worth.removed, *allocation.removed]))
    if batches < LEAST or len(found) < 2 or found[0] == found[1]:
        return NONE
    workplace.progress.update(f"widths: two choices, {batches} batches of training each")
    with torch.random.fork_rng():  # a resumed run has no heats
        torch.manual_seed(workplace.settings.seed + SEED)
        judge = Judge(workplace, network, worth)
        training = judge.training(batches)
        losses = [judge.entered(choice, training).loss for choice in found]
    measured, ratio = (loss if math.isfinite(loss) else None for loss in losses)
    return Heats(measured, ratio, 2 * batches / workplace.per_epoch)
