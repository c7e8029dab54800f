"""``rig predict --measure-missing``: kernels unknown to the cost model → measured → fitted again → saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rig import calibration
from rig.collect import missing
from rig.commands.options import PredictOptions, command_words
from rig.output import Interrupted
from rig.profiles import load_profile
from rig.store import evidence
from rig.store.store import Run, Store, utc_now
from rig.units import Quantity

if TYPE_CHECKING:
    from device_agents.records import KernelSpec
    from power_models.kernel_cost import KernelCostModel
    from power_models.kernels import KernelNode
    from power_models.validate import ErrorSummary
    from rig.calibration import Fitted
    from rig.collect.collector import Collected


def run(
    options: PredictOptions, store: Store, model: KernelCostModel, nodes: Sequence[KernelNode]
) -> dict[str, Any] | None:
    """What was measured, or None where nothing was missing; the new model is in the store afterwards.

    Raises UnknownDeviceError, BadInputError (the model was not calibrated here), DeviceError, Interrupted.
    """
    wanted = missing.missing_kernels(model, nodes)
    if not wanted.kernels:
        return None
    profile = load_profile(options.device)
    profile.require_host()
    stored = missing.run_of_model(store, model)
    before = dict(stored.read_json("result.json")) if (stored.path / "result.json").exists() else {}
    from rig.connection.session import Session
    from rig.console import Progress

    with Progress() as progress:
        progress.stage(f"measuring {len(wanted.kernels)} kernels on {profile.name}, into {stored.id}")
        try:
            with Session(profile, "rig predict --measure-missing") as session:
                session.measures_for(stored.path)
                evidence.keep_session(stored, session)
                collected = missing.measure_missing(
                    session,
                    stored,
                    wanted.kernels,
                    options.model,
                    profile.runtime.name,
                    lambda at: progress.update(f"{at.done} of {at.total} measurements"),
                )
                stored.problems += session.problems
        except KeyboardInterrupt:
            words = " ".join(command_words("predict", options))
            raise Interrupted(f"interrupted; what was measured is saved in {stored.id}", resume=words) from None
        progress.stage(f"fitting the cost model to {len(collected.rows)} kernels")
        from rig.replay.analysis import refit

        fitted = refit(stored, collected)
    fitted.model.save(store.model_folder(profile.name))
    _update(stored, before, collected, fitted)
    return _result(stored, wanted, before, collected, fitted)


def _update(stored: Run, before: Mapping[str, Any], collected: Collected, fitted: Fitted) -> None:
    """The calibration's result with what it holds now: what a replay compares with."""
    if not before:
        return
    changed = {
        "kernels": {"before": calibration.measured_kernels(collected.rows, collected.kind)},
        "validation": calibration.validation_rows(fitted, collected),
        "held_out": _plain(fitted.summaries),
        "held_out_networks": _plain(fitted.network_summaries),
        "overhead": {"latency_s": collected.overhead[0], "energy_active_j": collected.overhead[1]},
        "measurements": sorted(stored.measurement_ids()),
        "extended_utc": utc_now(),
    }
    if collected.idle_power_w:
        changed["idle_power_w"] = Quantity(*collected.idle_power_w, kind=collected.kind).to_json()
    stored.write_json("result.json", {**before, **changed})


def _plain(summaries: Mapping[str, ErrorSummary]) -> dict[str, Any]:
    return {name: dict(summary._asdict()) for name, summary in summaries.items()}


def _result(
    stored: Run, wanted: missing.Missing, before: Mapping[str, Any], collected: Collected, fitted: Fitted
) -> dict[str, Any]:
    """Each kernel asked for: what it costs, or why it could not be measured."""
    # A kernel's chain says more of it than its share of a network's profile.
    ranked = sorted(collected.rows, key=lambda row: row.source == "chain")
    found: dict[KernelSpec, Any] = {row.kernel: row for row in ranked if row.kernel in set(wanted.kernels)}
    reasons = {problem.subject: problem.reason for problem in collected.problems}
    rows = calibration.measured_kernels(list(found.values()), collected.kind)
    fresh = set(wanted.never_measured)
    why = ["never measured" if kernel in fresh else "extrapolated" for kernel in found]
    return {
        "run_id": stored.id,
        "kernels": [
            {**row, "label": _label(kernel), "was": was} for kernel, row, was in zip(found, rows, why, strict=True)
        ],
        "unmeasured": [
            {"label": _label(kernel), "reason": reasons.get(kernel.label, "no usable measurement")}
            for kernel in wanted.kernels
            if kernel not in found
        ],
        "held_out_before": before.get("held_out"),
        "held_out": _plain(fitted.summaries),
    }


def _label(kernel: KernelSpec) -> str:
    """As in the table of a prediction."""
    return f"{kernel.label} +{kernel.fused}" if kernel.fused else kernel.label
