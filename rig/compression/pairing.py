"""What lets networks be compared in pairs later: which test images each got right, and ratios of interleaved costs.

A run measures its baseline and its result in turn, so the ratio of their costs is free of slow drift and of the meter's
gain. It answers the same test images with both, so the change of accuracy can be judged image by image, which is far
sharper than two intervals side by side. Both are kept: ``cost_ratio`` in result.json, ``artifacts/answers.json``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from rig.comparison.answers import ANSWERS_FILE, Answers, to_json
from rig.quality.verdict import compare

if TYPE_CHECKING:
    from rig.compression.tasks import Task
    from rig.compression.trial import Trial
    from rig.measurement import Measurement
    from rig.store.run import Run

FLAT_OUT = ("latency_s", "energy_active_j", "energy_j")


def cost_ratios(
    trial: Trial, fps: float | None, baseline: str = "baseline", result: str = "result"
) -> dict[str, dict[str, Any]]:
    """Result over baseline of each cost measured of both in the same rounds, JSON form; power at ``fps`` where paced.

    A cost that was not measured, or not above zero in every round, is left out.
    """
    paced = fps if (result, fps) in trial.found else None  # the rate of the result's own power
    asked = [*((quantity, None) for quantity in FLAT_OUT), ("power_w", paced)]
    found = {}
    for quantity, rate in asked:
        before, after = (trial.found.get((name, rate), []) for name in (baseline, result))
        if len(before) == len(after) > 0 and all(_positive(m, quantity) for m in (*before, *after)):
            found[quantity] = compare(before, after, quantity).to_json()
    return found


def _positive(measurement: Measurement, quantity: str) -> bool:
    value = getattr(measurement, quantity)
    return measurement.ok and value is not None and value.value is not None and value.value > 0.0


def keep_answers(run: Run, task: Task, networks: Mapping[str, nn.Module], accuracies: Mapping[str, float]) -> bool:
    """Write the networks' answers into the run folder; False where the task's accuracy is not a share of answers."""
    answers = right_answers(task, networks)
    if answers is None:
        return False
    for name, right in answers.right.items():
        if abs(float(np.mean(right)) - accuracies[name]) > 0.5 / len(right):
            return False  # ``evaluate`` counts something else than right answers
    run.write_json(ANSWERS_FILE, to_json(answers))
    return True


def right_answers(task: Task, networks: Mapping[str, nn.Module]) -> Answers | None:
    """Which test images each network classifies rightly, all of them on the same batches of one pass.

    None for a task whose outputs are not logits (N, classes) with whole-numbered targets, and without test images.
    """
    if not task.logits:
        return None
    digest = hashlib.sha256()
    right: dict[str, list[Any]] = {name: [] for name in networks}
    for inputs, targets in task.loaders("test"):
        if targets.dim() != 1 or targets.is_floating_point():
            return None
        digest.update(inputs.contiguous().numpy().tobytes() + targets.numpy().tobytes())
        for name, network in networks.items():
            right[name].append((_classes(network, inputs) == targets).numpy())
    if not any(right.values()):
        return None
    return Answers(digest.hexdigest(), {name: np.concatenate(parts) for name, parts in right.items()})


def _classes(network: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """The class of the largest logit, on the CPU; the network's training flag stays as it was."""
    where = next((p.device for p in network.parameters()), inputs.device)
    given = inputs.to(where)
    was_training = network.training
    network.eval()
    with torch.inference_mode():
        outputs = network(given.contiguous(memory_format=torch.channels_last) if given.dim() == 4 else given)
    network.train(was_training)
    return outputs.argmax(1).cpu()
