"""Networks that lost different blocks, trained a little each: which of them comes back.

    first choices ──► a heat each ──► those around the best one, a heat each, until it is the best of them or the heats'
    share of the training is spent ──► the FINALISTS train on ──► the least loss

A heat is a training in miniature: its batches are cut into PARTS, a step each, at a rate that falls to nothing. So 16
batches rank choices as 100 whole ones do (``experiments/peers/races.py``), and there is time for choices that no solver
gives: it sees what single blocks are worth to the whole network, not to what is left of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import nn

from rig.compression.choosing.recovery import Recovery
from rig.compression.choosing.steering import mean_loss, steering_batches
from rig.compression.cutting.realize import realized_checked
from rig.compression.methods.allocating import Worth, template_of
from rig.compression.methods.base import Choice, Workplace

HEAT, LEAST = 16, 2  # batches of a heat: at most, and for a race at all
OF_HEATS = 2 / 3  # of the race's batches
AROUND = 4  # choices beyond the first that a heat is kept short for
FINALISTS = 2
PARTS, FASTER = 4, 2.5  # steps of a batch, and their rate beside that of a recovery
IMAGES = 2048  # of the steering split
Around = Callable[[Choice], Sequence[Choice]]


class Raced(NamedTuple):
    """What a race found.

    best: the blocks that go; record: of each choice its ``removed``, the ``loss`` after its last training (None where
    training threw it off, surgery put something back, or there was no race), ``batches`` of training; batches: of all.
    """

    best: list[str]
    record: list[dict[str, Any]]
    batches: int


class Heat(NamedTuple):
    """What a choice's last training gave: infinite loss where it cannot win."""

    removed: list[str]
    loss: float
    batches: int

    def record(self) -> dict[str, Any]:
        """What is kept of it."""
        return {**self._asdict(), "loss": self.loss if math.isfinite(self.loss) else None}


class Entrant(NamedTuple):
    """A choice that had its heat, and its network."""

    choice: Choice
    network: nn.Module
    loss: float

    def heat(self, batches: int) -> Heat:
        """How it did."""
        return Heat(list(self.choice.removed), self.loss, batches)


def raced(
    workplace: Workplace, network: nn.Module, worth: Worth, first: Sequence[Choice], around: Around, room: int
) -> Raced:
    """The best of some choices, and of those around the best; ``room``: batches of training, at most.

    Choices name their blocks in one order, by which one is known again.
    """
    for_heats = int(OF_HEATS * room)
    heat = max(LEAST, min(HEAT, for_heats // (len(first) + AROUND)))
    most = for_heats // heat
    if most < 2 or (len(first) == 1 and not around(first[0])):
        alone = [{"removed": list(first[0].removed), "loss": None, "batches": 0}]
        return Raced(list(first[0].removed), alone, 0)
    judge = Judge(workplace, network, worth)
    leaders: list[Entrant] = []  # the networks of all would fill the memory
    heats: list[Heat] = []
    untried = list(first)
    short = judge.training(heat)
    while untried and len(heats) < most:
        workplace.progress.update(f"blocks: choice {len(heats) + 1} of at most {most}, {heat} batches of training")
        entrant = judge.entered(untried.pop(0), short)
        heats.append(entrant.heat(heat))
        # Sorting is stable: of equals the one that was tried first.
        leaders = sorted([*leaders, entrant], key=lambda one: one.loss)[:FINALISTS]
        if not untried:
            tried = [one.removed for one in heats]
            untried = [choice for choice in around(leaders[0].choice) if choice.removed not in tried]
    heats.sort(key=lambda one: one.loss)
    spent = heat * len(heats)
    more = (room - spent) // FINALISTS
    finalists = [one for one in leaders if math.isfinite(one.loss)]
    if len(finalists) > 1 and more >= LEAST:
        workplace.progress.update(f"blocks: the best {len(finalists)} train on, {more} batches each")
        longer = judge.training(more)
        leaders = finalists = [judge.trained_on(one, longer) for one in finalists]
        heats[: len(finalists)] = [one.heat(heat + more) for one in finalists]
        spent += more * len(finalists)
    best = min(leaders, key=lambda one: one.loss)
    return Raced(list(best.choice.removed), [one.record() for one in heats], spent)


class Judge:
    """Builds choices from the trained network and trains them alike."""

    def __init__(self, workplace: Workplace, network: nn.Module, worth: Worth) -> None:
        self.workplace = workplace
        self.network = network
        self.worth = worth
        self.batches = steering_batches(workplace.task, IMAGES)

    def training(self, batches: int) -> Recovery:
        """A training in miniature of so many batches, the same for all that get it."""
        return Recovery(self.workplace.task, batches, annealed=True, parts=PARTS, faster=FASTER)

    def entered(self, choice: Choice, training: Recovery) -> Entrant:
        """A choice built and trained."""
        template = template_of(self.worth.template, self.network, self.workplace.example)  # put-backs are of one choice
        built = realized_checked(self.network, template, self.worth.channels, choice, self.workplace.task)
        loss = self._loss(built.network, training)
        # What surgery put back is not what the budget was for.
        return Entrant(choice, built.network, math.inf if built.refused else loss)

    def trained_on(self, entrant: Entrant, training: Recovery) -> Entrant:
        """The same, trained for more."""
        return entrant._replace(loss=self._loss(entrant.network, training))

    def _loss(self, network: nn.Module, training: Recovery) -> float:
        stayed = training(network)
        loss = mean_loss(network, self.workplace.task, self.batches)
        return loss if stayed and math.isfinite(loss) else math.inf
