import copy

import numpy as np
import pytest
import torch
from stairs import INPUT

from power_models.regularizer import CostRegularizer, effective_width
from rig.compression.cutting.groups import find_groups
from rig.compression.cutting.surgery import function_difference

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


def test_below_the_idle_strength_nothing_is_condemned_and_above_it_something_is(regularized):
    net, regularizer = regularized
    assert regularizer.idle_strength() == 0.0  # nothing was watched yet
    generator = torch.Generator().manual_seed(3)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.grad = 0.1 + torch.rand(module.weight.shape, generator=generator)
    regularizer.watch()

    def condemned(strength):
        regularizer.condemn(strength)
        return sum(int(marks.sum()) for marks in regularizer.condemned.values())

    idle = regularizer.idle_strength()
    assert idle > 0
    assert condemned(0.99 * idle) == 0
    assert condemned(1.01 * idle) > 0
    assert condemned(3.0 * idle) > 1
    least = regularizer.idle_strength()  # what is going is pardoned later than it was condemned
    assert least < idle
    assert condemned(1.01 * least) > 0
    assert condemned(0.99 * least) == 0


def test_who_dies_does_not_depend_on_how_scale_is_shared_with_the_next_layer(network, tables):
    # γ and β of some channels times a, the next layer's weights by 1/a: the same function, so the same channels.
    nets = copy.deepcopy(network), copy.deepcopy(network)
    block = nets[1].layer1[0]
    factors = torch.logspace(-3, 3, block.bn1.num_features)
    with torch.no_grad():
        block.bn1.weight *= factors
        block.bn1.bias *= factors
        block.conv2.weight /= factors[None, :, None, None]
    generator = torch.Generator().manual_seed(0)
    inputs, targets = torch.randn(16, *INPUT, generator=generator), torch.randint(0, 10, (16,), generator=generator)
    assert function_difference(*nets, inputs) < 1e-4
    regularizers = []
    for net in nets:
        regularizer = CostRegularizer(find_groups(net, torch.zeros(1, *INPUT)), tables, lambda totals: LATENCY)
        torch.nn.functional.cross_entropy(net.train()(inputs), targets).backward()
        assert regularizer.widths()["layer1.0.conv1"] == 16  # small is not dead
        regularizer.watch()
        regularizer.condemn(0.6)
        regularizers.append(regularizer)
    one, other = regularizers
    assert all(torch.equal(one.condemned[name], other.condemned[name]) for name in one.condemned)
    assert 0 < int(one.condemned["layer1.0.conv1"].sum()) < 16
    for _ in range(10):
        one.proximal_step(0.05), other.proximal_step(0.05)
    assert function_difference(*nets, inputs) < 1e-4  # half of the way, they are still the same function
    for _ in range(12):
        one.proximal_step(0.05), other.proximal_step(0.05)
    assert all(torch.equal(one.dead[name], other.dead[name]) for name in one.dead)
    assert all(torch.equal(one.dead[name], one.condemned[name]) for name in one.dead)


def test_a_step_of_cost_is_one_hardware_block(regularized, tables):
    _, regularizer = regularized
    seed = {g.name: g.width for g in regularizer.groups}
    steps = regularizer.block_steps()
    assert "fc" not in steps
    for name in ("conv1", "layer1.0.conv1", "layer2.1.conv1"):
        narrower = tables.totals({**seed, name: seed[name] - tables.block})
        assert steps[name] == pytest.approx(np.maximum(tables.totals(seed) - narrower, 0.0))
