import math

import pytest
import torch
from stairs import INPUT, build

from power_models.regularizer import CostRegularizer
from rig.compression import tasks
from rig.compression.budget import resolve
from rig.compression.cutting.groups import find_groups
from rig.compression.methods.controller import StrengthController
from rig.compression.methods.shrinker import Shrinker
from rig.compression.training import DivergedError, TrainingPlan, fastest_precision, learning_rate_at, load_state, train
from rig.errors import ModelError
from rig.units import parse_limit


def tiny_task(batches=6):
    generator = torch.Generator().manual_seed(0)
    data = [
        (torch.randn(16, *INPUT, generator=generator), torch.randint(0, 10, (16,), generator=generator))
        for _ in range(batches)
    ]
    loss = torch.nn.functional.cross_entropy
    return tasks.Task("tiny", "tiny", build, loss, lambda split: data, lambda net, split: 0.0, INPUT, 16)


def shrinker_for(network, tables):
    groups = find_groups(network, torch.zeros(1, *INPUT))
    budget = resolve([parse_limit("latency", "50%")], None, 0.0, tables.totals({g.name: g.width for g in groups}))
    return Shrinker(CostRegularizer(groups, tables, budget.gradient), budget, StrengthController(2.0, 1.0))


def test_the_learning_rate_warms_up_and_ends_at_its_share():
    plan = TrainingPlan(1, 0.1, warmup_share=0.2, final_share=0.1)
    rates = [learning_rate_at(step, 100, plan) for step in range(101)]
    assert max(rates) == pytest.approx(0.1)
    assert rates[0] < 0.01
    assert rates[100] == pytest.approx(0.01)


def test_a_stopped_training_goes_on_from_its_checkpoint_with_the_hook(tmp_path, tables):
    task, path = tiny_task(), tmp_path / "shrink.pt"
    torch.manual_seed(0)
    whole = build()
    train(whole, task, TrainingPlan(4, 0.05), hook=shrinker_for(whole, tables), checkpoint=tmp_path / "whole.pt")

    torch.manual_seed(0)
    halves = build()

    class Stop(Exception):
        pass

    def stop_late(step, total, loss):
        if step == 15:  # in the third epoch: its first steps are lost, the two epochs before are not
            raise Stop

    with pytest.raises(Stop):
        train(
            halves, task, TrainingPlan(4, 0.05), hook=shrinker_for(halves, tables), checkpoint=path, progress=stop_late
        )
    assert load_state(path)["step"] == 12
    again = build()
    hook = shrinker_for(again, tables)
    train(again, task, TrainingPlan(4, 0.05), hook=hook, checkpoint=path)
    assert hook.history[0]["step"] <= 12
    assert hook.history[-1]["step"] == 24
    assert load_state(path)["step"] == 24


def test_a_finished_training_is_not_repeated(tmp_path):
    task, path = tiny_task(), tmp_path / "done.pt"
    first = build()
    train(first, task, TrainingPlan(1, 0.05), checkpoint=path)
    second = build()
    train(second, task, TrainingPlan(1, 0.05), checkpoint=path, progress=lambda *_: pytest.fail("trained again"))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_divergence_is_an_error_that_names_the_step():
    task = tiny_task()._replace(loss=lambda outputs, targets: outputs.sum() * math.nan)
    with pytest.raises(DivergedError, match="step 1 of"):
        train(build(), task, TrainingPlan(1))


def test_no_batches_is_an_error():
    with pytest.raises(ModelError, match="no batch"):
        train(build(), tiny_task()._replace(loaders=lambda split: []), TrainingPlan(1))


def test_the_precision_is_one_of_the_two_and_leaves_the_network_alone():
    net = build()
    before = [p.clone() for p in net.parameters()]
    assert fastest_precision(net, tiny_task(), steps=1) in (torch.float32, torch.bfloat16)
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
