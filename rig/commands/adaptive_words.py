"""What a person reads of a calibration that chose its kernels itself (``--error``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rig.output import warning

if TYPE_CHECKING:
    from rig.console import Console

ENDED = {
    "kernels": "as many kernels as allowed were measured",
    "time": "the time was up",
    "nothing left": "no kernel of these networks is left to measure",
}


def show(result: Mapping[str, Any], console: Console) -> None:
    """One line: what was asked, what it took."""
    design = result.get("design")
    if design is None:
        return
    took = f"{design['kernels']} kernels and {design['networks']} networks"
    verb = "met" if design["reached"] else "NOT met"
    console.line(
        f"Asked     error of at most {design['asked']} on unseen networks: {verb} after {took}; {_error(design)}"
    )


def _error(design: Mapping[str, Any]) -> str:
    if design["error"] is None:
        return "no held-out network could be priced"
    bound = design["error_at_most"]
    at_most = "too few networks for a bound" if bound is None else f"below {100 * bound:.1f} % with 90 % confidence"
    return f"{100 * design['error']:.1f} %, {at_most}"


def warnings(design: Mapping[str, Any] | None, notes: Sequence[str], again: str) -> list[dict[str, Any]]:
    """Why the error was not met and what it would take; what could not be varied."""
    found = [warning("not-varied", note, "name the network as an ONNX file of plain layers") for note in notes]
    if design is None or design["reached"]:
        return found
    why = f"the error asked for ({design['asked']}) was not met: {ENDED[design['stopped_by']]}; {_error(design)}"
    more = design["kernels_more"]
    if more is None:
        fix = "more kernels of these networks are not expected to do; ask for less, as --error 10%"
    else:
        fix = f"about {more} more kernels are expected to do: {_with_kernels(again, design['kernels'] + more)}"
    return [*found, warning("error-not-met", why, fix)]


def _with_kernels(again: str, kernels: int) -> str:
    words = again.split()
    if "--kernels" in words:
        at = words.index("--kernels")
        del words[at : at + 2]
    return " ".join([*words, "--kernels", str(kernels)])
