"""MorphNet's own parts: rounds that grow, ablations, networks without batch-norm."""

from __future__ import annotations

import copy

import compression_case as case
import numpy as np
import pytest
import torch
from stairs import stairs

from power_models.kernels import kernel_graph
from power_models.regularizer import CostRegularizer
from power_models.tables import NetworkTables
from rig.compression.budget import resolve
from rig.compression.cutting.groups import find_groups
from rig.compression.cutting.surgery import function_difference
from rig.compression.cutting.template import make_template
from rig.compression.export import to_onnx
from rig.compression.methods import morphnet
from rig.compression.methods.controller import StrengthController
from rig.compression.methods.shrinker import Shrinker
from rig.compression.networks import ResNet
from rig.compression.survey import Ablation
from rig.units import parse_limit

pytestmark = pytest.mark.usefixtures("one_precision")


def stages_of(workplace):
    return {stage["name"]: stage for stage in workplace.stages}


def test_rounds_shrink_to_the_budget_and_grow_in_between(task, survey, network, tmp_path):
    budget = case.budget_of(survey, "latency")
    asked = {"morph_rounds": 2, "ablation": Ablation(remove_blocks=False)}
    workplace = case.workplace_in(tmp_path, task, 32, **asked)
    found = morphnet.MorphNet().search(workplace, network, survey, budget)
    stages = stages_of(workplace)
    assert list(stages) == ["shrink", "expand 1", "shrink 2", "removal"]
    start = budget.usage(survey.predicted)
    assert stages["shrink"]["usage"] < 0.75 * start
    assert 1.0 < stages["expand 1"]["usage"] <= morphnet.OVERSHOOT < start
    assert stages["shrink 2"]["usage"] < stages["expand 1"]["usage"]
    grown = stages["expand 1"]["widths"]
    assert {g.name: g.width for g in found.template.groups} == grown
    steps = [entry["step"] for entry in found.history]
    assert steps == sorted(steps)
    assert steps[-1] == 2 * 64
    # A second search takes up both rounds where they were left.
    again = morphnet.MorphNet().search(case.workplace_in(tmp_path, task, 32, **asked), network, survey, budget)
    assert again.alive == found.alive


@pytest.mark.parametrize("rounds", [1, 2])
def test_blocks_that_the_budget_has_no_room_for_go_before_channels_shrink(rounds, task, survey, network, tmp_path):
    budget = case.budget_of(survey, "latency", "30%")
    workplace = case.workplace_in(tmp_path, task, 8, morph_rounds=rounds)
    method = morphnet.MorphNet()
    found = method.search(workplace, network, survey, budget)
    first = workplace.state["blocks_first"]["removed"]
    assert first
    assert set(first) <= set(found.removed)
    blocks = {block.name: block for block in survey.template.blocks}
    gone = {layer for name in first for layer in blocks[name].layers}
    assert not gone & {name for name, _ in found.network.named_modules()}
    # Shrinking began from what is left, which the record and the controller know.
    without = survey.tables.left(survey.template.removed_kernels(first), survey.template.seed_widths())
    assert found.history[0]["target_cost"] <= budget.usage(without.totals({})) < budget.usage(survey.predicted)
    choice = method.choose(found, survey, budget)
    used = survey.tables.totals(choice.widths, found.template.removed_kernels(choice.removed))
    assert budget.usage(used) <= 1.0
    again = case.workplace_in(tmp_path, task, 8, morph_rounds=rounds)
    again.state.update(workplace.state)
    repeated = method.search(again, network, survey, budget)
    assert (repeated.removed, repeated.alive) == (found.removed, found.alive)


def test_what_grows_beyond_the_seed_leaves_the_function_as_it_was(task, survey, network, tmp_path):
    shrunk = copy.deepcopy(network)
    groups = find_groups(shrunk, torch.zeros(1, *case.INPUT))
    alive = {g.name: g.width for g in groups}
    with torch.no_grad():
        for name in ("layer2.0.conv1", "layer2.1.conv1", "layer2.0.conv2"):
            group = next(g for g in groups if g.name == name)
            alive[name] = 4
            for scale in group.scales:
                scale.weight[4:] = 0.0
                scale.bias[4:] = 0.0
    template = survey.template._replace(groups=groups)
    workplace = case.workplace_in(tmp_path, task)
    left = morphnet.Shrunk(shrunk, template, alive, [])
    begun = morphnet.Start(shrunk, template, [], [], 0.0)
    wide = morphnet._grown(workplace, begun, left, survey, case.budget_of(survey, "params", "80%"), 1)
    widths = workplace.state["grown"]["1"]
    assert widths["layer1.0.conv1"] > 16
    assert widths["layer2.0.conv1"] < 32
    assert [m.out_channels for m in (wide.layer1[0].conv1, wide.layer2[0].conv1)] == [
        widths["layer1.0.conv1"],
        widths["layer2.0.conv1"],
    ]
    inputs = torch.randn(8, *case.INPUT, generator=torch.Generator().manual_seed(1))
    assert function_difference(shrunk, wide, inputs) < 1e-4


