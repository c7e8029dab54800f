"""What a runtime fuses, found by measurement: for devices whose runtime cannot be asked for its own graph.

Two operators a, b stand in a row with a kernel s that nothing fuses with between the rows, k times over:

    T0 = k·s      Ta = k·(a s)      Tb = k·(b s)      Tab = k·(a b s)          saving = (Ta + Tb − Tab − T0) / k

Run one after the other they cost what they cost alone, and the saving is nothing; run as one kernel they save b's
dispatch and its passing over memory. What a call and the surroundings cost cancels. The four are measured in turn,
round after round, so the saving of a round is free of drift, and its interval comes from the rounds. A pair is fused
where the saving is above half of the least that a kernel of its own costs there, and separate where it is below;
anything between is undecided, and the rules of the base stand for it.

Source: the test is nn-Meter's (Zhang et al., MobiSys 2021, section 4: fused if T(a) + T(b) − T(a, b) > α·min(T(a),
T(b)), α = 0.5), which takes bare times of three models; bookends, rounds and the interval are added here, and b's own
cost is capped by that of a plain activation, since a costly function saves no arithmetic by being fused.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from power_models.graph_fusion import FusionRules

FORMAT_VERSION = 1
SHARE = 0.5  # of a kernel's own cost that fusing must save (nn-Meter's α)
FEWEST_ROUNDS = 3
# Two-sided 95 % quantiles of Student's t with 2, 3, 4 … degrees of freedom (prediction imports numpy only).
STUDENT_975 = (4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)


@dataclass(frozen=True)
class MeasuredPair:
    """One pair: seconds saved by running ``second`` right behind ``first``, with its 95 % interval.

    ``second_s``: what ``second`` costs by itself; ``second_lo_s``: lower bound of that and of the cheapest kernel, of
    which neither may be nothing. ``margin_lo_s``,
    ``margin_hi_s``: 95 % interval of the saving less half of the least that a kernel costs there. ``rounds``: n.
    """

    first: str
    second: str
    saving_s: float
    saving_lo_s: float
    saving_hi_s: float
    second_s: float
    second_lo_s: float
    margin_lo_s: float
    margin_hi_s: float
    rounds: int

    @property
    def verdict(self) -> str:
        """fused, separate or undecided."""
        if self.second_lo_s <= 0.0:
            return "undecided"  # it costs nothing behind the bookend either: fused with that, or too short to see
        if self.margin_lo_s > 0.0:
            return "fused"
        return "separate" if self.margin_hi_s < 0.0 else "undecided"


def judge_pair(
    first: str, second: str, rounds: Sequence[tuple[float, float, float, float]], least_s: Sequence[float], units: int
) -> MeasuredPair:
    """A pair from its rounds.

    ``rounds`` (n, 4): T0, Ta, Tb, Tab in seconds. ``least_s`` (n,): the cost of the cheapest kernel of that shape in
    the same rounds, seconds. ``units``: k. Raises ValueError for fewer than three rounds.
    """
    if len(rounds) < FEWEST_ROUNDS:
        raise ValueError(
            f"{first} and {second}: {len(rounds)} rounds tell no interval; measure {FEWEST_ROUNDS} or more"
        )
    base, a, b, ab = np.asarray(rounds, dtype=np.float64).T
    saving, alone, cheapest = (a + b - ab - base) / units, (b - base) / units, np.asarray(least_s, dtype=np.float64)
    least = alone if alone.mean() < cheapest.mean() else cheapest
    (saved, low, high), (own, own_low, _) = _interval(saving), _interval(alone)
    own_low = min(own_low, _interval(cheapest)[1])
    _, margin_low, margin_high = _interval(saving - SHARE * least)
    return MeasuredPair(first, second, saved, low, high, own, own_low, margin_low, margin_high, len(rounds))


def _interval(values: Any) -> tuple[float, float, float]:
    n = len(values)
    half = STUDENT_975[min(n - 3, len(STUDENT_975) - 1)] * float(np.std(values, ddof=1)) / np.sqrt(n)
    middle = float(np.mean(values))
    return middle, middle - half, middle + half


def rules_from(pairs: Iterable[MeasuredPair], base: FusionRules) -> FusionRules:
    """The base's rules with what was measured in their place; undecided pairs leave the base's as they are."""
    folds, adds = set(base.folds_affine), set(base.adds)
    activations = {kind: set(taken) for kind, taken in base.activations.items()}
    gates = base.merges_gates
    for pair in pairs:
        if pair.verdict == "undecided":
            continue
        fused = pair.verdict == "fused"
        first = pair.first.removesuffix("+batch_norm")
        if pair.second == "batch_norm":
            _put(folds, first, fused)
        elif pair.second == "add":
            _put(adds, first, fused)
        elif (pair.first, pair.second) == ("sigmoid", "mul"):
            gates = fused
        else:
            _put(activations.setdefault(first, set()), pair.second, fused)
    taken = {kind: frozenset(names) for kind, names in activations.items() if names}
    return base._replace(
        name=f"measured on {base.name}",
        folds_affine=frozenset(folds),
        activations=taken,
        adds=frozenset(adds),
        merges_gates=gates,
    )


def _put(names: set[str], name: str, wanted: bool) -> None:
    names.add(name) if wanted else names.discard(name)


def save(path: Path, pairs: Sequence[MeasuredPair], base: str, about: Mapping[str, Any]) -> None:
    """Write what was measured; ``about``: device, serial, runtime and version, run."""
    data = {"format_version": FORMAT_VERSION, "base": base, **about, "pairs": [asdict(pair) for pair in pairs]}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".new")
    temporary.write_text(json.dumps(data, indent=1, allow_nan=False), encoding="utf-8")
    temporary.replace(path)


def load(path: Path) -> tuple[list[MeasuredPair], dict[str, Any]]:
    """The pairs of a file, and what else it says; ValueError for a damaged one or another format."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["format_version"] != FORMAT_VERSION:
            raise ValueError(f"format version {data['format_version']!r}, this program reads {FORMAT_VERSION}")
        pairs = [MeasuredPair(**pair) for pair in data.pop("pairs")]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"fusion rules in {path} cannot be read: {error}; measure them again") from error
    return pairs, data
