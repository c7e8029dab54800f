"""The kernels that a device runs for a network: the runtime's own optimized graph where it can be asked, else rules.

    the store's graphs/<device>/   same model, runtime version, options ──► its kernels
        └─ not there: asked of the agent (``inspect``), at the device's own settings, and kept
             └─ cannot be asked (simulated, unreachable, busy, another runtime): fusion rules, and why

A graph is asked for once: it depends on the file, the runtime's version and its options, not on weights' values.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rig.cost_models import kernel_rules
from rig.durable import write_atomic
from rig.errors import BadInputError, DeviceError, StoreError
from rig.workloads.network_file import check_file, parse_shape, read_kernels

if TYPE_CHECKING:
    from device_agents.records import Configuration
    from power_models.kernel_cost import KernelCostModel
    from power_models.kernels import FusionRules, KernelNode
    from rig.connection.session import Session
    from rig.profiles import DeviceProfile
    from rig.store.store import Store

ASKABLE = "onnxruntime"  # the runtime whose agent answers ``inspect``
FEWEST_RUNS = 3  # of the profile that comes with an inspection, which is not used here
RULES_FILE = "fusion.json"  # beside the cost model: what was found by measurement (power_models/fusion_rules.py)


class KernelList(NamedTuple):
    """``nodes`` in execution order; ``source``: runtime (its own graph), measured rules, or rules; ``why`` not runtime.

    ``expected``: whether rules are all that there is for such a device, so that nobody need be warned.
    """

    nodes: list[KernelNode]
    source: str
    why: str | None = None
    expected: bool = True


def executed_kernels(
    profile: DeviceProfile | None,
    model: KernelCostModel,
    store: Store,
    path: Path,
    shape_text: str | None = None,
    *,
    session: Session | None = None,
    ask: bool = True,
) -> KernelList:
    """The kernels of an ONNX file on the device of a cost model.

    ``profile``: None for a device that is priced but not measured. ``session``: one that is open on the device (else
    one is opened, where the graph is not kept yet). ``ask`` False: the device is left alone. Raises as
    ``read_kernels`` does; that the device does not answer is no error here.
    """
    check_file(path)
    configuration = model.configuration
    if profile is None or profile.simulated or {profile.runtime.name, configuration.runtime} != {ASKABLE}:
        runtime = configuration.runtime or "an unknown runtime"
        return _by_rules(model, store, path, shape_text, f"{runtime} cannot be asked", True)
    kept = _folder(store, profile) / f"{_digest(profile, configuration, path, shape_text)}.json.gz"
    try:
        if kept.is_file():
            return KernelList(_nodes(_kept(kept), path, shape_text), "runtime")
        if ask:
            facts = _asked(profile, path, shape_text, session)
            nodes = _nodes(facts, path, shape_text)
            _keep(kept, facts)
            return KernelList(nodes, "runtime")
        why = "the device was not asked"
    except (DeviceError, BadInputError) as error:
        why = error.message
    except (ValueError, KeyError) as error:  # KeyError: a tensor that no node of the graph writes
        why = f"the runtime's graph cannot be read: {error}"
    return _by_rules(model, store, path, shape_text, why, not ask)


def measured_rules(store: Store, device: str) -> FusionRules | None:
    """The fusion rules that were measured on a device, None where none were; StoreError for a damaged file."""
    path = store.model_folder(device) / RULES_FILE
    if not path.is_file():
        return None
    from power_models.fusion_rules import load, rules_from
    from power_models.graph_fusion import BARE
    from power_models.kernels import RULES

    try:
        pairs, about = load(path)
    except ValueError as error:
        raise StoreError(str(error), f"rig calibrate --device {device} --fusion") from error
    return rules_from(pairs, RULES.get(about["base"], BARE))


def _by_rules(
    model: KernelCostModel, store: Store, path: Path, shape_text: str | None, why: str, expected: bool
) -> KernelList:
    """By the rules that were measured on the device, else by those of the cost model's runtime."""
    own = model.configuration.runtime
    found = None if own == ASKABLE else measured_rules(store, model.configuration.device)
    rules = kernel_rules(model)
    if found is None and rules != own:
        why, expected = f"{why}, and no rules are known for it: those of {rules} stand in", False
    nodes = read_kernels(path, rules if found is None else found, shape_text, model.layout_block)
    return KernelList(nodes, "rules" if found is None else "measured rules", why, expected)


def _folder(store: Store, profile: DeviceProfile) -> Path:
    return store.root / "graphs" / store.model_folder(profile.name).name


def _digest(profile: DeviceProfile, configuration: Configuration, path: Path, shape_text: str | None) -> str:
    """What the runtime's graph depends on."""
    about = {
        "model": hashlib.sha256(path.read_bytes()).hexdigest(),
        "shape": shape_text,
        "serial": configuration.serial,
        "runtime": [configuration.runtime, configuration.runtime_version],
        "options": profile.runtime.options,
    }
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:24]


def _asked(profile: DeviceProfile, path: Path, shape_text: str | None, session: Session | None) -> dict[str, Any]:
    """The runtime's optimized graph and its nodes in order."""
    shape = None if shape_text is None else list(parse_shape(shape_text))
    if session is not None:
        facts = session.inspect(path, shape, runs=FEWEST_RUNS)
    else:
        from rig.connection.session import Session as NewSession

        profile.require_host()
        with NewSession(profile, "rig predict") as opened:
            facts = opened.inspect(path, shape, runs=FEWEST_RUNS)
    nodes = [{"name": node["name"], "op_name": node["op_name"]} for node in facts["nodes"]]
    return {"model_b64": facts["model_b64"], "nodes": nodes}


def _nodes(facts: Mapping[str, Any], path: Path, shape_text: str | None) -> list[KernelNode]:
    from power_models.kernels import from_optimized

    shape = None if shape_text is None else parse_shape(shape_text)
    return from_optimized(base64.b64decode(facts["model_b64"]), facts["nodes"], path, shape)


def _keep(path: Path, data: Mapping[str, Any]) -> None:
    """Write plain data, compressed; the same bytes for the same data."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, gzip.compress(json.dumps(data).encode(), mtime=0), "keeping a runtime's graph")


def _kept(path: Path) -> dict[str, Any]:
    """What ``_keep`` wrote; ValueError for a damaged file."""
    try:
        return dict(json.loads(gzip.decompress(path.read_bytes())))
    except (OSError, EOFError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it") from error
