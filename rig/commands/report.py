"""``rig report``: a run in the store → one HTML page, a PDF, or PNG figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rig.commands.options import ReportOptions
from rig.errors import BadInputError
from rig.output import warning
from rig.store.store import Store

if TYPE_CHECKING:
    from rig.console import Console
    from rig.store.store import Run

FORMATS = ("html", "pdf", "png")


def run(options: ReportOptions) -> dict[str, Any]:
    """Draw the run; raises BadInputError for an unknown run or format, StoreError for a damaged run."""
    if options.format not in FORMATS:
        known = ", ".join(FORMATS)
        raise BadInputError(f"--format {options.format}: not a report format", fix=f"write one of {known}")
    store = Store()
    found, notes = _the_run(store, options.run)
    result = found.read_json("result.json")
    from rig.report.build import build_report

    made = build_report(found.path, options.format, options.out)
    files = [str(path) for path in made] if isinstance(made, list) else [str(made)]
    return {
        "run_id": found.id,
        "device": result["device"],
        "kind": result["kind"],
        "basis": result.get("basis"),
        "format": options.format,
        "artifacts": {"report": files},
        "warnings": [*notes, *store.problems, *found.problems],
        "next": f"xdg-open {files[0]}",
    }


def _the_run(store: Store, run_id: str | None) -> tuple[Run, list[dict[str, Any]]]:
    """The run asked for, or the newest one that has a result; says which unfinished ones were passed over."""
    if run_id is not None:
        return store.open_run(run_id), []
    passed_over = []
    for manifest in reversed(store.runs()):
        if (store.root / "runs" / manifest["id"] / "result.json").is_file():
            return store.open_run(manifest["id"]), [_unfinished(manifest) for manifest in passed_over]
        passed_over.append(manifest)
    raise BadInputError(f"no finished run in {store.root}", fix="rig calibrate --device virtual-pi4")


def _unfinished(manifest: Mapping[str, Any]) -> dict[str, Any]:
    command = f"rig {manifest['command']}"
    return warning(
        "unfinished-run", f"{manifest['id']} is newer but has no result", fix=f"give the same {command} again"
    )


def show(result: Mapping[str, Any], console: Console) -> None:
    """Where the report is."""
    for path in result["artifacts"]["report"]:
        console.line(f"Report of {result['run_id']}: {path}")
