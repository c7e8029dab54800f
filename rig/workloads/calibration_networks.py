"""The networks that a calibration measures whole: drawn ones, and those that the user names with ``--around``.

Isolated kernels run hot in cache, kernels of a network do not: a real runtime is measured both ways, and profiles the
networks' kernels. The virtual runtime profiles nothing: its networks say how far sums of kernels are off
(``power_models.network_check``). The drawn networks are written into the run folder, the same in a resumed run. Some of
them are held out whole.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import ValidationError

from rig.durable import write_atomic
from rig.errors import BadInputError
from rig.profiles import PlanSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from device_agents.records import MeasurePlan
    from rig.collect.collector import Context
    from rig.profiles import DeviceProfile

FOLDER = "artifacts/contexts"
NAMED_FOLDER = "artifacts/around"
DEFAULT_CONTEXTS = 56
DEFAULT_CONTEXTS_VIRTUAL = 28
HELD_OUT_EVERY = 7  # prime to the turns in which families and image sides are drawn


class Networks(NamedTuple):
    """The networks to measure: those to fit, and those held out to check the fit."""

    fitted: list[Context]
    held_out: list[Context]


class Plans(NamedTuple):
    """How chains and networks are measured."""

    chains: MeasurePlan
    networks: MeasurePlan


def network_count(profile: DeviceProfile) -> int:
    """How many networks to draw: the profile's ``grid.contexts``, else a default."""
    count = profile.grid.get("contexts", DEFAULT_CONTEXTS_VIRTUAL if profile.simulated else DEFAULT_CONTEXTS)
    if not isinstance(count, int) or count < 0:
        raise BadInputError(
            f"{profile.name}: grid.contexts is {count!r}", fix="write a whole number, as contexts = 48; 0 for none"
        )
    return count


def keep_named(around: Sequence[Path], run_folder: Path) -> tuple[Path, ...]:
    """Copy the networks that were named into the run folder, so that it can be replayed without them; the copies."""
    copies = []
    for number, path in enumerate(around):
        copy = run_folder / NAMED_FOLDER / str(number) / path.name  # the name stays: it is the network's
        if not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(copy, path.read_bytes(), "keeping a network to measure near")
        copies.append(copy)
    return tuple(copies)


def draw_networks(profile: DeviceProfile, around: Sequence[Path], seed: int, run_folder: Path) -> Networks:
    """The drawn networks, written where they are missing, and ``around`` (never held out)."""
    from rig.collect.collector import Context
    from rig.workloads.context_networks import context_designs

    named = [Context(path.stem, path) for path in around]
    fitted, held_out = [], []
    for number, design in enumerate(context_designs(network_count(profile), seed)):
        path = run_folder / FOLDER / f"{design.name}.onnx"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, design.model().SerializeToString(), "writing a network to measure")
        (held_out if number % HELD_OUT_EVERY == HELD_OUT_EVERY - 1 else fitted).append(Context(design.name, path))
    return Networks([*named, *fitted], held_out)


def plans_of(profile: DeviceProfile) -> Plans:
    """The profile's plan, with what ``grid.chain_plan`` and ``grid.context_plan`` say otherwise."""
    return Plans(_plan(profile, "chain_plan"), _plan(profile, "context_plan"))


def _plan(profile: DeviceProfile, section: str) -> MeasurePlan:
    own: Any = profile.grid.get(section, {})
    try:
        return PlanSettings.model_validate({**profile.plan.model_dump(), **own}).to_plan()
    except (ValidationError, TypeError) as error:
        problem = f"{profile.name}: grid.{section} is not a plan: {error}"
        raise BadInputError(problem, fix="use the fields of [plan], such as window_s = 0.1") from error
