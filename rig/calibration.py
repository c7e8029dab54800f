"""The steps of a calibration: what is measured, which run is gone on with, fit, held-out error, what is saved."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from rig.cost_models import MODEL_FILE
from rig.errors import BadInputError, StoreError
from rig.units import Quantity

if TYPE_CHECKING:
    from device_agents.records import KernelSpec
    from power_models.kernel_cost import KernelCostModel, KernelRow
    from power_models.network_check import NetworkRow
    from power_models.validate import ErrorSummary, Prediction
    from rig.collect.collector import Collected
    from rig.collect.rows import MeasuredNetwork
    from rig.commands.options import CalibrateOptions
    from rig.profiles import DeviceProfile
    from rig.store.store import Run, Store
    from rig.workloads.calibration_networks import Networks

Item = TypeVar("Item")

DEFAULT_KERNELS = 200
HELD_OUT_SHARE = 0.15
FEWEST_HELD_OUT = 6
BASE_FOLDER = "artifacts/base-model"
UNFINISHED = ("running", "interrupted", "time-limit")

NORMAL_95 = 1.96
QUANTITIES = ("latency_s", "energy_active_j")


class Grid(NamedTuple):
    """The kernels to measure: those to fit, and those held out to check the fit."""

    fitted: list[KernelSpec]
    held_out: list[KernelSpec]


class Fitted(NamedTuple):
    """A model with its held-out predictions and their summaries, by quantity: of kernels, and of whole networks."""

    model: KernelCostModel
    predictions: Mapping[str, Sequence[Prediction]]
    summaries: Mapping[str, ErrorSummary]
    networks: Mapping[str, Sequence[Prediction]]
    network_summaries: Mapping[str, ErrorSummary]


class HeldOut(NamedTuple):
    """What the fit must not see: kernels, and all that stems from some networks (by name)."""

    kernels: frozenset[KernelSpec]
    networks: frozenset[str]

    def rows(self, rows: Sequence[KernelRow]) -> list[KernelRow]:
        """The rows to check on: the chains of the kernels, the profiles of the networks."""
        return [
            row for row in rows if (row.source == "chain" and row.kernel in self.kernels) or row.group in self.networks
        ]

    def training(self, rows: Sequence[KernelRow]) -> list[KernelRow]:
        """The rows to fit to: neither a held-out kernel nor what was measured together with one."""
        groups = self.networks | {row.group for row in self.rows(rows)}
        return [row for row in rows if row.kernel not in self.kernels and row.group not in groups]


def kernel_count(profile: DeviceProfile, options: CalibrateOptions) -> int:
    """How many kernels to measure: as asked, else the profile's ``grid.kernels``, else a default."""
    count = options.kernels or profile.grid.get("kernels", DEFAULT_KERNELS)
    if not isinstance(count, int) or count < 1:
        raise BadInputError(f"{profile.name}: grid.kernels is {count!r}", fix="write a whole number, as kernels = 200")
    return count


def longest_kernel_s(profile: DeviceProfile) -> float:
    """The longest kernel worth measuring, in a small board's seconds: ``grid.longest_s`` of a slow device's profile."""
    from rig.workloads.grid import LONGEST_S

    longest_s = profile.grid.get("longest_s", LONGEST_S)
    if isinstance(longest_s, bool) or not isinstance(longest_s, int | float) or not longest_s > 0:
        raise BadInputError(f"{profile.name}: grid.longest_s is {longest_s!r}", fix="write seconds, as longest_s = 0.1")
    return float(longest_s)


