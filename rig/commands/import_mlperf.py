"""``rig import mlperf``: a finished MLPerf power run → its meter log beside its loadgen log → a run in the store."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rig.commands.options import ImportOptions
from rig.errors import BadInputError
from rig.output import warning
from rig.store.store import Store, utc_now
from rig.wording import boundary_words, figure, label

if TYPE_CHECKING:
    from rig.console import Console

SOURCES = ("mlperf",)


def run(options: ImportOptions) -> dict[str, Any]:
    """Read the folder and store it as a run; raises BadInputError naming file and line."""
    if options.source not in SOURCES:
        raise BadInputError(f"rig import {options.source}: not a source", fix=f"known: {', '.join(SOURCES)}")
    from rig.mlperf import power_run, summary

    found = power_run.read(options.folder)
    device = options.device or summary.device_name(found)
    store = Store()
    words = ["rig", "import", options.source, str(options.folder)]
    words += ["--device", options.device] if options.device else []
    stored = store.new_run("import", device, argv=words, kind="imported")
    record = summary.record(found, f"{stored.id}-1", device)
    stored.add_measurement(record)
    result = {
        "run_id": stored.id,
        "command_line": shlex.join(words),
        "device": _device(device, record),
        "kind": "imported",
        "basis": None,
        "model": found.name,
        "network": summary.network_row(found, record["id"]),
        "clocks": found.clocks.to_json(),
        "measurements": [record["id"]],
        "versions": {"loadgen": found.loadgen_version},
        "artifacts": {"run": str(stored.path)},
        "warnings": [warning("import", text) for text in summary.caveats(found)],
        "next": f"rig report {stored.id}",
    }
    stored.write_json("result.json", {**result, "schema": "rig.measure/1"})
    stored.update(state="done", finished_utc=utc_now())
    return {**result, "warnings": [*result["warnings"], *store.problems, *stored.problems]}


def _device(name: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """The device as far as the logs tell."""
    told = {"name": name, "runtime": record["runtime"], "runtime_version": record["runtime_version"]}
    unknown = dict.fromkeys(("serial", "threads", "spinning", "power_mode"))
    return {**told, **unknown, "meter": record["sensor"]["name"], "boundary": "wall", "simulated": False}


def show(result: Mapping[str, Any], console: Console) -> None:
    """Watts, joules, latency, and how the logs were lined up."""
    network, device = result["network"], result["device"]
    mark = f"{label(result['kind'], result['basis'])}, {boundary_words(device['boundary'])}"
    power, quiet = (figure(network[name], "W") for name in ("power_w", "idle_power_w"))
    console.line(f"Power     {power}, back to back, quiet after the run {quiet}   {mark}")
    console.line(
        f"Energy    {figure(network['energy_j'], 'J')} an inference in all, "
        f"{figure(network['energy_active_j'], 'J')} above quiet"
    )
    console.line(f"Latency   mean {figure(network['latency_s'], 's')} of {network['frames']} inferences")
    clocks = result["clocks"]
    console.line(f"Clocks    {clocks['how']}; known to ± {1e3 * clocks['uncertainty_s']:.2g} ms")
