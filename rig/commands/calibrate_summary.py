"""What a calibration ended with: its result, what the person should know of it, and both as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rig import calibration
from rig.commands import adaptive_words, replay
from rig.configuration import described
from rig.output import warning
from rig.profiles import DeviceProfile
from rig.store.store import Run

if TYPE_CHECKING:
    from rig.collect.collector import Collected
    from rig.console import Console


def result_of(
    profile: DeviceProfile,
    seed: int,
    stored: Run,
    collected: Collected,
    fitted: calibration.Fitted,
    saved: bool,
    again: str,
) -> dict[str, Any]:
    """``result.json`` of a campaign that was fitted; ``again``: the command line that goes on with it."""
    model = fitted.model
    from rig.collect.rows import load_campaign

    campaign = load_campaign(stored)
    asked = len(campaign.chains)
    measured = len(
        {row.kernel for row in collected.rows if row.source == "chain"} & {c.kernel for c in campaign.chains}
    )
    unusable = len(collected.problems)
    profiled = len(collected.networks)
    complete = measured + profiled + unusable >= asked + len(campaign.contexts)
    meter = next((r["sensor"]["name"] for r in stored.measurements(arrays=False) if r.get("sensor")), None)
    return {
        "run_id": stored.id,
        "command_line": again,
        "device": described(model.configuration, meter, profile.simulated),
        "kind": collected.kind,
        "basis": None,
        "seed": seed,
        "kernels": {"before": calibration.measured_kernels(collected.rows, collected.kind)},
        "counts": {
            "asked": asked,
            "measured": measured,
            "unusable": unusable,
            "networks_asked": len(campaign.contexts),
            "networks_measured": profiled,
        },
        "complete": complete,
        "held_out": {name: dict(summary._asdict()) for name, summary in fitted.summaries.items()},
        "held_out_networks": {name: dict(summary._asdict()) for name, summary in fitted.network_summaries.items()},
        "validation": calibration.validation_rows(fitted, collected),
        "idle_power_w": _idle(collected),
        "overhead": {"latency_s": collected.overhead[0], "energy_active_j": collected.overhead[1]},
        "saved": saved,
        "measurements": sorted(stored.measurement_ids()),
        "versions": stored.manifest["environment"],
        "warnings": _warnings(profile, collected, fitted, complete, saved, again),
        "next": f"rig optimize --device {profile.name} --task fashion-mnist --target-power 50% --fps 60"
        if collected.idle_power_w
        else f"rig optimize --device {profile.name} --task fashion-mnist --target-latency 50%",
    }


def _idle(collected: Collected) -> dict[str, Any] | None:
    from rig.units import Quantity

    return Quantity(*collected.idle_power_w, kind=collected.kind).to_json() if collected.idle_power_w else None


def _warnings(
    profile: DeviceProfile,
    collected: Collected,
    fitted: calibration.Fitted,
    complete: bool,
    saved: bool,
    again: str,
) -> list[dict[str, Any]]:
    found = replay.note(profile)
    for reason, number in Counter(problem.reason for problem in collected.problems).most_common(5):
        where = next(problem.subject for problem in collected.problems if problem.reason == reason)
        more = f" and {number - 1} more" if number > 1 else ""
        found.append(warning("unusable-kernel", f"{where}{more}: {reason}", again))
    if collected.idle_power_w is None:
        message = f"{profile.name} has no power source: the model knows time, not energy"
        found.append(warning("no-power", message, "rig devices says what is missing"))
    if not fitted.summaries and not fitted.network_summaries:
        found.append(warning("unchecked", "no held-out kernel was measured, so the model is unchecked", again))
    if not complete:
        found.append(warning("incomplete", "the time was up before every kernel was measured", again))
    if not saved:
        message = "the cost model that was there does better on what was held out, and was kept"
        found.append(warning("kept-model", message, again))
    return found


def show(result: Mapping[str, Any], console: Console) -> None:
    """How much was measured and how well the model predicts kernels it has not seen."""
    from rig.wording import boundary_words, figure, label

    if "pairs" in result:
        from rig.commands import calibrate_fusion

        calibrate_fusion.show(result, console)
        return
    counts = result["counts"]
    mark = f"{label(result['kind'], result['basis'])}, {boundary_words(result['device']['boundary'])}"
    networks = counts["networks_asked"]
    more = f", {counts['networks_measured']} of {networks} networks" if networks else ""
    kernels = f"{counts['measured']} of {counts['asked']} kernels{more}"
    console.line(f"Measured  {kernels}, {counts['unusable']} problems   {mark}")
    if result["idle_power_w"]:
        console.line(f"Quiet     {figure(result['idle_power_w'], 'W')} (loaded and waiting)")
    names = {"latency_s": "latency", "energy_active_j": "active energy"}
    for what, summaries in (("kernels", result["held_out"]), ("networks", result["held_out_networks"])):
        for quantity, summary in summaries.items():
            errors = f"median error {100 * summary['median']:.1f} %, P90 {100 * summary['p90']:.1f} %"
            covered = f"intervals cover {100 * summary['coverage']:.0f} % of {summary['n']} {what}"
            console.line(f"Held out  {names[quantity]}: {errors}, {covered}")
    adaptive_words.show(result, console)
    console.line(
        f"Model     {'saved to' if result['saved'] else 'not saved; kept'} {result['artifacts']['cost_model']}"
    )
