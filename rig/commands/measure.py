"""``rig measure``: ONNX file → device → record in the store → quantities with intervals → result.json."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rig.commands import explain, recover, replay
from rig.commands.options import MeasureOptions, command_words
from rig.configuration import configuration_of, described
from rig.errors import BadInputError, TransientDeviceError
from rig.output import Interrupted, warning
from rig.profiles import DeviceProfile, load_profile
from rig.store import evidence
from rig.store.store import Run, RunInfo, Store, utc_now
from rig.units import parse_fps
from rig.wording import boundary_words, figure, label
from rig.workloads.network_file import check_onnx, parse_shape, read_kernels

if TYPE_CHECKING:
    from rig.connection.session import Session, Subject
    from rig.console import Console
    from rig.measurement import Measurement

ATTEMPTS = 3  # a rejected measurement is repeated


def run(options: MeasureOptions) -> dict[str, Any]:
    """Measure the network; raises ModelError, BadInputError (a rate it cannot keep), DeviceError."""
    profile = load_profile(options.device)
    profile.require_host()
    fps = parse_fps(options.fps) if options.fps is not None else None
    subject = subject_of(profile, options)
    words = command_words("measure", options)
    store = Store()
    facts = {"profile": evidence.profile_facts(profile), "onnx_sha256": _digest(options.model)}
    stored = store.new_run("measure", profile.name, argv=words, **facts)
    with stored.held():
        try:
            record, measurement = _measure(profile, subject, fps, stored, store)
        except KeyboardInterrupt:
            stored.update(state="interrupted", finished_utc=utc_now())
            raise Interrupted(f"interrupted; {stored.id} has no result", resume=shlex.join(words)) from None
        result = conclude(profile, options, stored, record, measurement)
    return {**result, "warnings": [*result["warnings"], *store.problems, *stored.problems]}


def _digest(model: Path) -> str:
    """SHA-256 of the network file: a simulated board's records name the kernels they ran, not the file."""
    try:
        return hashlib.sha256(model.read_bytes()).hexdigest()
    except OSError as error:
        raise BadInputError(f"reading {model}: {error}", "give the path of an ONNX model") from error


def conclude(
    profile: DeviceProfile,
    options: MeasureOptions,
    stored: Run,
    record: Mapping[str, Any],
    measurement: Measurement,
    **facts: Any,
) -> dict[str, Any]:
    """Write the run's result; ``facts`` go into its manifest."""
    result = _result(profile, options, stored, record, measurement)
    stored.write_json("result.json", {**result, "schema": "rig.measure/1"})
    stored.update(state="done", finished_utc=utc_now(), **facts)
    return result


def subject_of(profile: DeviceProfile, options: MeasureOptions) -> Subject:
    """What the device is sent: the file, or for a simulated board the kernels it would run."""
    from rig.connection.session import Subject

    name = options.model.stem
    if profile.simulated:
        nodes = read_kernels(options.model, profile.runtime.name, options.shape)
        return Subject(name, kernels=[node.spec for node in nodes])
    check_onnx(options.model)
    shape = list(parse_shape(options.shape)) if options.shape is not None else None
    return Subject(name, path=options.model, shape=shape)


def _measure(
    profile: DeviceProfile, subject: Subject, fps: float | None, stored: Run, store: Store
) -> tuple[dict[str, Any], Measurement]:
    """Measure until a record is not rejected, a bounded number of times; every record is stored."""
    from rig.connection.session import Session
    from rig.console import Progress

    with Progress() as progress, Session(profile, "rig measure") as session:
        for note in explain.at_once(profile, session, fps):
            stored.problems.append(note)
            progress.stage(f"note: {note['message']}")
        for note in recover.take_left_behind(session, store):
            stored.problems.append(note)
            progress.stage(f"note: {note['message']}")
        session.measures_for(stored.path)
        evidence.keep_session(stored, session)
        for attempt in range(1, ATTEMPTS + 1):
            progress.stage(f"measuring {subject.name} on {profile.name}" + (f", try {attempt}" if attempt > 1 else ""))
            record = _one(session, subject, profile, fps, f"{stored.id}-{attempt}", progress)
            stored.add_measurement(record)
            session.ack([record["id"]])
            measurement = assessed(stored, profile, record, session.hello["agent"]["agent_hash"])
            _check_rate(measurement, fps)
            if measurement.ok:
                stored.problems += session.problems
                return record, measurement
            stored.add_event("rejected", measurement=record["id"], reason=measurement.reason)
    stored.update(state="rejected", finished_utc=utc_now())
    raise TransientDeviceError(
        f"{profile.name}: no result after {ATTEMPTS} tries: {measurement.reason}; raw traces kept: {stored.id}",
        fix=f"remove the cause, or lower the load with --fps; the records are in {stored.path}",
    )


def assessed(stored: Run, profile: DeviceProfile, record: Mapping[str, Any], agent_hash: str) -> Measurement:
    """The verdict on a stored record, kept in its run with what the run is a measurement of."""
    from rig.quality.verdict import assess

    configuration = configuration_of(profile, record)
    stored.set_info(RunInfo(configuration, agent_hash, record["started_utc"], record["kind"]))
    measurement = assess(record)
    evidence.keep_assessment(stored, measurement)
    return measurement


def _one(
    session: Session, subject: Subject, profile: DeviceProfile, fps: float | None, identity: str, progress: Any
) -> dict[str, Any]:
    def report(event: Mapping[str, Any]) -> None:
        latency = event.get("latency_mean_s")
        shown = f", {1e3 * latency:.3g} ms" if latency else ""
        progress.update(f"{event['phase']} {event['windows'] or ''}{shown}")

    return session.measure(subject, profile.plan.to_plan(fps), request_id=identity, on_progress=report)


