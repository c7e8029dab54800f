"""What a run keeps for comparing in pairs: ratios of costs measured in turn, right answers image by image."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from synthetic_records import synthetic_record
from torch import nn

from rig.comparison.answers import read_answers
from rig.compression.pairing import cost_ratios, keep_answers, right_answers
from rig.compression.tasks import Task, accuracy
from rig.compression.trial import Trial
from rig.quality.verdict import assess
from rig.store.store import Store

INPUTS = torch.randn(230, 6, 1, 1, generator=torch.Generator().manual_seed(0))
TARGETS = torch.arange(230) % 3


def batches(split):
    return list(zip(INPUTS.split(100), TARGETS.split(100), strict=True))


def task(**changes):
    made = Task(
        "t", "m", nn.Module, F.cross_entropy, batches, lambda n, s: accuracy(n, batches(s)), (6, 1, 1), 230, True
    )
    return made._replace(**changes)


def linear(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 3))


def trial(rounds=3, drift=0.05, trace=True):
    """A result that takes 0.6 of the baseline, on a device that slows down from round to round."""
    found = {}
    for name, share in (("baseline", 1.0), ("result", 0.6)):
        for fps in (None, 20.0):
            found[name, fps] = [
                assess(
                    synthetic_record(
                        f"{name}-{n}",
                        latency_s=0.010 * share * (1 + drift * n),
                        active_j=0.030 * share,
                        fps=fps,
                        windows=6,
                        seed=n,
                        trace=trace,
                    )
                )
                for n in range(rounds)
            ]
    return Trial(found)


def test_ratios_of_rounds_in_turn_are_free_of_drift():
    found = cost_ratios(trial(), fps=20.0)
    assert set(found) == {"latency_s", "energy_active_j", "energy_j", "power_w"}
    assert found["latency_s"]["value"] == pytest.approx(0.6, rel=0.01)
    assert found["latency_s"]["hi"] - found["latency_s"]["lo"] < 0.02  # the drift of 10 % is not in it
    assert found["energy_active_j"]["value"] == pytest.approx(0.6, rel=0.02)
    assert found["power_w"]["value"] == pytest.approx((2.9 + 20 * 0.018) / (2.9 + 20 * 0.030), rel=0.01)
    assert (found["latency_s"]["kind"], found["latency_s"]["n"]) == ("simulated", 3)


def test_what_was_not_measured_of_both_is_left_out():
    assert "power_w" in cost_ratios(trial(), fps=None)  # flat out
    assert set(cost_ratios(trial(trace=False), fps=None)) == {"latency_s"}
    one_sided = trial()
    one_sided.found["result", None].pop()
    assert cost_ratios(one_sided, fps=None) == {}


def test_answers_are_those_that_accuracy_counts(tmp_path):
    networks = {"baseline": linear(0), "result": linear(1).train()}
    scores = {name: accuracy(network, batches("test")) for name, network in networks.items()}
    run = Store(tmp_path).new_run("optimize", "local")
    assert keep_answers(run, task(), networks, scores)
    kept = read_answers(run.path)
    for name, network in networks.items():
        expected = (network(INPUTS).argmax(1) == TARGETS).numpy()
        assert (kept.right[name] == expected).all()
        assert np.mean(kept.right[name]) == pytest.approx(scores[name])
    assert networks["result"].training


def test_other_images_have_another_digest():
    one = right_answers(task(), {"a": linear(0)})
    other = right_answers(task(loaders=lambda split: [(INPUTS + 1, TARGETS)]), {"a": linear(0)})
    assert one.images != other.images
    assert one.images == right_answers(task(), {"b": linear(2)}).images


@pytest.mark.parametrize(
    "changes",
    [
        {"logits": False},
        {"loaders": lambda split: [(INPUTS, TARGETS.float())]},
        {"loaders": lambda split: []},
    ],
    ids=["no logits", "targets no classes", "no images"],
)
def test_a_task_without_classes_keeps_no_answers(changes):
    assert right_answers(task(**changes), {"a": linear(0)}) is None


def test_an_accuracy_that_is_no_share_of_answers_keeps_none(tmp_path):
    run = Store(tmp_path).new_run("optimize", "local")
    assert not keep_answers(run, task(), {"a": linear(0)}, {"a": 0.123456})
    assert read_answers(run.path) is None
