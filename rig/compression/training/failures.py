"""How a training fails: no longer finite, out of memory, another process gone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from rig.compression import distributed
from rig.compression.tasks import BUILT_IN, Task
from rig.errors import BadInputError, RigError

MEMORY_WORDS = ("out of memory", "can't allocate memory", "not enough memory", "failed to allocate")


class DivergedError(RigError):
    """The loss or a gradient is no longer finite, however often training went back."""

    code = "training-diverged"


class OutOfMemoryError(BadInputError):
    """A step of training does not fit into memory."""

    code = "out-of-memory"


class NotFinite(Exception):
    """A step whose loss or gradient is not finite; it was not taken."""


@contextmanager
def told(task: Task) -> Iterator[None]:
    """Memory that ran out, and processes that ended, as errors of the rig."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError) or any(w in str(error) for w in MEMORY_WORDS):
            built_in = task.name in BUILT_IN
            fix = "give a smaller --batch" if built_in else "make loaders('train') yield smaller batches"
            raise OutOfMemoryError(
                f"training {task.model_name} on {task.name} ran out of memory: {str(error).splitlines()[0][:200]}",
                f"{fix}, or take a smaller network, in a new run",
            ) from error
        if distributed.is_lost(error):
            raise distributed.RankLostError(
                f"training {task.model_name} on {task.name}: another of its {distributed.ranks()} processes ended",
                "see what that process said; the last checkpoint is kept and --resume starts from it",
            ) from error
        raise
