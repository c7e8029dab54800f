"""What a cost model is fitted to: tables of measurements made elsewhere, and stored runs; and how they were measured.

What a table does not say (serial number, threads, power mode) stays unknown in its configuration; what two sources
both say must agree.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from device_agents.records import Configuration
from rig.errors import BadInputError
from rig.output import warning

if TYPE_CHECKING:
    from power_models.composition import CompositionModel
    from power_models.evaluation import Row
    from power_models.kernel_cost import KernelRow
    from power_models.measured_tables import MeasuredTable
    from rig.collect.rows import Collected
    from rig.store.store import Store

RUN_ID = re.compile(r"[a-z]-\d{4,}")
RUNTIMES = ("tflite", "tensorrt", "onnxruntime", "pytorch", "openvino", "ncnn", "tvm", "mnn")
BOUNDARIES = ("wall", "board_input", "module", "package", "rail")
# Whose measurements they are (in a row's source, or the file's name) → where their watts were measured.
KNOWN_BOUNDARIES = (
    (re.compile(r"mlperf", re.IGNORECASE), "wall"),  # SPEC PTDaemon: a meter at the wall
    (re.compile(r"NAS-Performance-Modeling", re.IGNORECASE), "board_input"),  # tegrastats POM_5V_IN
    (re.compile(r"SysIdentif|tx2_.*conv", re.IGNORECASE), "rail"),  # the TX2's INA3221, rail of GPU or CPU
)
UNKNOWN = Configuration("", "", "", "", 0, False, "", "")
SHOWN = 3


class Sources(NamedTuple):
    """Rows of all sources; ``kernels``: those of stored runs with their standard errors (also among ``rows``).

    ``files``: one record a source, for the store. ``overhead``, ``idle_power_w``, ``layout_block``: of the stored runs.
    """

    rows: list[Row]
    kernels: list[KernelRow]
    files: list[dict[str, Any]]
    configuration: Configuration
    kind: str
    warnings: list[dict[str, Any]]
    overhead: tuple[float, float] = (0.0, 0.0)
    idle_power_w: tuple[float, float, float] | None = None
    layout_block: int | None = None

    @property
    def table_rows(self) -> list[Row]:
        """The rows that come from tables."""
        return self.rows[: len(self.rows) - len(self.kernels)]


def read_sources(
    names: Sequence[str], device: str, store: Store, boundary: str | None = None, runtime: str | None = None
) -> Sources:
    """Read tables and stored runs; ``boundary`` and ``runtime`` say what the tables do not.

    Raises BadInputError: a file that is no table, a run that is none, sources that were not measured alike.
    """
    if boundary is not None and boundary not in BOUNDARIES:
        raise BadInputError(f"--boundary {boundary}: not a boundary", fix=f"write one of {', '.join(BOUNDARIES)}")
    tables = [read_one(Path(name)) for name in names if not _is_run(name)]
    runs = {name: _read_run(store, name) for name in names if _is_run(name)}
    _one_device(tables)
    kinds = {run.kind for run in runs.values()} | ({"imported"} if tables else set())
    if "simulated" in kinds and len(kinds) > 1:
        raise BadInputError("simulated and real measurements are never put into one model", fix="fit them apart")
    known = [_of_table(table) for table in tables] + [run.configuration for run in runs.values() if run.configuration]
    said = UNKNOWN._replace(boundary=boundary or "", runtime=runtime or "")
    configuration = _agreed([said, *known], names)._replace(device=device)
    rows: list[Row] = [row for table in tables for row in (*table.kernels, *table.networks)]
    kernels = [row._replace(configuration=None, campaign=name) for name, run in runs.items() for row in run.rows]
    rows += [_as_table_row(row, run, name, i) for name, run in runs.items() for i, row in enumerate(run.rows)]
    overheads = [run.overhead for run in runs.values()] or [(0.0, 0.0)]
    return Sources(
        rows,
        kernels,
        [_record(table) for table in tables] + [_run_record(name, run) for name, run in runs.items()],
        configuration,
        "imported" if "imported" in kinds else "measured" if "measured" in kinds else kinds.pop(),
        _warnings(tables),
        overheads[0],
        next((run.idle_power_w for run in runs.values() if run.idle_power_w is not None), None),
        next((run.layout_block for run in runs.values() if run.layout_block is not None), None),
    )


def base_model(store: Store, device: str | None, rows: Sequence[Row]) -> CompositionModel | None:
    """The model to start from; BadInputError where it, or the rows, are of kernels: only networks' totals use it."""
    if device is None:
        return None
    from power_models.composition import CompositionModel
    from power_models.measured_tables import TableNetwork
    from rig.cost_models import load_cost_model

    model = load_cost_model(store, device)
    if not isinstance(model, CompositionModel):
        raise BadInputError(
            f"--from {device}: its cost model was not fitted to whole networks",
            fix="rig fit a table of networks for it",
        )
    if not any(isinstance(row, TableNetwork) for row in rows):
        raise BadInputError(f"--from {device}: is a start for tables of whole networks", fix="leave --from out")
    return model


def _is_run(name: str) -> bool:
    return RUN_ID.fullmatch(name) is not None and not Path(name).exists()


def read_one(path: Path) -> MeasuredTable:
    """Read a table; BadInputError for what is none."""
    from power_models.measured_tables import TableError, read_table

    shape = "give a CSV of kernels or JSON lines of networks (docs/fitting-tables.md)"
    try:
        return read_table(path)
    except TableError as error:
        raise BadInputError(str(error), fix=shape) from error
    except FileNotFoundError:
        raise BadInputError(f"no such table: {path}", fix="give the path of a table, or a run such as c-0001") from None
    except OSError as error:
        raise BadInputError(f"{path}: cannot be read: {error.strerror}", fix=shape) from error


