"""A campaign's stored measurements as rows for the cost model: to be done at any time, without the device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from device_agents.records import Configuration, KernelSpec
from power_models.kernel_cost import KernelRow
from rig.collect.plan import CAMPAIGN_FILE, Campaign, Chains, ContextJob, job_of
from rig.collect.profile import context_rows, own_shares, profiler_cost_s
from rig.collect.subjects import ExecutedGraph, found_block, read_graph
from rig.errors import StoreError
from rig.measurement import Measurement
from rig.quality.comparison import ChainResult
from rig.quality.stats import quadrature
from rig.quality.verdict import assess, difference_chain
from rig.workloads.calibration_networks import FOLDER, NAMED_FOLDER

if TYPE_CHECKING:
    from rig.store.store import Run

MIN_CHECKS = 8
MEDIAN_OF_ABSOLUTE_NORMAL = 0.6744897501960817
SPLIT_SE = 0.05  # relative standard error of the shares by which a chain's unit is split


class Problem(NamedTuple):
    """A kernel or network without a usable row, and why; nothing is left out in silence."""

    subject: str
    reason: str


class MeasuredNetwork(NamedTuple):
    """A context as a whole: its name (the group of its rows), its file, and what an inference took.

    ``kernels``: those of the runtime's own graph; None where it has none (the virtual runtime).
    """

    name: str
    path: Path
    measurement: Measurement
    kernels: tuple[KernelSpec, ...] | None = None


class Collected(NamedTuple):
    """What a campaign amounts to.

    ``overhead``: (seconds, joules) of a call, from the chains' intercepts; ``idle_power_w``: quiet power (value, lo,
    hi), or None without a power source; ``kind``: measured or simulated; ``problems``: what could not be used;
    ``networks``: the contexts that were measured; ``layout_block``: see ``KernelCostModel``.
    """

    rows: list[KernelRow]
    overhead: tuple[float, float]
    idle_power_w: tuple[float, float, float] | None
    kind: str
    problems: list[Problem]
    configuration: Configuration | None
    networks: list[MeasuredNetwork]
    layout_block: int | None = None


def load_campaign(run: Run) -> Campaign:
    """The campaign of a run; StoreError where it never began one."""
    if not (run.path / CAMPAIGN_FILE).exists():
        raise StoreError(f"{run.id} holds no campaign", "give the id of a calibrate run")
    campaign = Campaign.from_json(run.read_json(CAMPAIGN_FILE))
    campaign.contexts = [_relocated(job, run) for job in campaign.contexts]
    return campaign


def _relocated(job: ContextJob, run: Run) -> ContextJob:
    """With the run's own copy of a network: a run folder may have been moved, or be another computer's."""
    path = job.context.path
    for own in (run.path / FOLDER / path.name, run.path / NAMED_FOLDER / path.parent.name / path.name):
        if own.exists():
            return job._replace(context=job.context._replace(path=own))
    return job


def assessed(run: Run, campaign: Campaign, pulse_fast_s: float | None = None) -> Iterator[Measurement]:
    """Everything stored that belongs to the campaign; ``pulse_fast_s`` as for ``assess``."""
    known = {job.identity for jobs in campaign.blocks() for job in jobs}
    for record in run.measurements():
        try:
            identity, _ = job_of(record["id"])
        except ValueError:
            continue  # a confirmation run or the like, stored beside the campaign
        if identity in known:
            yield assess(record, pulse_fast_s)


def _fastest_pulse_s(run: Run) -> float | None:
    """What an undisturbed pulse took in the campaign, which early records could not know."""
    phases = (phase for record in run.measurements(arrays=False) for phase in record["phases"])
    return min((phase["pulse_fast_s"] for phase in phases if "pulse_fast_s" in phase), default=None)


def rows_from_run(run: Run) -> list[KernelRow]:
    """The rows of a stored campaign."""
    return read_campaign(run).rows


def read_campaign(run: Run) -> Collected:
    """Rows, overhead, quiet power and problems of a stored campaign; StoreError where there is none."""
    campaign = load_campaign(run)
    best: dict[str, Measurement] = {}
    rejected: dict[str, str] = {}
    for measurement in assessed(run, campaign, _fastest_pulse_s(run)):
        identity, _ = job_of(measurement.id)
        if not measurement.ok:
            rejected[identity] = measurement.reason or "rejected"
        elif identity not in best or measurement.disturbed_share <= best[identity].disturbed_share:
            best[identity] = measurement
    return _build_rows(run, campaign, best, rejected)


def _build_rows(
    run: Run, campaign: Campaign, best: Mapping[str, Measurement], rejected: Mapping[str, str]
) -> Collected:
    """Rows from the accepted measurement of each job."""
    configuration = run.info.configuration if run.info else None
    if campaign.runtime != "virtual":
        best = {identity: _typical(measurement) for identity, measurement in best.items()}
    problems = [
        Problem(event["subject"], event["reason"])
        for event in run.events()
        if event["event"] == "unmeasurable" and event["job"] not in best
    ]
    usable: list[tuple[Chains, ChainResult]] = []
    for chains in campaign.chains:
        result = _differenced(chains, best, rejected)
        if isinstance(result, ChainResult):
            usable.append((chains, result))
        elif result:
            problems.append(Problem(chains.kernel.label, result))
    scale = _scatter(result for _, result in usable)
    overhead = _overhead(result for _, result in usable)
    graphs = {job.identity: read_graph(run, job.identity) for job in campaign.contexts}
    node_cost_s = profiler_cost_s((graph for graph in graphs.values() if graph), overhead[0])
    rows = [row for chains, result in usable for row in _chain_rows(run, chains, result, scale, node_cost_s)]
    networks = []
    for job in campaign.contexts:
        graph = graphs[job.identity]
        if job.identity in best and (graph is not None or campaign.runtime == "virtual"):
            measured = best[job.identity]
            executed = None if graph is None else tuple(kernel.kernel for kernel in graph.kernels)
            networks.append(MeasuredNetwork(job.label, job.context.path, measured, executed))
            if graph is None:
                continue  # the virtual runtime has no profile: the network is known as a whole
            found, unseen = context_rows(graph, measured, overhead[0], node_cost_s, job.label)
            rows += found
            problems += [Problem(f"{job.label}: {name}", "the profile has no time for it") for name in unseen]
        elif job.identity in rejected:
            problems.append(Problem(job.label, rejected[job.identity]))
    rows = [row._replace(configuration=configuration) for row in rows]
    kind = "simulated" if any(measurement.kind == "simulated" for measurement in best.values()) else "measured"
    problems = list(dict.fromkeys(problems))
    idle = _idle_power(best.values())
    seen = [(job.context.path, graph) for job in campaign.contexts if (graph := graphs[job.identity]) is not None]
    return Collected(rows, overhead, idle, kind, problems, configuration, networks, found_block(seen))


def _typical(measurement: Measurement) -> Measurement:
    """With the median inference for its latency: a rare interruption is no part of a kernel."""
    if measurement.latency_median_s.value is None:
        return measurement
    return replace(measurement, latency_s=measurement.latency_median_s)


def _differenced(chains: Chains, best: Mapping[str, Measurement], rejected: Mapping[str, str]) -> ChainResult | str:
    """The differenced chains; else why not ("" while they have not been measured yet)."""
    reasons = [rejected[i] for i in chains.identities[:2] if i in rejected and i not in best]
    if reasons:
        return "; ".join(dict.fromkeys(reasons))
    if any(identity not in best for identity in chains.identities[:2]):
        return ""
    short, long = (best[identity] for identity in chains.identities[:2])
    third = best.get(chains.identities[2]) if len(chains.identities) > 2 else None
    k3 = chains.copies[2] if third is not None else None
    result = difference_chain(short, long, chains.copies[0], chains.copies[1], third, k3)
    return result.problem or result


def _scatter(results: Iterable[ChainResult]) -> float:
    """How much wider than a single measurement's error the scatter between measurements is, from the third chains.

    The Birge ratio of the checks (robust: by their median), at least 1; 1 where there are too few checks to tell.
    Source: Particle Data Group, Review of Particle Physics, on scale factors.
    """
    checks = [abs(check) for result in results for check in result.checks]
    if len(checks) < MIN_CHECKS:
        return 1.0
    return max(1.0, float(np.median(checks)) / MEDIAN_OF_ABSOLUTE_NORMAL)


def _chain_rows(run: Run, chains: Chains, result: ChainResult, scale: float, node_cost_s: float) -> list[KernelRow]:
    """The kernel, and what the runtime puts beside each copy (its reverse, reorders), by their profiled shares."""
    group = f"chain-{chains.identities[0]}"
    longest = chains.identities[chains.copies.index(max(chains.copies))]
    parts = _unit_shares(read_graph(run, longest), chains.kernel, max(chains.copies), node_cost_s)
    split = SPLIT_SE if len(parts) > 1 else 0.0
    rows = []
    for kernel, share in parts.items():
        latency_s = share * result.latency_s
        latency_se_s = quadrature(scale * share * result.latency_se_s, split * latency_s)
        energy_j = energy_se_j = None
        if result.energy_active_j is not None and result.energy_se_j is not None:
            energy_j = share * result.energy_active_j
            energy_se_j = quadrature(scale * share * result.energy_se_j, split * energy_j)
        rows.append(KernelRow(kernel, latency_s, latency_se_s, energy_j, energy_se_j, "chain", group))
    return rows


def _unit_shares(
    graph: ExecutedGraph | None, kernel: KernelSpec, copies: int, node_cost_s: float
) -> dict[KernelSpec, float]:
    """Kernel -> what one of it is of a further copy's cost; without a graph the kernel is all of it."""
    if graph is None:
        return {kernel: 1.0}
    totals: dict[KernelSpec, float] = {}
    counts: Counter[KernelSpec] = Counter()
    for executed, share in zip(graph.kernels, own_shares(graph, node_cost_s), strict=True):
        # The runtime may spell the kernel's activation in its own way (relu6 as clip): it is still this kernel.
        named = kernel if executed.kernel._replace(fused=kernel.fused) == kernel else executed.kernel
        totals[named] = totals.get(named, 0.0) + share
        counts[named] += 1
    # Of companions one may be missing, at an end of the chain; what is there fewer times is not the copies'.
    beside = {named: max(1, round(n / copies)) for named, n in counts.items() if n >= copies - 1}
    each = {named: totals[named] / counts[named] for named in beside}
    unit = sum(each[named] * times for named, times in beside.items())
    if kernel not in each or unit <= 0.0:
        return {kernel: 1.0}
    return {named: share / unit for named, share in each.items()}


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
