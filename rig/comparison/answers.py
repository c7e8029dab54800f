"""Which test images a network got right, as a run keeps it: ``artifacts/answers.json``.

``{"images_sha256", "count", "right": {"baseline": base64 of packed bits (first image first), "result": …}}``. Two sets
of answers are paired image by image only where the digest of images and targets is the same.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rig.durable import read_json

ANSWERS_FILE = "artifacts/answers.json"
Right = npt.NDArray[np.bool_]


class Answers(NamedTuple):
    """``right``: network name → booleans (images,); ``images``: digest of what was asked."""

    images: str
    right: Mapping[str, Right]


def packed(right: Right) -> str:
    """Booleans as base64 text."""
    return base64.b64encode(np.packbits(right).tobytes()).decode("ascii")


def unpacked(text: str, count: int) -> Right:
    """What ``packed`` wrote, (count,)."""
    return np.unpackbits(np.frombuffer(base64.b64decode(text), dtype=np.uint8), count=count).astype(bool)


def to_json(answers: Answers) -> dict[str, Any]:
    """The file's form."""
    count = len(next(iter(answers.right.values())))
    right = {name: packed(bits) for name, bits in answers.right.items()}
    return {"images_sha256": answers.images, "count": count, "right": right}


def read_answers(run_folder: Path) -> Answers | None:
    """The answers of a run; None for one that keeps none (an older rig, a task without logits)."""
    path = run_folder / ANSWERS_FILE
    if not path.exists():
        return None
    data = read_json(path)
    right = {name: unpacked(text, int(data["count"])) for name, text in data["right"].items()}
    return Answers(str(data["images_sha256"]), right)