def _read_run(store: Store, name: str) -> Collected:
    from rig.collect.rows import read_campaign
    from rig.errors import StoreError

    try:
        collected = read_campaign(store.open_run(name))
    except StoreError as error:
        raise BadInputError(error.message, fix="give the id of a calibrate run, such as c-0001") from error
    if not collected.rows or collected.configuration is None:
        raise BadInputError(f"run {name} holds no measured kernel", fix=f"rig replay {name} says what it holds")
    return collected


def _as_table_row(row: KernelRow, run: Collected, name: str, line: int) -> Row:
    """A run's kernel as a line of a table: the run, by its id, is the campaign in whose order it was measured."""
    from power_models.measured_tables import TableKernel

    idle_w = run.idle_power_w[0] if run.idle_power_w else None
    energy = None if row.energy_active_j is None else row.energy_active_j + (idle_w or 0.0) * row.latency_s
    power = None if energy is None else energy / row.latency_s
    return TableKernel(row.kernel, row.latency_s, power, energy, idle_w, line + 1, table=name)


def _one_device(tables: Sequence[MeasuredTable]) -> None:
    """One cost model is one device: tables of two are refused."""
    devices = {row.device: table.path for table in tables for row in (*table.kernels, *table.networks) if row.device}
    if len(devices) > 1:
        shown = "; ".join(f"{path}: {device}" for device, path in devices.items())
        raise BadInputError(
            f"the tables are of {len(devices)} devices ({shown})", fix="fit each by itself, under a --device of its own"
        )


def _of_table(table: MeasuredTable) -> Configuration:
    """What the table's device, source and name say of how it was measured."""
    rows = (*table.kernels, *table.networks)
    has_power = any(row.power_w is not None for row in rows)
    texts = list(dict.fromkeys([*(row.device for row in rows), *(row.source for row in rows)]))
    words = " ".join([*texts[:20], table.path.name]).lower()
    runtime = next((name for name in RUNTIMES if name in words), "")
    version = re.search(rf"{runtime}-v?(\d+(?:\.\d+)+)", words) if runtime else None
    boundary = next((where for pattern, where in KNOWN_BOUNDARIES if pattern.search(words)), "") if has_power else ""
    return UNKNOWN._replace(runtime=runtime, runtime_version=version.group(1) if version else "", boundary=boundary)


def _agreed(known: Sequence[Configuration], names: Sequence[str]) -> Configuration:
    """Every field as the sources that know it say; BadInputError where two differ."""
    fields: dict[str, Any] = {}
    for field in (name for name in Configuration._fields if name != "device"):
        values = list(dict.fromkeys(value for value in (getattr(one, field) for one in known) if value))
        if len(values) > 1 and field != "boundary":
            raise BadInputError(
                f"{', '.join(names)} were not measured alike: {field} is {' and '.join(map(repr, values))}",
                fix="fit each by itself, under a --device of its own",
            )
        fields[field] = values[0] if values else getattr(UNKNOWN, field)
    boundaries = list(dict.fromkeys(one.boundary for one in known[1:] if one.boundary))
    if len(boundaries) > 1:
        raise BadInputError(
            f"{', '.join(names)} were measured at {' and '.join(boundaries)}: their watts are not the same thing",
            fix="fit each by itself, under a --device of its own",
        )
    return Configuration(device="", **fields)


def _record(table: MeasuredTable) -> dict[str, Any]:
    unusable = [{"line": row.line, "reason": row.reason} for row in table.unusable]
    used = len(table.kernels) + len(table.networks)
    what = "networks" if table.networks else "kernels"
    return {"path": str(table.path), "sha256": table.sha256, "what": what, "rows": used, "unusable": unusable}


def _run_record(name: str, run: Collected) -> dict[str, Any]:
    unusable = [{"line": None, "reason": f"{one.subject}: {one.reason}"} for one in run.problems]
    return {"path": name, "sha256": None, "what": "run", "rows": len(run.rows), "unusable": unusable}


def _warnings(tables: Sequence[MeasuredTable]) -> list[dict[str, Any]]:
    found = []
    for table in tables:
        if table.unusable:
            shown = "; ".join(f"line {row.line}: {row.reason}" for row in table.unusable[:SHOWN])
            more = f" and {len(table.unusable) - SHOWN} more" if len(table.unusable) > SHOWN else ""
            message = f"{table.path}: {len(table.unusable)} rows cannot be used ({shown}{more})"
            found.append(warning("unusable-rows", message, "correct these lines; all are listed in the run's folder"))
        replaced = [str(row.line) for row in table.networks if row.quiet_replaced]
        if replaced:
            lines = f"{table.path}: quiet power of line {', '.join(replaced)}"
            message = f"{lines} is far from the table's median, which stands in"
            found.append(warning("quiet-power", message, "check these rows"))
    return found


def unknown_boundary(sources: Sources) -> list[dict[str, Any]]:
    """A warning where power was measured, but nobody says where."""
    if sources.configuration.boundary or all(row.power_w is None for row in sources.rows):
        return []
    message = "the tables do not say where their power was measured"
    return [warning("unknown-boundary", message, f"add --boundary, one of {', '.join(BOUNDARIES)}")]


def rows_record(files: Sequence[Mapping[str, Any]]) -> str:
    """How many rows of what, in words."""
    return ", ".join(
        f"{one['rows']} {one['what'] if one['what'] != 'run' else 'kernels'} of {one['path']}" for one in files
    )
