"""What processes of rank above 0 do of a command that torchrun started several times: train along, and say nothing.

Every command but ``optimize`` is rank 0's alone.
"""

from __future__ import annotations

import os
from typing import Any

from rig.errors import RigError


def asked() -> bool:
    """Whether torchrun started this process to follow another."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and int(os.environ.get("RANK", "0")) > 0


def run(command: str, options: Any) -> int:
    """Follow rank 0 to the end of the command; returns the exit code. Errors say which rank they are of."""
    if command != "optimize":
        return 0
    from rig.compression import distributed
    from rig.compression.tasks import load_task
    from rig.compression.training import serve

    try:
        task = load_task(options.task, options.model, options.batch)
        with distributed.following():
            serve(task)
    except RigError as error:
        raise type(error)(f"rank {os.environ['RANK']}: {error.message}", error.fix) from error
    return 0
