"""How a network is made again: its widths, branches taken out of its graph, gates; and such a network in training."""

from __future__ import annotations

import pytest
import torch
from training_cases import BRANCH, INPUT, Remover, altered, batches, build, fresh, small_task, values

from rig.compression.cutting.bypass import bypassed, bypassed_branches
from rig.compression.cutting.gates import GatedConv2d, gated_layers
from rig.compression.cutting.rebuild import Recipe, made, recipe_of
from rig.compression.cutting.surgery import function_difference
from rig.compression.training import TrainingPlan, train

EXAMPLE = torch.zeros(1, *INPUT)
PLAN = TrainingPlan(3, 0.05, precision="float32")


@pytest.mark.parametrize(
    "network", [fresh(), altered(()), altered(branch=False), altered()], ids=["plain", "branch", "gates", "both"]
)
def test_a_network_is_made_again_from_its_recipe(network):
    recipe = recipe_of(network, build, EXAMPLE)
    again = made(Recipe(*list(recipe)), build, EXAMPLE)  # as it travels
    again.load_state_dict(network.state_dict())
    inputs = batches(1)[0][0]
    assert function_difference(network, again, inputs) == 0.0
    assert bypassed_branches(again) == bypassed_branches(network)
    assert gated_layers(again) == gated_layers(network)


def test_a_recipe_holds_what_was_done():
    assert recipe_of(altered(), build, EXAMPLE) == Recipe({}, [BRANCH], ["conv1"])
    narrow = build({"layer2.0.conv1": 3})
    assert recipe_of(narrow, build, EXAMPLE) == Recipe({"layer2.0.conv1": 3}, [], [])
    twice = bypassed(altered(()), ["layer2.0.conv1", "layer2.0.conv2"], EXAMPLE)
    assert bypassed_branches(twice) == [BRANCH, ["layer2.0.conv1", "layer2.0.conv2"]]


def test_it_is_cut_while_it_is_trained_and_keeps_what_was_done_to_it(tmp_path):
    network = altered()
    hook = Remover(network, at=2, group="layer2.0.conv1")
    trained = train(network, small_task(), PLAN, hook=hook, checkpoint=tmp_path / "a.pt").network
    assert trained.get_submodule("layer2.0.conv1").out_channels == 5
    assert type(trained.conv1) is GatedConv2d
    assert "layer1.0.conv1" not in dict(trained.named_modules())
    again = altered()
    second = Remover(again, at=2, group="layer2.0.conv1")
    taken_up = train(again, small_task(), PLAN, hook=second, checkpoint=tmp_path / "a.pt").network
    assert torch.equal(values(taken_up), values(trained))
