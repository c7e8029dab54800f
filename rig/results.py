"""``result.json`` of a run as typed, validated records: what the report draws, and nothing else.

The schemas share most fields: ``rig.optimize/1`` (docs/design.md), ``rig.measure/1`` (one ``network``) and
``rig.calibrate/1`` (``validation`` of the cost model, held out; ``kernels.before`` as measured), of tables
``rig.fit/1`` and ``rig.evaluate/1`` (``validation``). A missing or
malformed field is a StoreError that names the file and the field; unknown fields are left alone, so that a newer rig's
result still reads.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from rig.errors import StoreError
from rig.units import Quantity

SCHEMAS = ("rig.optimize/1", "rig.measure/1", "rig.calibrate/1", "rig.fit/1", "rig.evaluate/1")


def _quantity(data: Any) -> Any:
    """A Quantity from its JSON form; one whose value is null is missing (None), never zero."""
    if isinstance(data, dict):
        if "value" not in data:
            raise ValueError("a quantity needs the key 'value' (null where it is missing)")
        data = Quantity.from_json(data)
    if isinstance(data, Quantity):
        return None if data.value is None else data
    if data is None:
        return None
    raise ValueError(f"expected a quantity object, found {type(data).__name__}")


OptionalQ = Annotated[Quantity | None, BeforeValidator(_quantity)]
Q = Annotated[Quantity, BeforeValidator(_quantity)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, arbitrary_types_allowed=True)


class Device(_Part):
    """The device under test and how it was measured."""

    name: str
    serial: str | None = None
    runtime: str
    runtime_version: str | None = None
    power_mode: str | None = None
    meter: str | None = None
    boundary: str | None = None
    simulated: bool


class BudgetLimit(_Part):
    """One limit; ``limit`` is absolute in SI ``unit`` (1 MAC = 2 FLOP), ``relative`` the share a user wrote."""

    quantity: Literal["power", "energy", "latency", "flops", "params"]
    limit: float
    unit: str
    fps: float | None = None
    relative: float | None = None
    active_only: bool = False


class Network(_Part):
    """One network as measured; accuracies are fractions. None is missing (a device without a power meter)."""

    name: str
    accuracy_test: OptionalQ = None
    accuracy_val: float | None = None
    macs: int | None = None
    params: int | None = None
    size_bytes: int | None = None
    weight_bytes: int | None = None
    peak_activation_bytes: int | None = None
    power_w: OptionalQ
    idle_power_w: OptionalQ
    energy_j: OptionalQ
    energy_active_j: OptionalQ
    latency_s: Q
    latency_p50_s: float | None = None
    latency_p99_s: float | None = None
    fps: float | None = None
    missed_deadlines: int | None = None
    frames: int | None = None
    measurement_id: str | None = None
    onnx: str | None = None


class Stage(_Part):
    """One stage of an optimize run; ``peak_memory_bytes`` of its training, ``peak_memory_of``: process or GPU.

    removals: what left the network while it was trained; epochs: time and parameters of each.
    """

    name: str
    seconds: float | None = None
    peak_memory_bytes: int | None = None
    peak_memory_of: str | None = None
    removals: list[dict[str, Any]] = []
    epochs: list[dict[str, Any]] = []


class Retrained(_Part):
    """The result's network with fresh weights, trained beside the weights that were continued."""

    accuracy_test: OptionalQ = None
    accuracy_change: OptionalQ = None


class Round(_Part):
    """One trip to the device: what was predicted and what was measured, by limit name."""

    round: int
    width: float | None = None
    predicted: dict[str, OptionalQ]
    measured: dict[str, OptionalQ]
    accuracy_val: float | None = None
    verdict: str


class ControllerStep(_Part):
    """One step of the controller that drives the regularizer's strength."""

    step: int
    log_strength: float
    true_cost: float
    relaxed_cost: float | None = None
    target_cost: float
    loss: float | None = None
    alive_share: float | None = None


class Layer(_Part):
    """Width (output channels) of one layer before and after; ``group``: layers whose channels move together."""

    name: str
    group: str | int | None = None
    before: int
    after: int
    prunable: bool
    removed: bool = False
    shrunk_by: str | None = None
    why: str | None = None


