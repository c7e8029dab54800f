"""The network where it is trained, beside the caller's own: one and the same on a CPU, a copy on a GPU.

Methods act on the caller's network, between steps and on the CPU. What they see (parameters and gradients) is fetched
before, what they change is brought back after.
"""

from __future__ import annotations

import copy

import torch
from torch import nn


class Mirror:
    """``own`` is the caller's network, ``trained`` the one that the optimizer works on.

    ``apart``: a copy even where the device is the network's own.
    """

    def __init__(self, own: nn.Module, device: torch.device, apart: bool = False) -> None:
        own.to(memory_format=torch.channels_last)
        self.own = own
        self.apart = apart or device.type != "cpu"
        self.trained = copy.deepcopy(own).to(device) if self.apart else own

    @torch.no_grad()
    def fetch(self, gradients: bool = False) -> None:
        """Bring the trained values, and their gradients if asked for, to the caller's network."""
        if not self.apart:
            return
        for mine, theirs in zip(self.own.parameters(), self.trained.parameters(), strict=True):
            mine.copy_(theirs)
            if gradients:
                mine.grad = None if theirs.grad is None else theirs.grad.to(mine.device, copy=True)
        for buffer, theirs in zip(self.own.buffers(), self.trained.buffers(), strict=True):
            buffer.copy_(theirs)

    @torch.no_grad()
    def bring_back(self) -> None:
        """Put the caller's parameters into the trained network."""
        if not self.apart:
            return
        for mine, theirs in zip(self.own.parameters(), self.trained.parameters(), strict=True):
            theirs.copy_(mine)
