"""The command line: parse, call one command, turn a RigError into its exit code. Commands are imported when called."""

from __future__ import annotations

import errno
import importlib
import os
import shlex
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from rig import __version__, interrupts
from rig.commands import follow
from rig.commands.options import (
    CalibrateOptions,
    CalibrateSensorOptions,
    CompareOptions,
    DevicesOptions,
    DoctorOptions,
    EvaluateOptions,
    FitOptions,
    ImportOptions,
    MeasureOptions,
    OptimizeOptions,
    PredictOptions,
    ReplayOptions,
    ReportOptions,
)
from rig.compression.methods import METHODS, SCORES, USUAL
from rig.errors import EXIT_INTERRUPTED, BadInputError, RigError, StoreError

# name -> (module with run(options) -> dict, module with show(result, console))
COMMANDS = {
    "devices": ("rig.commands.devices", "rig.commands.devices"),
    "doctor": ("rig.commands.doctor", "rig.commands.doctor"),
    "calibrate-sensor": ("rig.commands.calibrate_sensor", "rig.commands.calibrate_sensor"),
    "calibrate": ("rig.commands.calibrate", "rig.commands.calibrate"),
    "fit": ("rig.commands.fit", "rig.commands.fit"),
    "evaluate": ("rig.commands.evaluate", "rig.commands.evaluate"),
    "measure": ("rig.commands.measure", "rig.commands.measure"),
    "predict": ("rig.commands.predict", "rig.commands.predict"),
    "optimize": ("rig.commands.optimize", "rig.commands.optimize_summary"),
    "report": ("rig.commands.report", "rig.commands.report"),
    "compare": ("rig.commands.compare", "rig.commands.compare"),
    "import": ("rig.commands.import_mlperf", "rig.commands.import_mlperf"),
    "replay": ("rig.commands.replay", "rig.commands.replay"),
}

EXAMPLES = {
    "rig": (
        "rig calibrate --device virtual-pi4",
        "rig optimize --device virtual-pi4 --task fashion-mnist --target-power 3.6W --fps 60",
        "rig report",
    ),
    "devices": ("rig devices", "rig devices --probe"),
    "doctor": ("rig doctor --device virtual-pi4", "rig doctor --device pi4 --source ina2xx --out pictures"),
    "calibrate-sensor": (
        "rig calibrate-sensor --device virtual-pi4 --source virtual --against virtual_reference",
        "rig calibrate-sensor --device pi5 --source pmic --against meter",
        "rig calibrate-sensor --device pi4 --source ina2xx --points pairs.csv --reference-uncertainty 0.1%",
    ),
    "calibrate": (
        "rig calibrate --device virtual-pi4",
        "rig calibrate --device pi4 --time 20m",
        "rig calibrate --device local --around model.onnx",
        "rig calibrate --device virtual-pi4 --task fashion-mnist --error 5%",
        "rig calibrate --device my-pi5 --from pi4",
        "rig calibrate --device virtual-pi4 --fusion",
    ),
    "fit": (
        "rig fit rpi4_tflite.jsonl.gz --device my-pi4",
        "rig fit tx2_gpu_conv.csv --device tx2 --boundary rail",
        "rig fit c-0001 more_kernels.csv --device local --replace",
    ),
    "evaluate": (
        "rig evaluate --device my-pi4 other_networks.jsonl",
        "rig evaluate --device tx2 tx2_gpu_conv.csv --folds 5",
        "rig evaluate --device my-pi4 rpi4_tflite.jsonl.gz --folds 5 --group family",
    ),
    "measure": (
        "rig measure model.onnx --device local",
        "rig measure model.onnx --device virtual-pi4 --fps 60 --explain",
    ),
    "predict": (
        "rig predict model.onnx --device virtual-pi4",
        "rig predict model.onnx --device virtual-pi4 --fps 60 --shape 1,3,224,224",
        "rig predict model.onnx --device virtual-pi4 --measure-missing",
    ),
    "optimize": (
        "rig optimize --device virtual-pi4 --task fashion-mnist --target-power 3.6W --fps 60",
        "rig optimize --device local --task fashion-mnist --target-latency 50%",
        "rig optimize --device local --task fashion-mnist --target-latency 30% --method allocate",
        "rig optimize --device virtual-pi4 --task fashion-mnist --target-flops 50% --widths widths.json",
        "rig optimize --device virtual-pi4 --task my_task.py --target-energy 40mJ --target-params 250k",
    ),
    "report": ("rig report", "rig report o-0001 --format pdf"),
    "compare": (
        "rig compare o-0001 o-0002",
        "rig compare o-0001 o-0002 smaller.onnx --cost latency --plot front.svg",
        "rig compare path/to/store --equal-cost 3% --out comparison",
    ),
    "import": ("rig import mlperf results/rpi4/mobilenet-v1", "rig import mlperf RUN-FOLDER --device my-pi4 --json"),
    "replay": ("rig replay c-0001", "rig replay c-0001 --serve"),
}

