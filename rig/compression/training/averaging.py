"""The moving average of a network's weights, which is what remains of a training that asks for one.

``torch.optim.swa_utils`` does the averaging. Batch-norm's running statistics are averaged with the weights: they are
means over batches themselves, and those of the last weights would not fit averaged ones. The decay starts low,
min(decay, (1 + n)/(10 + n)) after n steps, so that a short training is not held back by where it began (Polyak and
Juditsky 1992 average from the start; the warm-up is that of TensorFlow's ExponentialMovingAverage).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def averaged(network: nn.Module, decay: float) -> AveragedModel:
    """The average, to be given ``update_parameters(network)`` after each step; no average yet, so n is 0."""

    def towards(averages: Any, values: Any, count: Any) -> None:
        n = int(count)
        get_ema_multi_avg_fn(min(decay, (1 + n) / (10 + n)))(averages, values, count)

    return AveragedModel(network, multi_avg_fn=towards, use_buffers=True)


@torch.no_grad()
def take_average(network: nn.Module, average: AveragedModel) -> None:
    """Put averaged weights and statistics into the network; counters, which have no average, stay its own."""
    if not int(average.n_averaged):
        return
    pairs = zip(
        [*network.parameters(), *network.buffers()],
        [*average.module.parameters(), *average.module.buffers()],
        strict=True,
    )
    for own, mean in pairs:
        if own.is_floating_point():
            own.copy_(mean)