def _check_rate(measurement: Measurement, fps: float | None) -> None:
    """A rate that inference alone cannot keep was not measured at that rate."""
    latency = measurement.latency_s.value
    if fps is None or latency is None or fps * latency <= 1:
        return
    raise BadInputError(
        f"--fps {fps:g} cannot be kept: {measurement.subject} takes {1e3 * latency:.3g} ms a frame",
        fix=f"--fps {int(1 / latency)} or less" if latency < 1 else f"--fps {1 / latency:.2g} or less",
    )


def _result(
    profile: DeviceProfile, options: MeasureOptions, stored: Run, record: Mapping[str, Any], found: Measurement
) -> dict[str, Any]:
    configuration = configuration_of(profile, record)
    meter = (record.get("sensor") or {}).get("name")
    notes = replay.note(profile)
    notes += [warning("measurement", text, _remedy(text, profile)) for text in found.warnings]
    if meter is None:
        notes.append(warning("no-power", f"{profile.name} has no power source: time only", "rig devices says why"))
    return {
        "run_id": stored.id,
        "command_line": shlex.join(command_words("measure", options)),
        "device": described(configuration, meter, profile.simulated),
        "kind": found.kind,
        "basis": None,
        "model": str(options.model),
        "network": network_row(options.model, found),
        "explain": {name: dict(parts) for name, parts in found.to_json()["budget"].items()}
        if options.explain
        else None,
        "limits": explain.limits(found, record),
        "source": explain.known_source(record),
        "validity": _validity(record, found),
        "measurements": [found.id],
        "versions": stored.manifest["environment"],
        "artifacts": {"run": str(stored.path)},
        "warnings": notes,
        "next": f"rig report {stored.id}",
    }


def network_row(model: Path, found: Measurement) -> dict[str, Any]:
    """A network as measured, in the form of docs/design.md."""
    data = found.to_json()
    quantities = ("power_w", "idle_power_w", "energy_j", "energy_active_j", "latency_s")
    return {
        "name": found.subject,
        **{name: data[name] for name in quantities},
        "latency_p50_s": found.latency_median_s.value,
        "latency_p99_s": found.latency_p99_s.value,
        "fps": found.fps,
        "missed_deadlines": found.missed,
        "frames": found.count + found.missed,
        "size_bytes": model.stat().st_size if model.is_file() else None,
        "measurement_id": found.id,
        "onnx": str(model.resolve()),
    }


def _validity(record: Mapping[str, Any], found: Measurement) -> dict[str, Any]:
    windows = [phase for phase in record["phases"] if phase["name"] == "window"]
    return {
        "windows": len(windows),
        "window_s": record["plan"]["window_s"],
        "temp_before_c": found.temp_before_c,
        "temp_after_c": found.temp_after_c,
        "throttled": list(found.throttled),
        "stopped": record.get("stopped"),
    }


def _remedy(text: str, profile: DeviceProfile) -> str | None:
    if "rig calibrate-sensor" in text:
        return f"rig calibrate-sensor --device {profile.name}, against a better meter"
    if "limited by sampling" in text:
        # The device stops by latency alone where the meter is the host's: it cannot see those watts.
        longer = "plan.max_s" if profile.meter is None else "plan.min_windows"
        return f"stop other work on the device, or raise {longer} in {profile.own_file}"
    if "deadlines" in text:
        return "lower --fps, or stop other work on the device"
    return None


def show(result: Mapping[str, Any], console: Console) -> None:
    """Power, energy, latency, and why they may be believed."""
    network, validity = result["network"], result["validity"]
    mark = f"{label(result['kind'], result['basis'])}, {boundary_words(result['device']['boundary'])}"
    at = f" at {network['fps']:g} fps" if network["fps"] else ", back to back"
    if network["power_w"] is not None:
        power, quiet = (figure(network[name], "W") for name in ("power_w", "idle_power_w"))
        console.line(f"Power     {power}{at}, of which quiet {quiet}   {mark}")
        console.line(
            f"Energy    {figure(network['energy_active_j'], 'J')} an inference above quiet, "
            f"{figure(network['energy_j'], 'J')} in all"
        )
    else:
        console.line(f"Power     not measured: no power source   {mark}")
    console.line(f"Latency   mean {figure(network['latency_s'], 's')}{at}; {_quantiles(network)}{_missed(network)}")
    console.line(f"Validity  {_validity_words(validity)}; ± is a 95 % interval, calibration included")
    if result["source"] is not None:
        console.line(f"Source    {explain.source_words(result['source'])}")
    if result["explain"]:
        explain.show(result["explain"], result["limits"], network, console)


def _quantiles(network: Mapping[str, Any]) -> str:
    shown = []
    for key, name in (("latency_p50_s", "median"), ("latency_p99_s", "p99")):
        if network[key] is not None:
            shown.append(f"{name} {1e3 * network[key]:.3g} ms")
    return ", ".join(shown)


def _missed(network: Mapping[str, Any]) -> str:
    return f"; {network['missed_deadlines']} of {network['frames']} deadlines missed" if network["fps"] else ""


def _validity_words(validity: Mapping[str, Any]) -> str:
    words = [f"{validity['windows']} windows of {validity['window_s']:g} s"]
    if validity["temp_before_c"] is not None:
        words.append(f"{validity['temp_before_c']:.0f} to {validity['temp_after_c']:.0f} °C")
    words.append("throttled: " + ", ".join(validity["throttled"]) if validity["throttled"] else "not throttled")
    return ", ".join(words)
