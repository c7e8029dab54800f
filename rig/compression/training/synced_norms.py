"""Batch-norms whose statistics are those of the whole batch when ranks hold parts of it, on any backend.

torch's SyncBatchNorm runs on GPUs alone. Here each rank's mean, sum of squared deviations and count go to all ranks in
one message, are combined exactly (Chan, Golub, LeVeque 1979), and the gradient takes the same way back, so that the
parameters get the gradient that one process would compute on the whole batch.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rig.compression import distributed


class _Rows(torch.autograd.Function):
    """The row of every rank, (ranks, n); the gradient of a row is the sum of what all ranks make of it."""

    @staticmethod
    def forward(ctx: Any, row: Tensor) -> Tensor:
        rows = row.new_zeros(distributed.ranks(), len(row))
        rows[distributed.rank()] = row
        dist.all_reduce(rows)
        return rows

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Tensor:
        summed = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        return summed[distributed.rank()]


class _Synced:
    """The forward pass of a batch-norm in training over all ranks; in evaluation the norm's own."""

    def forward(self: Any, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)  # type: ignore[misc]
        self._check_input_dim(x)
        values = x if x.dtype is torch.float64 else x.float()
        shape = (1, -1, *(1,) * (x.dim() - 2))
        axes = [0, *range(2, x.dim())]
        channels = x.shape[1]
        mean = values.mean(axes)
        squares = ((values - mean.view(shape)) ** 2).sum(axes)
        rows = _Rows.apply(torch.cat([mean, squares, mean.new_tensor([x.numel() / channels])]))
        counts = rows[:, -1:].detach()
        count = counts.sum()
        whole = (counts * rows[:, :channels]).sum(0) / count
        between = (counts * (rows[:, :channels] - whole) ** 2).sum(0)
        variance = (rows[:, channels:-1].sum(0) + between) / count
        if self.track_running_stats:
            _follow(self, whole.detach(), variance.detach() * count / (count - 1.0).clamp_min(1.0))
        out = (values - whole.view(shape)) * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            out = out * self.weight.view(shape) + self.bias.view(shape)
        return out.to(x.dtype)


@torch.no_grad()
def _follow(norm: Any, mean: Tensor, variance: Tensor) -> None:
    norm.num_batches_tracked += 1
    share = norm.momentum if norm.momentum is not None else 1.0 / float(norm.num_batches_tracked)
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), share)
    norm.running_var.lerp_(variance.to(norm.running_var.dtype), share)


class _Synced1d(_Synced, nn.BatchNorm1d):
    pass


class _Synced2d(_Synced, nn.BatchNorm2d):
    pass


class _Synced3d(_Synced, nn.BatchNorm3d):
    pass


SYNCED: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: _Synced1d,
    nn.BatchNorm2d: _Synced2d,
    nn.BatchNorm3d: _Synced3d,
}


def synchronize(network: nn.Module) -> list[str]:
    """Have the network's batch-norms see all ranks' parts; returns the names of those of other classes, left alone.

    A norm changes its class and nothing else: parameters, buffers, names and hooks stay. Alone, nothing is done.
    """
    if distributed.ranks() == 1:
        return []
    alone = []
    for name, module in network.named_modules():
        if type(module) in SYNCED:
            module.__class__ = SYNCED[type(module)]
        elif isinstance(module, nn.modules.batchnorm._BatchNorm) and type(module) not in SYNCED.values():
            alone.append(name)
    return alone


def separate(network: nn.Module) -> None:
    """Undo ``synchronize``."""
    plain = {synced: own for own, synced in SYNCED.items()}
    for module in network.modules():
        if type(module) in plain:
            module.__class__ = plain[type(module)]
