import copy

import numpy as np
import pytest
import torch

from power_models.regularizer import CostRegularizer, effective_width
from rig.compression.groups import find_groups

LATENCY = np.array([1.0, 0.0, 0.0, 0.0])


@pytest.fixture
def regularized(network, tables):
    net = copy.deepcopy(network)
    groups = find_groups(net, torch.zeros(1, 1, 16, 16))
    return net, CostRegularizer(groups, tables, lambda totals: LATENCY)


def test_effective_width_counts_equal_channels_at_any_scale():
    norms = torch.tensor([0.0, 2.0, 2.0, 0.0, 2.0])
    assert effective_width(norms).item() == pytest.approx(3.0)
    assert effective_width(0.01 * norms).item() == pytest.approx(3.0)
    assert effective_width(torch.zeros(4)).item() == 0.0


def test_penalty_gradient_by_finite_differences(regularized):
    net, regularizer = regularized
    weight = net.layer1[0].bn1.weight
    regularizer.penalty().backward()
    step = 1e-3
    for i in (0, 5, 11):
        with torch.no_grad():
            weight[i] += step
            above = regularizer.penalty().double()
            weight[i] -= 2 * step
            below = regularizer.penalty().double()
            weight[i] += step
        expected = (above - below).item() / (2 * step)
        assert weight.grad[i].item() == pytest.approx(expected, rel=0.05, abs=1e-9)


def test_penalty_of_all_equal_channels_is_price_times_width(regularized):
    net, regularizer = regularized
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.fill_(1.0)
                module.bias.zero_()
    prices = regularizer.prices()
    expected = sum(prices[g.name] * g.width for g in regularizer.groups if g.prunable)
    assert regularizer.penalty().item() == pytest.approx(expected, rel=1e-5)


def test_the_step_kills_what_the_loss_does_not_hold_exactly_and_it_stays_dead(regularized):
    net, regularizer = regularized
    weight, bias = net.layer1[0].bn1.weight, net.layer1[0].bn1.bias
    with torch.no_grad():
        weight.fill_(1.0)
        bias.zero_()
    for module in net.modules():  # a loss that holds every channel but six of this layer
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.grad = torch.ones_like(module.weight)
    weight.grad[:6] = 1e-4
    regularizer.watch()
    regularizer.condemn(0.02)
    assert regularizer.projected()["layer1.0.conv1"] == 10
    for _ in range(60):
        regularizer.proximal_step(0.02)
    assert regularizer.widths()["layer1.0.conv1"] == 10
    assert (weight[:6] == 0).all()
    assert (weight[6:] == 1.0).all()  # the rest keeps its scale: the group is not shrunk as a whole
    weight.grad[:6] = 10.0
    regularizer.watch()
    regularizer.condemn(0.02)
    with torch.no_grad():
        weight[:6] += 0.01  # what an optimizer's momentum does
    regularizer.proximal_step(0.02)
    assert (weight[:6] == 0).all()


def test_dear_channels_go_before_cheap_ones(regularized):
    net, regularizer = regularized
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            with torch.no_grad():
                module.weight.fill_(1.0)
                module.bias.zero_()
            module.weight.grad = torch.ones_like(module.weight)
    regularizer.watch()
    prices = regularizer.prices()
    inner = {g.name: g for g in regularizer.groups if len(g.scales) == 1 and g.prunable}
    dear, cheap = max(inner, key=prices.__getitem__), min(inner, key=prices.__getitem__)
    strength = (
        1.5
        * regularizer._unit
        / prices[dear]
        * float(regularizer.resistance[dear].mean())
        / float(torch.cat(list(regularizer.resistance.values())).mean())
    )
    regularizer.condemn(strength)
    regularizer.proximal_step(0.02)
    assert float(inner[dear].norms().detach().mean()) < 1.0
    assert float(inner[cheap].norms().detach().mean()) == pytest.approx(1.0)


def test_narrowing_leaves_a_group_its_strongest_channel(regularized):
    net, regularizer = regularized
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.grad = torch.full_like(module.weight, 1e-9)
    regularizer.watch()
    for _ in range(100):
        regularizer.condemn(1e6)
        regularizer.proximal_step(0.05)
    assert min(regularizer.widths().values()) >= 1


def test_true_cost_follows_the_alive_channels_only(regularized, tables):
    net, regularizer = regularized
    whole = regularizer.cost()
    with torch.no_grad():
        net.layer1[0].bn1.weight[8:] = 0.0
        net.layer1[0].bn1.bias[8:] = 0.0
    expected = tables.totals({**{g.name: g.width for g in regularizer.groups}, "layer1.0.conv1": 8})
    assert regularizer.cost() == pytest.approx(expected)
    assert regularizer.cost()[0] < whole[0]


def test_zero_strength_changes_nothing(regularized):
    net, regularizer = regularized
    before = copy.deepcopy(net.state_dict())
    regularizer.watch()
    regularizer.condemn(0.0)
    regularizer.proximal_step(0.1)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), net.state_dict().values(), strict=True))
