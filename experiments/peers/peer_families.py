"""What the peers would build, as pools of candidates: the network as it is, uniform, picked by hand, torch-pruning's.

- ``whole``: the network as it is, for what longer training alone gives.
- ``uniform``: every channel group at one ratio of its width, in single channels and in multiples of eight.
- ``hand-0``, ``-1``, ``-2``: ResNet-20, -14 and -8 as a person would cut them (of MobileNetV2 likewise 0, 1 or 2
  residual blocks fewer in every stage): at least so many blocks gone from each stage, maybe more, widths in multiples
  of 16. Every network of the family is a candidate; of those at equal cost the one nearest to the published widths is
  taken.
- ``taylor``, ``magnitude``: torch-pruning's own pruner and importances (Fang et al., CVPR 2023), global, the channels
  taken in many small steps; each step is a candidate, in single channels and with its ``round_to=8``.
"""

from __future__ import annotations

import copy
import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from equal_cost import Candidate, Priced
from torch import nn

from power_models.tables import NetworkTables
from rig.compression.cutting.template import Template
from rig.compression.tasks import Task

WHOLE = "whole"  # nothing cut, trained as long as the others: what cutting costs beyond longer training
ALIGNMENTS = (1, 8)  # channels that a uniform or pruned width is a multiple of
HAND_ALIGNMENT = 16
HAND_BASES = ("hand-0", "hand-1", "hand-2")
TAUGHT = "-taught"
HAND_TAUGHT = tuple(base + TAUGHT for base in HAND_BASES)  # the same networks, with a teacher
MULTIPLIERS = np.round(np.arange(0.10, 1.501, 0.05), 2)
MOST_FREE_STAGES = 3  # beyond that, stages are widened together
MOST_PRUNED = 0.99  # of all channels, at its last step
CEILINGS = (1.0, 0.9)  # of a layer's channels that may go: without one whole stages are left a single channel
TAYLOR_BATCHES = 20


def priced(pool: Iterator[Candidate], template: Template, tables: NetworkTables, quantity: int) -> list[Priced]:
    """The candidates, each network once, with predicted shares of the seed's cost; ``quantity``: of four totals."""
    whole = float(tables.totals(template.seed_widths())[quantity])
    found: dict[str, Priced] = {}
    for candidate in pool:
        if candidate.key not in found:
            totals = tables.totals(candidate.widths, template.removed_kernels(candidate.removed))
            found[candidate.key] = Priced(candidate, float(totals[quantity]) / whole, float(totals[2]))
    return list(found.values())


def rounded(width: float, multiple: int, most: int) -> int:
    """A width as the nearest multiple, at least one of it (or the most there may be), at most ``most``."""
    return min(most, max(multiple, multiple * round(width / multiple)))


def uniform(template: Template, largest: dict[str, int]) -> Iterator[Candidate]:
    """All groups at one ratio."""
    for multiple in ALIGNMENTS:
        for ratio in np.arange(0.02, 1.0, 0.004):
            widths = {
                g.name: rounded(g.width * ratio, multiple, min(g.width, largest[g.name])) if g.prunable else g.width
                for g in template.groups
            }
            yield Candidate(f"ratio {ratio:.3f}, multiples of {multiple}", widths, ())


# --- picked by hand -----------------------------------------------------------------------------------------------


def hand_picked(template: Template, largest: dict[str, int], base: str) -> Iterator[Candidate]:
    """The family: blocks left in each stage, and widths of each stage in multiples of 16.

    A candidate belongs to the largest base that contains it: some stage has lost no more blocks than the base says.
    """
    of_stage = template.stages()  # what a person calls so
    fewest = HAND_BASES.index(base)
    choices = [range(min(fewest, len(blocks)), len(blocks) + 1) for blocks in of_stage.values()]
    for lost in itertools.product(*choices):
        longer = [n for n, blocks in zip(lost, of_stage.values(), strict=True) if len(blocks) > fewest]
        if longer and all(n > fewest for n in longer):
            continue  # the next base has it
        removed = tuple(
            name for n, blocks in zip(lost, of_stage.values(), strict=True) for name in blocks[len(blocks) - n :]
        )
        kept = "/".join(str(len(blocks) - n) for n, blocks in zip(lost, of_stage.values(), strict=True))
        for widths in _hand_widths(template, largest, of_stage):
            shown = "/".join(str(widths[stage]) for stage in of_stage)
            yield Candidate(f"{base}: blocks {kept}, widths {shown}", widths, removed)


