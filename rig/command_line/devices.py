"""Commands about a device: which there are, how well it is measured, what its kernels cost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rig.command_line.app import Asked, Debug, Device, Json
from rig.commands.options import CalibrateOptions, CalibrateSensorOptions, DevicesOptions, DoctorOptions


def devices(
    probe: Annotated[bool, typer.Option("--probe", help="Also contact the boards over the network.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> Asked:
    """List the device profiles, shipped and own: state, power sources, what is missing and why."""
    return Asked("devices", DevicesOptions(probe, json))


def doctor(
    device: Device,
    source: Annotated[
        list[str] | None, typer.Option("--source", help="Look at this power source only; repeatable.")
    ] = None,
    steps: Annotated[int, typer.Option("--steps", min=4, max=500, help="Load steps a power source is given.")] = 16,
    out: Annotated[Path | None, typer.Option("--out", help="Where to draw the step responses.")] = None,
    json: Json = False,
    debug: Debug = False,
) -> Asked:
    """Get to know a device's power sources by a load of known steps, and check what else its figures rest on.

    What is found is stored by the board's serial number, and used by every later measurement.
    """
    return Asked("doctor", DoctorOptions(device, tuple(source or ()), steps, out, json))


def calibrate_sensor(
    device: Device,
    source: Annotated[str, typer.Option("--source", help="The power source to correct.")],
    against: Annotated[
        str | None,
        typer.Option("--against", metavar="METER_OR_SOURCE", help="The better one: meter (the host's), or a source."),
    ] = None,
    points: Annotated[
        Path | None, typer.Option("--points", metavar="FILE.csv", help="Pairs read by a person: source W, reference W.")
    ] = None,
    reference_uncertainty: Annotated[
        str | None,
        typer.Option("--reference-uncertainty", help="Of the --points, as 0.1% (one standard deviation)."),
    ] = None,
    levels: Annotated[int, typer.Option("--levels", min=5, max=50, help="How many load levels.")] = 6,
    level_time: Annotated[
        str | None, typer.Option("--level-time", help="How long a level takes, as 6s; by the sources by default.")
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> Asked:
    """Correct a board's power source by a better one: gain and offset, stored by serial number, used ever after."""
    options = CalibrateSensorOptions(device, source, against, points, reference_uncertainty, levels, level_time, json)
    return Asked("calibrate-sensor", options)


def calibrate(
    device: Device,
    time: Annotated[str | None, typer.Option("--time", help="The longest it may take, as 20m or 1h30m.")] = None,
    kernels: Annotated[int | None, typer.Option("--kernels", min=1, help="How many kernels to measure.")] = None,
    around: Annotated[
        list[Path] | None,
        typer.Option("--around", metavar="MODEL.onnx", help="Measure near this network too; repeatable."),
    ] = None,
    task: Annotated[
        str | None, typer.Option("--task", help="Measure near the network of this task too (see rig optimize).")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="The task's network, such as resnet20.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the choice and the order of kernels.")] = 0,
    resume: Annotated[
        bool, typer.Option("--resume/--fresh", help="Go on with an unfinished run, or start anew.")
    ] = True,
    error: Annotated[
        str | None,
        typer.Option("--error", help="Choose kernels until held-out networks are priced so well, as 5%."),
    ] = None,
    base: Annotated[
        str | None, typer.Option("--from", metavar="DEVICE", help="Start from the cost model of a similar device.")
    ] = None,
    fusion: Annotated[
        bool, typer.Option("--fusion", help="Only find out by measurement which operators the runtime fuses.")
    ] = False,
    json: Json = False,
    debug: Debug = False,
) -> Asked:
    """Measure kernels on a device and fit its cost model; ends with the model's held-out error.

    It can be stopped at any time: the same command measures only what is missing.
    """
    near = tuple(around or ())
    options = CalibrateOptions(device, time, kernels, near, task, model, seed, resume, json, error, base, fusion)
    return Asked("calibrate", options)


COMMANDS = (devices, doctor, calibrate_sensor, calibrate)
