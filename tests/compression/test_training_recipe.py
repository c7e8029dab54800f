"""What fine-tuning adds: the moving average, smoothed labels, the choice of precision; and plans as texts."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from training_cases import batches, fresh, small_task, values

from rig.compression.training import TrainingPlan, load_state, precision, train
from rig.compression.training import teacher as teachers
from rig.compression.training.losses import smoothed
from rig.compression.training.mirror import Mirror
from rig.compression.training.precision import DTYPES, GAIN, choose, step_times_s
from rig.errors import BadInputError

PLAN = TrainingPlan(2, 0.05, precision="float32")


class Stop(Exception):
    pass


class Watcher:
    """A hook that keeps the values after every step."""

    def __init__(self, network):
        self.network, self.kept = network, []

    def after_step(self, step, total, learning_rate, loss):
        self.kept.append(values(self.network).clone())

    def state(self):
        return {}

    def restore(self, state):
        pass


def test_what_remains_is_the_moving_average_of_weights_and_statistics():
    network = fresh()
    watcher = Watcher(network)
    train(network, small_task(), PLAN._replace(ema=0.6), hook=watcher)
    mean = watcher.kept[0]
    for n, now in enumerate(watcher.kept[1:], start=1):
        decay = min(0.6, (1 + n) / (10 + n))
        mean = decay * mean + (1 - decay) * now
    torch.testing.assert_close(values(network), mean)
    assert not torch.allclose(values(network), watcher.kept[-1], atol=1e-4)
    assert int(network.bn1.num_batches_tracked) == 12


def test_the_average_goes_on_from_a_checkpoint_as_if_nothing_had_happened(tmp_path):
    plan = PLAN._replace(epochs=3, ema=0.9)
    whole = fresh()
    train(whole, small_task(), plan, checkpoint=tmp_path / "whole.pt")

    def stop(step, total, loss):
        if step == 9:
            raise Stop

    with pytest.raises(Stop):
        train(fresh(), small_task(), plan, checkpoint=tmp_path / "half.pt", progress=stop)
    again = fresh(seed=5)
    train(again, small_task(), plan, checkpoint=tmp_path / "half.pt")
    assert torch.equal(values(again), values(whole))
    # Once more from a finished one: the average again, not the last weights.
    finished = fresh(seed=6)
    train(finished, small_task(), plan, checkpoint=tmp_path / "half.pt")
    assert torch.equal(values(finished), values(whole))


def test_smoothing_the_cross_entropy_is_label_smoothing():
    outputs, targets = torch.randn(8, 5), torch.arange(8) % 5
    torch.testing.assert_close(
        smoothed(F.cross_entropy(outputs, targets), outputs, 0.1),
        F.cross_entropy(outputs, targets, label_smoothing=0.1),
    )


@pytest.mark.parametrize("logits", [True, False])
def test_labels_are_smoothed_where_outputs_are_logits_and_nowhere_else(logits):
    found = []
    for smoothing in (0.0, 0.2):
        network = fresh()
        train(network, small_task(logits=logits), PLAN._replace(label_smoothing=smoothing))
        found.append(values(network))
    assert torch.equal(*found) is not logits


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ema": 1.0}, "ema is 1"),
        ({"ema": -0.1}, "ema is -0.1"),
        ({"label_smoothing": 1.5}, "label smoothing is 1.5"),
        ({"precision": "float8"}, "unknown precision"),
    ],
)
def test_impossible_plans_are_refused(change, said):
    with pytest.raises(BadInputError, match=said):
        train(fresh(), small_task(), PLAN._replace(**change))


def test_a_plan_without_later_fields_is_named_as_it_always_was():
    assert TrainingPlan(6, seed=2).recipe() == (
        "TrainingPlan(epochs=6, learning_rate=0.1, warmup_share=0.15, final_share=0.0, weight_decay=0.0005, "
        "momentum=0.9, seed=2)"
    )
    assert TrainingPlan(6, ema=0.99).recipe().endswith("seed=0, ema=0.99)")


def test_bfloat16_must_win_clearly():
    assert choose({"float32": 1.0, "bfloat16": GAIN - 0.01}) == "bfloat16"
    assert choose({"float32": 1.0, "bfloat16": GAIN + 0.01}) == "float32"
    assert choose({"float32": 1.0, "bfloat16": 2.0}) == "float32"


def test_timing_leaves_the_network_and_the_generator_as_they_are():
    network = fresh()
    before, state = values(network), torch.get_rng_state()
    times_s = step_times_s(network, small_task(), PLAN, batches()[0], laps=2)
    assert set(times_s) == set(DTYPES)
    assert min(times_s.values()) > 0
    assert torch.equal(values(network), before)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_precision_that_was_measured_is_recorded_and_kept(tmp_path):
    path = tmp_path / "one.pt"
    trained = train(fresh(), small_task(), TrainingPlan(1, 0.05), checkpoint=path)
    assert trained.facts["precision"] == choose(trained.facts["step_s"])
    kept = load_state(path)
    assert (kept["precision"], kept["step_s"]) == (trained.facts["precision"], trained.facts["step_s"])
    again = train(fresh(), small_task(), TrainingPlan(1, 0.05), checkpoint=path)
    assert again.facts["step_s"] == trained.facts["step_s"]
    assert train(fresh(), small_task(), PLAN).facts["step_s"] is None


def test_a_teacher_answers_in_the_precision_that_is_faster_for_it(monkeypatch, tmp_path):
    monkeypatch.setattr(precision, "answer_times_s", lambda teacher, inputs: {"float32": 2.0, "bfloat16": 1.0})
    monkeypatch.setattr(precision, "step_times_s", lambda *given: {"float32": 1.0, "bfloat16": 2.0})
    monkeypatch.setattr(teachers, "quick_copy", lambda network, shape, device: network.eval())  # hooks are not copied
    teacher, network, path = fresh(2), fresh(), tmp_path / "one.pt"
    seen = {"teacher": set(), "student": set()}
    for name, module in (("teacher", teacher), ("student", network)):
        module.register_forward_hook(lambda *_, own=seen[name]: own.add(torch.is_autocast_enabled("cpu")))
    facts = train(network, small_task(), TrainingPlan(1, 0.05), checkpoint=path, teacher=teacher).facts
    assert (facts["precision"], facts["teacher_precision"]) == ("float32", "bfloat16")
    assert seen == {"teacher": {True}, "student": {False}}
    monkeypatch.setattr(precision, "choose", lambda times_s: pytest.fail("it was chosen before"))
    again = train(fresh(), small_task(), TrainingPlan(2, 0.05), checkpoint=path, teacher=teacher).facts
    assert again["teacher_precision"] == load_state(path)["teacher_precision"] == "bfloat16"
    assert train(fresh(), small_task(), PLAN, teacher=teacher).facts["teacher_precision"] == "float32"
    assert train(fresh(), small_task(logits=False), PLAN, teacher=teacher).facts["teacher_precision"] is None


def test_a_checkpoint_of_an_earlier_version_is_taken_up(tmp_path):
    path = tmp_path / "old.pt"
    train(fresh(), small_task(), PLAN._replace(epochs=1), checkpoint=path)
    state = load_state(path)
    torch.save({k: state[k] for k in ("model", "optimizer", "hook", "rng", "step")}, path)
    network = fresh(seed=4)
    train(network, small_task(), PLAN, checkpoint=path)
    assert load_state(path)["step"] == 12


def test_a_network_that_is_trained_elsewhere_is_seen_and_changed_by_its_owner():
    own = fresh()
    mirror = Mirror(own, torch.device("cpu"), apart=True)
    assert mirror.trained is not own
    inputs, targets = batches()[0]
    F.cross_entropy(mirror.trained.train()(inputs), targets).backward()
    with torch.no_grad():
        mirror.trained.fc.bias += 1.0
    mirror.fetch(gradients=True)
    assert torch.equal(own.fc.bias, mirror.trained.fc.bias)
    assert torch.equal(own.conv1.weight.grad, mirror.trained.conv1.weight.grad)
    assert torch.equal(own.bn1.running_mean, mirror.trained.bn1.running_mean)
    with torch.no_grad():
        own.bn1.weight.zero_()
    mirror.bring_back()
    assert not mirror.trained.bn1.weight.any()


def test_a_teacher_and_the_task_s_model_stay_as_they_are():
    teacher = fresh(seed=1)
    before = copy.deepcopy(teacher.state_dict())
    train(fresh(), small_task(), PLAN, teacher=teacher)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), teacher.state_dict().values(), strict=True))
    assert teacher.training


def test_a_stopped_training_goes_on_with_what_its_teacher_was_worth(monkeypatch, tmp_path):
    monkeypatch.setattr(teachers, "PATIENCE", 2)
    path, plan = tmp_path / "one.pt", PLAN._replace(epochs=2)

    def stop(step: int, total: int, loss: float) -> None:
        if step == total - 1:
            raise KeyboardInterrupt

    first, whole = fresh(), fresh()
    expected = train(whole, small_task(), plan, teacher=fresh(2)).facts["teacher_heard"]
    with pytest.raises(KeyboardInterrupt):
        train(first, small_task(), plan, teacher=fresh(2), checkpoint=path, progress=stop)
    kept = load_state(path)["teacher"]
    assert 0 < kept["heard"] <= expected
    again = fresh()
    assert train(again, small_task(), plan, teacher=fresh(2), checkpoint=path).facts["teacher_heard"] == expected
    assert torch.equal(values(again), values(whole))
