"""A run folder as a report: one HTML page, a PDF, or a PNG a figure. Same blocks, same numbers, in all three."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from rig.durable import disk_errors
from rig.errors import BadInputError
from rig.plotting.figure import Paragraph, ReportFigure, ReportTable, Section, svg_text, write_csv, write_png
from rig.plotting.pages import write_pdf
from rig.plotting.trace_data import TraceData, trace_data
from rig.quality.verdict import assess
from rig.report.network_figures import counted_files
from rig.report.sections import ReportInput, sections
from rig.results import RunResult, read_result
from rig.store.store import Run

FORMATS = ("html", "pdf", "png")
TEMPLATES = Path(__file__).parent / "templates"
SIMULATED_BANNER = (
    "SIMULATED: every power, energy and latency in this report comes from a virtual board, not from hardware. "
    "Simulated data are drawn hollow, dashed or hatched."
)


def build_report(run_path: Path | str, fmt: str = "html", out: Path | str | None = None) -> Path | list[Path]:
    """Build the report of the run in ``run_path``; returns the file written, or the files for ``png``.

    ``out``: a file (html, pdf) or a folder (png; also a folder for html and pdf, which then hold ``report.html`` or
    ``report.pdf``); by default ``artifacts/report`` of the run. The numbers of every figure lie beside it as CSV.
    Raises StoreError where the run is damaged or unfinished, BadInputError for an unknown format.
    """
    if fmt not in FORMATS:
        raise BadInputError(f"report format {fmt!r}: known are {', '.join(FORMATS)}", "--format html")
    run_path = Path(run_path)
    data = read_input(run_path)
    parts = sections(data)
    folder, name = _place(run_path, fmt, None if out is None else Path(out))
    with disk_errors(f"writing the report of {data.result.run_id}", folder):
        folder.mkdir(parents=True, exist_ok=True)
        if fmt == "png":
            return [write_png(figure, folder / f"{figure.key}.png") for figure in _figures(parts)]
        if fmt == "pdf":
            return write_pdf(folder / name, _title(data.result), _lead(data), parts, _started(data.manifest))
        return _write_html(folder / name, data, parts)


def read_input(run_path: Path) -> ReportInput:
    """Read result, manifest, the traces worth drawing, and what network files add. Raises StoreError."""
    result = read_result(run_path)
    run = Run(run_path, lambda *_: None)
    counted = counted_files(result, run_path) if result.result is not None else {}
    return ReportInput(result, run.manifest, _traces(result, run), counted)


def _traces(result: RunResult, run: Run) -> dict[str, TraceData]:
    """Baseline and result of an optimize run, the network of a measure run, the last subject of a calibration."""
    networks = {"baseline": result.baseline, "result": result.result, "network": result.network}
    wanted = {role: n.measurement_id for role, n in networks.items() if n is not None and n.measurement_id}
    if not wanted:
        identities = [r["id"] for r in run.measurements(arrays=False) if r.get("phases")]
        wanted = {"last subject": identities[-1]} if identities else {}
    return {role: _trace(run.measurement(identity)) for role, identity in wanted.items()}


def _trace(record: dict[str, Any]) -> TraceData:
    checked = assess(record)
    idle_w = None if checked.idle_power_w is None else checked.idle_power_w.value
    if record["kind"] == "imported":  # of such a run only the whole is known: one window, too few to be judged here
        return trace_data(record, record.get("trace"), None, record.get("quiet_power_w"))
    return trace_data(record, record.get("trace"), checked.reason, idle_w)


def _place(run_path: Path, fmt: str, out: Path | None) -> tuple[Path, str]:
    """(folder, file name) to write."""
    if out is None:
        return run_path / "artifacts" / "report", f"report.{fmt}"
    if fmt == "png" or out.is_dir() or out.suffix == "":
        return out, f"report.{fmt}"
    return out.parent, out.name


def _figures(parts: list[Section]) -> list[ReportFigure]:
    return [block for section in parts for block in section.blocks if isinstance(block, ReportFigure)]


def _title(result: RunResult) -> str:
    what = {
        "rig.optimize/1": "Fitting a network to",
        "rig.measure/1": "Measured on",
        "rig.calibrate/1": "Calibration of",
        "rig.fit/1": "Cost model from tables of",
        "rig.evaluate/1": "Errors of the cost model of",
    }
    mark = " (SIMULATED)" if result.simulated else ""
    return f"{what[result.schema_name]} {result.device.name}: run {result.run_id}{mark}"


def _lead(data: ReportInput) -> list[Paragraph]:
    """What stands before section 1: when, which kind, and the banner of a simulated report."""
    result = data.result
    about = [
        f"started {data.manifest['started_utc']}" if data.manifest.get("started_utc") else "",
        result.kind,
        result.task or "",
        Path(result.model or "").name,
    ]
    lead = [Paragraph(" · ".join(part for part in about if part), "note")]
    if result.simulated:
        lead.insert(0, Paragraph(SIMULATED_BANNER, "banner"))
    return lead


def _started(manifest: dict[str, Any]) -> datetime.datetime | None:
    text = manifest.get("started_utc")
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")) if text else None


def _write_html(path: Path, data: ReportInput, parts: list[Section]) -> Path:
    """Write the page and the CSV files beside it (in a folder of the page's name where ``out`` was given)."""
    tables = path.parent if path.name == "report.html" else path.parent / f"{path.stem}-data"
    tables.mkdir(parents=True, exist_ok=True)
    prefix = "" if tables == path.parent else f"{tables.name}/"
    for section in parts:
        for block in section.blocks:
            if isinstance(block, ReportFigure | ReportTable):
                write_csv(block, tables / f"{block.key}.csv")
    path.write_text(html_text(data, parts, prefix), encoding="utf-8")
    return path


def html_text(data: ReportInput, parts: list[Section], csv_prefix: str = "") -> str:
    """The page as text; everything from the run is escaped, the figures are inline SVG."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    drawn = {figure.key: Markup(svg_text(figure)) for figure in _figures(parts)}
    environment.tests["figure"] = lambda block: isinstance(block, ReportFigure)
    environment.tests["table"] = lambda block: isinstance(block, ReportTable)
    return environment.get_template("report.html.j2").render(
        title=_title(data.result),
        lead=_lead(data),
        sections=parts,
        drawn=drawn,
        csv_prefix=csv_prefix,
        simulated=data.result.simulated,
    )
