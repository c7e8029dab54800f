"""``rig calibrate``: kernels, networks → measured → cost model → checked on what was held out → saved if better."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rig import calibration
from rig.commands import adaptive_words, calibrate_summary, recover
from rig.commands.options import CalibrateOptions, command_words
from rig.configuration import configuration_of
from rig.errors import BadInputError, DeviceBusyError
from rig.output import Interrupted
from rig.profiles import DeviceProfile, load_profile
from rig.store import evidence
from rig.store.store import Run, RunInfo, Store, utc_now
from rig.units import parse_duration, parse_share
from rig.workloads import calibration_networks
from rig.workloads.network_file import check_file, read_kernels

if TYPE_CHECKING:
    from device_agents.records import KernelSpec
    from power_models.kernel_cost import KernelCostModel
    from rig.collect.collector import Collected, Context
    from rig.collect.collector import Progress as Measured
    from rig.collect.targets import Targets
    from rig.connection.session import Session
    from rig.console import Progress

BUSY_PAUSE_S = 1.0


def run(options: CalibrateOptions) -> dict[str, Any]:
    """Calibrate; raises BadInputError, DeviceError, StoreError, Interrupted (with the resuming command)."""
    if options.fusion:
        from rig.commands import calibrate_fusion

        return calibrate_fusion.run(options)
    profile = load_profile(options.device)
    profile.require_host()
    limit_s = parse_duration(options.time) if options.time is not None else None
    for path in options.around:
        check_file(path)
    store = Store()
    words = shlex.join(command_words("calibrate", options))
    options = replace(options, around=(*options.around, *_task_network(options, store)))
    if options.error is not None:
        parse_share(options.error, f"--error {options.error}")
    stored, resumed = _run_folder(store, profile, options, words)
    base = calibration.base_model(store, stored, options.base)
    work = _work(profile, options, stored)
    held_out = work.held_out
    from rig.console import Progress

    with Progress() as progress:
        try:
            collected, design = _collect(profile, options, store, stored, resumed, work, base, limit_s, progress)
        except KeyboardInterrupt:
            stored.update(state="interrupted", finished_utc=utc_now())
            done = len(stored.measurement_ids())
            raise Interrupted(f"interrupted; {done} measurements are saved in {stored.id}", resume=words) from None
        progress.stage(f"fitting the cost model to {len(collected.rows)} kernels")
        fitted = calibration.fit_and_check(collected, held_out, profile.name, profile.runtime.name, base)
    folder = store.model_folder(profile.name)
    saved = calibration.save_better(fitted, collected, held_out, folder, profile.runtime.name)
    result = calibrate_summary.result_of(profile, options.seed, stored, collected, fitted, saved, words)
    result["base"] = options.base
    result["design"] = design
    result["warnings"] += adaptive_words.warnings(design, work.notes, words)
    result["artifacts"] = {"run": str(stored.path), "cost_model": str(folder)}
    stored.write_json("result.json", {**result, "schema": "rig.calibrate/1"})
    stored.update(state="done" if result["complete"] else "time-limit", finished_utc=utc_now())
    return {**result, "warnings": [*result["warnings"], *store.problems, *stored.problems]}


class Work(NamedTuple):
    """What is to be measured: a grid chosen beforehand and networks, or ``targets`` for which kernels are chosen."""

    grid: calibration.Grid
    contexts: list[Context]
    held_out: calibration.HeldOut
    targets: Targets | None
    notes: list[str]


def _work(profile: DeviceProfile, options: CalibrateOptions, stored: Run) -> Work:
    runtime = profile.runtime.name
    named = calibration_networks.keep_named(options.around, stored.path)
    if options.error is not None:
        from rig.collect.adaptive import HELD_OUT_FILE
        from rig.collect.targets import draw_targets

        targets = draw_targets(named, runtime, options.seed, stored.path)
        held_out = calibration.HeldOut(frozenset(), frozenset(context.name for context in targets.held_out))
        stored.write_json(HELD_OUT_FILE, {"networks": sorted(held_out.networks)})
        contexts = calibration.interleaved(targets.fitted, targets.held_out)
        return Work(calibration.Grid([], []), contexts, held_out, targets, targets.notes)
    around = [node.spec for path in options.around for node in read_kernels(path, runtime)]
    count, longest_s = calibration.kernel_count(profile, options), calibration.longest_kernel_s(profile)
    grid = calibration.choose_kernels(count, options.seed, around, runtime, longest_s)
    networks = calibration_networks.draw_networks(profile, named, options.seed, stored.path)
    contexts = calibration.interleaved(networks.fitted, networks.held_out)
    return Work(grid, contexts, calibration.held_out_of(grid, networks), None, [])


def _task_network(options: CalibrateOptions, store: Store) -> list[Path]:
    """The network of the task that was named, untrained, as a file of the store."""
    if options.task is None:
        if options.model is not None:
            raise BadInputError("--model without --task", "add --task fashion-mnist, or name a file by --around")
        return []
    from rig.compression import export
    from rig.compression.tasks import load_task

    task = load_task(options.task, options.model)
    path = store.root / "networks" / f"{task.name}-{task.model_name}.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    export.save_seed(task, path)
    return [path]


def _run_folder(store: Store, profile: DeviceProfile, options: CalibrateOptions, words: str) -> tuple[Run, bool]:
    """The unfinished run of the same campaign, or a new one; whether it is the former."""
    request = calibration.request_of(profile, options)
    if options.resume:
        unfinished = calibration.unfinished_run(store, profile.name, request)
        if unfinished is not None:
            return unfinished, True
    facts = evidence.profile_facts(profile)
    return store.new_run("calibrate", profile.name, argv=shlex.split(words), request=request, profile=facts), False


def _collect(
    profile: DeviceProfile,
    options: CalibrateOptions,
    store: Store,
    stored: Run,
    resumed: bool,
    work: Work,
    base: KernelCostModel | None,
    limit_s: float | None,
    progress: Progress,
) -> tuple[Collected, dict[str, Any] | None]:
    """Measure what the run lacks; with targets, round by round until their error is met (and how that ended)."""
    from rig.collect.collector import collect, read_campaign
    from rig.connection.session import Session

    began_s = time.monotonic()
    plans = calibration_networks.plans_of(profile)
    verb = f"going on with {stored.id}" if resumed else f"run {stored.id}"
    progress.stage(f"{verb}: asking {profile.name} what it is")
    with Session(profile, "rig calibrate") as session:
        for note in recover.take_left_behind(session, store):
            stored.problems.append(note)
            progress.stage(f"note: {note['message']}")
        session.measures_for(stored.path)
        runtime, longest_s = profile.runtime.name, calibration.longest_kernel_s(profile)
        probe = work.grid.fitted[0] if work.targets is None else work.targets.probe(longest_s)
        _fix_configuration(session, profile, stored, resumed, probe, progress)
        evidence.keep_session(stored, session)

        def measure(kernels: list[KernelSpec]) -> tuple[Collected, bool]:
            more = f" and {len(work.contexts)} networks" if work.contexts else ""
            progress.stage(f"measuring {len(kernels)} kernels{more} on {profile.name}")
            stored.update(state="running")
            left_s = None if limit_s is None else max(limit_s - (time.monotonic() - began_s), 0.0)
            told = len(stored.events())
            collect(
                session,
                stored,
                kernels,
                plans.chains,
                runtime=runtime,
                contexts=work.contexts,
                context_plan=plans.networks,
                seed=options.seed,
                time_limit_s=left_s,
                progress=_teller(progress),
            )
            in_time = not any(event["event"] == "time-limit" for event in stored.events()[told:])
            return read_campaign(stored), in_time

        design = None
        if work.targets is None or options.error is None:
            collected, _ = measure(calibration.interleaved(work.grid.fitted, work.grid.held_out))
        else:
            from rig.collect.adaptive import measure_until

            outcome = measure_until(
                stored,
                work.targets,
                measure,
                lambda found: calibration.fit_and_check(found, work.held_out, profile.name, runtime, base),
                parse_share(options.error, f"--error {options.error}"),
                calibration.kernel_count(profile, options),
                longest_s,
                progress.stage,
                base,
            )
            collected = read_campaign(stored)
            design = outcome.to_json(options.error, len(collected.networks))
        stored.problems += session.problems
        evidence.keep_session(stored, session)
    return collected, design


def _fix_configuration(
    session: Session, profile: DeviceProfile, stored: Run, resumed: bool, kernel: KernelSpec, progress: Progress
) -> None:
    """Measure one kernel first, which tells under which configuration this run measures; another one is refused."""
    from rig.collect.plan import ChainJob
    from rig.collect.subjects import subject_of

    # A probe needs no precision: only what it says about device, runtime and power source is used.
    plan = profile.plan.to_plan()._replace(max_s=min(profile.plan.max_s, 3 * profile.plan.window_s), min_windows=3)
    plan = plan._replace(rel_ci=0.5, warmup_max_s=profile.plan.warmup_s or profile.plan.window_s)
    identity = f"probe-{len(stored.measurement_ids())}-first"

    def ask() -> dict[str, Any]:
        with subject_of(ChainJob(identity, kernel, 2), profile.runtime.name) as subject:
            return session.measure(subject, plan, request_id=identity)

    record = _when_free(ask, profile, progress) if resumed else ask()
    stored.add_measurement(record)
    session.ack([record["id"]])
    configuration = configuration_of(profile, record)
    agent = session.hello["agent"]["agent_hash"]
    stored.set_info(RunInfo(configuration, agent, record["started_utc"], record["kind"]))


def _when_free(ask: Callable[[], dict[str, Any]], profile: DeviceProfile, progress: Progress) -> dict[str, Any]:
    """Wait for the agent of a command that was killed: it finishes the measurement in hand, then leaves the device."""
    plan = profile.plan
    deadline_s = time.monotonic() + plan.cooldown_s + 2 * plan.quiet_s + plan.warmup_max_s + plan.max_s
    told = False
    while True:
        try:
            return ask()
        except DeviceBusyError as error:
            if time.monotonic() > deadline_s:
                raise
            if not told:
                progress.stage(f"waiting: {error.message}")
            told = True
            time.sleep(BUSY_PAUSE_S)


def _teller(progress: Progress) -> Callable[[Measured], None]:
    def tell(at: Measured) -> None:
        left = "" if at.eta_s is None else f", about {_duration(at.eta_s)} left"
        trouble = f"; {at.subject}: {at.reason}" if at.reason else ""
        progress.update(f"{at.done} of {at.total} measurements{left}{trouble}")

    return tell


def _duration(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 90
        else f"{seconds / 60:.0f} min"
        if seconds < 5400
        else f"{seconds / 3600:.1f} h"
    )
