"""A teacher of a network in training: a copy that answers as quickly as it can, and is asked while it is of use.

copy:    batch-norms folded into the convolutions before them, if the answers stay the same
asked:   until the student has answered ``PATIENCE`` batches in a row at least as well
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.optimization import fuse

from rig.compression import distributed
from rig.compression.cutting.removal import TOLERANCE, answers_apart
from rig.compression.cutting.tracing import FOREIGN_ERRORS
from rig.compression.tasks import Task

PATIENCE = 400  # batches: of those that a teacher is given up with, it would have been ahead on less than 1 %


class Teacher:
    """A network whose answers, logits (N, classes), are learned on the batches that it answers better than its student.

    One that was trained less than its student is going to be holds it down where it is listened to always
    (experiments/peers/tried.md).

    dtype: what it answers in; heard: batches on which it was listened to; unheard: the last ones on which it was not.
    """

    def __init__(self, network: nn.Module, task: Task, device: torch.device) -> None:
        self.network = quick_copy(network, task.input_shape, device)
        self.task = task
        self.dtype = torch.float32
        self.heard = 0
        self.unheard = 0

    @property
    def is_asked(self) -> bool:
        """Whether it may still know something better."""
        return self.unheard < PATIENCE

    @torch.no_grad()
    def answers(self, inputs: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Its outputs for a batch of inputs, float32; computed in ``dtype``, by default its own."""
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=(dtype or self.dtype) is torch.bfloat16):
            outputs: Tensor = self.network(inputs)
        return outputs.float()

    def lesson(self, inputs: Tensor, targets: Tensor, loss: Tensor, share: float) -> Tensor | None:
        """Its answers, where it does better than a student with this loss; the ranks decide together.

        share: the factor by which this rank's part counts in the mean over the ranks.
        """
        if not self.is_asked:
            return None
        taught = self.answers(inputs)
        behind = distributed.total((loss.detach() - self.task.loss(taught, targets)) * share)
        if float(behind) > 0.0:
            self.heard, self.unheard = self.heard + 1, 0
            return taught
        self.unheard += 1
        return None

    def state(self) -> dict[str, Any]:
        """What is kept of it in a checkpoint."""
        return {"heard": self.heard, "unheard": self.unheard}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what ``state`` gave; from an earlier version, nothing."""
        self.heard, self.unheard = int(state.get("heard", 0)), int(state.get("unheard", 0))


def quick_copy(network: nn.Module, input_shape: tuple[int, ...], device: torch.device) -> nn.Module:
    """A copy on a device, in evaluation mode, with batch-norms folded into convolutions where that changes no answer.

    A network that torch.fx cannot trace, or that answers differently after it, is copied as it is. Traced where it
    will run: a graph holds the device that its network looked up.
    """
    copied = copy.deepcopy(network).to(device, memory_format=torch.channels_last).eval()
    try:
        folded: nn.Module = fuse(copied).to(memory_format=torch.channels_last).eval()
        same = answers_apart(copied, folded, input_shape) <= TOLERANCE
    except (*FOREIGN_ERRORS, fx.proxy.TraceError):
        return copied
    return folded if same else copied