# What typer raises for a wrong command line: its home moved between typer's versions, its place in the tree did not.
_ClickException = typer.BadParameter.__mro__[2]


@dataclass(frozen=True)
class Asked:
    """What the command line asked for."""

    command: str
    options: Any


class _ExamplesFirst:
    """Help that starts with examples; plain text, so that it needs no rich."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Examples"):
            formatter.write("".join(f"  {line}\n" for line in EXAMPLES[self.name or "rig"]))  # type: ignore[attr-defined]
        formatter.write_paragraph()
        super().format_help(ctx, formatter)  # type: ignore[misc]


class _Command(_ExamplesFirst, TyperCommand):
    pass


class _Group(_ExamplesFirst, TyperGroup):
    pass


app = typer.Typer(cls=_Group, name="rig", rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object to stdout and nothing else.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Device = Annotated[str, typer.Option("--device", help="A device profile; `rig devices` lists them.")]
Model = Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="An ONNX model.")]
Fps = Annotated[str | None, typer.Option("--fps", help="Frames a second; without it inferences run back to back.")]
Shape = Annotated[
    str | None, typer.Option("--shape", help="Input shape where the model leaves it open, as 1,3,224,224.")
]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rig {__version__}")
        raise typer.Exit


@app.callback()
def rig(
    json: Json = False,
    debug: Debug = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Measure, predict and cut the power a CNN needs on a board, a GPU or this computer."""


