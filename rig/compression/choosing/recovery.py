"""A network that lost something, given the chance to make up for it before it is judged.

    blocks or channels gone ──► batch-norm statistics estimated anew ──► a few steps of training ──► its loss

What is left sees other inputs than it learned with, and the loss right after a cut says more of that than of what was
cut: fine-tuning, which follows any cut, takes it back within a few steps (experiments/recovery measures how much).
Everything that is weighed against each other gets the same chance, from the same batches; so does the network that
nothing was taken from.

Li et al., ECCV 2020 (EagleEye, arXiv 2007.02491): candidates are compared after their statistics were estimated anew.
Difference: the steps of training, without which what the classifier reads seems dearer than it is.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from rig.compression import distributed
from rig.compression.cutting.channel_group import has_norms
from rig.compression.cutting.surgery import reestimate_norms
from rig.compression.tasks import Task, checked, no_batch
from rig.compression.training import TrainingPlan, learning_rate_at
from rig.compression.training.losses import finite_gradients, loss_of, make_optimizer, placed

STEPS = 5  # of training; from 5 to 10 the order of what is lost hardly changes any more
STATISTICS_BATCHES = 5
KEPT_BYTES = 2**30  # of batches beyond those of the statistics; then those that are kept come again
LEAST_PART = 16  # images, of a batch that is cut
RATE, PLAIN_RATE = 0.02, 0.005  # of learning, with batch-norms and without


class Recovery:
    """Batches and steps that every network which is judged gets alike; ``steps`` 0: the statistics alone.

    annealed: the rate of learning falls to nothing, as in a training of its own; without it the last steps shake what
    many steps are judged by. parts: that each batch is cut into, a step of training each, of LEAST_PART images or more;
    ``steps`` counts whole batches. faster: factor of the rate. Draws from torch's global generator once, when it is
    made.
    """

    def __init__(self, task: Task, steps: int = 0, annealed: bool = False, parts: int = 1, faster: float = 1.0) -> None:
        self.task = task
        self.steps = steps
        self.annealed = annealed
        self.parts = parts
        self.faster = faster
        self.device = distributed.device()
        self.batches: list[tuple[Tensor, Tensor]] = []
        while not self.batches or (len(self.batches) < steps and not self._full()):  # a pass may be too short
            before = len(self.batches)
            for batch in itertools.islice(iter(task.loaders("train")), max(STATISTICS_BATCHES, steps) - before):
                self.batches.append(checked(batch, "train", task.name))
                if self._full():
                    break
            if len(self.batches) == before:
                raise no_batch(task.name, "train")

    def _full(self) -> bool:
        """Whether the batches take as much memory as they may: large images, many steps."""
        kept = sum(values.nbytes for batch in self.batches for values in batch)
        return len(self.batches) >= STATISTICS_BATCHES and kept >= KEPT_BYTES

    def _parts(self, batch: tuple[Tensor, Tensor]) -> list[tuple[Tensor, Tensor]]:
        """A batch in parts of about one size."""
        inputs, targets = batch
        count = max(1, min(self.parts, len(inputs) // LEAST_PART))
        return list(zip(inputs.tensor_split(count), targets.tensor_split(count), strict=True))

    def __call__(self, network: nn.Module, hold: Callable[[], None] | None = None) -> bool:
        """Let a network recover, in place, and leave it in evaluation mode on the device that trains.

        hold: called after each step; keeps what was silenced silent. A network that training throws off is put back
        to where the statistics alone had brought it; returns whether none of that was needed.
        """
        network.to(self.device)
        statistics = itertools.islice(self.batches, STATISTICS_BATCHES)
        reestimate_norms(network, (placed(batch, self.device)[0] for batch in statistics))
        before = {name: values.clone() for name, values in network.state_dict().items()}
        plan = TrainingPlan(1.0, self.faster * (RATE if has_norms(network) else PLAIN_RATE))
        optimizer = make_optimizer(network.train(), plan)
        stayed = True
        whole = itertools.islice(itertools.cycle(self.batches), self.steps)
        parts = [part for batch in whole for part in self._parts(batch)]
        for step, batch in enumerate(parts):
            if self.annealed:
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate_at(step, len(parts), plan)
            loss = loss_of(network, self.task, plan, placed(batch, self.device), torch.float32)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            if not math.isfinite(float(loss.detach())) or not finite_gradients(network):
                stayed = False
                break
            optimizer.step()
            if hold is not None:
                hold()
        stayed = stayed and all(bool(torch.isfinite(values).all()) for values in network.state_dict().values())
        if not stayed:
            network.load_state_dict(before)
        network.zero_grad(set_to_none=True)
        network.eval()
        return stayed
