"""Widths from a file in place of a search: ``rig optimize --widths FILE`` trains that network from scratch.

It goes through the loop like a method's choice, so that it is measured and judged as the others are; it is no entry of
``METHODS``, because nothing is chosen.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from rig.compression.budget import Budget
from rig.compression.cutting.channel_group import group_widths
from rig.compression.cutting.template import Template
from rig.compression.methods.base import RESOURCES, Choice, Found, Workplace
from rig.compression.survey import Survey
from rig.errors import BadInputError


class Given:
    """The one choice that ``settings.widths`` (layer → channels, 0 for a removed block's entry) describes."""

    name = "widths"
    serves = RESOURCES
    from_scratch = True

    def search(self, workplace: Workplace, baseline: nn.Module, survey: Survey, budget: Budget) -> Found:
        """Read the table of widths; raises BadInputError where it does not fit the network, or the run's beginning."""
        table = dict(workplace.settings.widths or {})
        if workplace.state.setdefault("given", table) != table:
            raise BadInputError("this run was begun with other widths", "leave --resume out to train these")
        workplace.save_state()
        widths, removed = groups_of(table, survey.template, survey.tables.largest)
        torch.manual_seed(workplace.settings.seed)
        network = workplace.task.model()
        equal = {g.name: torch.ones(g.width) for g in survey.template.groups if g.prunable}
        return Found(network, survey.template, equal, widths, removed, [], [])

    def choose(self, found: Found, survey: Survey, budget: Budget) -> Choice:
        """The widths as they were given, whatever the budget."""
        return Choice(dict(found.alive), list(found.removed))


def groups_of(
    table: Mapping[str, int], template: Template, largest: Mapping[str, int]
) -> tuple[dict[str, int], list[str]]:
    """Widths of the groups, and the removed blocks, of a table of layers as ``Template.layer_widths`` writes it.

    Layers that the table leaves out keep the seed network's width. Raises BadInputError for a layer that the network
    does not have or that cannot change, a width that cannot be built or priced, and tied layers of different widths.
    """
    removed = [b.name for b in template.blocks if table.get(b.entry) == 0]
    gone = {layer for b in template.blocks if b.name in removed for layer in b.layers}
    staying = {layer: channels for layer, channels in table.items() if layer not in gone}
    return {**template.seed_widths(), **group_widths(template.groups, staying, largest)}, removed
