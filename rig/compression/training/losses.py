"""The loss of a step: the task's own, smoothed labels, a teacher's answers; and the checks of what a task gives."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rig.compression.tasks import Task
from rig.compression.training.plan import TrainingPlan
from rig.compression.training.teacher import Teacher
from rig.errors import ModelError

TEMPERATURE, TAUGHT_SHARE = 3.0, 0.3  # of distillation: experiments/peers/tried.md


def distilled(outputs: Tensor, taught: Tensor) -> Tensor:
    """Cross-entropy of softened answers to the teacher's, both logits (N, classes), on the scale of the hard loss.

    Source: Hinton, Vinyals, Dean 2015 (arXiv 1503.02531).
    """
    soft = F.softmax(taught / TEMPERATURE, dim=1)
    return -(soft * F.log_softmax(outputs / TEMPERATURE, dim=1)).sum(dim=1).mean() * TEMPERATURE**2


def smoothed(loss: Tensor, outputs: Tensor, share: float) -> Tensor:
    """``loss`` with ``share`` of it given to the cross-entropy against all classes alike; outputs: logits (N, classes).

    Where ``loss`` is the cross-entropy this is label smoothing (Szegedy et al., CVPR 2016, arXiv 1512.00567).
    """
    return (1.0 - share) * loss - share * F.log_softmax(outputs, dim=1).mean()


def loss_of(
    network: nn.Module,
    task: Task,
    plan: TrainingPlan,
    batch: tuple[Tensor, Tensor],
    precision: torch.dtype,
    teacher: Teacher | None = None,
    share: float = 1.0,
) -> Tensor:
    """The loss of a batch, a scalar tensor; only a task whose outputs are logits is smoothed, or taught by its callers.

    teacher: is learned from on batches that it answers better itself.
    share: the factor by which this rank's loss counts in the mean over the ranks.
    """
    inputs, targets = batch
    with torch.autocast(inputs.device.type, torch.bfloat16, enabled=precision is torch.bfloat16):
        outputs = network(inputs).float()
    loss = task.loss(outputs, targets)
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        given = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise ModelError(f"loss(outputs, targets) of the task {task.name} gave {given}", "it must give a scalar tensor")
    taught = None if teacher is None else teacher.lesson(inputs, targets, loss, share)
    if plan.label_smoothing and task.logits:
        loss = smoothed(loss, outputs, plan.label_smoothing)
    if taught is not None:
        loss = (1 - TAUGHT_SHARE) * loss + TAUGHT_SHARE * distilled(outputs, taught)
    return loss


def placed(batch: tuple[Tensor, Tensor], device: torch.device) -> tuple[Tensor, Tensor]:
    """The batch on the device, images with channels last."""
    inputs, targets = batch
    inputs = inputs.contiguous(memory_format=torch.channels_last) if inputs.dim() == 4 else inputs
    return inputs.to(device, non_blocking=True), targets.to(device, non_blocking=True)


def make_optimizer(network: nn.Module, plan: TrainingPlan) -> torch.optim.Optimizer:
    """SGD with Nesterov's momentum; batch-norms and biases are spared the weight decay."""
    decayed = [p for p in network.parameters() if p.dim() > 1]
    spared = [p for p in network.parameters() if p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": plan.weight_decay}, {"params": spared, "weight_decay": 0.0}]
    return torch.optim.SGD(
        [g for g in groups if g["params"]], lr=plan.learning_rate, momentum=plan.momentum, nesterov=True
    )


def finite_gradients(network: nn.Module) -> bool:
    """Whether every gradient of the network is finite."""
    norms = [p.grad.norm() for p in network.parameters() if p.grad is not None]
    return not norms or bool(torch.isfinite(torch.stack(norms)).all())
