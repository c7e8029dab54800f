"""Narrowing as the alternative to a block: channels are silenced with or without batch-norm."""

import compression_case as case
import pytest
import torch
from torch import nn

from power_models.kernels import kernel_graph
from rig.compression.choosing import blocks
from rig.compression.cutting.groups import find_groups
from rig.compression.cutting.template import make_template
from rig.compression.export import to_onnx


class Plain(nn.Module):
    """Two convolutions without batch-norm."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 16, 3, padding=1)
        self.fc = nn.Linear(16, 10)

    def forward(self, x):
        return self.fc(self.conv2(self.conv1(x).relu()).relu().mean((2, 3)))


@pytest.mark.parametrize("normed", [True, False], ids=["batch-norm", "filters"])
def test_narrowing_silences_the_least_important_channels_down_to_the_cost(normed, network, template):
    net, of = network, template
    if not normed:
        net = Plain().eval()
        of = make_template(
            kernel_graph(to_onnx(net, case.INPUT), "virtual"), find_groups(net, torch.zeros(1, *case.INPUT))
        )
    survey = case.survey_of(of._replace(groups=find_groups(net, torch.zeros(1, *case.INPUT))))
    budget = case.budget_of(survey, "latency")
    importance = {g.name: torch.arange(1.0, g.width + 1) for g in survey.template.groups if g.prunable}
    widths = survey.template.seed_widths()
    narrowed = blocks.narrowed_by(net, survey.template, survey.tables, budget, widths, importance, frozenset(), 1.4)
    silent = {
        g.name: (g.on(narrowed).norms() == 0).nonzero().flatten().tolist() for g in survey.template.groups if g.prunable
    }
    left = {name: width - len(silent.get(name, [])) for name, width in widths.items()}
    assert budget.usage(survey.tables.totals(left)) <= 1.4 < budget.usage(survey.tables.totals(widths))
    assert all(rows == list(range(len(rows))) for rows in silent.values())  # importance rises with the index
    assert all((g.norms() > 0).all() for g in survey.template.groups if g.prunable)  # a copy was silenced