def test_nothing_is_condemned_while_what_is_new_learns(survey, network):
    groups = find_groups(copy.deepcopy(network), torch.zeros(1, *case.INPUT))
    budget = case.budget_of(survey, "latency")
    regularizer = CostRegularizer(groups, survey.tables, budget.gradient)
    shrinker = Shrinker(regularizer, budget, StrengthController(2.0, 1.0), grace=0.5)
    for step in range(1, 50):
        shrinker.after_step(step, 100, 0.1, 1.0)
        assert not any(marked.any() for marked in regularizer.condemned.values())
    assert shrinker.history == []
    shrinker.after_step(50, 100, 0.1, 1.0)
    assert len(shrinker.history) == 1
    assert shrinker.history[0]["target_cost"] == pytest.approx(2.0)  # the line begins where the grace ends


class Listening(StrengthController):
    """Keeps what it is told, and leaves the channels alone."""

    def update(self, cost, share, seen=None):
        self.seen = seen
        super().update(cost, share, seen)
        return 0.0


@pytest.mark.parametrize(("total", "grace", "lead"), [(1000, 0.0, 0.1), (100, 0.0, 0.2), (100, 0.5, 0.4)])
def test_a_look_tells_the_controller_when_and_from_where_on_it_matters(survey, network, total, grace, lead):
    network = copy.deepcopy(network)
    groups = find_groups(network, torch.zeros(1, *case.INPUT))
    budget = case.budget_of(survey, "latency")
    regularizer = CostRegularizer(groups, survey.tables, budget.gradient)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.grad = torch.linspace(0.1, 1.0, len(module.weight))
    controller = Listening(2.0, 1.0)
    shrinker = Shrinker(regularizer, budget, controller, grace=grace)
    shrinker.after_step(round(0.6 * total), total, 0.1, 1.0)
    cost = budget.usage(regularizer.cost())
    assert controller.seen.lead == pytest.approx(lead)
    assert controller.seen.projected == pytest.approx(cost)  # nothing is going yet
    assert 0 < controller.seen.step < cost / 2
    assert controller.seen.idle == pytest.approx(regularizer.idle_strength())
    assert controller.seen.idle > 0
    assert controller.log_strength == pytest.approx(np.log(controller.seen.idle), abs=0.5)


@pytest.mark.parametrize(
    ("ablation", "beside", "is_so"),
    [
        # With its blocks there: what is left without some may hold the budget as it is.
        (
            Ablation(gradient_on=False, remove_blocks=False),
            Ablation(remove_blocks=False),
            lambda found, seed: found.alive == seed,
        ),
        (Ablation(remove_blocks=False), Ablation(), lambda found, seed: not found.trials and not found.removed),
    ],
    ids=["gradient", "blocks"],
)
def test_parts_can_be_switched_off(ablation, beside, is_so, task, survey, network, tmp_path):
    budget = case.budget_of(survey, "latency")
    found = searched(task, survey, network, tmp_path, budget, ablation)
    assert is_so(found, survey.template.seed_widths())
    whole = searched(task, survey, network, tmp_path / "whole", budget, beside)
    assert not is_so(whole, survey.template.seed_widths())


def searched(task, survey, network, folder, budget, ablation):
    workplace = case.workplace_in(folder, task, 6, ablation=ablation)
    return morphnet.MorphNet().search(workplace, network, survey, budget)


@pytest.mark.parametrize("expand", [True, False])
def test_what_is_left_of_the_budget_is_used_or_not(expand, task, survey, network, tmp_path):
    budget = case.budget_of(survey, "latency")
    method = morphnet.MorphNet()
    workplace = case.workplace_in(tmp_path, task, 1, ablation=Ablation(expand=expand, remove_blocks=False))
    found = method.search(workplace, network, survey, budget)
    few = {name: max(1, width // 3) if name in found.importance else width for name, width in found.alive.items()}
    choice = method.choose(found._replace(alive=few), survey, budget)
    assert any(choice.widths[name] > few[name] for name in few) == expand


def test_steering_by_flops_prices_channels_by_flops_alone(survey):
    gradient = morphnet._flops_gradient(case.budget_of(survey, "latency"), survey)
    slope = gradient(survey.predicted)
    assert np.flatnonzero(slope).tolist() == [2]
    assert float(slope @ survey.predicted) == pytest.approx(2.0)  # as dear as the budget says the network is


def test_a_wide_group_is_gone_within_the_training():
    """Block by hardware block it would take longer: 256 channels of which 10 % of the cost leave less than a third."""

    def build(widths=None):
        return ResNet((1,), (256,), widths=widths)

    torch.manual_seed(0)
    net = build().eval()
    example = torch.zeros(1, 1, 8, 8)
    groups = find_groups(net, example, build)
    template = make_template(kernel_graph(to_onnx(net, example.shape[1:]), "virtual"), groups)
    tables = NetworkTables(template.kernels, stairs, template.seed_widths())
    budget = resolve([parse_limit("latency", "10%")], None, 0.0, tables.totals(template.seed_widths()))
    regularizer = CostRegularizer(groups, tables, budget.gradient)
    assert regularizer.tables.block < 256 / 10
    shrinker = Shrinker(regularizer, budget, StrengthController(10.0, 1.0))
    random = torch.Generator().manual_seed(0)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.grad = torch.randn(module.num_features, generator=random).exp()
    for step in range(1, 401):
        shrinker.after_step(step, 400, 0.1, 1.0)
    assert 0.95 < (10.0 - budget.usage(regularizer.cost())) / 9.0 < 1.02