@app.command(cls=_Command)
def devices(
    probe: Annotated[bool, typer.Option("--probe", help="Also contact the boards over the network.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> Asked:
    """List the device profiles, shipped and own: state, power sources, what is missing and why."""
    return Asked("devices", DevicesOptions(probe, json))


@app.command(cls=_Command)
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


@app.command(name="calibrate-sensor", cls=_Command)
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


@app.command(cls=_Command)
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


@app.command(cls=_Command)
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


@app.command(cls=_Command)
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


@app.command(cls=_Command)
def measure(
    model: Model,
    device: Device,
    fps: Fps = None,
    shape: Shape = None,
    explain: Annotated[bool, typer.Option("--explain", help="List the parts of each interval.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> Asked:
    """Measure latency, power and energy of a network on a device, with intervals."""
    return Asked("measure", MeasureOptions(model, device, fps, shape, explain, json))


@app.command(cls=_Command)
def predict(
    model: Model,
    device: Device,
    fps: Fps = None,
    shape: Shape = None,
    measure_missing: Annotated[
        bool, typer.Option("--measure-missing", help="First measure the kernels that the cost model does not know.")
    ] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="Do not ask the device which kernels its runtime makes of the network.")
    ] = False,
    json: Json = False,
    debug: Debug = False,
) -> Asked:
    """Predict latency, energy and power of a network, kernel by kernel, without measuring it.

    The kernels are those of the runtime's own graph on the device where it can be asked (once a network), else rules.
    """
    return Asked("predict", PredictOptions(model, device, fps, shape, json, measure_missing, offline))


@app.command(cls=_Command)
def optimize(
    device: Device,
    task: Annotated[str, typer.Option("--task", help="fashion-mnist, digits, or a task file of your own (.py).")],
    model: Annotated[str | None, typer.Option("--model", help="The network to shrink, such as resnet20.")] = None,
    target_power: Annotated[
        str | None, typer.Option("--target-power", help="As 3.6W, or 50% of the active part.")
    ] = None,
    fps: Fps = None,
    target_energy: Annotated[str | None, typer.Option("--target-energy", help="An inference, as 40mJ or 50%.")] = None,
    target_latency: Annotated[
        str | None, typer.Option("--target-latency", help="An inference, as 12ms or 50%.")
    ] = None,
    target_flops: Annotated[str | None, typer.Option("--target-flops", help="As 20MFLOP (or 10MMAC) or 50%.")] = None,
    target_params: Annotated[str | None, typer.Option("--target-params", help="As 250k or 50%.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of weights, data order and split.")] = 0,
    epochs_baseline: Annotated[
        int | None, typer.Option("--epochs-baseline", min=1, help="To train the network as it is.")
    ] = None,
    epochs_shrink: Annotated[
        int | None, typer.Option("--epochs-shrink", min=1, help="To shrink it to the target.")
    ] = None,
    epochs_finetune: Annotated[
        int | None, typer.Option("--epochs-finetune", min=0, help="To recover accuracy.")
    ] = None,
    rounds: Annotated[int | None, typer.Option("--rounds", min=1, help="Measure and correct at most so often.")] = None,
    method: Annotated[str, typer.Option("--method", help=f"How to choose what goes: {', '.join(METHODS)}.")] = USUAL,
    morph_rounds: Annotated[
        int, typer.Option("--morph-rounds", min=1, help="Of morphnet: shrink, expand and shrink again so often.")
    ] = 1,
    importance: Annotated[
        str | None, typer.Option("--importance", help=f"Of allocate: what scores channels, {', '.join(SCORES)}.")
    ] = None,
    widths: Annotated[
        Path | None,
        typer.Option("--widths", metavar="FILE", help="Train the network of this widths.json from scratch instead."),
    ] = None,
    retrain: Annotated[
        bool, typer.Option("--retrain", help="Also train the final network from scratch, and compare.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the unfinished run of these options.")] = False,
    out: Annotated[Path | None, typer.Option("--out", help="Also write the resulting ONNX model there.")] = None,
    ema: Annotated[
        float, typer.Option("--ema", min=0.0, max=0.99999, help="Fine-tuning keeps a moving average, as 0.999.")
    ] = 0.0,
    label_smoothing: Annotated[
        float, typer.Option("--label-smoothing", min=0.0, max=0.99, help="Of fine-tuning, as 0.1.")
    ] = 0.0,
    batch: Annotated[
        int | None, typer.Option("--batch", min=1, help="Images a training step, of a built-in task (128).")
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> Asked:
    """Shrink a network until it is measured on the device to stay under every target given."""
    targets = (target_power, target_energy, target_latency, target_flops, target_params)
    if not any(targets):
        raise typer.BadParameter("no target: give at least one of --target-power, -energy, -latency, -flops, -params")
    power, energy, latency, flops, params = targets
    epochs = (epochs_baseline, epochs_shrink, epochs_finetune)
    options = OptimizeOptions(
        device,
        task,
        model,
        power,
        fps,
        energy,
        latency,
        flops,
        params,
        seed,
        *epochs,
        rounds,
        method,
        morph_rounds,
        importance,
        widths,
        retrain,
        resume,
        out,
        json,
        ema=ema,
        label_smoothing=label_smoothing,
        batch=batch,
    )
    return Asked("optimize", options)


@app.command(cls=_Command)
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


@app.command(cls=_Command)
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


@app.command(cls=_Command)
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


@app.command(name="import", cls=_Command)
def import_(
    source: Annotated[str, typer.Argument(metavar="mlperf", help="Whose logs they are: mlperf.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of one finished run.")],
    device: Annotated[str | None, typer.Option("--device", help="What to call the device measured.")] = None,
    json: Json = False,
    debug: Debug = False,
) -> Asked:
    """Read a power run that was measured elsewhere (MLPerf: PTDaemon and loadgen logs) into the store."""
    return Asked("import", ImportOptions(source, folder, device, json))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code (0 done, 2 to 6 by error, 130 interrupted)."""
    arguments = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    failure = _Failure(arguments)
    if argv is None and not failure.debug:
        sys.excepthook = failure.unexpected
        interrupts.watch()
    try:
        return _execute(arguments)
    except RigError as error:
        return failure.rig_error(error)
    except _ClickException as error:
        return failure.usage(error)
    except KeyboardInterrupt as interrupt:
        return failure.interrupted(interrupt)
    except BrokenPipeError:  # the reader of our output has gone: nobody is left to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        message = f"cannot write {error.filename or 'to disk'}: {error.strerror}"
        return failure.rig_error(StoreError(message, fix="free some space, then give the same command again"))


def _execute(arguments: Sequence[str]) -> int:
    # Not app(...): that would put typer's own exception hook in place of ours.
    command_line = typer.main.get_command(app)
    asked = command_line.main(args=list(arguments), prog_name="rig", standalone_mode=False)
    if not isinstance(asked, Asked):  # --help, --version
        return int(asked or 0)
    if follow.asked():
        return follow.run(asked.command, asked.options)
    run_module, show_module = COMMANDS[asked.command]
    result = importlib.import_module(run_module).run(asked.options)
    from rig import output

    complete = output.envelope(asked.command, result)
    if _wants_json(arguments):
        print(output.to_text(complete), flush=True)
    else:
        _show(complete, importlib.import_module(show_module))
    return output.exit_code(complete)


def _show(result: Mapping[str, Any], module: Any) -> None:
    from rig.console import Console

    console = Console()
    module.show(result, console)
    console.warnings(result["warnings"])
    console.next(result["next"])


def _wants_json(arguments: Sequence[str]) -> bool:
    return "--json" in arguments


class _Failure:
    """How a command line that did not succeed ends: words or JSON, traceback only with ``--debug``."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self._arguments = list(arguments)
        self.debug = "--debug" in arguments

    def rig_error(self, error: RigError) -> int:
        if self.debug:
            traceback.print_exception(error)
        self._tell(error.code, error.message, error.fix)
        return error.exit_code

    def usage(self, error: BaseException) -> int:
        message = error.format_message() if hasattr(error, "format_message") else str(error)
        command = self._command()
        self._tell(BadInputError.code, message, f"rig {command} --help" if command else "rig --help")
        return BadInputError.exit_code

    def interrupted(self, interrupt: KeyboardInterrupt) -> int:
        message = getattr(interrupt, "message", "interrupted; what was finished is saved")
        self._tell("interrupted", message, getattr(interrupt, "resume", None) or self._again())
        return EXIT_INTERRUPTED

    def unexpected(self, kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
        """Stands in for ``sys.excepthook``: a defect of the rig, said in one line (Python then exits with 1)."""
        if isinstance(error, KeyboardInterrupt):  # a second Ctrl-C, while the first was being told
            self.interrupted(error)
            return
        self._tell("internal", f"defect in rig: {kind.__name__}: {error}", f"report it with {self._again()} --debug")

    def _tell(self, code: str, message: str, fix: str | None) -> None:
        if _wants_json(self._arguments):
            from rig import output

            print(output.to_text(output.error_envelope(self._command(), code, message, fix)), flush=True)
            return
        from rig.console import Console

        Console().problem(message, fix)

    def _command(self) -> str | None:
        return next((word for word in self._arguments if word in COMMANDS), None)

    def _again(self) -> str:
        words = [word for word in self._arguments if word != "--debug"]
        if self._command() == "optimize" and "--resume" not in words:
            words.append("--resume")
        return shlex.join(["rig", *words])


if __name__ == "__main__":
    sys.exit(main())
