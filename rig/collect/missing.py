"""Kernels that a cost model does not know, measured on the spot: into the campaign the model was fitted to.

    prediction ─► kernels outside what was measured ─► chains of them, in the calibration's own run ─► fitted again

What cannot stand alone in a chain (a change of layout beside a kernel) comes with the network in which it occurs,
which is then profiled whole, as the networks of the calibration were.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from device_agents.records import KernelSpec
from rig.collect.plan import CAMPAIGN_FILE
from rig.durable import write_atomic
from rig.errors import BadInputError
from rig.workloads.calibration_networks import FOLDER

if TYPE_CHECKING:
    from power_models.kernel_cost import KernelCostModel
    from power_models.kernels import KernelNode
    from rig.collect.collector import Collected, Progress
    from rig.connection.session import Session
    from rig.store.store import Run, Store

MISSING_FILE = "artifacts/missing.json"


class Missing(NamedTuple):
    """Kernels of a network outside what was measured: of a kind that never was, or of sizes that were not."""

    never_measured: list[KernelSpec]
    extrapolated: list[KernelSpec]

    @property
    def kernels(self) -> list[KernelSpec]:
        """All of them, each once."""
        return [*self.never_measured, *self.extrapolated]


def missing_kernels(model: KernelCostModel, nodes: Sequence[KernelNode]) -> Missing:
    """What the model does not know of a network's kernels, in order of first execution; views cost nothing."""
    known = set(model.known_kinds)
    specs = [spec for spec in dict.fromkeys(node.spec for node in nodes) if spec.kind != "view"]
    priced = [spec for spec in specs if (spec.kind, spec.dtype) in known]
    flagged = model.predict(priced).extrapolated.tolist() if priced else []
    return Missing(
        [spec for spec in specs if (spec.kind, spec.dtype) not in known],
        [spec for spec, outside in zip(priced, flagged, strict=True) if outside],
    )


def run_of_model(store: Store, model: KernelCostModel) -> Run:
    """The newest calibration in the configuration of a cost model; BadInputError where the store has none."""
    device = model.configuration.device
    for manifest in reversed(store.runs()):
        if (manifest["command"], manifest["device"]) != ("calibrate", device):
            continue
        run = store.open_run(manifest["id"])
        same = run.info is not None and run.info.configuration == model.configuration
        if same and (run.path / CAMPAIGN_FILE).exists():
            return run
    raise BadInputError(
        f"the cost model of {device} was not calibrated in this store, so nothing can be measured into it",
        f"rig calibrate --device {device}",
    )


def asked_for(run: Run) -> frozenset[KernelSpec]:
    """The kernels that were added to a calibration later."""
    if not (run.path / MISSING_FILE).exists():
        return frozenset()
    return frozenset(KernelSpec.from_json(kernel) for kernel in run.read_json(MISSING_FILE)["kernels"])


def measure_missing(
    session: Session,
    run: Run,
    kernels: Sequence[KernelSpec],
    network: Path,
    runtime: str,
    progress: Callable[[Progress], None] | None = None,
) -> Collected:
    """Measure kernels into a calibration's run, by its plan; returns all of its rows.

    ``network``: where they occur; it is measured whole too where one of them cannot be put into a chain. Raises what
    ``collect`` raises.
    """
    from rig.collect.collector import Context, collect, read_campaign
    from rig.collect.rows import load_campaign

    campaign = load_campaign(run)
    alone = [kernel for kernel in kernels if _stands_alone(kernel, runtime)]
    listed = dict.fromkeys([*sorted(asked_for(run)), *alone])
    run.write_json(MISSING_FILE, {"kernels": [kernel.to_json() for kernel in listed]})
    contexts = []
    if len(alone) < len(kernels):
        path = _kept(network, run)
        contexts.append(Context(path.stem, path))
    collect(
        session,
        run,
        alone,
        campaign.plan,
        runtime=runtime,
        contexts=contexts,
        context_plan=campaign.context_plan,
        seed=campaign.seed,
        progress=progress,
    )
    return read_campaign(run)


def _stands_alone(kernel: KernelSpec, runtime: str) -> bool:
    if runtime == "virtual":
        return True
    from rig.workloads.kernel_onnx import KINDS

    return kernel.kind in KINDS and kernel.dtype == "float32"


def _kept(network: Path, run: Run) -> Path:
    """A copy beside the calibration's drawn networks, so that the run can be read again without the file."""
    data = network.read_bytes()
    path = run.path / FOLDER / f"missing-{network.stem}-{hashlib.sha256(data).hexdigest()[:8]}.onnx"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, data, "keeping a network to measure")
    return path
