"""Compression methods, one file each, against one interface (``base.Method``); one contract suite runs them all.

A method's module offers ``METHOD``, a class that takes no arguments. docs/design.md, "Compression", says how the loop
uses it.
"""

from __future__ import annotations

import difflib
import importlib
from typing import TYPE_CHECKING

from rig.errors import BadInputError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rig.compression.methods.base import Method

METHODS = {
    "morphnet": "rig.compression.methods.morphnet",
    "allocate": "rig.compression.methods.allocate",
    "at-init": "rig.compression.methods.at_init",
}
USUAL = "morphnet"
# Of the search's epochs, at most: for the trials of one choice together; for the race of the blocks that go first.
TRIAL_SHARE, RACE_SHARE = 0.15, 0.3
SCORES = ("taylor", "bn-taylor", "magnitude")  # of channels, for ``allocate``: the names in ``importance.IMPORTANCES``
WITHOUT_NORM = ("filters", "gates")  # what ``morphnet`` shrinks where there is no batch-norm, the usual first


def make_method(name: str) -> Method:
    """A method by name; raises BadInputError that names the known ones and the nearest."""
    if name not in METHODS:
        near = difflib.get_close_matches(name, METHODS, n=1)
        known = f"known: {', '.join(METHODS)}"
        raise BadInputError(f"unknown method {name!r}", f"did you mean {near[0]}? {known}" if near else known)
    method: Method = importlib.import_module(METHODS[name]).METHOD()
    return method


def require_served(method: Method, quantities: Iterable[str]) -> None:
    """Raise BadInputError where a method cannot be given a limit of one of these quantities."""
    for quantity in quantities:
        if quantity not in method.serves:
            able = [name for name in METHODS if quantity in make_method(name).serves]
            raise BadInputError(
                f"the method {method.name} cannot compress to a limit of {quantity}; it serves "
                f"{', '.join(sorted(method.serves))}",
                f"give --method {able[0]}" if able else "give another --target-…",
            )
