"""A task of one's own: scikit-learn's handwritten digits and a small convolutional network.

rig optimize --device virtual-pi4 --task examples/small_task.py --target-power 50% --fps 60
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

BATCH = 64
WIDTHS = {"first": 24, "second": 48, "third": 48}


def _splits() -> dict[str, tuple[Tensor, Tensor]]:
    """1,797 images of 8 × 8 in a fixed order: 60 % to train, 20 % to steer by, 20 % to report."""
    digits = load_digits()
    inputs = torch.from_numpy(digits.images).float().unsqueeze(1) / 16.0
    targets = torch.from_numpy(digits.target).long()
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(0))
    parts = order.split([1077, 360, 360])
    return {name: (inputs[part], targets[part]) for name, part in zip(("train", "val", "test"), parts, strict=True)}


SPLITS = _splits()


def model(widths: Mapping[str, int] | None = None) -> nn.Module:
    """The network, or a narrower version of it: ``widths`` holds output channels by layer name."""
    w = {**WIDTHS, **(widths or {})}
    layers = nn.Sequential()
    channels = 1
    for name, width in ((name, w[name]) for name in WIDTHS):
        layers.add_module(name, nn.Conv2d(channels, width, 3, padding=1, bias=False))
        layers.add_module(f"{name}_norm", nn.BatchNorm2d(width))
        layers.add_module(f"{name}_relu", nn.ReLU())
        channels = width
    layers.add_module("pool", nn.AdaptiveAvgPool2d(1))
    layers.add_module("flatten", nn.Flatten())
    layers.add_module("classes", nn.Linear(channels, 10))
    return layers


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """What training minimizes."""
    return F.cross_entropy(outputs, targets)


def loaders(split: str) -> Iterable[tuple[Tensor, Tensor]]:
    """Batches of a split; those to train on in a new order each time."""
    inputs, targets = SPLITS[split]
    order = torch.randperm(len(targets)) if split == "train" else torch.arange(len(targets))
    return [(inputs[part], targets[part]) for part in order.split(BATCH)]


def evaluate(network: nn.Module, split: str) -> float:
    """Share of correct answers."""
    was_training = network.training
    network.eval()
    inputs, targets = SPLITS[split]
    with torch.inference_mode():
        right = (network(inputs).argmax(1) == targets).float().mean()
    network.train(was_training)
    return float(right)
