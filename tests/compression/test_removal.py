"""Dead channels and blocks taken out while training goes on: the same function, the same training, fewer parameters."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from training_cases import BATCH, INPUT, Killer, Remover, batches, build, fresh, small_task, values

from rig.compression.cutting.groups import find_groups
from rig.compression.cutting.rebuild import layer_table
from rig.compression.cutting.removal import (
    carry_over,
    cut_of,
    dead_channels,
    narrowed,
    require_same_function,
    silent_blocks,
)
from rig.compression.cutting.template import ResidualBlock
from rig.compression.networks import ResNet
from rig.compression.training import TrainingPlan, load_state, train
from rig.compression.training.losses import make_optimizer
from rig.errors import ModelError

EXAMPLE = torch.zeros(1, *INPUT)
PROBE = torch.randn(BATCH, *INPUT, generator=torch.Generator().manual_seed(1))
PLAN = TrainingPlan(3, 0.05, precision="float32")


class Stop(Exception):
    pass


def block(name: str) -> ResidualBlock:
    layers = (f"{name}.conv1", f"{name}.conv2")
    return ResidualBlock(name, frozenset(), layers, layers[0], frozenset(layers[:1]))


def answers(network: nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        return network.eval()(PROBE)


def test_training_goes_on_as_if_the_dead_channels_were_still_there():
    masked, cut = fresh(), fresh()
    kept = train(masked, small_task(), PLAN, hook=Killer(masked, at=4)).network
    hook = Remover(cut, at=4)
    trained = train(cut, small_task(), PLAN, hook=hook)
    assert trained.network is hook.network
    assert trained.network.layer1[0].conv1.out_channels == 5
    assert trained.network.layer1[0].conv2.weight.shape[1] == 5
    assert hook.seen == list(range(1, 19))
    (record,) = trained.facts["removals"]
    assert record["step"] == 6
    # Three rows of a 3×3×8 filter, their scale and shift, three columns of the next layer's filters.
    assert record["parameters_before"] - record["parameters_after"] == 3 * 72 + 2 * 3 + 8 * 3 * 9
    torch.testing.assert_close(answers(trained.network), answers(kept), rtol=1e-3, atol=1e-4)


def test_momentum_and_settings_go_along():
    network = fresh().train()
    optimizer = make_optimizer(network, PLAN)
    for inputs, targets in batches(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(inputs), targets).backward()
        optimizer.step()
    optimizer.param_groups[0]["lr"] = 0.0123
    groups = find_groups(network, EXAMPLE)
    dead = {"layer1.0.conv1": torch.arange(8) < 3, "conv1": torch.arange(8) == 6}
    cut = cut_of(groups, dead)
    small = narrowed(network, cut, build, cut.table)
    fresh_one = make_optimizer(small, PLAN)
    carry_over(network, optimizer, small, fresh_one, cut)
    old = optimizer.state[network.layer1[0].conv1.weight]["momentum_buffer"]
    new = fresh_one.state[small.layer1[0].conv1.weight]["momentum_buffer"]
    rest = [i for i in range(8) if i != 6]
    assert torch.equal(new, old[3:][:, rest])
    assert torch.equal(small.layer1[0].conv1.weight, network.layer1[0].conv1.weight[3:][:, rest])
    assert torch.equal(small.bn1.running_mean, network.bn1.running_mean[rest])
    assert fresh_one.param_groups[0]["lr"] == 0.0123
    assert set(fresh_one.state) == set(small.parameters())


def test_a_stopped_training_is_taken_up_behind_the_cut(tmp_path):
    plan, path = PLAN._replace(ema=0.8), tmp_path / "half.pt"
    one, other = fresh(), fresh()
    whole = train(one, small_task(), plan, hook=Remover(one, at=2), checkpoint=tmp_path / "whole.pt").network

    def stop(step, total, loss):
        if step == 15:
            raise Stop

    with pytest.raises(Stop):
        train(other, small_task(), plan, hook=Remover(other, at=2), checkpoint=path, progress=stop)
    assert load_state(path)["widths"]["layer1.0.conv1"] == 5
    again = fresh(seed=7)
    hook = Remover(again, at=2)
    trained = train(again, small_task(), plan, hook=hook, checkpoint=path)
    assert trained.network is hook.network
    assert hook.seen == list(range(1, 19))
    assert len(trained.facts["removals"]) == 1
    assert torch.equal(values(trained.network), values(whole))


def test_the_average_is_cut_along(tmp_path):
    network = fresh()
    plan = PLAN._replace(ema=0.5)
    trained = train(network, small_task(), plan, hook=Remover(network, at=1), checkpoint=tmp_path / "one.pt")
    assert trained.network.bn1.running_mean.shape == (8,)
    masked = fresh()
    kept = train(masked, small_task(), plan, hook=Killer(masked, at=1)).network
    torch.testing.assert_close(answers(trained.network), answers(kept), rtol=1e-3, atol=1e-4)


class Sigmoid(ResNet):
    """Its stem's activation is one half at zero, so that a dead channel is not silent."""

    def forward(self, x):
        x = torch.sigmoid(self.bn1(self.conv1(x)))
        return self.fc(torch.flatten(nn.functional.adaptive_avg_pool2d(self.layer2(self.layer1(x)), 1), 1))


