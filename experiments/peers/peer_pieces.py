"""The pieces of the peers study: what there is, in which order it is run, and what tells their rows apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from peer_families import HAND_BASES, HAND_TAUGHT, WHOLE

from experiments.shared.pieces import Results, Row
from rig.compression.loop import STATE_VERSION

PRUNED = ("taylor", "magnitude")
FLOPS = "morphnet-flops"
OURS = ("morphnet", "allocate")
PEERS = (WHOLE, "uniform", *HAND_BASES, *HAND_TAUGHT, *PRUNED, FLOPS, *OURS)
BY_HAND = (*HAND_BASES, *HAND_TAUGHT)
ALL_OF_IT = 100  # percent of the cost: the budget of WHOLE, and of nobody else
COUNTED = {"local": "latency_s", "virtual-pi4": "energy_active_j"}  # the cost that is made equal on each device
LIMITED = {"latency_s": "latency", "energy_active_j": "energy"}  # how rig optimize is asked for it
SHOWN = {"latency_s": "seconds", "energy_active_j": "active joules"}
PLACE = {"latency_s": 0, "energy_active_j": 1}  # among the four totals of a network


class Network(NamedTuple):
    """A network of the study.

    hand: whether there is a family that a person would pick from; reference: epochs of the baseline that every row is
    compared with, which no method's epochs are; epochs: of ours, the network to be cut, search and fine-tuning (from
    scratch gets their sum).
    """

    name: str
    hand: bool
    reference: int
    epochs: tuple[int, int, int]

    @property
    def total_epochs(self) -> int:
        """What every method may spend, the search included."""
        return sum(self.epochs)


class Variant(NamedTuple):
    """A size of the study.

    looks: at candidates of a peer, at most; rounds: of a look, and of the check of the trained network; prune_steps: of
    torch-pruning, each of which is a candidate.
    """

    task: str
    networks: tuple[Network, ...]
    budgets: tuple[int, ...]
    seeds: tuple[int, ...]
    looks: int
    rounds: tuple[int, int]
    prune_steps: int


VARIANTS = {
    "full": Variant(
        "fashion-mnist",
        (
            Network("resnet20", True, 6, (2, 1, 13)),
            Network("mobilenetv2-0.5", True, 3, (2, 1, 5)),
            Network("vgg16-0.25", False, 6, (2, 1, 13)),
            Network("densenet22", False, 6, (2, 1, 13)),
        ),
        (ALL_OF_IT, 50, 30, 15),
        (0, 1, 2, 3, 4),
        8,
        (4, 8),
        100,
    ),
    "tiny": Variant("digits", (Network("resnet8", True, 2, (1, 2, 1)),), (ALL_OF_IT, 80), (0,), 3, (3, 3), 25),
}


class Piece(NamedTuple):
    """One network of one method: ``budget`` in percent of the baseline's cost."""

    device: str
    network: str
    budget: int
    peer: str
    seed: int
    variant: str

    @property
    def name(self) -> str:
        """How a person calls it."""
        return f"{self.network} to {self.budget} % on {self.device}, {self.peer}, seed {self.seed}"

    @property
    def goal(self) -> float:
        """The share of the baseline's cost that is wanted."""
        return self.budget / 100.0

    @property
    def plan(self) -> Network:
        """The network's part of the study: its epochs."""
        return next(one for one in VARIANTS[self.variant].networks if one.name == self.network)

    @property
    def quantity(self) -> str:
        """The cost that is made equal."""
        return COUNTED[self.device]

    @property
    def words(self) -> list[str]:
        """By which its run is found in the store; with other epochs or another recipe of training it is another."""
        epochs = map(str, (self.plan.reference, *self.plan.epochs))
        return ["peers", *map(str, self), *epochs, f"loop {STATE_VERSION}"]


def pieces(
    device: str,
    variant: str,
    *,
    networks: list[str] | None = None,
    budgets: list[int] | None = None,
    peers: list[str] | None = None,
    seeds: list[int] | None = None,
) -> list[Piece]:
    """The pieces asked for, in the order to run them: a whole row of methods, seed by seed, is comparable first."""
    size = VARIANTS[variant]
    return [
        Piece(device, network.name, budget, peer, seed, variant)
        for network in size.networks
        if networks is None or network.name in networks
        for budget in size.budgets
        if budgets is None or budget in budgets
        for seed in size.seeds
        if seeds is None or seed in seeds
        for peer in PEERS
        if (peers is None or peer in peers)
        and (network.hand or peer not in BY_HAND)
        and (peer == WHOLE) == (budget == ALL_OF_IT)
    ]


def place(row: Row) -> tuple[Any, ...]:
    """What tells one row of a results file from another."""
    return tuple(row[field] for field in ("device", "network", "budget", "seed", "peer"))


def results_in(folder: Path, variant: str) -> Results:
    """The file of the rows of a variant."""
    return Results(folder / f"results-{variant}.json", place)
