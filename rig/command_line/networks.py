"""Commands about a network: what it costs by measurement, what by the cost model, and one that costs less."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rig.command_line.app import Asked, Debug, Device, Json
from rig.commands.options import MeasureOptions, OptimizeOptions, PredictOptions
from rig.compression.methods import METHODS, SCORES, USUAL, WITHOUT_NORM

Model = Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="An ONNX model.")]
Fps = Annotated[str | None, typer.Option("--fps", help="Frames a second; without it inferences run back to back.")]
Shape = Annotated[
    str | None, typer.Option("--shape", help="Input shape where the model leaves it open, as 1,3,224,224.")
]


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
    rounds: Annotated[
        int | None,
        typer.Option("--rounds", min=1, help="Measure and correct at most so often, once more if not confirmed."),
    ] = None,
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
    prune_every: Annotated[
        int,
        typer.Option(
            "--prune-every", min=0, help="Of morphnet: dead channels go every N epochs of shrinking (0: at its end)."
        ),
    ] = 0,
    without_norm: Annotated[
        str | None,
        typer.Option(
            "--without-norm", help=f"Of morphnet: what shrinks where there is no batch-norm, {', '.join(WITHOUT_NORM)}."
        ),
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
        prune_every=prune_every,
        without_norm=without_norm,
    )
    return Asked("optimize", options)


COMMANDS = (measure, predict, optimize)
