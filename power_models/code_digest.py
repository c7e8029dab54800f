"""Which code fits and predicts: a digest of this package's sources, kept beside every figure that they made."""

from __future__ import annotations

import hashlib
from pathlib import Path


def code_digest() -> str:
    """Twelve hexadecimal digits that change with any source file of ``power_models``."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:12]
