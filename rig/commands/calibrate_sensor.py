"""``rig calibrate-sensor``: load levels seen by a source and a better one (or a person's pairs) → gain and offset."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rig.commands.options import CalibrateSensorOptions, command_words
from rig.errors import BadInputError
from rig.output import Interrupted, warning
from rig.profiles import DeviceProfile, load_profile
from rig.quality.stats import NORMAL_975
from rig.sensors import store as sensor_store
from rig.sensors.limits import needed_window_s
from rig.store.store import utc_now
from rig.units import Quantity, parse_duration
from rig.wording import boundary_words, figure, label

if TYPE_CHECKING:
    from rig.connection.session import Session
    from rig.console import Console, Progress
    from rig.doctor.levels import Levels
    from rig.doctor.load import Load
    from rig.sensors.calibration import SensorCalibration

WORSE = 1.0  # a reference is better than the source by more than this factor in gain, or it is said
BENT = 3.0  # scatter about the line, in 95 % half-widths of the levels: beyond it, the source is no straight line
UNSURE_GAIN = 0.02


def run(options: CalibrateSensorOptions) -> dict[str, Any]:
    """Calibrate a source; raises BadInputError for levels that give no line, DeviceError for a source that fails."""
    profile = load_profile(options.device)
    profile.require_host()
    if (options.against is None) == (options.points is None):
        raise BadInputError(
            "give either --against METER_OR_SOURCE or --points FILE.csv",
            f"rig calibrate-sensor --device {profile.name} --source {options.source} --against SOURCE",
        )
    words = command_words("calibrate-sensor", options)
    try:
        return _by_hand(profile, options) if options.points is not None else _by_load(profile, options)
    except KeyboardInterrupt:
        raise Interrupted("interrupted; nothing was changed", resume=shlex.join(words)) from None


def _by_hand(profile: DeviceProfile, options: CalibrateSensorOptions) -> dict[str, Any]:
    """From pairs typed in; the device is asked only for its serial number and what the source declares."""
    from rig.connection.session import Session
    from rig.doctor.levels import read_points
    from rig.doctor.load import load_for
    from rig.doctor.source import drive

    if options.points is None or options.reference_uncertainty is None:
        raise BadInputError(
            "--points needs --reference-uncertainty", "as --reference-uncertainty 0.1%, of one standard deviation"
        )
    levels = read_points(options.points, share(options.reference_uncertainty))
    with Session(profile, "rig calibrate-sensor") as session, load_for(profile) as load:
        _require_source(session, options.source)
        answer = drive(session, load, [(0.05, 0.05)], [options.source])
    part = answer["sources"][-1]
    return _result(profile, options, answer, part, levels, str(options.points), None)


def _by_load(profile: DeviceProfile, options: CalibrateSensorOptions) -> dict[str, Any]:
    """From a load that both see at the same time."""
    from rig.console import Progress

    with Progress() as progress:
        progress.stage(f"{options.source} of {profile.name} against {options.against}: load levels")
        return _loaded(profile, options, progress)


def _loaded(profile: DeviceProfile, options: CalibrateSensorOptions, progress: Progress) -> dict[str, Any]:
    from rig.connection.session import Session
    from rig.doctor.levels import DUTY_PERIOD_S, compare_levels, curve_of, level_seconds
    from rig.doctor.load import duty_levels, load_for
    from rig.doctor.source import drive

    with Session(profile, "rig calibrate-sensor") as session, load_for(profile) as load:
        names = [options.source, _reference_name(session, options)]
        for name in names:
            _require_source(session, name)
        serial = sensor_store.serial_of(profile, session.hello)
        known = {name: _known(profile, serial, name, keep_calibration=name != options.source) for name in names}
        needed_s = _needed_s(session, load, known)
        level_s = parse_duration(options.level_time) if options.level_time else level_seconds(*needed_s)
        pattern, counts = duty_levels(options.levels, level_s, DUTY_PERIOD_S)
        answer = drive(
            session,
            load,
            pattern,
            names,
            lag_s=0.5 + max(needed_s),
            on_progress=lambda event: progress.update(f"{event['steps']} of {event['of']} steps"),
        )
    parts = {part["name"]: part for part in answer["sources"]}
    source, reference = (curve_of(parts[name], _fitting(known[name], parts[name])) for name in names)
    levels = compare_levels(answer["spans"], counts, source, reference, reference.gain)
    return _result(profile, options, answer, parts[names[0]], levels, names[1], parts[names[1]]["sensor"])


def _needed_s(session: Session, load: Load, known: Mapping[str, Mapping[str, Any]]) -> list[float]:
    """How long a window each source needs, by what is stored of it or, after a short look, by what it declares."""
    from rig.doctor.source import drive

    parts = drive(session, load, [(0.05, 0.05)], list(known))["sources"]
    described = {part["name"]: part.get("sensor") or {} for part in parts}
    return [
        needed_window_s(_fitting(one, {"sensor": described[name]}).get("characterization") or {}, described[name])
        for name, one in known.items()
    ]


def _reference_name(session: Session, options: CalibrateSensorOptions) -> str:
    """``--against meter`` is the host's, whatever its name."""
    if options.against == "meter":
        if session.meter_name is None:
            raise BadInputError(
                f"{session.profile.name} has no meter at the host",
                f"describe it under [meter] in {session.profile.own_file}",
            )
        return session.meter_name
    if options.against == options.source:
        raise BadInputError(f"{options.source} cannot be calibrated against itself", "name another source, or a meter")
    return str(options.against)