class KernelShare(_Part):
    """One kernel of a network. Latency and energy are per inference, all ``calls`` together; ``macs`` likewise."""

    name: str
    label: str
    kind: str
    calls: int = 1
    macs: int
    latency_s: OptionalQ
    energy_active_j: OptionalQ = None
    extrapolated: bool = False
    source: str = ""


class Kernels(_Part):
    """The kernels of the baseline and of the result (empty where there is none)."""

    before: list[KernelShare] = []
    after: list[KernelShare] = []


class Validation(_Part):
    """One held-out subject: what the cost model said and what was measured. ``kind``: of a kernel."""

    name: str
    what: Literal["kernel", "network"]
    quantity: Literal["latency_s", "energy_active_j"]
    measured: Q
    predicted: Q
    extrapolated: bool = False
    kind: str | None = None


class Warning_(_Part):
    """A warning of the run and what to do about it."""

    code: str
    message: str
    fix: str | None = None


class RunResult(_Part):
    """``result.json`` of one run (see the module's docstring for the schemas)."""

    schema_name: Literal["rig.optimize/1", "rig.measure/1", "rig.calibrate/1", "rig.fit/1", "rig.evaluate/1"] = Field(
        alias="schema"
    )
    run_id: str
    command_line: str | list[str]
    kind: str
    basis: str | None = None
    device: Device
    task: str | None = None
    model: str | None = None
    seed: int | list[int] | None = None
    method: str | None = None
    weights: str | None = None
    retrained: Retrained | None = None
    budget: list[BudgetLimit] = []
    verdict: Literal["met", "missed", "undecided"] | None = None
    baseline: Network | None = None
    result: Network | None = None
    network: Network | None = None
    budget_used: OptionalQ = None
    cost_ratio: dict[str, OptionalQ] = {}
    accuracy_change: OptionalQ = None
    stages: list[Stage] = []
    rounds: list[Round] = []
    controller: list[ControllerStep] = []
    layers: list[Layer] = []
    kernels: Kernels = Kernels()
    validation: list[Validation] = []
    measurements: list[str] = []
    warnings: list[Warning_] = []
    versions: dict[str, Any] = {}
    timings: dict[str, Any] = {}

    @model_validator(mode="after")
    def _complete(self) -> RunResult:
        needed = {
            "rig.optimize/1": ("baseline", "result", "verdict", "budget"),
            "rig.measure/1": ("network",),
            "rig.calibrate/1": ("validation",),
            "rig.fit/1": ("validation",),
            "rig.evaluate/1": ("validation",),
        }[self.schema_name]
        missing = [name for name in needed if not getattr(self, name)]
        if missing:
            raise ValueError(f"{self.schema_name} needs {', '.join(missing)}")
        return self

    @property
    def simulated(self) -> bool:
        """Whether what is reported comes from a simulated device."""
        return self.device.simulated or "simulated" in (self.kind, self.basis)

    @property
    def command(self) -> str:
        """The command as one line of text."""
        return self.command_line if isinstance(self.command_line, str) else " ".join(self.command_line)

    @property
    def has_power(self) -> bool:
        """Whether any power was measured; False on a time-only device."""
        networks = [n for n in (self.baseline, self.result, self.network) if n is not None]
        if networks:
            return any(n.energy_active_j is not None or n.power_w is not None for n in networks)
        return any(v.quantity == "energy_active_j" for v in self.validation)


def read_result(run_path: Path) -> RunResult:
    """Read ``result.json`` of a run folder; raises StoreError naming the file and the first bad field."""
    path = Path(run_path) / "result.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StoreError(
            f"report of run {path.parent.name}: there is no result.json, so the run did not finish",
            "resume the run, or choose another: rig report RUN",
        ) from None
    except (OSError, ValueError) as error:
        raise StoreError(f"reading {path}: {error}", "repeat the run; the file is damaged") from error
    return parse_result(data, str(path))


def parse_result(data: Any, where: str) -> RunResult:
    """Validate the decoded JSON; ``where`` names its origin in the error. Raises StoreError."""
    try:
        return RunResult.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "(whole file)"
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise StoreError(
            f"reading {where}: field {field}: {first['msg']}{more}",
            f"repeat the run with this version of rig; schemas known: {', '.join(SCHEMAS)}",
        ) from error
