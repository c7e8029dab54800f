"""Learning from a teacher: the gradient is that of the soft cross-entropy, and only logits are learned from."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rig.compression.tasks import Task
from rig.compression.training import TEMPERATURE, TrainingPlan, distilled, train
from rig.compression.training.losses import loss_of
from rig.compression.training.teacher import PATIENCE, Teacher, quick_copy

INPUTS = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
TARGETS = torch.zeros(64, dtype=torch.long)


def task(logits: bool) -> Task:
    return Task(
        name="toy",
        model_name="linear",
        model=lambda widths=None: nn.Linear(4, 3),
        loss=F.cross_entropy,
        loaders=lambda split: [(INPUTS, TARGETS)] * 40,
        evaluate=lambda model, split: 0.0,
        input_shape=(4,),
        test_count=64,
        logits=logits,
    )


def test_the_gradient_is_that_of_hintons_loss():
    outputs, taught = torch.randn(8, 5, requires_grad=True), torch.randn(8, 5)
    (ours,) = torch.autograd.grad(distilled(outputs, taught), outputs)
    divergence = F.kl_div(
        F.log_softmax(outputs / TEMPERATURE, 1), F.softmax(taught / TEMPERATURE, 1), reduction="batchmean"
    )
    (theirs,) = torch.autograd.grad(TEMPERATURE**2 * divergence, outputs)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("logits", [True, False])
def test_a_student_learns_what_the_targets_do_not_say_from_logits_only(logits):
    """All targets are class 0; only the teacher knows which of the other classes is likelier."""
    torch.manual_seed(0)
    teacher, student = nn.Linear(4, 3), nn.Linear(4, 3)
    with torch.no_grad():
        teacher.weight.mul_(0.0)
        teacher.bias.copy_(torch.tensor([4.0, 3.0, -3.0]))
        student.weight.mul_(0.0)
        student.bias.copy_(torch.tensor([0.0, 0.0, 0.0]))
    train(student, task(logits), TrainingPlan(3, learning_rate=0.2, weight_decay=0.0), teacher=teacher)
    answers = student(INPUTS).detach().mean(dim=0)
    gap = float(answers[1] - answers[2])
    assert (gap > 1.0) is logits
    assert not any(parameter.grad is not None for parameter in teacher.parameters())


@pytest.mark.parametrize(("wrong_by", "listened_to"), [(-4.0, True), (0.0, False), (4.0, False)])
def test_a_teacher_is_listened_to_where_it_answers_better(wrong_by, listened_to):
    """The student is even between three classes; the teacher is for, or against, what is not the target."""
    teacher, student = nn.Linear(4, 3), nn.Linear(4, 3)
    with torch.no_grad():
        for network in (teacher, student):
            network.weight.zero_()
            network.bias.zero_()
        teacher.bias[1] = wrong_by
    plan, batch = TrainingPlan(1), (INPUTS, TARGETS)
    asked = Teacher(teacher, task(True), torch.device("cpu"))
    taught = loss_of(student, task(True), plan, batch, torch.float32, asked)
    alone = loss_of(student, task(True), plan, batch, torch.float32)
    assert (float((taught - alone).detach().abs()) > 0.1) is listened_to
    assert (asked.heard, asked.unheard) == ((1, 0) if listened_to else (0, 1))


def test_a_teacher_that_is_never_ahead_any_more_is_asked_no_more():
    teacher = Teacher(nn.Linear(4, 3), task(True), torch.device("cpu"))
    asked = []
    teacher.network.register_forward_hook(lambda *_: asked.append(1))
    worse, better = torch.tensor(1e3), torch.tensor(-1e3)
    for _ in range(PATIENCE - 1):
        assert teacher.lesson(INPUTS, TARGETS, better, 1.0) is None
    assert teacher.lesson(INPUTS, TARGETS, worse, 1.0) is not None  # once in time: it is asked on
    for _ in range(PATIENCE):
        assert teacher.lesson(INPUTS, TARGETS, better, 1.0) is None
    assert len(asked) == 2 * PATIENCE
    assert teacher.lesson(INPUTS, TARGETS, worse, 1.0) is None
    assert len(asked) == 2 * PATIENCE
    again = Teacher(nn.Linear(4, 3), task(True), torch.device("cpu"))
    again.restore(teacher.state())
    assert (again.is_asked, again.heard) == (False, 1)


class Twice(nn.Module):
    """One convolution before two batch-norms, which a fold must not confuse."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.first, self.second = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.first(self.conv(x)) + self.second(self.conv(2 * x))


class Branching(nn.Sequential):
    """Goes by its input's values: no graph."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) if x.sum() > 0 else super().forward(-x)


class Making(nn.Sequential):
    """Makes a module in its forward pass, which torch.fx does not know."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.ReLU()(super().forward(x))


def layers() -> list[nn.Module]:
    first = [nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU()]
    return [*first, nn.Conv2d(4, 4, 3, groups=4), nn.BatchNorm2d(4)]


@pytest.mark.parametrize(
    ("build", "norms"),
    [(lambda: nn.Sequential(*layers()), 0), (Twice, 2), *((lambda k=k: k(*layers()), 2) for k in (Branching, Making))],
)
def test_a_quick_copy_answers_as_the_teacher_does(build, norms):
    """Batch-norms go where they can; the teacher itself stays as it is."""
    torch.manual_seed(0)
    teacher = build()
    for module in teacher.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.running_mean, module.running_var, module.weight.data, module.bias.data):
                values.uniform_(0.5, 2.0)
    inputs = torch.randn(3, 3, 8, 8)
    quick = quick_copy(teacher.train(), (3, 8, 8), torch.device("cpu"))
    assert teacher.training
    assert not quick.training
    torch.testing.assert_close(quick(inputs), teacher.eval()(inputs), rtol=1e-4, atol=1e-4)
    assert sum(isinstance(module, nn.BatchNorm2d) for module in quick.modules()) == norms
