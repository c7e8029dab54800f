"""Which kernels to measure next: those that make the totals of given networks surest (I-optimal, greedy).

    networks ─► kernels and their shares of the cost ─► variance of log totals under a Gaussian process
                                                          └─► the candidate that lowers it most, again and again

The posterior variance depends on *where* was measured, not on what came out, so a whole batch is chosen at once by
conditioning on its earlier members; what came out enters by the scales of the process (``kernel_process``) and by the
shares. The criterion, the mean posterior variance where predictions will be asked for, is that of Cohn (1996, "Neural
network exploration using optimal experiment design"), called I- or V-optimality elsewhere (Atkinson, Donev, Tobias
2007, ch. 10); here what is asked for are weighted sums.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from device_agents.records import KernelSpec
from power_models.features import Floats
from power_models.kernel_process import ErrorPrior, FeatureSpace, Points, covariance, learn_prior, variance


class Totals(NamedTuple):
    """The networks to be priced: distinct kernels, and each network's shares of its cost (networks, kernels)."""

    kernels: list[KernelSpec]
    shares: Floats


class Chosen(NamedTuple):
    """Places among the candidates, best first; ``deviation``: the networks' standard deviation after each (log)."""

    places: list[int]
    deviation: list[float]


def totals_of(networks: Sequence[Sequence[KernelSpec]], seconds: Callable[[Sequence[KernelSpec]], Floats]) -> Totals:
    """The networks as shares of their cost; ``seconds`` prices distinct kernels (n,). ValueError without a network."""
    kernels = list(dict.fromkeys(kernel for network in networks for kernel in network))
    if not kernels:
        raise ValueError("choosing what to measure: there is no network to be priced")
    place = {kernel: i for i, kernel in enumerate(kernels)}
    cost = np.maximum(np.asarray(seconds(kernels), dtype=np.float64), 0.0)
    counts = np.zeros((len(networks), len(kernels)))
    for row, network in zip(counts, networks, strict=True):
        np.add.at(row, [place[kernel] for kernel in network], 1.0)
    whole = counts * cost
    return Totals(kernels, whole / np.maximum(whole.sum(axis=1, keepdims=True), 1e-300))


class Surveyor:
    """What is unsure of ``totals`` after the ``measured`` kernels, and which of the ``candidates`` to measure next."""

    def __init__(
        self,
        prior: ErrorPrior,
        totals: Totals,
        candidates: Sequence[KernelSpec],
        measured: Sequence[KernelSpec] = (),
    ) -> None:
        space = FeatureSpace.of([*totals.kernels, *candidates, *measured])
        targets = space.points(totals.kernels)
        self._prior, self._candidates = prior, space.points(candidates)
        self._total = np.einsum("ij,ij->i", totals.shares @ covariance(prior, targets, targets), totals.shares)
        self._gain = totals.shares @ covariance(prior, targets, self._candidates)
        self._left = variance(prior, self._candidates)
        self._rows = np.zeros((0, len(candidates)))
        self._open = np.ones(len(candidates), bool)
        if measured:
            self._condition(space.points(measured), targets, totals.shares)

    def _condition(self, points: Points, targets: Points, shares: Floats) -> None:
        from scipy.linalg import cho_factor, solve_triangular

        inner = covariance(self._prior, points, points) + self._prior.noise**2 * np.eye(len(points.table))
        factor = cho_factor(inner, lower=True)[0]
        self._rows = solve_triangular(factor, covariance(self._prior, points, self._candidates), lower=True)
        to_totals = solve_triangular(factor, covariance(self._prior, points, targets), lower=True) @ shares.T
        self._left = self._left - (self._rows**2).sum(0)
        self._gain = self._gain - to_totals.T @ self._rows
        self._total = self._total - (to_totals**2).sum(0)

    @property
    def deviation(self) -> float:
        """Root of the networks' mean variance of the log total."""
        return float(np.sqrt(np.maximum(self._total, 0.0).mean()))

    def take(self, position: int) -> None:
        """Measure a candidate, in thought."""
        here = slice(position, position + 1)
        one = Points(self._candidates.table[here], self._candidates.families[here])
        column = covariance(self._prior, one, self._candidates)[0] - self._rows[:, position] @ self._rows
        root = float(np.sqrt(max(self._left[position], 0.0) + self._prior.noise**2))
        row, effect = column / root, self._gain[:, position] / root
        self._left = self._left - row**2
        self._gain = self._gain - effect[:, None] * row
        self._total = self._total - effect**2
        self._rows = np.vstack([self._rows, row])
        self._open[position] = False

    def choose(self, count: int, first: Sequence[int] = ()) -> Chosen:
        """``count`` candidates (fewer where there are no more): ``first``, then each the best after those before."""
        chosen, queue = Chosen([], []), list(first)
        while len(chosen.places) < count and self._open.any():
            worth = (self._gain**2).sum(0) / (np.maximum(self._left, 0.0) + self._prior.noise**2)
            position = queue.pop(0) if queue else int(np.argmax(np.where(self._open, worth, -np.inf)))
            self.take(position)
            chosen.places.append(position)
            chosen.deviation.append(self.deviation)
        return chosen


def prior_of_rows(kernels: Sequence[KernelSpec], log_cost: Floats, start: ErrorPrior | None = None) -> ErrorPrior:
    """The process's scales as measured log costs (n,) tell them; ``start`` (or the default ones) for a few."""
    start = start or ErrorPrior()
    if not len(kernels):
        return start
    return learn_prior(FeatureSpace.of(kernels).points(kernels), None, log_cost, start)


def one_of_each(candidates: Sequence[KernelSpec], weight: Floats, known: Sequence[KernelSpec]) -> list[int]:
    """Positions of the weightiest candidate of each (kind, data type) that ``known`` lacks: it would have no price."""
    have = {(kernel.kind, kernel.dtype) for kernel in known}
    best: dict[tuple[str, str], int] = {}
    for i, kernel in enumerate(candidates):
        kind = (kernel.kind, kernel.dtype)
        if kind not in have and (kind not in best or weight[i] > weight[best[kind]]):
            best[kind] = i
    return sorted(best.values(), key=lambda i: -float(weight[i]))
