"""The report's sections from a run: which figures, tables and paragraphs, in which order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from rig.plotting.budget import budget_figure
from rig.plotting.energy import energy_data, energy_figure, energy_table
from rig.plotting.figure import Paragraph, ReportFigure, ReportTable, Section
from rig.plotting.flops import flops_data, flops_figure
from rig.plotting.layers import layers_data, layers_figure
from rig.plotting.prediction import error_table, prediction_data, prediction_figure
from rig.plotting.steering import controller_data, controller_figure, rounds_data, rounds_figure
from rig.plotting.trace import trace_figure, windows_figure
from rig.plotting.trace_data import TraceData
from rig.report.network_figures import Counted
from rig.report.summary import caveats, headline, networks_table
from rig.report.survey import survey_table
from rig.results import RunResult
from rig.wording import removal_words, scale_words

Block = ReportFigure | ReportTable | Paragraph


class ReportInput(NamedTuple):
    """Everything a report is made of: result, manifest, and by role the reduced traces and what network files say."""

    result: RunResult
    manifest: dict[str, Any]
    traces: dict[str, TraceData]
    counted: Mapping[str, Counted] = MappingProxyType({})


def sections(data: ReportInput) -> list[Section]:
    """The sections that apply to this kind of run, numbered as in every report."""
    result = data.result
    found = [
        Section(1, "Summary", tuple(_summary(data))),
        Section(2, "Was it valid?", tuple(_validity(data))),
        Section(3, f"Where did the {'energy' if result.has_power else 'time'} go?", tuple(_energy(result))),
        Section(4, "Why this network?", tuple(_steering(result))),
        Section(5, "What was removed?", tuple(_removed(result))),
        Section(6, "Can I trust the prediction?", tuple(_prediction(result))),
        Section(7, "Do FLOPs suffice?", tuple(_flops(result))),
        Section(8, "What do the usual measures say?", tuple(_survey(data))),
        Section(9, "Reproduce", tuple(_reproduce(data))),
    ]
    return [section for section in found if section.blocks]


def _summary(data: ReportInput) -> Iterable[Block]:
    result = data.result
    yield Paragraph(headline(result), "verdict")
    figure = budget_figure(result)
    if figure is not None:
        yield figure
    table = networks_table(result)
    if table is not None:
        yield table
    yield Paragraph("Before quoting these figures", "heading")
    for text in caveats(result, data.traces.values()):
        yield Paragraph(text, "item")


def _validity(data: ReportInput) -> Iterable[Block]:
    for role, trace in data.traces.items():
        yield trace_figure(trace, role)
        if len(trace.windows) > 1:
            yield windows_figure(trace, role)
    if not data.traces:
        yield Paragraph(
            "No measurement record with windows is stored with this run, so its validity cannot be shown.", "note"
        )


def _energy(result: RunResult) -> Iterable[Block]:
    data = energy_data(result)
    if data is None or all(total is None for total in data.totals):
        return
    if not result.has_power:
        yield Paragraph("This device has no power meter: latency is shown in place of energy.", "note")
    yield energy_figure(data)
    yield energy_table(data)


def _steering(result: RunResult) -> Iterable[Block]:
    rounds, controller = rounds_data(result), controller_data(result)
    if rounds is not None:
        yield rounds_figure(rounds)
    if controller is not None:
        yield controller_figure(controller, result.simulated)


def _removed(result: RunResult) -> Iterable[Block]:
    for part in layers_data(result.layers):
        yield layers_figure(part)
    stages, layers = ([one.model_dump() for one in several] for several in (result.stages, result.layers))
    for text in (*removal_words(stages), *scale_words(layers)):
        yield Paragraph(f"{text[0].upper()}{text[1:]}.", "note")


def _prediction(result: RunResult) -> Iterable[Block]:
    panels = prediction_data(result.validation)
    if panels:
        if not any(panel.quantity.startswith("Energy") for panel in panels):
            yield Paragraph("This device has no power meter: the cost model predicts latency alone.", "note")
        yield prediction_figure(panels)
        yield error_table(panels)
    elif result.schema_name == "rig.optimize/1":
        yield Paragraph(
            "No held-out comparison is stored with this run, so the prediction cannot be judged here. "
            "rig calibrate makes one.",
            "note",
        )


def _flops(result: RunResult) -> Iterable[Block]:
    data = flops_data(result)
    if data is not None:
        yield flops_figure(data)


def _survey(data: ReportInput) -> Iterable[Block]:
    table = survey_table(data.result, data.counted)
    if table is not None:
        yield table


def _reproduce(data: ReportInput) -> Iterable[Block]:
    result = data.result
    yield Paragraph(result.command, "code")
    yield Paragraph(f"rig replay {result.run_id}", "code")
    rows = [(name, str(value)) for name, value in facts(data) if value not in (None, "", {}, [])]
    yield ReportTable("facts", "What the figures depend on", ("Fact", "Value"), tuple(rows), (False, False))


def facts(data: ReportInput) -> Iterable[tuple[str, Any]]:
    """(name, value) of everything needed to repeat the run; None where it is not recorded."""
    result, manifest = data.result, data.manifest
    device = result.device
    info = manifest.get("run_info") or {}
    configuration = info.get("configuration") or {}
    yield "Run", f"{result.run_id}, started {manifest.get('started_utc', 'at an unrecorded time')}"
    yield (
        "Kind",
        f"{result.kind}{f' from {result.basis}' if result.basis and result.basis != result.kind else ''}".upper(),
    )
    yield (
        "Device",
        f"{device.name}{f', serial {device.serial}' if device.serial else ''}"
        f"{' (SIMULATED)' if device.simulated else ''}",
    )
    yield "Runtime", f"{device.runtime} {device.runtime_version or ''}".strip()
    yield (
        "Threads, spinning",
        f"{configuration['threads']}, {'on' if configuration['spinning'] else 'off'}" if configuration else None,
    )
    yield "Power mode", device.power_mode
    yield (
        "Meter",
        f"{device.meter}, at {(device.boundary or 'unknown boundary').replace('_', ' ')}"
        if device.meter
        else "none: time only",
    )
    yield "Task, model", ", ".join(x for x in (result.task, result.model) if x)
    yield "Seed", ", ".join(map(str, result.seed)) if isinstance(result.seed, list) else result.seed
    yield "Calibration", _calibration(result, manifest)
    yield "Agent hash", info.get("agent_hash")
    yield from _versions(result, manifest)
    yield (
        "Measurements",
        ", ".join(result.measurements[:12])
        + (f" and {len(result.measurements) - 12} more" if len(result.measurements) > 12 else ""),
    )
    for name, value in result.timings.items():
        if isinstance(value, int | float):
            yield f"Time of {name.removesuffix('_s')}", f"{value:.0f} s"


def _calibration(result: RunResult, manifest: dict[str, Any]) -> Any:
    return manifest.get("calibration") or manifest.get("cost_model") or result.versions.get("calibration")


def _versions(result: RunResult, manifest: dict[str, Any]) -> Iterable[tuple[str, Any]]:
    """Versions of the result; where it has none, of the environment in the manifest."""
    environment = manifest.get("environment") or {}
    plain = {k: v for k, v in environment.items() if isinstance(v, str | int)}
    own = {k: v for k, v in result.versions.items() if not isinstance(v, dict)}
    libraries = {**(environment.get("libraries") or {}), **(result.versions.get("libraries") or {})}
    merged = {**plain, **libraries, **own}
    merged.pop("calibration", None)
    hashes = {k: v for k, v in merged.items() if "sha" in k or "hash" in k or "commit" in k}
    yield "Versions", ", ".join(f"{k} {v}" for k, v in sorted(merged.items()) if k not in hashes and v is not None)
    yield from sorted(hashes.items())
