"""Files of training state: tensors and plain data, whole or not there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch


def save_atomically(state: Any, path: Path) -> None:
    """torch.save beside the path, then rename: a kill leaves the old file or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".part")
    torch.save(state, beside)
    os.replace(beside, path)


def load_state(path: Path) -> Any:
    """Read what ``save_atomically`` wrote, tensors and plain data only."""
    return torch.load(path, map_location="cpu", weights_only=True)
