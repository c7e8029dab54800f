"""``rig optimize``: task and target → the loop (rig.compression.loop) → result.json and the compressed ONNX file."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rig.commands.optimize_misfits import refuse_misfits, require_epochs_to_prune_in
from rig.commands.options import OptimizeOptions, command_words
from rig.configuration import described
from rig.cost_models import load_cost_model, shipped_warnings
from rig.errors import BadInputError, StoreError
from rig.output import Interrupted, plain
from rig.profiles import load_profile
from rig.store import evidence
from rig.store.store import Run, Store, utc_now
from rig.units import Limit, parse_fps, parse_limit

if TYPE_CHECKING:
    from rig.compression.survey import Ablation, Settings

# Epochs of baseline, shrinking and fine-tuning where the user names none.
DEFAULT_EPOCHS = {"digits": (20, 20, 10)}
USUAL_EPOCHS = (6, 3, 7)
DEFAULT_ROUNDS = 4


def run(options: OptimizeOptions, ablation: Ablation | None = None) -> dict[str, Any]:
    """Run the loop; raises every class of RigError, and Interrupted with the resuming command.

    ``ablation``: for studies that switch parts of a method off.
    """
    profile = load_profile(options.device)
    profile.require_host()
    settings = _settings(options, ablation)
    store = Store()
    cost_model = load_cost_model(store, profile.name)
    from rig.compression.distributed import leading
    from rig.compression.loop import Loop
    from rig.compression.outcome import result as outcome
    from rig.compression.tasks import load_task
    from rig.console import Progress

    task = load_task(options.task, options.model, options.batch)
    if settings.label_smoothing and not task.logits:
        raise BadInputError(
            f"--label-smoothing needs logits, and the task {task.name} does not say that its outputs are any",
            "put logits = True into the task file where they are, or leave it out",
        )
    words = command_words("optimize", options)
    stored = _run_folder(store, options, words)
    resume = shlex.join([*words, *(() if "--resume" in words else ("--resume",))])
    try:
        with Progress() as progress, leading():
            loop = Loop(stored, profile, task, cost_model, settings, progress, store.root / "baselines")
            loop.held_out = _held_out(store, profile.name)
            found = loop.go(outcome)
    except KeyboardInterrupt:
        stored.update(state="interrupted", finished_utc=utc_now())
        raise Interrupted(f"interrupted; everything so far is saved in {stored.id}", resume=resume) from None
    except BaseException:
        stored.update(state="failed", finished_utc=utc_now())
        raise
    configuration = loop.bench.configuration or cost_model.configuration
    complete = {
        "run_id": stored.id,
        "command_line": shlex.join(words),
        "device": described(configuration, loop.bench.meter, profile.simulated),
        **found,
        "versions": stored.manifest["environment"],
        "artifacts": _artifacts(stored, options, found),
        "next": f"rig report {stored.id}",
    }
    complete["warnings"] = [*shipped_warnings(cost_model), *complete["warnings"], *store.problems, *stored.problems]
    complete = plain(complete)
    stored.write_json("result.json", {**complete, "schema": "rig.optimize/1"})
    stored.update(state="done", finished_utc=utc_now())
    return complete


def _settings(options: OptimizeOptions, ablation: Ablation | None) -> Settings:
    """What was typed, parsed; raises BadInputError."""
    from rig.compression.methods import SCORES, WITHOUT_NORM, make_method, require_served
    from rig.compression.survey import Ablation, Settings

    typed = (
        ("power", options.target_power),
        ("energy", options.target_energy),
        ("latency", options.target_latency),
        ("flops", options.target_flops),
        ("params", options.target_params),
    )
    limits: tuple[Limit, ...] = tuple(parse_limit(name, text) for name, text in typed if text is not None)
    if not limits:
        raise BadInputError("no target was given", "add --target-power 3.6W --fps 60, or another --target-…")
    require_served(make_method(options.method), [limit.quantity for limit in limits])
    refuse_misfits(options)
    fps = parse_fps(options.fps) if options.fps is not None else None
    epochs = DEFAULT_EPOCHS.get(options.task, USUAL_EPOCHS)
    asked = (options.epochs_baseline, options.epochs_shrink, options.epochs_finetune)
    chosen = [usual if own is None else own for own, usual in zip(asked, epochs, strict=True)]
    require_epochs_to_prune_in(options, chosen[1])
    return Settings(
        limits,
        fps,
        options.seed,
        *chosen,
        rounds=options.rounds or DEFAULT_ROUNDS,
        method=options.method,
        morph_rounds=options.morph_rounds,
        importance=options.importance or SCORES[0],
        widths=_widths(options.widths) if options.widths is not None else None,
        retrain=options.retrain,
        ema=options.ema,
        label_smoothing=options.label_smoothing,
        prune_every=options.prune_every,
        without_norm=options.without_norm or WITHOUT_NORM[0],
        ablation=ablation or Ablation(),
    )


def _widths(path: Path) -> dict[str, int]:
    """A table of widths as ``artifacts/widths.json`` of a run has it; raises BadInputError."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInputError(f"reading {path}: {error}", "give artifacts/widths.json of an optimize run") from error
    whole = isinstance(table, dict) and all(type(width) is int and width >= 0 for width in table.values())
    if not whole or not table:
        raise BadInputError(
            f"{path} is no table of widths", "it maps names of layers to numbers of channels, as artifacts/widths.json"
        )
    return dict(table)


def _run_folder(store: Store, options: OptimizeOptions, words: list[str]) -> Run:
    """A new run, or with ``--resume`` the newest unfinished one of the same options."""
    asked = [word for word in words if word != "--resume"]
    if options.resume:
        for manifest in reversed(store.runs()):
            same = manifest["command"] == "optimize" and manifest["argv"] == asked
            if same and manifest["state"] != "done":
                stored = store.open_run(manifest["id"])
                stored.update(state="running")
                return stored
        raise BadInputError("there is no unfinished run with these options to resume", "leave --resume out")
    facts = evidence.profile_facts(load_profile(options.device))
    return store.new_run("optimize", options.device, argv=asked, profile=facts)


def _held_out(store: Store, device: str) -> list[dict[str, Any]]:
    """The held-out points of the device's newest finished calibration; empty where it has none."""
    run = store.latest("calibrate", device)
    if run is None or not (run.path / "result.json").exists():
        return []
    return list(run.read_json("result.json").get("validation", []))


def _artifacts(stored: Run, options: OptimizeOptions, found: dict[str, Any]) -> dict[str, Any]:
    compressed = Path(found["result"]["onnx"])
    artifacts: dict[str, Any] = {
        "run": str(stored.path),
        "baseline": found["baseline"]["onnx"],
        "compressed": str(compressed),
        "widths": str(stored.write_json("artifacts/widths.json", found["widths"])),
    }
    if options.out is not None:
        try:
            shutil.copyfile(compressed, options.out)
        except OSError as error:
            raise StoreError(f"writing {options.out}: {error.strerror}", f"copy it from {compressed}") from error
        artifacts["out"] = str(options.out)
    return artifacts
