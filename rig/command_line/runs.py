"""Commands about runs that are stored: drawn, compared, analysed again, brought in from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rig.command_line.app import Asked, Debug, Json
from rig.commands.options import CompareOptions, ImportOptions, ReplayOptions, ReportOptions


def report(
    run: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="A run such as o-0001; the latest by default.")
    ] = None,
    format: Annotated[str, typer.Option("--format", help="html, pdf or png.")] = "html",
    out: Annotated[Path | None, typer.Option("--out", help="Where to write; into the run's folder by default.")] = None,
    json: Json = False,
    debug: Debug = False,
) -> Asked:
    """Draw a run as an HTML page, a PDF or a PNG picture."""
    return Asked("report", ReportOptions(run, format, out, json))


def compare(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN...", help="Runs of one device: ids or their beginnings, folders, measured files."),
    ],
    cost: Annotated[
        str | None, typer.Option("--cost", help="latency, energy or power; energy by default where all measured it.")
    ] = None,
    equal_cost: Annotated[
        str | None, typer.Option("--equal-cost", help="Void what is further off the median cost of its target, as 3%.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Draw accuracy against cost: a .png, .svg or .pdf.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Write picture, its numbers and all figures there.")
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> Asked:
    """Put networks side by side: accuracy, measured cost, sizes, differences in pairs, and the Pareto front.

    All runs must be of one device in one configuration, and of one task.
    """
    return Asked("compare", CompareOptions(tuple(runs), cost, equal_cost, plot, out, json))


def replay(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run such as c-0001, or the folder of one.")],
    serve: Annotated[
        bool, typer.Option("--serve", help="Make a device of it, replay-RUN, that answers from the run.")
    ] = False,
    json: Json = False,
    debug: Debug = False,
) -> Asked:
    """Analyse a stored run again and compare: exit code 0 where all is the same, 1 where not.

    With --serve the run is a device of its own, for any command: nothing is measured, the run answers.
    """
    return Asked("replay", ReplayOptions(run, serve, json))


def import_(
    source: Annotated[str, typer.Argument(metavar="mlperf", help="Whose logs they are: mlperf.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of one finished run.")],
    device: Annotated[str | None, typer.Option("--device", help="What to call the device measured.")] = None,
    json: Json = False,
    debug: Debug = False,
) -> Asked:
    """Read a power run that was measured elsewhere (MLPerf: PTDaemon and loadgen logs) into the store."""
    return Asked("import", ImportOptions(source, folder, device, json))


COMMANDS = (report, compare, replay, import_)
