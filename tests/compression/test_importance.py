"""Scores of channels against finite differences; their scale against the measured loss."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from stairs import INPUT, build

from rig.compression.choosing.importance import IMPORTANCES, group_taylor, magnitude
from rig.compression.choosing.recovery import Recovery
from rig.compression.choosing.steering import _in_loss, _silent, measured_scores
from rig.compression.cutting.groups import find_groups
from rig.compression.tasks import Task


def batches_of(count: int, seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(16, *INPUT, generator=generator), torch.randint(0, 10, (16,), generator=generator))
        for _ in range(count)
    ]


TRAIN, VAL = batches_of(2, 0), batches_of(2, 1)
TASK = Task(
    name="noise",
    model_name="resnet",
    model=build,
    loss=F.cross_entropy,
    loaders=lambda split: TRAIN if split == "train" else VAL,
    evaluate=lambda network, split: 0.1,
    input_shape=INPUT,
    test_count=16,
)


@pytest.fixture
def own(network, template):
    """A copy of the network with groups of its own, and a dead channel in one of them."""
    copied = copy.deepcopy(network)
    groups = find_groups(copied, torch.zeros(1, *INPUT), like=template.groups)
    inner = next(g for g in groups if g.name == "layer1.0.conv1")
    with torch.no_grad():
        for scale in inner.scales:
            rows = scale.index[scale.root == 3]
            scale.weight[rows] = 0.0
            scale.bias[rows] = 0.0
    return copied, groups


@pytest.mark.parametrize("name", ["layer1.0.conv1", "conv1"])
def test_group_taylor_is_the_square_of_the_slope_of_scaling_the_channel_everywhere(own, name) -> None:
    network, groups = own
    group = next(g for g in groups if g.name == name)
    scores = group_taylor(network.double(), _double(TASK, 1), groups)[name]
    inputs, targets = TRAIN[0]
    step = 1e-8  # so small that no activation crosses zero

    def loss_at(channel: int, factor: float) -> float:
        scaled = copy.deepcopy(network)
        modules = dict(scaled.named_modules())
        with torch.no_grad():
            for member in group.members:
                rows = member.index[member.root == channel]
                for values in modules[member.layer].parameters(recurse=False):
                    if member.axis == "out":
                        values[rows] *= factor
                    elif values.dim() > 1:
                        values[:, rows] *= factor
            return float(F.cross_entropy(scaled(inputs.double()), targets))

    for channel in (0, 5, 11):
        slope = (loss_at(channel, 1 + step) - loss_at(channel, 1 - step)) / (2 * step)
        assert float(scores[channel]) == pytest.approx(slope**2, rel=1e-3, abs=1e-12)


def _double(task: Task, batches: int) -> Task:
    return task._replace(loaders=lambda split: [(x.double(), y) for x, y in task.loaders(split)[:batches]])


@pytest.mark.parametrize("kind", sorted(IMPORTANCES))
def test_dead_channels_are_worth_nothing_and_living_ones_something(own, kind) -> None:
    network, groups = own
    scores = IMPORTANCES[kind](network, TASK, groups, 2)
    assert float(scores["layer1.0.conv1"][3]) == 0.0
    assert set(scores) == {g.name for g in groups if g.prunable}
    for group in groups:
        if group.prunable:
            assert scores[group.name].shape == (group.width,)
            assert int((scores[group.name] > 0).sum()) >= 0.8 * group.width


def test_magnitude_needs_no_data(own) -> None:
    network, groups = own
    scores = magnitude(network, TASK._replace(loaders=lambda split: []), groups)
    with torch.no_grad():
        dict(network.named_modules())["layer1.0.conv1"].weight[7] *= 10.0
    assert float(magnitude(network, TASK, groups)["layer1.0.conv1"][7]) > float(scores["layer1.0.conv1"][7])


def test_measured_scores_add_up_to_the_loss_that_silencing_adds(own, template) -> None:
    network, groups = own
    before = {name: values.clone() for name, values in network.state_dict().items()}
    raw = IMPORTANCES["taylor"](network, TASK, groups, 2)
    scores, trials = measured_scores(network, TASK, template._replace(groups=groups), [], raw)
    assert all(torch.equal(values, before[name]) for name, values in network.state_dict().items())
    base = _loss(_settled(network))
    assert {t["block"] for t in trials} == {b.name for b in template.blocks}
    assert all(t["loss"] == pytest.approx(base) for t in trials)
    group = next(g for g in groups if g.name == "conv1")
    order = torch.argsort(raw[group.name], descending=True, stable=True)
    rising = 0.0
    for kept in (group.width // 2, group.width // 4, group.width // 8):
        silent = copy.deepcopy(network)
        group.on(silent).silence(order[kept:])
        added = _loss(_settled(silent)) - base
        if added > rising:  # else noise, which counts as little
            rising = added
            assert float(scores[group.name][order[kept:]].sum()) == pytest.approx(added, rel=0.05, abs=1e-3)
    assert rising > 0.0
    assert bool((torch.diff(scores[group.name][order]) <= 0).all())


def test_scores_follow_the_losses_at_every_point_and_go_on_behind_the_last() -> None:
    own = torch.tensor([8.0, 4.0, 0.0, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0])  # one is dead
    assert [sorted(silent.tolist()) for silent in _silent(own)] == [
        [5, 6, 7, 8],
        [3, 4, 5, 6, 7, 8],
        [1, 3, 4, 5, 6, 7, 8],
    ]
    worth = _in_loss(own, [0.4, 1.2, 2.8], least=1e-3)
    assert float(worth[5:].sum()) == pytest.approx(0.4, rel=1e-4)
    assert float(worth[3:].sum()) == pytest.approx(1.2, rel=1e-4)
    assert float(worth[1]) == pytest.approx(1.6, rel=1e-4)
    assert float(worth[0]) == pytest.approx(3.2, rel=1e-4)  # twice as important as the last that was tried
    assert float(worth[2]) == 0.0


def test_a_loss_that_falls_as_more_goes_is_noise_and_counts_as_little() -> None:
    own = torch.tensor([4.0, 3.0, 2.0, 1.0])
    worth = _in_loss(own, [0.5, 0.3], least=0.1)
    assert float(worth[2:].sum()) == pytest.approx(0.5, rel=1e-4)
    assert float(worth[1]) >= float(worth[2])
    assert torch.equal(torch.argsort(worth, descending=True), torch.arange(4))


@pytest.mark.parametrize("dead", [0.0, 1e-14])
def test_a_group_whose_weaker_half_is_dead_is_measured_on_what_lives(own, template, dead: float) -> None:
    network, groups = own
    raw = IMPORTANCES["magnitude"](network, TASK, groups, 0)
    name = "layer2.0.conv1"
    order = torch.argsort(raw[name])
    raw[name][order[: len(order) // 2 + 2]] = dead
    scores, _ = measured_scores(network, TASK, template._replace(groups=groups), [], raw)
    other, _ = measured_scores(network, TASK, template._replace(groups=groups), [], {**raw, name: 1e6 * raw[name]})
    # Whatever the unit of the raw scores: in that of the loss, which silencing some of a group changes little.
    assert float(scores[name].sum()) == pytest.approx(float(other[name].sum()), rel=1e-3)
    assert 0.0 < float(scores[name].sum()) < 100.0
    if dead == 0.0:  # else what was measured counts, not the raw score
        assert float(scores[name][order[0]]) == 0.0


def test_a_removed_block_is_looked_at_no_more(own, template) -> None:
    network, groups = own
    raw = IMPORTANCES["magnitude"](network, TASK, groups, 0)
    first = template.blocks[0]
    narrowed = build(template.layer_widths(template.seed_widths(), [first.name])).eval()
    left = find_groups(narrowed, torch.zeros(1, *INPUT), like=template.groups)
    of_left = {g.name: raw[g.name] for g in left if g.prunable}
    _, trials = measured_scores(narrowed, TASK, template._replace(groups=left), [first.name], of_left)
    assert {t["block"] for t in trials} == {b.name for b in template.blocks[1:]}


def _settled(network: torch.nn.Module) -> torch.nn.Module:
    """A copy with the statistics that ``measured_scores`` gives every network it judges."""
    copied = copy.deepcopy(network)
    Recovery(TASK)(copied)
    return copied


def _loss(network: torch.nn.Module) -> float:
    with torch.inference_mode():
        return sum(float(F.cross_entropy(network(x), y)) for x, y in VAL) / len(VAL)
