"""What is judged gets the same chance to recover: statistics, a few steps, nothing that was silenced comes back."""

import copy
import itertools
import math

import compression_case as case
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rig.compression.choosing import recovery as recovery_module
from rig.compression.choosing.importance import IMPORTANCES
from rig.compression.choosing.recovery import STATISTICS_BATCHES, Recovery
from rig.compression.choosing.steering import measured_scores
from rig.compression.cutting.groups import find_groups
from rig.errors import ModelError

LAYER = "layer2.0.conv1"


def _loss(network: nn.Module, task) -> float:
    with torch.inference_mode():
        return sum(float(F.cross_entropy(network(x), y)) for x, y in task.loaders("val"))


def _silenced(network: nn.Module):
    """A copy without half of the channels of a layer, and what silenced them."""
    trial = copy.deepcopy(network)
    group = next(g for g in find_groups(trial, torch.zeros(1, *case.INPUT)) if LAYER in g.writers)
    quiet = torch.arange(group.width // 2)
    group.silence(quiet)
    return trial, lambda: group.silence(quiet), group, quiet


def test_statistics_are_those_of_the_batches_it_draws(network, task) -> None:
    torch.manual_seed(3)
    recovery = Recovery(task)
    trial = copy.deepcopy(network)
    recovery(trial)
    torch.manual_seed(3)
    batches = [inputs for inputs, _ in task.loaders("train")][:STATISTICS_BATCHES]
    with torch.no_grad():
        means = torch.stack([network.conv1(x).mean((0, 2, 3)) for x in batches]).mean(0)
    assert torch.allclose(trial.bn1.running_mean, means, atol=1e-5)
    assert torch.equal(trial.conv1.weight, network.conv1.weight)
    assert not trial.training


def test_training_takes_back_what_silencing_cost_and_leaves_it_silent(network, task) -> None:
    at_once, *_ = _silenced(network)
    Recovery(task)(at_once)
    trial, hold, group, quiet = _silenced(network)
    held = []
    Recovery(task, steps=4)(trial, lambda: held.append(hold()))
    assert _loss(trial, task) < _loss(at_once, task)
    assert bool((group.norms()[quiet] == 0).all())
    assert len(held) == 4


def test_little_data_is_gone_through_again(task) -> None:
    assert len(list(task.loaders("train"))) == 4
    assert len(Recovery(task, steps=10).batches) == 10


def test_large_batches_are_not_all_kept_but_come_again(network, task, monkeypatch) -> None:
    monkeypatch.setattr(recovery_module, "KEPT_BYTES", 1)
    recovery, steps = Recovery(task, steps=10), []
    recovery(copy.deepcopy(network), lambda: steps.append(1))
    assert (len(recovery.batches), len(steps)) == (STATISTICS_BATCHES, 10)


def test_data_without_a_batch_is_said(task) -> None:
    with pytest.raises(ModelError, match="yields no batch"):
        Recovery(task._replace(loaders=lambda split: []))


def test_every_network_gets_the_same_batches(network, task) -> None:
    recovery = Recovery(task, steps=4)
    first, second = copy.deepcopy(network), copy.deepcopy(network)
    recovery(first)
    recovery(second)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_an_annealed_recovery_ends_with_small_steps(network, task) -> None:
    recovery = Recovery(task, steps=8)
    last_step = {}
    for recovery.annealed in (False, True):
        trial, seen = copy.deepcopy(network), []
        recovery(trial, lambda seen=seen, trial=trial: seen.append(trial.conv1.weight.detach().clone()))
        last_step[recovery.annealed] = float((seen[7] - seen[6]).norm())
    assert last_step[True] < 0.5 * last_step[False]


def test_batches_in_parts_are_as_many_steps_of_so_many_images_or_more(network, task) -> None:
    recovery = Recovery(task, steps=2, parts=4)
    whole = len(recovery.batches[0][0])
    parts = recovery._parts(recovery.batches[0])
    assert sum(len(inputs) for inputs, _ in parts) == whole
    assert len(parts) == min(4, whole // 16)
    assert torch.equal(torch.cat([targets for _, targets in parts]), recovery.batches[0][1])
    small = tuple(values[:15] for values in recovery.batches[0])
    assert len(recovery._parts(small)) == 1
    seen = []
    recovery(copy.deepcopy(network), lambda: seen.append(1))
    assert len(seen) == sum(len(recovery._parts(batch)) for batch in recovery.batches[:2])


@pytest.mark.parametrize("steps", [1, 4])
def test_a_network_that_training_throws_off_keeps_what_the_statistics_gave(steps, network, task) -> None:
    exploding = task._replace(loss=lambda outputs, targets: F.cross_entropy(outputs, targets) * 1e38)
    trial, expected = copy.deepcopy(network), copy.deepcopy(network)
    torch.manual_seed(1)
    assert not Recovery(exploding, steps)(trial)
    torch.manual_seed(1)
    assert Recovery(task)(expected)
    assert all(torch.equal(a, b) for a, b in zip(trial.parameters(), expected.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(trial.buffers(), expected.buffers(), strict=True))


def test_trials_that_are_not_finite_count_as_the_worst(network, task, survey) -> None:
    groups = find_groups(network, torch.zeros(1, *case.INPUT))
    raw = IMPORTANCES["magnitude"](network, task, groups, 0)
    thrown = itertools.cycle([1.0, float("nan"), 1.5])  # the first is of the untouched network

    def loss(outputs, targets):
        return F.cross_entropy(outputs, targets) * next(thrown) if not torch.is_grad_enabled() else outputs.sum() * 0.0

    broken = task._replace(loss=loss, loaders=lambda split: list(task.loaders(split))[:1])
    scores, trials = measured_scores(network, broken, survey.template._replace(groups=groups), [], raw)
    assert all(bool(torch.isfinite(values).all()) for values in scores.values())
    assert all(math.isfinite(trial["loss_added"]) for trial in trials)


def test_a_loss_that_is_never_finite_is_said(network, task, survey) -> None:
    groups = find_groups(network, torch.zeros(1, *case.INPUT))
    broken = task._replace(loss=lambda outputs, targets: outputs.sum() * float("nan"))
    with pytest.raises(ModelError, match="on the steering split"):
        measured_scores(network, broken, survey.template._replace(groups=groups), [], {})
