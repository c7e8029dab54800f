"""ResNet-20 on a small part of Fashion-MNIST: costs do not depend on training, so little of it is enough here."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import torch.nn.functional as F
from torch import nn

from rig.compression.networks import build
from rig.compression.tasks import accuracy, load_task

BATCHES = {"train": 20, "val": 1, "test": 1}  # of the whole task's
IMAGES = {"train": 32, "val": 500, "test": 500}  # of each

_whole = load_task("fashion-mnist", "resnet20")
loss = F.cross_entropy
logits = True


def model(widths: Mapping[str, int] | None = None) -> nn.Module:
    """ResNet-20 at a table of widths."""
    return build("resnet20", widths=widths)


def loaders(split: str) -> list:
    """A part of each of the first batches of a split."""
    first = itertools.islice(iter(_whole.loaders(split)), BATCHES[split])
    count = IMAGES[split]  # copies: a view would keep its whole batch
    return [(inputs[:count].clone(), targets[:count].clone()) for inputs, targets in first]


def evaluate(network: nn.Module, split: str) -> float:
    """Share of correct answers."""
    return accuracy(network, loaders(split))
