"""Training that goes wrong: no longer finite, out of memory, batches and scores that are none."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from training_cases import batches, fresh, small_task, values

from rig.compression import tasks
from rig.compression.training import DivergedError, OutOfMemoryError, TrainingPlan, train
from rig.errors import BadInputError, ModelError

PLAN = TrainingPlan(3, 0.05, precision="float32")


class Breaks:
    """A cross-entropy that is not finite at the calls of these numbers (from 1); a call is a step or a try of one."""

    def __init__(self, *at: int, gradient: bool = False) -> None:
        self.at, self.gradient, self.calls = at, gradient, 0

    def __call__(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        loss = F.cross_entropy(outputs, targets)
        if self.calls not in self.at:
            return loss
        # The root's slope at zero is infinite, its value is not.
        return loss + (outputs.sum() * 0.0).sqrt() if self.gradient else loss * math.inf


class Rates:
    """A hook that keeps the learning rates; its state grows with every step."""

    def __init__(self) -> None:
        self.rates: dict[int, float] = {}

    def after_step(self, step: int, total: int, learning_rate: float, loss: float) -> None:
        self.rates[step] = learning_rate

    def state(self):
        return {"rates": self.rates}

    def restore(self, state):
        self.rates = state["rates"]


@pytest.mark.parametrize("gradient", [False, True], ids=["loss", "gradient"])
def test_a_training_that_diverges_goes_back_and_on_with_half_the_rate(gradient, tmp_path):
    usual, hook = Rates(), Rates()
    train(fresh(), small_task(), PLAN, hook=usual)
    network = fresh()
    loss = Breaks(9, gradient=gradient)
    trained = train(network, small_task(loss=loss), PLAN, hook=hook, checkpoint=tmp_path / "one.pt")
    (record,) = trained.facts["rollbacks"]
    assert (record["step"], record["back_to"]) == (9, 6)
    assert ("gradient" if gradient else "loss") in record["seen"]
    assert loss.calls == 18 + 3
    assert sorted(hook.rates) == list(range(1, 19))
    for step, rate in hook.rates.items():
        assert rate == pytest.approx(usual.rates[step] * (1.0 if step <= 6 else 0.5))
    assert bool(torch.isfinite(values(network)).all())


def test_what_was_lost_leaves_no_trace():
    """After going back to the start, training is that of half the rate from the start."""
    broken, clean = fresh(), fresh()
    train(broken, small_task(loss=Breaks(4)), PLAN)
    train(clean, small_task(), PLAN._replace(learning_rate=0.025))
    assert torch.equal(values(broken), values(clean))


def test_often_enough_is_an_error_that_says_how_often():
    loss = Breaks(*range(3, 1000))
    with pytest.raises(DivergedError, match="step 1 of 18, after going back 3 times") as error:
        train(fresh(), small_task(loss=loss), PLAN)
    assert "--seed" in str(error.value.fix)
    assert loss.calls == 3 + 3
    with pytest.raises(DivergedError, match=r"the loss became inf at step 3 of 18$"):
        train(fresh(), small_task(loss=Breaks(3)), PLAN._replace(rollbacks=0))


@pytest.mark.parametrize(("name", "fix"), [("small", "loaders"), ("digits", "--batch")])
def test_memory_that_runs_out_is_told_with_what_to_do(name, fix):
    def loss(outputs, targets):
        return outputs.sum() + torch.empty(10**15).sum()

    with pytest.raises(OutOfMemoryError, match="ran out of memory") as error:
        train(fresh(), small_task(name=name, loss=loss), PLAN)
    assert fix in str(error.value.fix)
    assert "--resume" not in str(error.value.fix)


def test_a_training_that_diverged_is_taken_up_with_half_the_rate_again(tmp_path):
    path, plan = tmp_path / "one.pt", PLAN._replace(rollbacks=1)
    with pytest.raises(DivergedError, match="going back 1 times"):
        train(fresh(), small_task(loss=Breaks(9, 12)), plan, hook=Rates(), checkpoint=path)
    usual, hook = Rates(), Rates()
    train(fresh(), small_task(), PLAN, hook=usual)
    trained = train(fresh(), small_task(), plan, hook=hook, checkpoint=path)
    assert [record["back_to"] for record in trained.facts["rollbacks"]] == [6, 6]
    for step, rate in hook.rates.items():
        assert rate == pytest.approx(usual.rates[step] * (1.0 if step <= 6 else 0.25))


def test_a_checkpoint_of_other_batches_is_not_taken_up(tmp_path):
    path = tmp_path / "one.pt"
    task = small_task()
    train(fresh(), task, PLAN._replace(epochs=1), checkpoint=path)
    fewer = task._replace(loaders=lambda split: list(task.loaders(split))[:3])
    with pytest.raises(BadInputError, match=r"one.pt was trained with 6 batches an epoch.* now has 3") as error:
        train(fresh(), fewer, PLAN, checkpoint=path)
    assert "new run" in str(error.value.fix)


def test_other_errors_of_torch_stay_what_they_are():
    with pytest.raises(RuntimeError, match=r"shape|size") as error:
        train(fresh(), small_task(loss=lambda outputs, targets: (outputs @ outputs).sum()), PLAN)
    assert not isinstance(error.value, OutOfMemoryError)


INPUTS, TARGETS = batches()[0]


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        ({"x": INPUTS}, "yields dict"),
        (INPUTS, "yields Tensor"),
        ((INPUTS, TARGETS, TARGETS), "yields .Tensor, Tensor, Tensor"),
        ((INPUTS.numpy(), TARGETS), "yields .ndarray, Tensor"),
        ((INPUTS, TARGETS[:3]), "16 inputs with 3 targets"),
        ((INPUTS[:0], TARGETS[:0]), "0 inputs"),
        ((INPUTS.byte(), TARGETS), "images of uint8"),
        ((INPUTS, torch.tensor(1)), "yields .Tensor, Tensor"),
    ],
    ids=["dictionary", "bare", "three", "numpy", "unequal", "empty", "bytes", "scalar"],
)
def test_batches_of_a_wrong_kind_are_named(batch, said):
    with pytest.raises(ModelError, match=said) as error:
        train(fresh(), small_task(loaders=lambda split: [batch]), PLAN)
    assert error.value.fix


@pytest.mark.parametrize("given", [None, 3])
def test_loaders_that_give_no_iterable_are_named(given):
    with pytest.raises(ModelError, match=f"gives {type(given).__name__}"):
        train(fresh(), small_task(loaders=lambda split: given), PLAN)


def test_a_loss_that_is_no_scalar_is_named():
    with pytest.raises(ModelError, match=r"gave a tensor of shape \(16,\)"):
        train(fresh(), small_task(loss=lambda o, t: F.cross_entropy(o, t, reduction="none")), PLAN)
    with pytest.raises(ModelError, match="gave float"):
        train(fresh(), small_task(loss=lambda o, t: 0.5), PLAN)


def test_iterators_are_asked_for_anew_and_a_spent_one_is_told():
    seen = []
    train(
        fresh(), small_task(loaders=lambda split: iter(batches(3))), PLAN, progress=lambda s, t, l: seen.append((s, t))
    )
    assert seen[-1] == (9, 9)

    class Once(list):
        def __iter__(self):
            while self.left:
                yield self.left.pop()

        def __len__(self):
            return 3

    once = Once()
    once.left = batches(3)
    with pytest.raises(ModelError, match="no batch on pass 2"):
        train(fresh(), small_task(loaders=lambda split: once), PLAN)


TASK_FILE = """
import torch
from torch import nn

