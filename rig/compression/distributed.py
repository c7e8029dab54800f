"""Several processes that train as one, started by ``torchrun``: who is who, and what they tell each other.

    rank 0       measures, decides, writes and prints; its ``train`` first tells the others what is trained
    other ranks  wait in ``training.followers.serve``, train along, wait again, until rank 0 says that it is done

Each rank takes its part of the same batch, gradients are averaged (DistributedDataParallel), batch-norms see the whole
batch (``synced_norms``): n processes do what one does. What travels beside gradients is tensors and plain data
(``torch.save``, read with ``weights_only``), never pickled objects. Waiting is without limit, since rank 0 may measure
for hours; a process that ends closes its connections, which ends the others with RankLostError.
"""

from __future__ import annotations

import datetime
import importlib
import io
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rig.errors import RigError

PATIENCE = datetime.timedelta(days=30)


class RankLostError(RigError):
    """Another process of a training has ended."""

    code = "rank-lost"


def start() -> None:
    """Meet the other processes that torchrun started; nothing where there are none, or they have met."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        # Its functions have the group for a default, so that a group that is there when it is first imported (which
        # DistributedDataParallel does) is never destroyed, and its threads may abort a process that ends.
        importlib.import_module("torch.distributed.nn")
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        if torch.cuda.is_available():
            torch.cuda.set_device(device())
        dist.init_process_group(backend, timeout=PATIENCE)


@contextmanager
def leading() -> Iterator[None]:
    """What rank 0 does from meeting the others to letting them go; alone, nothing.

    After an error the others are not told: they may be in the middle of a step. They end when this process does.
    """
    start()
    yield
    if ranks() > 1:
        share(None)
        dist.destroy_process_group()


@contextmanager
def following() -> Iterator[None]:
    """What another rank does from meeting rank 0 to being let go."""
    start()
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


def ranks() -> int:
    """How many processes train together; 1 before they have met."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is."""
    return dist.get_rank() if ranks() > 1 else 0


def is_main() -> bool:
    """Whether this process measures, writes and prints."""
    return rank() == 0


def device() -> torch.device:
    """Where this process trains: its GPU if the machine has any, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def share(value: Any = None) -> Any:
    """What rank 0 gives, on every rank (the others' is ignored): plain data and tensors, on the CPU."""
    if ranks() == 1:
        return value
    buffer = io.BytesIO()
    if is_main():
        torch.save(value, buffer)
    data = torch.frombuffer(bytearray(buffer.getvalue() or b"\0"), dtype=torch.uint8)
    size = torch.tensor([len(data)])
    dist.broadcast(size, 0)
    if not is_main():
        data = torch.empty(int(size), dtype=torch.uint8)
    dist.broadcast(data, 0)
    return value if is_main() else torch.load(io.BytesIO(data.numpy().tobytes()), "cpu", weights_only=True)


def total(value: Tensor) -> Tensor:
    """The sum over all ranks of a tensor of one shape; alone, the tensor itself."""
    if ranks() > 1:
        value = value.clone()
        dist.all_reduce(value)
    return value


@torch.no_grad()
def spread(values: Iterable[Tensor]) -> None:
    """Put rank 0's values into those of the other ranks, in place; one message for all."""
    if ranks() == 1:
        return
    found = list(values)
    flat = torch.cat([v.detach().reshape(-1) for v in found])
    dist.broadcast(flat, 0)
    if not is_main():
        for value, part in zip(found, flat.split([v.numel() for v in found]), strict=True):
            value.copy_(part.view(value.shape))


def part(values: Tensor) -> Tensor:
    """This rank's part of a batch; alone, all of it. Empty where the batch has fewer items than there are ranks."""
    return values if ranks() == 1 else values.tensor_split(ranks())[rank()]


def joined(network: nn.Module) -> nn.Module:
    """The network with its gradients averaged over the ranks; it begins with rank 0's values. Alone, itself."""
    if ranks() == 1:
        return network
    on_gpu = next(network.parameters()).is_cuda
    return nn.parallel.DistributedDataParallel(
        network, device_ids=[device()] if on_gpu else None, broadcast_buffers=False
    )


def is_lost(error: BaseException) -> bool:
    """Whether an error of torch says that another process is gone."""
    return ranks() > 1 and (isinstance(error, dist.DistError) or "gloo" in str(error).lower())