def _hand_widths(
    template: Template, largest: dict[str, int], of_stage: dict[str, list[str]]
) -> Iterator[dict[str, int]]:
    """Widths in multiples of 16; inner layers follow the stage that their block adds to."""
    follows = {
        inner: stage
        for stage, names in of_stage.items()
        for block in template.blocks
        if block.name in names
        for inner in block.inner
    }
    seed = template.seed_widths()
    free = len(of_stage) <= MOST_FREE_STAGES
    options = [_multiples(seed[stage], largest[stage]) for stage in of_stage]
    ratios: Iterator[tuple[float, ...]] = (
        itertools.product(*([w / seed[s] for w in ws] for s, ws in zip(of_stage, options, strict=True)))
        if free
        else ((float(m),) * len(of_stage) for m in MULTIPLIERS)
    )
    seen = set()
    for several in ratios:
        by_stage = dict(zip(of_stage, several, strict=True))
        others = math.prod(several) ** (1.0 / max(len(several), 1))
        widths = {}
        for group in template.groups:
            ratio = by_stage.get(group.name, by_stage.get(follows.get(group.name, ""), others))
            aligned = rounded(group.width * ratio, HAND_ALIGNMENT, max(group.width, largest[group.name]))
            widths[group.name] = aligned if group.prunable else group.width
        if (key := tuple(widths.values())) not in seen:
            seen.add(key)
            yield widths


def _multiples(width: int, most: int) -> list[int]:
    return list(range(HAND_ALIGNMENT, most + 1, HAND_ALIGNMENT)) or [width]


def like_published(template: Template) -> Callable[[Priced], float]:
    """Preference of a person: near the published widths (log ratio of what is left), then more multiplications."""
    seed = template.seed_widths()

    def preference(one: Priced) -> float:
        gone = {g for b in template.blocks if b.name in one.candidate.removed for g in b.inner}
        distance = sum(abs(math.log(w / seed[g])) for g, w in one.candidate.widths.items() if g not in gone)
        return -distance + 1e-12 * one.macs

    return preference


# --- torch-pruning ------------------------------------------------------------------------------------------------


def pruned_ladder(
    baseline: nn.Module, task: Task, template: Template, method: str, seed: int, steps: int
) -> Iterator[tuple[Candidate, dict[str, Any]]]:
    """torch-pruning's global pruning of a trained network, step by step: candidate and weights (``state_dict``).

    Taylor's gradients are of TAYLOR_BATCHES training batches; the library keeps them beside the weights as it cuts.
    Each alignment is tried with each of CEILINGS.
    """
    import torch_pruning

    for multiple, ceiling in itertools.product(ALIGNMENTS, CEILINGS):
        model = copy.deepcopy(baseline).to(memory_format=torch.contiguous_format).eval()
        importances = torch_pruning.pruner.importance
        if method == "taylor":
            _leave_gradients(model, task, seed)
            importance = importances.GroupTaylorImportance()
        else:
            importance = importances.GroupMagnitudeImportance(p=2)
        modules = dict(model.named_modules())
        fixed = [modules[layer] for g in template.groups if not g.prunable for layer in g.writers]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pruner = torch_pruning.pruner.BasePruner(
                model,
                torch.zeros(1, *task.input_shape),
                importance,
                global_pruning=True,
                pruning_ratio=MOST_PRUNED,
                max_pruning_ratio=ceiling,
                iterative_steps=steps,
                ignored_layers=fixed,
                round_to=None if multiple == 1 else multiple,
            )
            for step in range(1, steps + 1):
                pruner.step()
                label = f"{method}, {100 * MOST_PRUNED * step / steps:.0f} % of channels, multiples of {multiple}"
                label += f", {100 * ceiling:.0f} % of a layer at most" if ceiling < 1.0 else ""
                yield Candidate(label, widths_of(model, template), ()), model.state_dict()


def widths_of(model: nn.Module, template: Template) -> dict[str, int]:
    """Widths by group of a network that was cut in place."""
    modules = dict(model.named_modules())
    widths = {}
    for group in template.groups:
        writer: Any = modules[group.writers[0]]
        widths[group.name] = int(getattr(writer, "out_channels", 0) or getattr(writer, "out_features", 0))
    return widths


def _leave_gradients(model: nn.Module, task: Task, seed: int) -> None:
    torch.manual_seed(seed)
    model.zero_grad(set_to_none=True)
    for inputs, targets in itertools.islice(iter(task.loaders("train")), TAYLOR_BATCHES):
        task.loss(model(inputs), targets).backward()


def weights_at(wanted: Candidate, ladder: Iterator[tuple[Candidate, dict[str, Any]]]) -> dict[str, Any]:
    """The weights that torch-pruning left at a candidate, from the ladder made again."""
    for candidate, weights in ladder:
        if candidate.key == wanted.key:
            return weights
    raise ValueError(f"{wanted.label} is not on the ladder of this baseline")


def pool_of(
    peer: str, template: Template, tables: NetworkTables, quantity: int, ladder: Sequence[Candidate] = ()
) -> list[Priced]:
    """All candidates of a peer that is found without training, priced."""
    if peer == WHOLE:
        nothing_cut = Candidate("nothing cut", template.seed_widths(), ())
        return priced(iter([nothing_cut]), template, tables, quantity)
    if peer == "uniform":
        return priced(uniform(template, tables.largest), template, tables, quantity)
    if peer in (*HAND_BASES, *HAND_TAUGHT):
        base = peer.removesuffix(TAUGHT)
        return priced(hand_picked(template, tables.largest, base), template, tables, quantity)
    return priced(iter(ladder), template, tables, quantity)
