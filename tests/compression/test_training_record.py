"""What training took, all tries of a stretch together: time and peak memory survive a stop."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rig.compression.methods.base import Workplace
from rig.compression.survey import Settings
from rig.compression.tasks import Task, accuracy
from rig.compression.training import TrainingPlan

IMAGES = [(torch.randn(8, 1, 4, 4), torch.arange(8) % 2) for _ in range(3)]
PLAN = TrainingPlan(1, precision="float32")


class Quiet:
    def stage(self, text):
        pass

    def update(self, text):
        pass


class StopsAt:
    """A hook that is interrupted after some steps."""

    def __init__(self, step):
        self.step = step

    def after_step(self, step, total, learning_rate, loss):
        if step == self.step:
            raise KeyboardInterrupt

    def state(self):
        return {}

    def restore(self, state):
        pass


def network():
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 2))


def workplace(folder, state, kept):
    task = Task("t", "m", network, F.cross_entropy, lambda split: IMAGES, accuracy, (1, 4, 4), 8, True)
    settings = Settings((), None, 0, 1, 1, 1, rounds=1)
    return Workplace(task, settings, folder, Quiet(), state, lambda now: kept.append(dict(now["trained"])))


def test_a_stage_tells_time_and_peak_memory(tmp_path):
    kept = []
    place = workplace(tmp_path, {}, kept)
    place.train("search", network(), PLAN, place.checkpoint("search"))
    (stage,) = place.stages
    assert stage["name"] == "search"
    assert stage["seconds"] > 0
    assert stage["peak_memory_bytes"] > 10e6
    assert stage["peak_memory_of"].startswith("process")
    assert kept[-1]["search"]["seconds"] == stage["seconds"]


def test_what_was_spent_before_a_stop_counts(tmp_path):
    kept = []
    place = workplace(tmp_path, {}, kept)
    with pytest.raises(KeyboardInterrupt):
        place.train("search", network(), PLAN, place.checkpoint("search"), hook=StopsAt(2))
    assert place.stages == []
    before = kept[-1]["search"]
    assert before["seconds"] > 0

    high = {**before, "peak_memory_bytes": 10**12}
    resumed = workplace(tmp_path, {"trained": {"search": high}}, kept)
    resumed.train("search", network(), PLAN, resumed.checkpoint("search"))
    (stage,) = resumed.stages
    assert stage["seconds"] > before["seconds"]
    assert stage["peak_memory_bytes"] == 10**12


def test_trials_are_among_the_stages_with_what_they_took_before_a_stop(tmp_path):
    kept = []
    place = workplace(tmp_path, {}, kept)
    with pytest.raises(KeyboardInterrupt), place.timed("blocks"):
        raise KeyboardInterrupt
    assert place.stages == []
    before = kept[-1]["blocks"]["seconds"]
    assert before > 0

    resumed = workplace(tmp_path, {"trained": {"blocks": {"seconds": 100.0 + before}}}, kept)
    with resumed.timed("blocks"):
        pass
    (stage,) = resumed.stages
    assert stage["name"] == "blocks"
    assert stage["seconds"] > 100.0 + before
    again = workplace(tmp_path, resumed.state, kept)
    again.recall("blocks")  # decided already: nothing is left to do
    assert again.stages[0]["seconds"] == stage["seconds"]
