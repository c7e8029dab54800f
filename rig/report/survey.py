"""Section 8 of the report: the usual measures of compression, before and after."""

from __future__ import annotations

from collections.abc import Mapping

from rig.plotting.figure import ReportTable
from rig.report.network_figures import (
    FIGURES,
    MISSING,
    SURVEY,
    Counted,
    network_figures,
    reasons,
    shown,
    stages_of_result,
)
from rig.results import RunResult


def survey_table(result: RunResult, counted: Mapping[str, Counted]) -> ReportTable | None:
    """The survey's figures of baseline and result; None for a run that compressed nothing."""
    if result.baseline is None or result.result is None:
        return None
    sides = {
        role: network_figures(network, stages_of_result(result), role, counted.get(role))
        for role, network in (("baseline", result.baseline), ("result", result.result))
    }
    mark = " SIMULATED" if result.simulated else ""
    rows = []
    for key in SURVEY:
        cells = [shown(key, found[key]) for found in sides.values()]
        simulated = mark if key == "latency_s" else ""
        rows.append((FIGURES[key].name, *(cell if cell == MISSING else cell + simulated for cell in cells)))
    missing = [f"{text} ({role})" for role, found in sides.items() for text in reasons(found, SURVEY)]
    return ReportTable(
        "survey",
        "The usual measures of compression",
        ("Quantity", "Baseline", "Result"),
        tuple(rows),
        (False, True, True),
        "Memory footprint: weights and the activations alive at once in an inference, counted from the network. "
        "Compression time: training that searches and fine-tunes, without the baseline's own and without measuring. "
        "Information density: per cent of accuracy a million parameters. NetScore: 20·log10(a²/√(p·m)), a in %, "
        "p in millions, m in 10⁹ MAC." + (f" {MISSING} {'; '.join(missing)}." if missing else ""),
    )
