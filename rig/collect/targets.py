"""The networks whose prices a calibration is to get right: what it chooses kernels for, and what it is checked on.

With ``--around`` or a task: the network at other widths and with fewer blocks (``search_space``); else the drawn
networks that every calibration measures. Three sets are drawn apart: networks to choose by (never measured), networks
measured whole to fit to, and networks measured whole to check on, from which nothing is learned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from device_agents.records import KernelSpec
from rig.collect.plan import Context
from rig.collect.search_space import SearchSpace
from rig.durable import write_atomic
from rig.errors import BadInputError
from rig.workloads.calibration_networks import FOLDER
from rig.workloads.network_file import read_kernels

if TYPE_CHECKING:
    import onnx

    from power_models.kernels import KernelNode

CHOSEN_BY, FITTED, CHECKED = 40, 8, 12

Model = Callable[[], "onnx.ModelProto"]


@dataclass
class Targets:
    """Networks to choose kernels by; the contexts to fit to and to check on; ``notes``: what could not be followed."""

    runtime: str
    chosen_by: list[tuple[list[KernelNode], Model]]
    fitted: list[Context]
    held_out: list[Context]
    notes: list[str] = field(default_factory=list)
    _kernels: dict[int | None, list[list[KernelSpec]]] = field(default_factory=dict)

    def kernels(self, block: int | None) -> list[list[KernelSpec]]:
        """The kernels of each network to choose by, as the runtime runs them (``block``: see ``kernel_graph``)."""
        if block not in self._kernels:
            self._kernels[block] = [self._executed(nodes, model, block) for nodes, model in self.chosen_by]
        return self._kernels[block]

    def probe(self, longest_s: float) -> KernelSpec:
        """A kernel that can be measured by itself, to ask the device what it is."""
        from rig.collect.adaptive import measurable

        kernels = (kernel for network in self.kernels(None) for kernel in network)
        found = next((kernel for kernel in kernels if measurable(kernel, self.runtime, longest_s)), None)
        if found is None:
            raise BadInputError("none of the networks' kernels can be measured by itself", "name other networks")
        return found

    def _executed(self, nodes: Sequence[KernelNode], model: Model, block: int | None) -> list[KernelSpec]:
        from power_models.kernels import kernel_graph

        if self.runtime != "virtual":
            nodes = kernel_graph(model(), rules=self.runtime, **({} if block is None else {"block": block}))
        return [node.spec for node in nodes]


def draw_targets(around: Sequence[Path], runtime: str, seed: int, run_folder: Path) -> Targets:
    """The same for the same arguments; what is measured is written into the run folder where it is missing."""
    notes: list[str] = []
    drawn = [_variants(path, seed, notes) for path in around]
    general = not all(drawn) or not drawn
    everything = [part for part in [*drawn, _general(seed) if general else []] if part]
    # In turn, so that each of several networks has its part in each of the three sets.
    count = CHOSEN_BY + FITTED + CHECKED
    turns = [everything[i % len(everything)][i // len(everything)] for i in range(count)]
    named = [Context(path.stem, path) for path in around]
    fitted = named + [_kept(one, run_folder) for one in turns[CHOSEN_BY : CHOSEN_BY + FITTED - len(named)]]
    held_out = [_kept(one, run_folder) for one in turns[-CHECKED:]]
    own = [(nodes, lambda path=path: _loaded(path)) for path in around for nodes in [read_kernels(path, "virtual")]]
    return Targets(runtime, own + [(nodes, model) for _, nodes, model in turns[:CHOSEN_BY]], fitted, held_out, notes)


def _loaded(path: Path) -> onnx.ModelProto:
    import onnx

    return onnx.load(path)


Drawn = tuple[str, "list[KernelNode]", Model]


def _variants(path: Path, seed: int, notes: list[str]) -> list[Drawn]:
    """Configurations of a network; none where its widths cannot be followed or it cannot be written anew."""
    from rig.collect.node_onnx import network_model

    space = SearchSpace.of(read_kernels(path, "virtual"))
    if not space.free and not space.blocks:
        notes.append(f"{path.name}: its channels cannot be followed, so it is not varied; general networks stand in")
        return []
    drawn = space.draw(CHOSEN_BY + FITTED + CHECKED, seed)
    try:
        network_model(drawn[0])
    except BadInputError as error:
        notes.append(f"{path.name}: {error.message}; general networks stand in")
        return []
    return [
        (f"{path.stem}-{i:02d}", nodes, lambda nodes=nodes, i=i: network_model(nodes, seed + i))
        for i, nodes in enumerate(drawn)
    ]


def _general(seed: int) -> list[Drawn]:
    from power_models.kernels import kernel_graph
    from rig.workloads.context_networks import context_designs

    designs = context_designs(CHOSEN_BY + FITTED + CHECKED, seed)
    return [(design.name, kernel_graph(design.model(), "virtual"), design.model) for design in designs]


def _kept(one: Drawn, run_folder: Path) -> Context:
    name, _, model = one
    path = run_folder / FOLDER / f"{name}.onnx"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, model().SerializeToString(), "writing a network to measure")
    return Context(name, path)