def _require_source(session: Session, name: str) -> None:
    from rig.commands.doctor import sources_of

    sources_of(session, [name])


def _known(profile: DeviceProfile, serial: str, name: str, keep_calibration: bool) -> dict[str, Any]:
    """What is stored of a source; an older calibration of the one to be calibrated does not count."""
    kinds = ("characterization", "calibration") if keep_calibration else ("characterization",)
    found = {kind: sensor_store.load(kind, profile.name, serial, name) for kind in kinds}
    return {kind: one for kind, one in found.items() if one is not None}


def _fitting(known: Mapping[str, Any], part: Mapping[str, Any]) -> dict[str, Any]:
    """What is stored, where the source is still set up as it was then."""
    return {kind: one for kind, one in known.items() if sensor_store.fits(one, part.get("sensor") or {}) is None}


def _result(
    profile: DeviceProfile,
    options: CalibrateSensorOptions,
    answer: Mapping[str, Any],
    part: Mapping[str, Any],
    levels: Levels,
    against: str,
    reference: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Fit, store, and say what it means."""
    fit = levels.fit()
    declared = {key: value for key, value in (part.get("sensor") or {}).items() if key != "name"}
    kind = "simulated" if profile.simulated else "measured"
    found = {
        "made_utc": utc_now(),
        "agent_hash": answer["agent_hash"],
        "kind": kind,
        "declared": declared,
        "against": against,
        "reference": None if reference is None else {k: v for k, v in reference.items() if k != "name"},
        "boundary": (reference or declared).get("boundary"),
        "levels": {
            "source_w": levels.source_w,
            "reference_w": levels.reference_w,
            "difference_se_w": levels.difference_se_w,
        },
        "fit": fit.to_json(),
    }
    path = sensor_store.save("calibration", profile.name, str(answer["serial"]), options.source, found)
    return {
        "device": profile.name,
        "serial": answer["serial"],
        "kind": kind,
        "source": options.source,
        "against": against,
        "calibration": found,
        "gain": Quantity.around(
            fit.gain, NORMAL_975 * fit.gain_uncertainty * fit.gain, n=fit.levels, kind=kind
        ).to_json(),
        "offset_w": Quantity.around(fit.offset_w, fit.level_half_width_w(0.0), n=fit.levels, kind=kind).to_json(),
        "boundary": found["boundary"],
        "artifacts": {"calibration": str(path)},
        "warnings": _warnings(profile, options, fit, levels, declared, reference),
        "next": f"rig measure MODEL.onnx --device {profile.name} --explain",
    }


def _warnings(
    profile: DeviceProfile,
    options: CalibrateSensorOptions,
    fit: SensorCalibration,
    levels: Levels,
    declared: Mapping[str, Any],
    reference: Mapping[str, Any] | None,
) -> list[dict[str, Any]]:
    notes = []
    own = declared.get("gain_uncertainty")
    if own and levels.reference_gain_uncertainty * WORSE >= own:
        text = (
            f"the reference's gain is known to {100 * levels.reference_gain_uncertainty:.2g} %, the source's own to "
            f"{100 * own:.2g} %: this calibration makes nothing surer"
        )
        notes.append(warning("worse-reference", text, "calibrate against a better meter"))
    expected_w = max(levels.difference_se_w, default=0.0)
    if expected_w > 0.0 and fit.residual_w > BENT * expected_w:
        text = f"the levels scatter by {fit.residual_w:.2g} W about the line, {expected_w:.2g} W is their own scatter"
        notes.append(
            warning("not-a-line", text, "look at the levels in the stored file; the interval was widened for it")
        )
    if fit.gain_se / fit.gain > UNSURE_GAIN:
        text = f"the gain is known to ±{100 * NORMAL_975 * fit.gain_se / fit.gain:.2g} % only"
        notes.append(warning("unsure-gain", text, "longer levels (--level-time), or a load with more watts"))
    if reference is not None and reference.get("boundary") != declared.get("boundary"):
        text = (
            f"{options.source} reads {boundary_words(declared.get('boundary'))}; calibrated, its watts stand for "
            f"{boundary_words(reference.get('boundary'))}"
        )
        notes.append(
            warning("other-boundary", text, f"calibrate {profile.name} anew: its cost model is of another boundary")
        )
    return notes


def share(text: str) -> float:
    """``0.1%`` or ``0.001`` as a share; BadInputError for what is none."""
    try:
        value = float(text.rstrip("%")) * (0.01 if text.endswith("%") else 1.0)
    except ValueError:
        value = -1.0
    if not 0.0 <= value < 1.0:
        raise BadInputError(f"{text!r} is no relative uncertainty", "as 0.1%, of one standard deviation")
    return value


def show(result: Mapping[str, Any], console: Console) -> None:
    """Gain and offset, what they rest on, and what every later measurement does with them."""
    fit = result["calibration"]["fit"]
    console.line(
        f"{result['source']} of {result['device']}, serial {result['serial']}, against {result['against']}   "
        f"{label(result['kind'], None)}, {boundary_words(result['boundary'])}"
    )
    console.line(f"Gain      {figure(result['gain'], '')} W per W read")
    console.line(f"Offset    {figure(result['offset_w'], 'W')}")
    console.line(
        f"Levels    {fit['levels']}, {fit['lowest_w']:.3g} to {fit['highest_w']:.3g} W read, "
        f"{Quantity(fit['residual_w']).format('W')} about the line"
    )
    console.line("Every later measurement of this board with this source is corrected by it; ± is a 95 % interval")
