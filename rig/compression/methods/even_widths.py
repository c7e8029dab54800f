"""Which worth of channels the widths follow: what was measured of them, or one by ratio. A race between the networks.

    worth of channels, measured            ──► widths at the whole budget ──► a heat ─┐
                      by ratio, POWERS[0]  ──► widths at the whole budget ──► a heat ─┼─► the least loss
                      by ratio, POWERS[1]  ──► …                                      ─┘

What is measured is of a group in a network that is whole but for it, and what shrinking leaves is by the price of
single channels; both say little where most of every group goes: a few groups are left nearly nothing and others fill
up, and a network is as good as its narrowest layer. *By ratio* the loss of a group at k of its seed width S is
((S / k)^p − 1) / p (log(S / k) at p = 0), times the root of how many kernels read or write the group: to halve a group
hurts alike however wide it is at p = 0, and ever more the narrower it is at higher powers, towards one ratio for all.
Which channels stay is by importance in all.

At p = 0 this is what ResNet-20 at 15 % of the joules of a simulated board likes as much as what was measured; in a
VGG, where channels of the first layers cost sixteen times those of the last and no block can go, it is not enough. The
race is there because none of it is a law (experiments/peers, "So far").
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rig.compression.choosing.steering import living_channels
from rig.compression.methods import WIDTHS_SHARE
from rig.compression.methods.allocating import NoAllocationError, Worth
from rig.compression.methods.base import Choice, Workplace
from rig.compression.methods.race import LEAST, Judge
from rig.compression.survey import Survey

POWERS = (0, 1, 2)
HEATS = "heats"  # of the run's decisions, and among its stages
HEAT = 16  # batches each
SEED = 2000  # beside the run's: what the heats draw is theirs alone
FIRST = 0.5 - 1e-5  # channels that a group without any counts as: the first is worth a little more than the second


class Entry(NamedTuple):
    """Widths that take part: by the ``power`` of a worth by ratio (None: as measured), of ``network`` as it stands."""

    power: int | None
    network: nn.Module
    worth: Worth
    choice: Choice


class Heats(NamedTuple):
    """The loss (None: thrown off) after each power's heat, none where there was no race, and the epochs they took."""

    losses: list[tuple[int | None, float | None]]
    epochs: float

    @property
    def power(self) -> int | None:
        """Of the least loss; of equals the first."""
        finite = [(loss, power) for power, loss in self.losses if loss is not None]
        return min(finite, key=lambda one: one[0])[1] if finite else None

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Heats:
        """Read what ``_asdict`` gave."""
        return cls([(power, loss) for power, loss in data["losses"]], float(data["epochs"]))


NONE = Heats([], 0.0)


def in_ratio(worth: Worth, survey: Survey, power: int) -> Worth:
    """The same with channels worth by ratio, in the order of their scores; all together as much as was measured."""
    uses: Counter[str] = Counter()
    gone = worth.template.removed_kernels(worth.removed)
    for index, kernel in enumerate(survey.tables.kernels):
        if index not in gone:
            uses.update(name for side in (kernel.channels_in, kernel.channels_out) for name, _ in side.terms)
    seed = survey.template.seed_widths()
    found = {
        name: _by_rank(values, seed[name], power) * math.sqrt(uses[name]) for name, values in worth.channels.items()
    }
    total = sum(float(values.sum()) for values in found.values())
    before = sum(float(values.double().sum()) for values in worth.channels.values())
    scale = before / total if total > 0 else 1.0
    return worth._replace(channels={n: (scale * v).to(worth.channels[n].dtype) for n, v in found.items()})


def _by_rank(scores: Tensor, seed: int, power: int) -> Tensor:
    """Worth (width,) of channels by their rank in ``scores``; those without a score have none."""
    living = living_channels(scores)
    rank = torch.arange(1, len(living) + 1, dtype=torch.float64)
    fewer = (rank - 1).clamp(min=FIRST)
    added = torch.log(rank / fewer) if power == 0 else ((seed / fewer) ** power - (seed / rank) ** power) / power
    worth = torch.zeros(len(scores), dtype=torch.float64)
    worth[living.cpu()] = added
    return worth.to(scores.device)


def choices(network: nn.Module, worth: Worth, survey: Survey, choose: Callable[[Worth], Choice]) -> list[Entry]:
    """By every power and as measured (first): what ``choose`` makes of the worth, where it can."""
    found = []
    for power in (None, *POWERS):
        own = worth if power is None else in_ratio(worth, survey, power)
        with contextlib.suppress(NoAllocationError):
            found.append(Entry(power, network, own, choose(own)))
    return found


def batches_of(workplace: Workplace) -> int:
    """Batches of a heat; 0 where the search is too short for a race."""
    room = WIDTHS_SHARE * workplace.settings.epochs_shrink * workplace.per_epoch / (1 + len(POWERS))
    return min(HEAT, int(room)) if room >= LEAST else 0


def epochs_of(workplace: Workplace) -> float:
    """Epochs of training that a race takes, at most."""
    return batches_of(workplace) * (1 + len(POWERS)) / workplace.per_epoch


def heats(workplace: Workplace, entries: Sequence[Entry]) -> Heats:
    """Every choice built from its network (which stays as it is) and trained a little alike."""
    batches = batches_of(workplace)
    different: list[Entry] = []
    for entry in entries:
        if all(entry.choice != other.choice for other in different):
            different.append(entry)
    if not batches or len(different) < 2:
        return NONE
    with torch.random.fork_rng():  # a resumed run has no heats
        torch.manual_seed(workplace.settings.seed + SEED)
        judges = [Judge(workplace, entry.network, entry.worth) for entry in different]
        training = judges[0].training(batches)
        losses: list[tuple[int | None, float | None]] = []
        for entry, judge in zip(different, judges, strict=True):
            workplace.progress.update(
                f"widths: choice {len(losses) + 1} of {len(different)}, {batches} batches of training each"
            )
            loss = judge.entered(entry.choice, training).loss
            losses.append((entry.power, loss if math.isfinite(loss) else None))
    return Heats(losses, len(different) * batches / workplace.per_epoch)
