"""The study scripts as modules: several folders below experiments/ have a ``study.py``."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

STUDIES = Path(__file__).parent.parent.parent / "experiments"


def study_in(folder: str) -> ModuleType:
    """``experiments/FOLDER/study.py``, imported as its command does and forgotten: other studies use such names too."""
    sys.path.insert(0, str(STUDIES / folder))
    try:
        return import_module("study")
    finally:
        sys.path.remove(str(STUDIES / folder))
        sys.modules.pop("study", None)
