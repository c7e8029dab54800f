"""``rig calibrate --fusion``: pairs of operators → networks → rounds on the device → what its runtime fuses → rules.

For a runtime that cannot be asked for its own graph; where it can be asked (ONNX Runtime), it is a check of the method.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rig.commands.options import CalibrateOptions, command_words
from rig.configuration import described
from rig.errors import BadInputError, StoreError
from rig.output import Interrupted, warning
from rig.profiles import DeviceProfile, load_profile
from rig.store import evidence
from rig.store.store import Run, Store, utc_now
from rig.units import Quantity
from rig.workloads.calibration_networks import plans_of
from rig.workloads.executed_kernels import ASKABLE, RULES_FILE
from rig.workloads.fusion_pairs import PAIRS

if TYPE_CHECKING:
    from power_models.fusion_rules import MeasuredPair
    from rig.console import Console, Progress

ROUNDS, ROUNDS_SIMULATED = 8, 4


def run(options: CalibrateOptions) -> dict[str, Any]:
    """Measure the pairs; raises BadInputError, DeviceError, StoreError, Interrupted (with the resuming command)."""
    profile = load_profile(options.device)
    profile.require_host()
    rounds = _rounds(profile)
    store = Store()
    words = command_words("calibrate", options)
    stored = _run_folder(store, profile, options, words, rounds)
    from rig.console import Progress

    try:
        with Progress() as progress:
            pairs = _measure(profile, options, stored, rounds, progress)
    except KeyboardInterrupt:
        stored.update(state="interrupted", finished_utc=utc_now())
        done = len(stored.measurement_ids())
        message = f"interrupted; {done} measurements are saved in {stored.id}"
        raise Interrupted(message, resume=shlex.join(words)) from None
    result = _result(profile, options, stored, store, pairs, words)
    stored.write_json("fusion-result.json", result)
    stored.update(state="done", finished_utc=utc_now())
    return result


def _rounds(profile: DeviceProfile) -> int:
    rounds = profile.grid.get("fusion_rounds", ROUNDS_SIMULATED if profile.simulated else ROUNDS)
    if not isinstance(rounds, int) or rounds < 3:
        raise BadInputError(f"{profile.name}: grid.fusion_rounds is {rounds!r}", "write a whole number, 3 or more")
    return rounds


def _run_folder(store: Store, profile: DeviceProfile, options: CalibrateOptions, words: list[str], rounds: int) -> Run:
    """The unfinished run of the same request, or a new one."""
    plan = plans_of(profile).chains.to_json()
    request = {"runtime": profile.runtime.model_dump(), "plan": plan, "rounds": rounds, "seed": options.seed}
    for manifest in reversed(store.runs()) if options.resume else ():
        same = (manifest["command"], manifest["device"]) == ("fusion", profile.name)
        if same and manifest.get("request") == request and manifest["state"] != "done":
            return store.open_run(manifest["id"])
    facts = evidence.profile_facts(profile)
    return store.new_run("fusion", profile.name, argv=words, request=request, profile=facts)


def _measure(
    profile: DeviceProfile, options: CalibrateOptions, stored: Run, rounds: int, progress: Progress
) -> list[MeasuredPair]:
    from rig.collect.fusion import measure_fusion
    from rig.connection.session import Session

    progress.stage(f"run {stored.id}: {len(PAIRS)} pairs of operators on {profile.name}")
    with Session(profile, "rig calibrate --fusion") as session:
        evidence.keep_session(stored, session)
        stored.update(state="running")
        plan = plans_of(profile).chains
        pairs = measure_fusion(
            session, stored, PAIRS, plan, profile.runtime.name, rounds, options.seed, progress.update
        )
        stored.problems += session.problems
    return pairs


def _result(
    profile: DeviceProfile,
    options: CalibrateOptions,
    stored: Run,
    store: Store,
    pairs: Sequence[MeasuredPair],
    words: list[str],
) -> dict[str, Any]:
    from power_models import fusion_rules
    from power_models.graph_fusion import BARE
    from power_models.kernels import RULES

    info = stored.info
    if info is None:
        raise StoreError(f"{stored.id}: nothing was measured", shlex.join(words))
    base = RULES.get(profile.runtime.name, BARE).name
    path = store.model_folder(profile.name) / RULES_FILE
    about = {"configuration": info.configuration.to_json(), "kind": info.kind, "run": stored.id}
    fusion_rules.save(path, pairs, base, about)
    return {
        "run_id": stored.id,
        "command_line": shlex.join(words),
        "device": described(info.configuration, None, profile.simulated),
        "kind": info.kind,
        "basis": None,
        "pairs": [pair_row(pair, info.kind) for pair in pairs],
        "counts": dict(Counter(pair.verdict for pair in pairs)),
        "base": base,
        "measurements": sorted(stored.measurement_ids()),
        "artifacts": {"run": str(stored.path), "rules": str(path)},
        "warnings": [*_warnings(profile, pairs, base, words), *store.problems, *stored.problems],
        "next": f"rig calibrate --device {profile.name}",
    }


def pair_row(pair: MeasuredPair, kind: str) -> dict[str, Any]:
    """A pair as quantities: what fusing saves, what the second operator costs by itself."""
    saving = Quantity(pair.saving_s, pair.saving_lo_s, pair.saving_hi_s, n=pair.rounds, kind=kind)
    return {
        "first": pair.first,
        "second": pair.second,
        "saving_s": saving.to_json(),
        "second_s": pair.second_s,
        "verdict": pair.verdict,
    }


def _warnings(
    profile: DeviceProfile, pairs: Sequence[MeasuredPair], base: str, words: Sequence[str]
) -> list[dict[str, Any]]:
    found = []
    open_pairs = [f"{pair.first} and {pair.second}" for pair in pairs if pair.verdict == "undecided"]
    if open_pairs:
        shown = ", ".join(open_pairs[:3]) + (f" and {len(open_pairs) - 3} more" if len(open_pairs) > 3 else "")
        message = f"undecided, so the rules of {base} stand: {shown}"
        found.append(warning("undecided-fusion", message, "raise grid.fusion_rounds, then " + shlex.join(words)))
    if profile.runtime.name == ASKABLE:
        message = "this runtime is asked for its own graph, so what was measured here is kept but not used"
        found.append(warning("runtime-can-be-asked", message, f"rig predict MODEL.onnx --device {profile.name}"))
    return found


def show(result: Mapping[str, Any], console: Console) -> None:
    """One line a pair: what running it as one kernel saves, with its interval, and the verdict."""
    rows = []
    for pair in result["pairs"]:
        saving = pair["saving_s"]
        interval = f"[{1e6 * saving['lo']:.2f}, {1e6 * saving['hi']:.2f}]"
        rows.append(
            [
                f"{pair['first']} | {pair['second']}",
                f"{1e6 * saving['value']:.2f}",
                interval,
                f"{1e6 * pair['second_s']:.2f}",
                pair["verdict"],
            ]
        )
    console.table(["PAIR", "SAVING US", "95 %", "ALONE US", "VERDICT"], rows, right=("SAVING US", "95 %", "ALONE US"))
    counted = ", ".join(f"{number} {verdict}" for verdict, number in sorted(result["counts"].items()))
    console.line()
    console.line(f"Rules     {counted}; saved to {result['artifacts']['rules']}")
