"""Groups that everything passes through, and how narrow they may get."""

from __future__ import annotations

import copy

import compression_case as case
import numpy as np
import pytest
import torch
from torch import nn

from power_models.regularizer import CostRegularizer
from rig.compression import networks
from rig.compression.choosing.allocation import Allocator, Scores, limit_rows
from rig.compression.choosing.floors import RATIOS, bottlenecks, even_ratio, floors_of
from rig.compression.choosing.widths import WidthChooser
from rig.compression.cutting.groups import find_groups
from rig.compression.methods.allocating import Worth, allocated

IMAGE = torch.zeros(1, 1, 28, 28)


def found_in(name):
    torch.manual_seed(0)
    network = networks.build(name)
    groups = find_groups(network, IMAGE, lambda widths=None: networks.build(name, widths=widths))
    return bottlenecks(network, groups, IMAGE), {g.name for g in groups if g.prunable}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet20", {"conv1", "layer2.0.conv2", "layer3.0.conv2"}),
        ("densenet22", {"conv1", "transition1.conv", "transition2.conv"}),
    ],
)
def test_what_a_shortcut_or_a_concatenation_leads_around_is_no_bottleneck(name, expected):
    assert found_in(name)[0] == expected


def test_every_layer_of_a_chain_is_one():
    found, prunable = found_in("vgg16-0.25")
    assert found == prunable


def test_of_a_mobilenet_the_blocks_with_a_shortcut_are_none():
    found, prunable = found_in("mobilenetv2-0.5")
    assert {"conv1", "conv2", "blocks.0.project", "blocks.1.expand", "blocks.1.project"} <= found
    with_shortcut = {f"blocks.{i}.expand" for i in (2, 4, 5, 7, 8, 9, 11, 12, 14, 15)}
    assert prunable - found == with_shortcut


def test_a_network_that_says_the_same_of_everything_has_none(network, template):
    silent = copy.deepcopy(network)
    nn.init.zeros_(silent.fc.weight)
    assert bottlenecks(silent, template.groups, torch.zeros(1, *case.INPUT)) == frozenset()


def test_finding_them_leaves_the_network_as_it_is(network, template):
    before = copy.deepcopy(network.state_dict())
    assert bottlenecks(network, template.groups, torch.zeros(1, *case.INPUT)) == template.bottlenecks
    assert all(torch.equal(a, b) for a, b in zip(before.values(), network.state_dict().values(), strict=True))


def even(template, ratio):
    seed = template.seed_widths()
    return {g.name: max(1, int(ratio * seed[g.name] + 0.5)) if g.prunable else g.width for g in template.groups}


@pytest.mark.parametrize("share", ["80%", "50%", "30%"])
def test_the_ratio_is_the_largest_that_holds_and_floors_are_below_it(survey, share):
    template, tables = survey.template, survey.tables
    budget = case.budget_of(survey, "latency", share)
    ratio = even_ratio(template, tables, budget)
    assert 0 < ratio < 1
    assert budget.usage(tables.totals(even(template, ratio))) <= 1.0
    for step in range(round(ratio * RATIOS) + 1, RATIOS + 1):
        assert budget.usage(tables.totals(even(template, step / RATIOS))) > 1.0
    floors = floors_of(template, tables, budget)
    assert set(floors) == template.bottlenecks
    for name, least in floors.items():
        assert 1 <= least <= even(template, ratio)[name]
        assert least == pytest.approx(template.seed_widths()[name] * ratio * (1 - ratio / 2), abs=0.5)


def test_removed_blocks_leave_room_for_wider_floors(survey):
    budget = case.budget_of(survey, "latency", "40%")
    every = floors_of(survey.template, survey.tables, budget)
    fewer = floors_of(survey.template, survey.tables, budget, [b.name for b in survey.template.blocks])
    assert all(fewer[name] > least for name, least in every.items())


def test_there_are_none_where_even_widths_cannot_hold_the_budget(survey):
    narrowest = survey.tables.totals(even(survey.template, 0.0))
    share = 0.99 * float(narrowest[0] / survey.measured[0])
    budget = case.budget_of(survey, "latency", f"{100 * share:.4f}%")
    assert even_ratio(survey.template, survey.tables, budget) == 0.0
    assert floors_of(survey.template, survey.tables, budget) == {}


def test_the_regularizer_condemns_none_of_the_last_however_hard_it_presses(survey, network):
    net = copy.deepcopy(network)
    groups = find_groups(net, torch.zeros(1, *case.INPUT))
    budget = case.budget_of(survey, "latency", "25%")
    floors = {"conv1": 11, "layer2.0.conv2": 21}
    assert set(floors) == survey.template.bottlenecks
    regularizer = CostRegularizer(groups, survey.tables, budget.gradient, floors)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.grad = torch.linspace(0.1, 1.0, len(module.weight))
    for _ in range(600):
        regularizer.watch()
        regularizer.condemn(1e6)
        regularizer.proximal_step(1.0)
    widths = regularizer.widths()
    assert {name: widths[name] for name in floors} == floors
    assert all(widths[g.name] <= 8 for g in groups if g.prunable and g.name not in floors)


def chooser_of(survey, budget, floors):
    importance = {g.name: torch.linspace(0.1, 1.0, g.width) for g in survey.template.groups if g.prunable}
    return WidthChooser(survey.tables, budget, importance, survey.template.seed_widths(), floors=floors)


def test_widths_are_cut_below_floors_only_where_nothing_else_is_left(survey):
    seed = survey.template.seed_widths()
    floors = dict.fromkeys(survey.template.bottlenecks, 12)
    kept = chooser_of(survey, case.budget_of(survey, "latency", "50%"), floors).cut(seed)
    assert all(kept[name] >= 12 for name in floors)
    tight = case.budget_of(survey, "latency", "19%")
    beyond = chooser_of(survey, tight, floors)
    cut = beyond.cut(seed)
    assert beyond.usage(cut) <= 1.0
    assert any(cut[name] < 12 for name in floors)
    rest = [name for name in beyond.free_groups if name not in floors]
    assert all(cut[name] <= 8 for name in rest)  # a block of the hardware: less costs as much


def test_the_solver_is_offered_nothing_below_a_floor(survey):
    seed = survey.template.seed_widths()
    budget = case.budget_of(survey, "latency", "30%")
    channels = {g.name: np.linspace(0.1, 1.0, g.width) for g in survey.template.groups if g.prunable}
    rows = limit_rows(budget, survey.measured)
    floors = floors_of(survey.template, survey.tables, budget)
    allocator = Allocator(survey.tables, seed, seed, [], frozenset(), Scores(channels, {}), rows, floors)
    for group, options in zip(allocator.parts, allocator.options, strict=True):
        assert min(options) >= floors.get(group, 1)
    found = allocator.refined(allocator.choose())
    assert (found.used <= 1.0).all()
    assert all(found.widths[name] >= least for name, least in floors.items())


def test_floors_that_cannot_be_held_are_left(survey, monkeypatch):
    """Costs are not monotone, so that what is narrower than the even widths may cost more."""
    template, budget = survey.template, case.budget_of(survey, "latency", "30%")
    worth = Worth(template, [], {g.name: torch.ones(g.width) for g in template.groups if g.prunable}, {})
    floors = {name: template.seed_widths()[name] for name in template.bottlenecks}
    monkeypatch.setattr("rig.compression.methods.allocating.floors_of", lambda *asked: floors)
    found = allocated(worth, survey, budget, refine=True)
    assert (found.used <= 1.0).all()
    assert any(found.widths[name] < least for name, least in floors.items())
