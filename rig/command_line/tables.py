"""Commands about measurements that were made elsewhere: a cost model of them, and how far it is off."""

from __future__ import annotations

from typing import Annotated

import typer

from rig.command_line.app import Asked, Debug, Json
from rig.commands.options import EvaluateOptions, FitOptions

Tables = Annotated[
    list[str], typer.Argument(metavar="TABLE...", help="Kernels (CSV), networks (JSON lines), or a run such as c-0001.")
]
Base = Annotated[
    str | None,
    typer.Option("--from", metavar="DEVICE", help="Of networks: start from the model of a similar device."),
]
Boundary = Annotated[
    str | None, typer.Option("--boundary", help="Where the tables' power was measured, such as wall or board_input.")
]
Runtime = Annotated[
    str | None, typer.Option("--runtime", help="The engine the tables were measured with, such as tflite.")
]


def fit(
    tables: Tables,
    device: Annotated[str, typer.Option("--device", help="What to call the device; it needs no profile.")],
    base: Base = None,
    boundary: Boundary = None,
    runtime: Runtime = None,
    replace: Annotated[bool, typer.Option("--replace", help="Also in place of a model that was measured.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> Asked:
    """Fit a device's cost model to measurements made elsewhere, or to stored runs.

    predict, optimize and report use it like one that was calibrated. docs/fitting-tables.md describes the tables.
    """
    return Asked("fit", FitOptions(tuple(tables), device, base, boundary, runtime, replace, json))


def evaluate(
    tables: Tables,
    device: Annotated[str, typer.Option("--device", help="Whose cost model, or what to call the device.")],
    folds: Annotated[
        int | None, typer.Option("--folds", min=2, help="Cross-validate: hold rows out in so many folds.")
    ] = None,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Random splits to take the mean of.")] = 10,
    group: Annotated[
        str | None,
        typer.Option(
            "--group", metavar="COLUMN", help="family, kernel_size, size, or any column; whole levels are left out."
        ),
    ] = None,
    base: Base = None,
    boundary: Boundary = None,
    runtime: Runtime = None,
    resume: Annotated[
        bool, typer.Option("--resume/--fresh", help="Go on with an unfinished evaluation, or start anew.")
    ] = True,
    json: Json = False,
    debug: Debug = False,
) -> Asked:
    """Errors of a cost model on measured tables: latency, power and energy, by kind and on the whole, with intervals.

    Without --folds the stored model is scored. With --folds rows are held out, and beside it stand the references:
    FLOPs line, latency × constant power, NeuralPower, nn-Meter, lookup. It can be stopped at any time: the same
    command does only the folds that are missing.
    """
    options = EvaluateOptions(tuple(tables), device, folds, repeats, group, base, boundary, runtime, resume, json)
    return Asked("evaluate", options)


COMMANDS = (fit, evaluate)