def choose_kernels(
    count: int,
    seed: int,
    around: Sequence[KernelSpec],
    runtime: str,
    longest_s: float | None = None,
    version: int | None = None,
) -> Grid:
    """A space-filling design (near ``around`` too), of which a random part is held out, none of a kind's only ones.

    The kernels are as ``runtime`` executes them, so that what was held out is found again among what was measured.
    ``version``: of the design, that of today by default.
    """
    from rig.workloads.families import DESIGN_VERSION
    from rig.workloads.grid import LONGEST_S, design

    if runtime != "virtual":
        from rig.workloads.kernel_onnx import KINDS, as_executed

        # What cannot be put into a chain is a companion of what can, such as a change of layout.
        around = [spec for spec in around if spec.kind in KINDS]
    version = DESIGN_VERSION if version is None else version
    chosen = design(count, seed, around=around, longest_s=longest_s or LONGEST_S, version=version)
    if runtime != "virtual":
        chosen = list(dict.fromkeys(as_executed(spec) for spec in chosen))
    by_kind: dict[str, list[KernelSpec]] = {}
    for spec in chosen:
        by_kind.setdefault(spec.kind, []).append(spec)
    # A kind with few kernels needs them all in the fit: a kind that was never fitted has no price.
    spare = [spec for members in by_kind.values() if len(members) >= 4 for spec in members[1:]]
    wanted = min(max(FEWEST_HELD_OUT, round(count * HELD_OUT_SHARE)), len(spare) // 2)
    held = set(random.Random(f"held-out-{seed}").sample(spare, wanted))
    return Grid([spec for spec in chosen if spec not in held], [spec for spec in chosen if spec in held])


def interleaved(fitted: Sequence[Item], held_out: Sequence[Item]) -> list[Item]:
    """Both in their orders, the held-out ones spread evenly, so that a campaign cut short can still be checked."""
    places = [(i + 0.5) / len(fitted) for i in range(len(fitted))]
    places += [(i + 0.5) / len(held_out) for i in range(len(held_out))]
    ranked = sorted(zip(places, range(len(places)), [*fitted, *held_out], strict=True), key=lambda entry: entry[:2])
    return [item for _, _, item in ranked]


def request_of(profile: DeviceProfile, options: CalibrateOptions) -> dict[str, Any]:
    """What makes two calibrations the same campaign, so that the second goes on with the first."""
    from rig.workloads.families import DESIGN_VERSION

    # What was not asked for is left out, so that an older run of the same campaign is still the same.
    more = {name: value for name, value in (("error", options.error), ("from", options.base)) if value is not None}
    return {
        **more,
        "design": DESIGN_VERSION,
        "kernels": kernel_count(profile, options),
        "seed": options.seed,
        "around": [hashlib.sha256(path.read_bytes()).hexdigest() for path in options.around],
        "runtime": profile.runtime.model_dump(),
        "plan": profile.plan.model_dump(),
        "grid": {name: value for name, value in sorted(profile.grid.items()) if name != "kernels"},
    }


def unfinished_run(store: Store, device: str, request: Mapping[str, Any]) -> Run | None:
    """The newest run of the same campaign that did not finish."""
    for manifest in reversed(store.runs()):
        same = manifest["device"] == device and manifest.get("request") == request
        if same and manifest["command"] == "calibrate" and manifest["state"] in UNFINISHED:
            return store.open_run(manifest["id"])
    return None


def held_out_of(grid: Grid, networks: Networks) -> HeldOut:
    """Everything that is held out."""
    return HeldOut(frozenset(grid.held_out), frozenset(context.name for context in networks.held_out))


def base_model(store: Store, run: Run, base: str | None) -> KernelCostModel | None:
    """The model to start from, kept in the run folder: a resumed or replayed run starts from the same."""
    if base is None:
        return None
    from power_models.kernel_cost import KernelCostModel
    from rig.cost_models import load_cost_model

    folder = run.path / BASE_FOLDER
    if not (folder / MODEL_FILE).is_file():
        load_cost_model(store, base).save(folder)
    return KernelCostModel.load(folder)


def fit_and_check(
    collected: Collected, held_out: HeldOut, device: str, runtime: str, base: KernelCostModel | None = None
) -> Fitted:
    """Fit to the rows that are not held out; predict those that are. StoreError where too little was measured.

    ``base``: the model of a similar device to start from.
    """
    from power_models.kernel_cost import KernelCostModel
    from power_models.network_check import learn_from_networks
    from power_models.transfer_fit import fit_transferred
    from power_models.validate import predict_rows, summarize

    training = held_out.training(collected.rows)
    if not training or collected.configuration is None:
        raise StoreError(
            f"{device}: no kernel has been measured completely, so there is nothing to fit",
            fix=f"rig calibrate --device {device} with more --time",
        )
    about = {"idle_power_w": collected.idle_power_w, "overhead": collected.overhead}
    if base is None:
        model = KernelCostModel.fit(training, collected.configuration, collected.kind, **about)
    else:
        model = fit_transferred(base, training, collected.configuration, collected.kind, **about)
    whole = [network for network in collected.networks if network.name not in held_out.networks]
    profiled = not {network.name for network in whole}.isdisjoint(row.group for row in training)
    model.layout_block = collected.layout_block
    model = learn_from_networks(model, _network_rows(model, whole, runtime), fitted=profiled)
    checked = _priced(model, held_out.rows(collected.rows))
    predictions = {name: found for name, found in predict_rows(model, checked).items() if found} if checked else {}
    networks = _predicted_networks(model, collected, held_out, runtime)
    return Fitted(
        model,
        predictions,
        {name: summarize(found) for name, found in predictions.items()},
        networks,
        {name: summarize(found) for name, found in networks.items()},
    )


def _priced(model: KernelCostModel, rows: Sequence[KernelRow]) -> list[KernelRow]:
    known = set(model.known_kinds)
    return [row for row in rows if (row.kernel.kind, row.kernel.dtype) in known]


def _predicted_networks(
    model: KernelCostModel, collected: Collected, held_out: HeldOut, runtime: str
) -> dict[str, list[Prediction]]:
    """Held-out networks, priced as ``rig predict`` does; one with a kind that was never measured is not checked."""
    from power_models.validate import predict_networks

    members = [network for network in collected.networks if network.name in held_out.networks]
    found = _network_rows(model, members, runtime)
    return {name: predictions for name, predictions in predict_networks(model, found).items() if predictions}


def _network_rows(model: KernelCostModel, networks: Sequence[MeasuredNetwork], runtime: str) -> list[NetworkRow]:
    """Measured networks as kernels (the runtime's own list, where it gave one) and totals; those that can be priced."""
    from power_models.network_check import NetworkRow
    from rig.workloads.network_file import read_kernels

    known, found = set(model.known_kinds), []
    for network in networks:
        kernels = list(network.kernels or ())
        if network.kernels is None:
            kernels = [node.spec for node in read_kernels(network.path, runtime, block=model.layout_block)]
        energy = network.measurement.energy_active_j
        if all((kernel.kind, kernel.dtype) in known for kernel in kernels):
            latency_s = float(network.measurement.latency_s.value or 0.0)
            found.append(NetworkRow(network.name, kernels, latency_s, None if energy is None else energy.value))
    return found


def save_better(fitted: Fitted, collected: Collected, held_out: HeldOut, folder: Path, runtime: str) -> bool:
    """Save the model unless the saved one of the same configuration does better on what this fit has not seen.

    Both are scored on the held-out networks (their mean errors, over the quantities), where there are any, else on the
    held-out kernels (medians); the saved model may have seen some of these, which favours it. Returns whether the new
    model was saved.
    """
    if (folder / MODEL_FILE).is_file() and (fitted.summaries or fitted.network_summaries):
        old = _old_scores(fitted.model, collected, held_out, folder, runtime)
        new = _scores(fitted.network_summaries, fitted.summaries)
        if old is not None and old < new[: len(old)]:
            return False
    fitted.model.save(folder)
    return True


def _old_scores(
    model: KernelCostModel, collected: Collected, held_out: HeldOut, folder: Path, runtime: str
) -> tuple[float, ...] | None:
    """What the saved model scores; None where it is not comparable: another configuration, damaged, fewer kinds."""
    from power_models.kernel_cost import KernelCostModel
    from power_models.validate import predict_rows, summarize

    try:
        old = KernelCostModel.load(folder)
    except ValueError:
        return None  # a damaged or older file: the new model takes its place
    if old.configuration != model.configuration or not set(model.known_kinds) <= set(old.known_kinds):
        return None
    if set(model.known_kinds) < set(old.known_kinds):
        return (-math.inf,)  # it prices kinds that the new one does not know
    networks = _predicted_networks(old, collected, held_out, runtime)
    rows = _priced(old, held_out.rows(collected.rows))
    kernels = {name: found for name, found in predict_rows(old, rows).items() if found} if rows else {}
    return _scores(*({name: summarize(found) for name, found in part.items()} for part in (networks, kernels)))


def _scores(networks: Mapping[str, ErrorSummary], kernels: Mapping[str, ErrorSummary]) -> tuple[float, ...]:
    """What models are compared by, the first that both have deciding: error of networks, then of kernels."""
    of_networks = [summary.mean for summary in networks.values()]
    of_kernels = [summary.median for summary in kernels.values()]
    return tuple(sum(part) / len(part) for part in (of_networks, of_kernels) if part)


def validation_rows(fitted: Fitted, collected: Collected) -> list[dict[str, Any]]:
    """The held-out kernels and networks, measured against predicted, as ``validation`` of docs/design.md."""
    kind, found = collected.kind, []
    # Several rows may be of one kernel: the measured value tells them apart.
    rows = {(row.kernel.label, value): row for row in collected.rows for value in (row.latency_s, row.energy_active_j)}
    for quantity, predictions in fitted.predictions.items():
        for one in predictions:
            row = rows[one.name, one.measured]
            se = row.latency_se_s if quantity == "latency_s" else row.energy_se_j
            measured = _with_error(one.measured, se, kind)
            about = {"what": "kernel", "kind": row.kernel.kind, "source": row.source}
            found.append(_validation_row(one, quantity, measured, about))
    whole = {network.name: network.measurement for network in collected.networks}
    for quantity, predictions in fitted.networks.items():
        for one in predictions:
            measured = getattr(whole[one.name], quantity)
            found.append(_validation_row(one, quantity, measured, {"what": "network", "kind": "network"}))
    return found


def _validation_row(one: Prediction, quantity: str, measured: Quantity, about: Mapping[str, str]) -> dict[str, Any]:
    predicted = Quantity(one.predicted, one.lo, one.hi, kind="predicted", basis=measured.kind)
    return {
        "name": one.name,
        **about,
        "quantity": quantity,
        "measured": measured.to_json(),
        "predicted": predicted.to_json(),
        "extrapolated": one.extrapolated,
    }


def measured_kernels(rows: Sequence[KernelRow], kind: str) -> list[dict[str, Any]]:
    """Every measured kernel, as ``kernels.before`` of docs/design.md."""
    return [
        {
            "name": row.kernel.label,
            "label": row.kernel.label,
            "kind": row.kernel.kind,
            "calls": 1,
            "macs": row.kernel.macs,
            "latency_s": _with_error(row.latency_s, row.latency_se_s, kind).to_json(),
            "energy_active_j": None
            if row.energy_active_j is None
            else _with_error(row.energy_active_j, row.energy_se_j, kind).to_json(),
            "extrapolated": False,
            "source": row.source,
        }
        for row in rows
    ]


def _with_error(value: float, standard_error: float | None, kind: str) -> Quantity:
    half = NORMAL_95 * standard_error if standard_error is not None else math.inf
    return Quantity.around(value, half, kind=kind)
