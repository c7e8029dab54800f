"""MorphNet on networks without batch-norm: by filters, or by gates where they can be put; the same contract."""

from __future__ import annotations

import compression_case as case
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from power_models.kernels import kernel_graph
from rig.compression import export, training
from rig.compression.budget import resolve
from rig.compression.cutting.gates import GATED
from rig.compression.cutting.groups import find_groups
from rig.compression.cutting.realize import realized
from rig.compression.cutting.surgery import bare_network, function_difference
from rig.compression.cutting.template import make_template
from rig.compression.export import to_onnx
from rig.compression.methods import WITHOUT_NORM, morphnet
from rig.units import parse_limit

pytestmark = pytest.mark.usefixtures("one_precision")
INPUTS = torch.randn(8, *case.INPUT, generator=torch.Generator().manual_seed(1))


class OwnConvolution(nn.Conv2d):
    """A class of its own, whose forward pass is not the rig's to rewrite."""


class Plain(nn.Module):
    """Three convolutions without batch-norm."""

    def __init__(self, widths=None, last=nn.Conv2d):
        super().__init__()
        a, b, c = ((widths or {}).get(name, 16) for name in ("conv1", "conv2", "conv3"))
        self.conv1 = nn.Conv2d(1, a, 3, padding=1)
        self.conv2 = nn.Conv2d(a, b, 3, padding=1, stride=2)
        self.conv3 = last(b, c, 3, padding=1)
        self.fc = nn.Linear(c, 10)

    def forward(self, x):
        x = F.relu(self.conv3(F.relu(self.conv2(F.relu(self.conv1(x))))))
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


def mixed(widths=None):
    return Plain(widths, OwnConvolution)


def started(task, build):
    """The network, trained a little, its task, survey and budget."""
    torch.manual_seed(0)
    network = build()
    plain_task = task._replace(model=build, model_name="plain")
    training.train(network, plain_task, training.TrainingPlan(6, 0.05))
    graph = kernel_graph(to_onnx(network, case.INPUT), "virtual")
    survey = case.survey_of(make_template(graph, find_groups(network, torch.zeros(1, *case.INPUT))))
    return network, plain_task, survey, resolve([parse_limit("latency", "60%")], None, 0.0, survey.measured)


@pytest.fixture(scope="module")
def plain(task):
    return started(task, Plain)


@pytest.mark.parametrize(("way", "prune_every"), [("gates", 0), ("filters", 0), ("gates", 4)])
def test_it_shrinks_and_what_is_exported_is_what_shrank(way, prune_every, plain, tmp_path):
    network, task, survey, budget = plain
    workplace = case.workplace_in(tmp_path, task, 24, without_norm=way, prune_every=prune_every)
    method = morphnet.MorphNet()
    found = method.search(workplace, network, survey, budget)
    (stage,) = [s for s in workplace.stages if s["name"] == "shrink"]
    assert stage["reached"] > 0.9
    assert found.scales == dict.fromkeys(("conv1", "conv2", "conv3"), way)
    assert sum(found.alive[name] for name in found.scales) < 3 * 16
    for name in found.scales:
        layer = found.network.get_submodule(name)
        assert isinstance(layer, GATED) == (way == "gates")
        rows = layer.gate[:, None] if way == "gates" else torch.cat([layer.weight.flatten(1), layer.bias[:, None]], 1)
        assert int((rows != 0).any(1).sum()) == found.alive[name]
    assert bool(stage["removals"]) == bool(prune_every)
    if prune_every:
        assert found.network.conv2.out_channels < 16
    bare, widths = bare_network(found.network, task, found.template, [])
    assert all(widths[name] == found.alive[name] for name in found.scales)
    assert {type(bare.get_submodule(name)) for name in found.scales} == {nn.Conv2d}
    assert function_difference(found.network, bare, INPUTS) < 1e-5
    assert export.save_checked(bare, case.INPUT, tmp_path / "bare.onnx") < 1e-4
    choice = method.choose(found, survey, budget)
    built = realized(found.network, found.template, found.importance, choice, task)
    assert budget.usage(survey.tables.totals(choice.widths)) <= 1.0
    assert built.conv2.out_channels == choice.widths["conv2"]
    assert not any(isinstance(module, GATED) for module in built.modules())
    again = method.search(resumed(workplace, tmp_path, task, way, prune_every), network, survey, budget)
    assert again.alive == found.alive


def resumed(workplace, folder, task, way, prune_every):
    """The same place after a stop: the checkpoints and the decisions."""
    other = case.workplace_in(folder, task, 24, without_norm=way, prune_every=prune_every)
    other.state.update(workplace.state)
    return other


def test_a_layer_of_a_class_of_its_own_keeps_its_filters_as_scales(task, tmp_path):
    network, mixed_task, survey, budget = started(task, mixed)
    place = case.workplace_in(tmp_path, mixed_task, 2, without_norm="gates")
    found = morphnet.MorphNet().search(place, network, survey, budget)
    assert found.scales == {"conv1": "gates", "conv2": "gates", "conv3": "filters"}


def test_the_usual_way_is_one_of_those_that_can_be_asked_for(task, tmp_path):
    assert case.workplace_in(tmp_path, task).settings.without_norm == WITHOUT_NORM[0]