def sigmoid(widths=None):
    return Sigmoid((1, 1), (8, 8), widths=widths)


def test_a_removal_that_would_change_the_answers_is_undone_and_named():
    torch.manual_seed(0)
    network = sigmoid()
    hook = Remover(network, at=2, group="conv1")
    trained = train(network, small_task(model=sigmoid), PLAN, hook=hook)
    assert trained.network is network
    assert network.conv1.out_channels == 8
    first = trained.facts["removals"][0]
    assert "conv1" in first["undone"]
    assert "parameters_after" not in first


def test_nothing_dead_is_nothing_to_cut():
    network = fresh()
    groups = find_groups(network, EXAMPLE)
    assert cut_of(groups, dead_channels(groups)) is None
    trained = train(network, small_task(), PLAN, hook=Remover(network, at=1000))
    assert trained.network is network
    assert trained.facts["removals"] == []


def test_a_group_keeps_one_channel():
    groups = find_groups(fresh(), EXAMPLE)
    cut = cut_of(groups, {"layer1.0.conv1": torch.ones(8, dtype=torch.bool)})
    assert cut.kept["layer1.0.conv1"] == [0]
    assert cut.table["layer1.0.conv1"] == 1


def test_a_silent_block_is_found_and_leaves_the_function_as_it_is():
    network = fresh().eval()
    with torch.no_grad():
        network.layer1[0].bn2.weight.zero_()
        network.layer1[0].bn2.bias.zero_()
    groups = find_groups(network, EXAMPLE)
    blocks = [block("layer1.0"), block("layer2.0")]
    silent = silent_blocks(network, blocks)
    assert silent == blocks[:1]
    cut = cut_of(groups, {}, silent)
    small = narrowed(network, cut, build, cut.table)
    assert small.layer1[0].removed
    require_same_function(network, small, INPUT, cut)
    loud = cut_of(groups, {}, blocks[1:])
    with pytest.raises(ModelError, match=r"layer2\.0"):
        require_same_function(network, narrowed(network, loud, build, loud.table), INPUT, loud)


def test_the_table_that_builds_a_network_is_found_from_it():
    assert layer_table(build(), build) == {}
    table = {"layer1.0.conv1": 3, "layer2.0.conv1": 0}
    assert layer_table(build(table), build) == table
    network, state = build(table), torch.get_rng_state()
    layer_table(network, build)
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(ModelError, match="no network of these shapes"):
        layer_table(nn.Sequential(nn.Linear(3, 4)), build)
