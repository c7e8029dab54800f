"""A stored run read again: its raw evidence through today's analysis, compared with what was concluded at the time.

     records ─► assess ────────────► verdicts, quantities      against assessments.jsonl (older runs: the events)
             └► rows of the campaign ► kernels, quiet power     against result.json
                    └► fit ──────────► held-out predictions     against result.json

and as a device: ``profile_text`` is a profile whose measurements are answered by the run (``rig.replay.device``).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rig.errors import BadInputError, RigError
from rig.profiles import DeviceProfile, load_profile
from rig.store import evidence
from rig.store.run import Run

if TYPE_CHECKING:
    from rig.calibration import Fitted, HeldOut
    from rig.collect.collector import Collected
    from rig.measurement import Measurement

NAME = "replay-{run}"

# Relative: the same arithmetic on another processor's libraries; a fit iterates, and comes less close.
ANALYSIS_TOLERANCE = 1e-9
FIT_TOLERANCE = 1e-4
NETWORK_QUANTITIES = ("power_w", "idle_power_w", "energy_j", "energy_active_j", "latency_s")


class Difference(NamedTuple):
    """What was concluded at the time (``stored``) and what is concluded now, at ``where``."""

    where: str
    stored: Any
    now: Any


class Compared(NamedTuple):
    """``counts``: how many of what were compared; ``left_out``: what could not be, and why."""

    counts: dict[str, int]
    differences: list[Difference]
    left_out: list[str]


def profile_of(run: Run) -> DeviceProfile:
    """The profile that the run measured under; of an older run, what its request and today's profile tell."""
    facts = run.manifest.get("profile")
    if facts is None:
        facts = load_profile(run.manifest["device"]).model_dump(mode="json", exclude_none=True)
        request = run.manifest.get("request") or {}
        facts |= {part: request[part] for part in ("runtime", "plan") if part in request}
        facts["grid"] = {**facts["grid"], **request.get("grid", {})}
    return DeviceProfile.model_validate(facts)


def profile_text(run: Run) -> str:
    """The TOML of a device profile that is answered by this run."""
    own = profile_of(run)
    request = run.manifest.get("request") or {}
    facts = own.model_dump(mode="json", exclude_none=True)
    for field in ("name", "meter"):  # a host's meter is not read again: its samples are in the records
        facts.pop(field, None)
    facts["description"] = f"run {run.id} of {own.name}, served again: nothing is measured"
    facts["transport"] = {"kind": "replay", "run": str(run.path.resolve())}
    if "kernels" in request:
        facts["grid"] = {**facts["grid"], "kernels": request["kernels"]}
    plain = [f"{key} = {_toml(value)}" for key, value in facts.items() if not isinstance(value, Mapping)]
    tables = [(key, value) for key, value in facts.items() if isinstance(value, Mapping)]
    for name, table in tables:
        plain += ["", f"[{name}]", *(f"{_key(key)} = {_toml(value)}" for key, value in table.items())]
    return "\n".join(plain) + "\n"


def compare(run: Run) -> Compared:
    """Analyse a run's records again and compare; raises StoreError for a run that is damaged."""
    counts: dict[str, int] = {}
    found: list[Difference] = []
    left_out: list[str] = []
    made = _assessed(run)
    counts["records"] = len(made)
    found += _of_verdicts(run, made, left_out)
    result_path = run.path / "result.json"
    result = run.read_json("result.json") if result_path.exists() else None
    if result is None:
        left_out.append(f"{run.id} has no result: only its records were compared")
    elif run.manifest["command"] == "calibrate":
        found += _of_calibration(run, result, counts, left_out)
    elif run.manifest["command"] == "measure":
        found += _of_measure(result, made, counts)
    else:
        left_out.append(f"of {run.manifest['command']} only the records are compared")
    return Compared(counts, found, left_out)


def _assessed(run: Run) -> dict[str, Measurement]:
    from rig.quality.verdict import assess

    return {record["id"]: assess(record) for record in run.measurements()}


def _of_verdicts(run: Run, made: Mapping[str, Measurement], left_out: list[str]) -> Iterator[Difference]:
    stored = evidence.assessments(run.path)
    if not stored:
        left_out.append(f"{run.id} is of an older rig: of its records only the rejections are known")
        rejected = {event.get("id", event.get("measurement")) for event in run.events() if event["event"] == "rejected"}
        for identity, measurement in made.items():
            was = "rejected" if identity in rejected else "ok"
            if was != measurement.verdict:
                yield Difference(f"{identity}: verdict", was, measurement.verdict)
        return
    for identity, before in stored.items():
        if identity not in made:
            yield Difference(f"{identity}", "a record", None)
            continue
        yield from differences(identity, before, _plain(made[identity].to_json()), ANALYSIS_TOLERANCE)


def _of_measure(
    result: Mapping[str, Any], made: Mapping[str, Measurement], counts: dict[str, int]
) -> Iterator[Difference]:
    for identity in result["measurements"]:
        now = _plain(made[identity].to_json())
        counts["networks"] = counts.get("networks", 0) + 1
        before = {name: result["network"][name] for name in NETWORK_QUANTITIES}
        yield from differences("network", before, {name: now[name] for name in before}, ANALYSIS_TOLERANCE)