def model(widths=None):
    return nn.Linear(4, 3)

def loss(outputs, targets):
    return nn.functional.cross_entropy(outputs, targets)

def loaders(split):
    return [(torch.zeros(2, 4), torch.zeros(2, dtype=torch.long))]

def evaluate(model, split):
    return {score}
"""


@pytest.mark.parametrize(
    ("score", "said"),
    [
        ("float('nan')", "gave nan"),
        ("97.5", "gave 97.5"),
        ("-0.1", "gave -0.1"),
        ("None", "gave None"),
        ("torch.tensor([0.1, 0.2])", "gave tensor"),
    ],
)
def test_scores_that_are_no_fractions_name_the_split(tmp_path, score, said):
    path = tmp_path / "mine.py"
    path.write_text(TASK_FILE.replace("{score}", score))
    task = tasks.load_task(str(path))
    with pytest.raises(ModelError, match=f"evaluate.*'test'.*{said}") as error:
        task.evaluate(nn.Linear(4, 3), "test")
    assert "0 to 1" in str(error.value.fix)


@pytest.mark.parametrize("score", ["1", "0.25", "torch.tensor(0.25)"])
def test_fractions_of_any_kind_are_floats(tmp_path, score):
    path = tmp_path / "mine.py"
    path.write_text(TASK_FILE.replace("{score}", score))
    assert tasks.load_task(str(path)).evaluate(nn.Linear(4, 3), "val") in (1.0, 0.25)


def test_the_batch_size_of_a_built_in_task_can_be_given_and_a_file_s_cannot(tmp_path):
    inputs, _ = next(iter(tasks.load_task("digits", "resnet8", 32).loaders("train")))
    assert len(inputs) == 32
    path = tmp_path / "mine.py"
    path.write_text(TASK_FILE.replace("{score}", "1"))
    with pytest.raises(tasks.BadInputError, match="batch"):
        tasks.load_task(str(path), None, 32)
    with pytest.raises(tasks.BadInputError, match="2000 images"):
        tasks.load_task("digits", "resnet8", 2000)
