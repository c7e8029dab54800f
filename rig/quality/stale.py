"""A source that stands still: one reading repeated for longer than its own history makes plausible.

     load      ________|▔▔▔▔▔▔▔▔▔▔▔▔▔▔|________
     trace     .-.,.-./'~'"'~─────────────────       frozen midway: its noise is gone, the load's end is not there

Two things tell it from a coarse but honest reading, which may well repeat for minutes:

noise   readings of the waiting board elsewhere in the trace show noise, by which so long a run of
        equal ones has a chance below a millionth wherever between two steps the power lies, and the lengths of the
        other runs give it none either. One step to and fro is no noise: the power may lie on the border. Noise that
        was measured before counts too, where there are other runs enough to bear it out, or this trace shows as much.
edges   the load began or ended during the run, and the reading did not move, though it moved at the load's other edge.

A source without noise that freezes between two edges, and one whose step is coarser than the load, cannot be told
from an honest one: the quantization part of the budget is what is left to say of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

PROBABILITY = 1e-6
MIN_RUN = 8  # independent readings
WHOLE_RUN = 4 * MIN_RUN  # of a run that holds the load and what was before it
BLOCK = 16  # readings of the history whose noise is looked at together
MIN_BLOCKS = 5
QUIETEST = 0.25  # of the blocks show less noise than what is taken
MIN_OTHERS = 20  # runs that tell how long runs of this source are
TAIL = 0.95  # quantile of their lengths, beyond which they are taken to fall off exponentially
FINE_STEP = 0.02  # of the reading: any load that never pauses moves it by more than that
MOVED_STEPS = 2.0  # of the source: the load's other edge moved it by more
MOVED_NOISE = 5.0


class Readings(NamedTuple):
    """Readings of one source within a measurement: when (middle of what they average over), W, and its properties.

    ``overlap``: how many neighbours share an averaging window or an update; ``reach_s``: from an edge of the load until
    a reading no longer sees what was before; ``noise_w``: known beforehand, 0 where nothing is.
    """

    times_s: np.ndarray
    power_w: np.ndarray
    step_w: float
    noise_w: float
    overlap: float
    reach_s: float


class Run(NamedTuple):
    """Equal readings in a row, ``first`` to ``last`` (the last one included)."""

    first: int
    last: int

    @property
    def length(self) -> int:
        """How many."""
        return self.last - self.first + 1


def frozen(readings: Readings, load: tuple[float, float] | None, duty: float = 1.0) -> str | None:
    """What tells that the source stood still, in words; None where nothing does.

    ``load``: from when to when the load ran; None where that is not known. ``duty``: share of that time in which it was
    busy, below 1 for frames at a pace.
    """
    runs = _runs(readings.power_w)
    states = _states(readings, load)
    for run in _suspects(runs, readings, states, load):
        if run.length < MIN_RUN * readings.overlap:
            continue
        why = _at_an_edge(readings, run, load, duty) or _by_noise(readings, runs, run, states)
        if why is not None:
            seconds = float(readings.times_s[run.last] - readings.times_s[run.first])
            value = float(readings.power_w[run.first])
            return f"stale sensor: the same value {run.length} times in a row ({seconds:.3g} s at {value:.4g} W), {why}"
    return None


def _runs(power_w: np.ndarray) -> list[Run]:
    ends = np.concatenate([np.flatnonzero(np.diff(power_w) != 0.0), [len(power_w) - 1]])
    firsts = np.concatenate([[0], ends[:-1] + 1])
    return [Run(int(first), int(last)) for first, last in zip(firsts, ends, strict=True)]


def _suspects(
    runs: Sequence[Run], readings: Readings, states: np.ndarray, load: tuple[float, float] | None
) -> list[Run]:
    """The longest run of each state, and those over an edge of the load: where these are honest, all are."""
    length = np.asarray([run.length for run in runs])
    first = np.asarray([run.first for run in runs])
    chosen = []
    for state in (0, 1):
        before = np.concatenate([[0], np.cumsum(states == state)])
        chosen.append(int(np.argmax(before[first + length] - before[first])))
    for edge_s in load or ():
        chosen.append(max(0, int(np.searchsorted(readings.times_s[first], edge_s, side="right")) - 1))
    return [runs[i] for i in sorted(set(chosen), key=lambda i: -runs[i].length)]


def _states(readings: Readings, load: tuple[float, float] | None) -> np.ndarray:
    """0 quiet, 1 under load, -1 where a reading sees both."""
    times_s = readings.times_s
    if load is None:
        return np.zeros(len(times_s), dtype=int)
    states = ((times_s >= load[0]) & (times_s <= load[1])).astype(int)
    for edge_s in load:
        states[np.abs(times_s - edge_s) < readings.reach_s] = -1
    return states


def _by_noise(readings: Readings, runs: Sequence[Run], run: Run, states: np.ndarray) -> str | None:
    """Whether the noise of the readings in the same state elsewhere makes the run implausible."""
    inside = np.zeros(len(states), dtype=bool)
    inside[run.first : run.last + 1] = True
    others_of = [[one.length for one in runs if one is not run and states[one.first] == state] for state in (0, 1)]
    alike = [max(readings.overlap, float(np.median(others)) if others else 1.0) for others in others_of]
    quiet_noise_w = _noise_w(readings, (states == 0) & ~inside, alike[0])
    for state, others in enumerate(others_of):
        mine = int((states[run.first : run.last + 1] == state).sum())
        known_w = readings.noise_w if readings.noise_w > 0.5 * readings.step_w else 0.0
        # What is there while the board waits is there under load as well; the load's own unrest is not the source's.
        # Of too few other runs nothing tells that what was known beforehand holds: this trace has to show it too.
        few = len(others) < MIN_OTHERS
        noise_w = min(known_w, quiet_noise_w) if few else max(known_w, quiet_noise_w)
        independent = mine / alike[state]
        if noise_w == 0.0 or independent < MIN_RUN:
            continue
        stays = max(math.erf(0.5 * readings.step_w / (math.sqrt(2.0) * noise_w)), 1e-3)
        if len(states) * max(stays ** (independent - 1.0), _chance(others, mine)) < PROBABILITY:
            return f"with a noise of {noise_w:.2g} W"
    return None


def _chance(others: Sequence[int], length: int) -> float:
    """Of one run to be so long, by the lengths of the others; 0 where there are too few of them to say."""
    if len(others) < MIN_OTHERS:
        return 0.0
    return math.exp(math.log(1.0 - TAIL) * length / float(np.quantile(others, TAIL)))


def _noise_w(readings: Readings, chosen: np.ndarray, alike: float) -> float:
    """The noise that all but the quietest blocks of these readings show (W); 0 where there are too few of them.

    ``alike``: so many neighbours are worth one reading.
    """
    length = round(BLOCK * max(1.0, alike))
    found = []
    for stretch in np.split(np.arange(len(chosen)), np.flatnonzero(np.diff(chosen.astype(int))) + 1):
        if not chosen[stretch[0]]:
            continue
        for start in range(0, len(stretch) - length + 1, length):
            found.append(_of_block(readings.power_w[stretch[start : start + length]], readings.step_w))
    return float(np.quantile(found, QUIETEST)) if len(found) >= MIN_BLOCKS else 0.0


def _of_block(power_w: np.ndarray, step_w: float) -> float:
    levels = np.unique(power_w)
    if len(levels) < 3 or levels[-1] - levels[0] < 1.5 * step_w:
        return 0.0
    at = np.arange(len(power_w)) - 0.5 * (len(power_w) - 1)
    left = power_w - power_w.mean() - at * float(at @ power_w) / float(at @ at)
    return math.sqrt(max(0.0, float(left @ left) / (len(power_w) - 2) - step_w**2 / 12.0))


def _at_an_edge(readings: Readings, run: Run, load: tuple[float, float] | None, duty: float) -> str | None:
    """Whether the run goes over an edge of the load that should have moved it."""
    if load is None:
        return _throughout(readings, run)
    times_s, power_w, reach_s = readings.times_s, readings.power_w, readings.reach_s
    enough = MIN_RUN * readings.overlap
    held = times_s[run.first : run.last + 1]
    waiting = int((held < load[0] - reach_s).sum())
    running = int(((held > load[0] + reach_s) & (held < load[1] - reach_s)).sum())
    resting = int((held > load[1] + reach_s).sum())
    outside = np.ones(len(times_s), dtype=bool)
    outside[run.first : run.last + 1] = False
    busy = outside & (times_s > load[0] + reach_s) & (times_s < load[1] - reach_s)
    for both, words, quiet in (
        (min(waiting, running), "although the load began", outside & (times_s > load[1] + reach_s)),
        (min(running, resting), "although the load ended", outside & (times_s < load[0] - reach_s)),
    ):
        if both < enough:
            continue
        if quiet.sum() >= enough:
            loaded_w = float(np.median(power_w[busy])) if busy.sum() >= enough else float(power_w[run.first])
            moved_w = abs(loaded_w - float(np.median(power_w[quiet])))
            spread_w = float(np.std(power_w[quiet]))
            if moved_w > max(MOVED_STEPS * readings.step_w, MOVED_NOISE * spread_w):
                return f"{words}, which moved it by {moved_w:.3g} W at its other edge"
    whole = waiting >= enough and held[-1] >= load[1] - reach_s and run.length >= WHOLE_RUN * readings.overlap
    moves_w = FINE_STEP * duty * abs(float(power_w[run.first]))
    if whole and readings.step_w <= moves_w:
        return "although the load began and ended meanwhile"
    # Frames far apart may together move a source without noise by less than a step, all the time.
    weak = duty < 1.0 and readings.step_w > max(moves_w, 2.0 * readings.noise_w)
    return None if weak else _throughout(readings, run)


def _throughout(readings: Readings, run: Run) -> str | None:
    n = len(readings.power_w)
    return "and no other" if run.length == n and n >= WHOLE_RUN * readings.overlap else None