def _of_calibration(
    run: Run, result: Mapping[str, Any], counts: dict[str, int], left_out: list[str]
) -> Iterator[Difference]:
    from rig import calibration
    from rig.collect.rows import read_campaign

    collected = read_campaign(run)
    before = {_row_name(i, row): row for i, row in enumerate(result["kernels"]["before"])}
    rows = _plain(calibration.measured_kernels(collected.rows, collected.kind))
    now = {_row_name(i, row): row for i, row in enumerate(rows)}
    counts["rows"] = len(before)
    yield from differences("rows", before, now, ANALYSIS_TOLERANCE)
    idle = list(collected.idle_power_w) if collected.idle_power_w else None
    stored_idle = result["idle_power_w"]
    yield from differences(
        "quiet power", stored_idle and [stored_idle[k] for k in ("value", "lo", "hi")], idle, ANALYSIS_TOLERANCE
    )
    overhead = {"latency_s": collected.overhead[0], "energy_active_j": collected.overhead[1]}
    yield from differences("overhead of a call", result["overhead"], overhead, ANALYSIS_TOLERANCE)
    try:
        predictions = _plain(predictions_again(run, collected))
    except (RigError, OSError) as error:
        left_out.append(f"the cost model was not fitted again: {error}")
        return
    before = {_row_name(i, row): row for i, row in enumerate(result["validation"])}
    now = {_row_name(i, row): row for i, row in enumerate(predictions)}
    counts["predictions"] = len(before)
    yield from differences("cost model", before, now, FIT_TOLERANCE)


def predictions_again(run: Run, collected: Collected) -> list[dict[str, Any]]:
    """The held-out predictions of a model fitted anew; the split follows from the request."""
    from rig import calibration

    return calibration.validation_rows(refit(run, collected), collected)


def refit(run: Run, collected: Collected) -> Fitted:
    """A model fitted to a stored calibration as it was the first time: same split, same model to start from."""
    from rig import calibration
    from rig.collect.missing import asked_for
    from rig.store.store import Store

    request = run.manifest["request"]
    base = calibration.base_model(Store(run.path.parent.parent), run, request.get("from"))
    held_out = held_out_of(run)
    # A held-out kernel that was then asked for is fitted from then on.
    held_out = held_out._replace(kernels=held_out.kernels - asked_for(run))
    return calibration.fit_and_check(collected, held_out, profile_of(run).name, request["runtime"]["name"], base)


def held_out_of(run: Run) -> HeldOut:
    """What a stored calibration held out; BadInputError where it cannot be told any more."""
    from rig import calibration
    from rig.collect.adaptive import HELD_OUT_FILE
    from rig.collect.rows import load_campaign
    from rig.workloads import calibration_networks
    from rig.workloads.network_file import read_kernels

    request = run.manifest["request"]
    if "error" in request:
        return calibration.HeldOut(frozenset(), frozenset(run.read_json(HELD_OUT_FILE)["networks"]))
    profile, runtime = profile_of(run), request["runtime"]["name"]
    named = [job.context.path for job in load_campaign(run).contexts]
    drawn = run.path / calibration_networks.FOLDER
    around = tuple(path for path in named if path.parent.resolve() != drawn.resolve())
    if len(around) != len(request["around"]):
        raise BadInputError(f"{len(request['around'])} networks were named, {len(around)} are known", "nothing to do")
    kernels = [node.spec for path in around for node in read_kernels(path, runtime)]
    longest_s, version = calibration.longest_kernel_s(profile), request.get("design", 1)
    grid = calibration.choose_kernels(request["kernels"], request["seed"], kernels, runtime, longest_s, version)
    networks = calibration_networks.draw_networks(profile, around, request["seed"], run.path)
    return calibration.held_out_of(grid, networks)


def _row_name(number: int, row: Mapping[str, Any]) -> str:
    return f"{number + 1}, {row['name']}"


def differences(where: str, before: Any, now: Any, tolerance: float = ANALYSIS_TOLERANCE) -> Iterator[Difference]:
    """Where two plain values differ, leaf by leaf; what only the newer analysis says is no difference."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in before:
            if key not in now:
                yield Difference(f"{where}: {key}", _short(before[key]), None)
            else:
                yield from differences(f"{where}: {key}", before[key], now[key], tolerance)
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for i, (old, new) in enumerate(zip(before, now, strict=True)):
            yield from differences(f"{where}: {i + 1}", old, new, tolerance)
    elif not _equal(before, now, tolerance):
        yield Difference(where, _short(before), _short(now))


def _equal(before: Any, now: Any, tolerance: float) -> bool:
    numbers = [value for value in (before, now) if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) == 2:
        return math.isclose(before, now, rel_tol=tolerance, abs_tol=1e-15)
    return bool(before == now)


def _short(value: Any) -> Any:
    text = json.dumps(value)
    return value if len(text) <= 80 else text[:77] + "..."


def _plain(data: Any) -> Any:
    from rig.output import plain

    return plain(data)


def _key(name: str) -> str:
    return name if name.replace("_", "").replace("-", "").isalnum() else json.dumps(name)


def _toml(value: Any) -> str:
    """A plain value in TOML: tables inline, text as JSON writes it (a subset of TOML's)."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(key)} = {_toml(one)}" for key, one in value.items() if one is not None) + " }"
    if isinstance(value, Iterable) and not isinstance(value, str):
        return "[" + ", ".join(_toml(one) for one in value) + "]"
    return json.dumps(value)


def write_profile(run: Run, folder: Path) -> Path:
    """Write the profile ``replay-RUN`` into ``folder``; returns its path."""
    from rig.durable import disk_errors, write_atomic

    path = folder / f"{NAME.format(run=run.id)}.toml"
    with disk_errors(f"writing the profile of {run.id}", path):
        folder.mkdir(parents=True, exist_ok=True)
    text = f"# Written by rig replay {run.id}; delete this file to forget it.\n{profile_text(run)}"
    write_atomic(path, text.encode(), f"writing the profile of {run.id}")
    return path
