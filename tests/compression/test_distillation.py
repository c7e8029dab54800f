"""Learning from a teacher: the gradient is that of the soft cross-entropy, and only logits are learned from."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rig.compression.tasks import Task
from rig.compression.training import TEMPERATURE, TrainingPlan, distilled, train
from rig.compression.training.losses import answers_of, loss_of

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
    taught = loss_of(student, task(True), plan, batch, torch.float32, answers_of(teacher, INPUTS, torch.float32))
    alone = loss_of(student, task(True), plan, batch, torch.float32)
    assert (float((taught - alone).detach().abs()) > 0.1) is listened_to
