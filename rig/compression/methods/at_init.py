"""Pruning at initialization: widths chosen before any training, then trained from scratch for all epochs.

    untrained ──► how much the loss hangs on each channel's gate, a few batches ──► least worth per cost saved goes

SNIP (Lee, Ajanthan, Torr, ICLR 2019, arXiv 1810.02340) scores weights so; on whole channels and by what they cost: 3SP
(van Amersfoort et al. 2020, arXiv 2007.00389). ``rig.compression.choosing.starting_widths`` scores and says the
differences. Here the narrow network is initialized anew, since a layer's fan-in is another, and blocks stay: what a
block is worth does not show before training.

Nothing is shrunk and no wide network is trained but the baseline that the result is compared with, so that of all
methods this one trains the cheapest networks; peers find the accuracy that pruning while training reaches out of its
reach (Frankle et al., ICLR 2021, arXiv 2009.08576).
"""

from __future__ import annotations

import torch
from torch import nn

from rig.compression.budget import Budget
from rig.compression.choosing.floors import floors_of
from rig.compression.choosing.starting_widths import saliency
from rig.compression.choosing.widths import WidthChooser
from rig.compression.cutting.groups import find_groups
from rig.compression.methods.base import RESOURCES, Choice, Found, Workplace
from rig.compression.survey import Survey


class AtInit:
    """The method; ``search`` scores the channels of an untrained network, ``choose`` cuts to the budget."""

    name = "at-init"
    serves = RESOURCES
    from_scratch = True

    def search(self, workplace: Workplace, baseline: nn.Module, survey: Survey, budget: Budget) -> Found:
        """Score a fresh seed network; ``baseline``, which is trained, says nothing here."""
        workplace.progress.stage("at-init: what channels are worth before any training")
        torch.manual_seed(workplace.settings.seed)
        network = workplace.task.model()
        template = survey.template._replace(groups=find_groups(network, workplace.example, like=survey.template.groups))
        worth = saliency(network, workplace.task, template.groups)
        return Found(network, template, worth, template.seed_widths(), [], [], [])

    def choose(self, found: Found, survey: Survey, budget: Budget) -> Choice:
        """The seed network's widths, cut where the loss hangs least on them for their cost, rounded to what pays."""
        frozen = frozenset(g.name for g in found.template.groups if g.put_back)
        floors = floors_of(survey.template, survey.tables, budget)
        seed = found.template.seed_widths()
        chooser = WidthChooser(survey.tables, budget, found.importance, seed, frozen=frozen, floors=floors)
        return Choice(chooser.choose(found.alive), list(found.removed))


METHOD = AtInit
