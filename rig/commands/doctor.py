"""``rig doctor``: device → its facts → a load, each power source under it → checks, characterizations, pictures."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rig.commands.options import DoctorOptions, command_words
from rig.errors import BadInputError, DeviceSetupError
from rig.output import Interrupted, warning
from rig.profiles import DeviceProfile, load_profile
from rig.quality.stats import NORMAL_975, quadrature
from rig.sensors import limits as sensor_limits
from rig.sensors import store as sensor_store
from rig.units import Quantity
from rig.wording import boundary_words, figure, label

if TYPE_CHECKING:
    from rig.connection.session import Session
    from rig.console import Console, Progress
    from rig.doctor.device import Check
    from rig.doctor.load import Load
    from rig.doctor.source import Finding

OWN_CLOCKS = ("boottime", "monotonic")  # the device's: nothing to compare
SIMULATED_SOURCES = ("virtual", "virtual_reference")  # no real device has them


def run(options: DoctorOptions) -> dict[str, Any]:
    """Examine the device; raises DeviceError where it cannot be reached, BadInputError for an unknown source."""
    from rig.connection.session import Session
    from rig.console import Progress
    from rig.doctor.load import load_for

    profile = load_profile(options.device)
    profile.require_host()
    words = command_words("doctor", options)
    findings: list[Finding] = []
    try:
        with Progress() as progress, load_for(profile) as load:
            progress.stage(f"looking at {profile.name}")
            with Session(profile, "rig doctor") as session:
                return _examined(session, load, options, findings, progress)
    except KeyboardInterrupt:
        done = ", ".join(finding.name for finding in findings) or "nothing"
        raise Interrupted(f"interrupted; characterized and stored: {done}", resume=shlex.join(words)) from None


def _examined(
    session: Session, load: Load, options: DoctorOptions, findings: list[Finding], progress: Progress
) -> dict[str, Any]:
    from rig.doctor import device
    from rig.doctor.source import drive, together

    profile, hello = session.profile, session.hello
    chosen = sources_of(session, options.source)
    started = session.clock()
    facts = session.examine()
    look = drive(session, load, [(0.5, 0.1)], ())
    if profile.simulated:  # the governor and the heat of the host are not the simulated board's
        facts = {**facts, "governor": (look.get("environment") or {}).get("governor"), "thermal_zones": []}
        facts |= {"nvpmodel": None, "available_governors": []}
    checks = [device.runtime_check(profile, hello)]
    sources, artifacts, conditions = [], {}, look["conditions"]["after"]
    for name in chosen:
        progress.stage(f"power source {name}: load steps")
        row, found = _source(session, load, name, options, progress)
        sources.append(row)
        checks += row.pop("checks")
        if found is not None:
            findings.append(found)
            conditions = (found.answer or look)["conditions"]["after"]
            artifacts |= row["artifacts"]
    checks += _without_source(session, chosen, sources)
    if sum(found.seen for found in findings) > 1:
        progress.stage("all power sources at the same time")
    agreement = agreements(together(session, load, findings, options.steps))
    checks += [_agreement_check(one) for one in agreement]
    clock = session.clock()
    checks.append(device.clock_check(clock, clock.reference_s - started.reference_s, "clock"))
    checks.append(device.governor_check(profile, facts, look.get("power_mode")))
    checks += [check for check in [device.mode_check(facts)] if check is not None]
    checks.append(device.heat_check(profile, facts["thermal_zones"], conditions))
    checks += device.disk_checks(facts, sensor_store.board_folder(profile.name, str(look["serial"])))
    checks.append(device.library_check(facts))
    checks.append(device.agent_check(look["agent_hash"], facts))
    return {
        "device": profile.name,
        "serial": look["serial"],
        "kind": "simulated" if profile.simulated else "measured",
        "agent_hash": look["agent_hash"],
        "load": load.words,
        "verdict": "blocked" if any(check.status == "FAIL" for check in checks) else "ready",
        "checks": [check.to_json() for check in checks],
        "sources": sources,
        "agreement": agreement,
        "clock": clock.to_json(),
        "facts": {**facts, "conditions": conditions, "power_mode": look.get("power_mode")},
        "artifacts": artifacts,
        "warnings": [
            warning(f"{check.status.lower()}-{check.name}", f"{check.name}: {check.text}", check.fix)
            for check in checks
            if check.status in ("WARN", "FAIL")
        ],
        "next": _next(profile, findings, checks),
    }


def sources_of(session: Session, wanted: Sequence[str] = ()) -> list[str]:
    """The sources to look at: those asked for, else all that work of the profile's, the host's meter first."""
    profile, states = session.profile, session.hello["sensors"]
    meter = [session.meter_name] if session.meter_name else []
    named = [name for name in profile.sensors if states[name]["state"] == "ok"]
    if not wanted:
        return [*meter, *named]
    for name in wanted:
        state = states.get(name)
        if name in meter:
            continue
        if state is None:
            known = ", ".join([*meter, *sorted(states)])
            raise BadInputError(f"{profile.name} has no power source {name!r}; known: {known}", "name one of these")
        if state["state"] != "ok":
            raise DeviceSetupError(f"{profile.name}: power source {name}: {state['reason']}", state.get("fix") or None)
    return list(wanted)


def _source(
    session: Session, load: Load, name: str, options: DoctorOptions, progress: Progress
) -> tuple[dict[str, Any], Finding | None]:
    """One source: its row with ``checks`` and ``artifacts``, and what was found."""
    from rig.doctor.device import Check
    from rig.doctor.source import characterize

    profile = session.profile
    try:
        found = characterize(
            session,
            load,
            name,
            options.steps,
            lambda event: progress.update(f"{event['steps']} of {event['of']} steps"),
        )
    except (
        DeviceSetupError
    ) as error:  # the host's meter cannot be opened; the rest of the device can still be looked at
        check = Check(name, "WARN", error.message, error.fix)
        return {"name": name, "state": "absent", "reason": error.message, "checks": [check], "artifacts": {}}, None
    artifacts = _stored(profile, found, options.out)
    return {**_row(found), "checks": _source_checks(profile, found), "artifacts": artifacts}, found


def _stored(profile: DeviceProfile, found: Finding, out: Path | None) -> dict[str, str]:
    """Store what was found by serial number, and draw it; the paths."""
    if found.response is None or not found.seen:
        return {}
    from rig.durable import disk_errors
    from rig.plotting.figure import write_png
    from rig.plotting.step_response import step_response_figure

    path = sensor_store.save("characterization", profile.name, found.serial, found.name, found.to_json())
    folder = path.parent if out is None else out
    picture = folder / f"step-response-{sensor_store.file_word(found.name)}.png"
    with disk_errors(f"drawing the step response of {found.name}", picture):
        folder.mkdir(parents=True, exist_ok=True)
        write_png(step_response_figure(found, profile.name), picture)
    return {f"{found.name}": str(path), f"{found.name} step response": str(picture)}


def _row(found: Finding) -> dict[str, Any]:
    """A source in ``--json``: figures with their intervals."""
    facts, kind = found.to_json(), found.kind
    response = found.response if found.seen else None

    def q(value: float | None, half_width: float = 0.0) -> dict[str, Any]:
        made = Quantity(None, kind=kind) if value is None else Quantity.around(value, half_width, kind=kind)
        return made.to_json()

    return {
        "name": found.name,
        "state": "ok" if found.problem is None else "failed",
        "reason": found.problem,
        "boundary": found.declared.get("boundary"),
        "rail": found.declared.get("rail"),
        "declared": facts["declared"],
        "spacing_s": found.spacing_s,
        "update_period_s": found.update_period_s,
        "shape": facts.get("shape"),
        "shape_told": facts.get("shape_told"),
        "window_s": q(facts.get("window_s"), facts.get("window_half_width_s", 0.0)),
        "time_constant_s": facts.get("time_constant_s"),
        "lag_s": q(facts.get("lag_s"), facts.get("lag_half_width_s", 0.0)),
        "delay_s": q(facts.get("delay_s"), facts.get("delay_half_width_s", 0.0)),
        "active_w": q(facts.get("active_w"), facts.get("active_half_width_w", 0.0)),
        "quiet_w": None if response is None else response.quiet_w,
        "step_w": found.step_w,
        "noise_w": found.noise_w,
        "busy_noise_w": found.busy_noise_w,
        "counts_energy": found.counts_energy,
        "sampling": facts["sampling"],
        "clock": dict(found.clock),
        "contradiction": found.contradiction,
        "passes": found.passes,
    }


def _source_checks(profile: DeviceProfile, found: Finding) -> list[Check]:
    from device_agents.clocks import ClockMap
    from rig.doctor.device import Check, clock_check, sampling_check

    name = found.name
    if found.problem is not None:
        return [Check(name, "FAIL", found.problem, f"rig doctor --device {profile.name} again, then its wiring")]
    if not found.seen:
        text = "the load is not seen by this source: its window, lag and noise stay unknown"
        return [Check(name, "WARN", text, "is it wired to this device? or longer steps: the source may be very slow")]
    checks = [Check(name, "PASS", describe(found))]
    if found.contradiction:
        fix = "measurements use the measured window; correct the sensor's set-up, or its description"
        checks.append(Check(f"{name} window", "WARN", found.contradiction, fix))
    sensor = {**found.declared, "name": name, "characterization": found.to_json()}
    for limit in sensor_limits.before(sensor, profile.plan.to_plan()):
        checks.append(Check(f"{name} precision", "WARN", limit.message, limit.fix))
    checks.append(sampling_check(name, found.usage, found.kind == "simulated"))
    if found.declared.get("clock") not in OWN_CLOCKS and found.clock:
        span_s = found.spans[-1][2] - found.spans[0][0]
        checks.append(clock_check(ClockMap(**found.clock), span_s, f"{name} clock"))
    return checks


def describe(found: Finding) -> str:
    """A source in one line: rate, window, lag, step, noise."""
    from rig.quality.power import TO_AND_FRO

    response = found.response
    if response is None:
        return "nothing seen"
    period_s = found.update_period_s or found.spacing_s or 0.0
    words = [f"a new value every {Quantity(period_s).format('s')}" if found.update_period_s else "updates not told"]
    if found.counts_energy:
        words.append("counts energy")
    elif response.time_constant_s is not None:
        share = response.time_constant_s / response.window_s
        constant = Quantity.around(response.time_constant_s, share * response.window_half_width_s)
        words.append(f"forgets exponentially, time constant {constant.format('s')}")
    else:
        window = Quantity.around(response.window_s, response.window_half_width_s).format("s")
        words.append(f"averages over {window}{'' if response.shape_told else ' (or forgets exponentially: not told)'}")
    lag, doubt_s = Quantity.around(response.lag_s, response.lag_half_width_s), response.lag_half_width_s
    told = abs(response.lag_s) > doubt_s
    words.append(f"lag {lag.format('s')}" if told else f"no lag (± {Quantity(doubt_s).format('s')})")
    words.append(f"step {Quantity(found.step_w).format('W')}" if found.step_w else "no step seen")
    if found.noise_w is not None:
        hidden = found.noise_w < TO_AND_FRO * (found.step_w or 0.0)
        words.append("noise below the step" if hidden else f"noise {Quantity(found.noise_w).format('W')}")
    active = Quantity.around(response.active_w, response.active_half_width_w).format("W")
    return f"{', '.join(words)}; load of {active}, {boundary_words(found.declared.get('boundary'))}"


def _without_source(session: Session, chosen: Sequence[str], rows: list[dict[str, Any]]) -> list[Check]:
    """A line for each source of the profile that does not work, and for each that works and is not named."""
    from rig.doctor.device import Check

    profile, states = session.profile, session.hello["sensors"]
    checks = []
    for name in profile.sensors:
        state = states[name]
        if state["state"] != "ok":
            rows.append({"name": name, **state})
            checks.append(Check(name, "SKIP" if chosen else "WARN", state["reason"], state.get("fix") or None))
    if not chosen:
        text = "no power source works: time only" if profile.sensors else "the profile names no power source: time only"
        checks.append(Check("power", "WARN", text, f"see the sources above, or name one in {profile.own_file}"))
    others = [n for n, state in states.items() if state["state"] == "ok" and n not in profile.sensors]
    for name in others:
        if name not in SIMULATED_SOURCES and name not in chosen and not profile.simulated:
            fix = f'sensors = ["{name}"] in {profile.own_file}'
            checks.append(Check(name, "SKIP", "works, but the profile does not name it", fix))
    return checks


def agreements(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """Each pair of sources that saw the load: the ratio of their active powers with its 95 % interval."""
    rows = []
    for a, b in combinations([found for found in findings if found.seen], 2):
        if a.response is None or b.response is None:
            continue
        ratio = b.response.active_w / a.response.active_w
        shares = [found.response.active_half_width_w / found.response.active_w for found in (a, b) if found.response]
        gains = [NORMAL_975 * float(found.declared.get("gain_uncertainty") or 0.0) for found in (a, b)]
        half_width = ratio * quadrature(*shares, *gains)
        same = a.declared.get("boundary") == b.declared.get("boundary")
        rows.append(
            {
                "a": a.name,
                "b": b.name,
                "ratio": Quantity.around(ratio, half_width, kind=a.kind).to_json(),
                "same_boundary": same,
                "agree": abs(ratio - 1.0) <= half_width if same else None,
            }
        )
    return rows


def _agreement_check(row: Mapping[str, Any]) -> Check:
    from rig.doctor.device import Check

    name = f"{row['a']} | {row['b']}"
    text = f"active power of {row['b']} is {figure(row['ratio'], '')} of that of {row['a']}"
    if row["agree"] is None:
        return Check(name, "PASS", f"{text}, at another boundary")
    if row["agree"]:
        return Check(name, "PASS", f"{text}: they agree")
    return Check(name, "WARN", f"{text}: they do not agree", "rig calibrate-sensor against the better one")


def _next(profile: DeviceProfile, findings: Sequence[Finding], checks: Sequence[Check]) -> str | None:
    if any(check.status == "FAIL" for check in checks):
        return None
    seen = [found.name for found in findings if found.seen]
    if len(seen) > 1:
        return f"rig calibrate-sensor --device {profile.name} --source {seen[1]} --against {seen[0]}"
    return f"rig calibrate --device {profile.name}"


def show(result: Mapping[str, Any], console: Console) -> None:
    """One line a check, then how many there were of each."""
    mark = label(result["kind"], None)
    console.line(f"{result['device']}, serial {result['serial']}; load: {result['load']}   {mark}")
    width = max(len(check["name"]) for check in result["checks"])
    for check in result["checks"]:
        console.line(f"{check['status']} {check['name']:<{width}}  {check['text']}")
    counts = [
        f"{sum(check['status'] == status for check in result['checks'])} {status.lower()}"
        for status in ("PASS", "WARN", "FAIL", "SKIP")
    ]
    blocked = " Measuring is blocked." if result["verdict"] == "blocked" else ""
    console.line(f"{', '.join(counts)}.{blocked}")
    for name, path in result["artifacts"].items():
        console.line(f"Stored    {name}: {path}")
