"""Starting widths: what is worth nothing goes first, the budget holds, nothing is trained."""

from __future__ import annotations

import torch
from stairs import INPUT, build
from training_cases import small_task

from rig.compression.budget import resolve
from rig.compression.choosing.starting_widths import saliency, starting_widths
from rig.compression.cutting.groups import find_groups
from rig.compression.tasks import Task
from rig.units import parse_limit


def tiny_task() -> Task:
    generator = torch.Generator().manual_seed(0)
    data = [
        (torch.randn(16, *INPUT, generator=generator), torch.randint(0, 10, (16,), generator=generator))
        for _ in range(2)
    ]
    return small_task(model=build, loaders=lambda split: data, input_shape=INPUT)


def untrained() -> torch.nn.Module:
    torch.manual_seed(0)
    return build()


def test_channels_on_which_the_loss_does_not_hang_are_worth_nothing():
    network = untrained()
    with torch.no_grad():
        network.layer1[0].conv2.weight[:, 4] = 0.0  # nobody reads channel 4 of layer1.0.conv1
    scores = saliency(network, tiny_task(), find_groups(network, torch.zeros(1, *INPUT)), batches=2)
    worth = scores["layer1.0.conv1"]
    assert float(worth[4]) < 1e-6 * float(worth.max())
    assert int((worth > 1e-3 * worth.max()).sum()) == 15


def test_the_budget_holds_and_the_network_is_left_as_it_was(tables):
    network = untrained()
    groups = find_groups(network, torch.zeros(1, *INPUT))
    seed = {g.name: g.width for g in groups}
    before = {name: value.clone() for name, value in network.state_dict().items()}
    budget = resolve([parse_limit("latency", "50%")], None, 0.0, tables.totals(seed))
    widths = starting_widths(network, tiny_task(), groups, tables, budget, batches=2)
    assert 0.3 < budget.usage(tables.totals(widths)) <= 1.0
    assert all(1 <= widths[g.name] <= g.width for g in groups)
    assert all(widths[g.name] == g.width for g in groups if not g.prunable)
    assert sum(widths.values()) < sum(seed.values())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_what_is_worth_less_is_cut_more(tables):
    network = untrained()
    groups = find_groups(network, torch.zeros(1, *INPUT))
    with torch.no_grad():
        network.layer2[0].bn2.weight.mul_(1e-3)  # little of what the block does reaches the loss
    budget = resolve([parse_limit("latency", "75%")], None, 0.0, tables.totals({g.name: g.width for g in groups}))
    widths = starting_widths(network, tiny_task(), groups, tables, budget, batches=2)
    assert widths["layer2.0.conv1"] < widths["layer2.1.conv1"]
