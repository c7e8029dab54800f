"""A campaign's stored measurements as rows for the cost model: to be done at any time, without the device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from device_agents.records import Configuration
from power_models.kernel_cost import KernelRow
from rig.collect_plan import CAMPAIGN_FILE, Campaign, Chains, ContextJob, job_of
from rig.errors import StoreError
from rig.measurement import Measurement
from rig.quality import assess, difference_chain
from rig.quality_compare import ChainResult
from rig.quality_stats import NORMAL_975

if TYPE_CHECKING:
    from rig.store import Run

NEGLIGIBLE_LATENCY_S = 1e-9


class Problem(NamedTuple):
    """A kernel or network without a usable row, and why; nothing is left out in silence."""

    subject: str
    reason: str


class Collected(NamedTuple):
    """What a campaign amounts to.

    ``overhead``: (seconds, joules) of a call, from the chains' intercepts; ``idle_power_w``: quiet power (value, lo,
    hi), or None without a power source; ``kind``: measured or simulated; ``problems``: what could not be used.
    """

    rows: list[KernelRow]
    overhead: tuple[float, float]
    idle_power_w: tuple[float, float, float] | None
    kind: str
    problems: list[Problem]
    configuration: Configuration | None


def load_campaign(run: Run) -> Campaign:
    """The campaign of a run; StoreError where it never began one."""
    if not (run.path / CAMPAIGN_FILE).exists():
        raise StoreError(f"{run.id} holds no campaign", "give the id of a calibrate run")
    return Campaign.from_json(run.read_json(CAMPAIGN_FILE))


def assessed(run: Run, campaign: Campaign) -> Iterator[tuple[Measurement, dict[str, Any]]]:
    """(measurement, record without its arrays' use) of everything stored that belongs to the campaign."""
    known = {job.identity for jobs in campaign.blocks() for job in jobs}
    for record in run.measurements():
        try:
            identity, _ = job_of(record["id"])
        except ValueError:
            continue  # a confirmation run or the like, stored beside the campaign
        if identity in known:
            yield assess(record), record


def rows_from_run(run: Run) -> list[KernelRow]:
    """The rows of a stored campaign."""
    return read_campaign(run).rows


def read_campaign(run: Run) -> Collected:
    """Rows, overhead, quiet power and problems of a stored campaign; StoreError where there is none."""
    campaign = load_campaign(run)
    best: dict[str, Measurement] = {}
    rejected: dict[str, str] = {}
    profiles: dict[str, dict[str, Any]] = {}
    for measurement, record in assessed(run, campaign):
        identity, _ = job_of(measurement.id)
        if measurement.ok:
            best[identity] = measurement
            if record.get("kernels"):
                profiles[identity] = record
        else:
            rejected[identity] = measurement.reason or "rejected"
    configuration = run.info.configuration if run.info else None
    return build_rows(run, campaign, best, rejected, profiles, configuration)


def build_rows(
    run: Run,
    campaign: Campaign,
    best: Mapping[str, Measurement],
    rejected: Mapping[str, str],
    profiles: Mapping[str, Mapping[str, Any]],
    configuration: Configuration | None,
) -> Collected:
    """Rows from the accepted measurement of each job."""
    rows, problems, results = [], [], []
    for number, chains in enumerate(campaign.chains):
        result = _differenced(chains, best, rejected)
        if isinstance(result, str):
            if result:
                problems.append(Problem(chains.kernel.label, result))
            continue
        results.append(result)
        rows.append(_row(chains, number, result, configuration))
    for job in campaign.contexts:
        if job.identity in profiles:
            found, wrong = _context_rows(run, job, profiles[job.identity], best[job.identity], configuration)
            rows += found
            problems += wrong
        elif job.identity in rejected:
            problems.append(Problem(job.label, rejected[job.identity]))
    kinds = {measurement.kind for measurement in best.values()}
    kind = "simulated" if "simulated" in kinds else "measured"
    return Collected(rows, _overhead(results), _idle_power(best.values()), kind, problems, configuration)


def _differenced(chains: Chains, best: Mapping[str, Measurement], rejected: Mapping[str, str]) -> ChainResult | str:
    """The differenced chains; else why not ("" while they have not been measured yet)."""
    reasons = [rejected[i] for i in chains.identities[:2] if i in rejected and i not in best]
    if reasons:
        return "; ".join(reasons)
    if any(identity not in best for identity in chains.identities[:2]):
        return ""
    short, long = (best[identity] for identity in chains.identities[:2])
    third = best.get(chains.identities[2]) if len(chains.identities) > 2 else None
    k3 = chains.copies[2] if third is not None else None
    result = difference_chain(short, long, chains.copies[0], chains.copies[1], third, k3)
    return result.problem or result


def _row(chains: Chains, number: int, result: ChainResult, configuration: Configuration | None) -> KernelRow:
    return KernelRow(
        chains.kernel,
        result.latency_s,
        result.latency_se_s,
        result.energy_active_j,
        result.energy_se_j,
        "chain",
        f"chain-{number}",
        configuration,
    )


def _context_rows(
    run: Run,
    job: ContextJob,
    record: Mapping[str, Any],
    measurement: Measurement,
    configuration: Configuration | None,
) -> tuple[list[KernelRow], list[Problem]]:
    """Each kernel's share of the whole network's unprofiled latency; its energy is not known from a profile."""
    from rig.collect_subjects import read_context

    rows, problems = [], []
    relative_se = measurement.half_width("latency_s") / NORMAL_975 / float(measurement.latency_s.value or 1.0)
    timed: dict[str, float] = {}
    for kernel in record["kernels"]:
        timed[kernel["name"]] = timed.get(kernel["name"], 0.0) + float(kernel["latency_s"])
    for node in read_context(run, job):
        latency_s = timed.pop(node.name, None)
        if latency_s is None or latency_s <= NEGLIGIBLE_LATENCY_S:
            problems.append(Problem(f"{job.label}: {node.name}", "the profile has no time for it"))
            continue
        se = max(relative_se, 0.02) * latency_s  # shares of one profile: at best 2 %
        rows.append(KernelRow(node.spec, latency_s, se, None, None, "profile", job.label, configuration))
    total = sum(timed.values())
    if total > 0.02 * float(measurement.latency_s.value or 0.0):
        names = ", ".join(sorted(timed, key=lambda name: -timed[name])[:3])
        problems.append(Problem(job.label, f"{total:.3g} s of its profile belong to no known kernel ({names})"))
    return rows, problems


def _overhead(results: Iterable[ChainResult]) -> tuple[float, float]:
    """What a call costs beside its kernels (s, J): the weighted median of the chains' intercepts, never below zero."""
    found = list(results)
    seconds = _weighted_median([(r.overhead_s, r.overhead_se_s) for r in found])
    joules = _weighted_median(
        [(r.overhead_j, r.overhead_se_j or 0.0) for r in found if r.overhead_j is not None and r.overhead_se_j]
    )
    return max(seconds, 0.0), max(joules, 0.0)


def _weighted_median(pairs: list[tuple[float, float]]) -> float:
    """Median with weights 1 / standard error: chains of long kernels say little about a call."""
    if not pairs:
        return 0.0
    values = np.array([value for value, _ in pairs])
    weights = np.array([1.0 / max(error, 1e-15) for _, error in pairs])
    order = np.argsort(values)
    total = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(total, 0.5 * total[-1])])


def _idle_power(measurements: Iterable[Measurement]) -> tuple[float, float, float] | None:
    """Quiet power over the campaign: the median, and the middle 95 % of what was seen, gain included."""
    quantities = [m.idle_power_w for m in measurements if m.idle_power_w is not None]
    values = np.array([q.value for q in quantities if q.value is not None])
    if not len(values):
        return None
    own = float(np.median([q.half_width or 0.0 for q in quantities]))
    middle = float(np.median(values))
    low, high = np.quantile(values, [0.025, 0.975])
    return middle, min(float(low), middle - own), max(float(high), middle + own)
