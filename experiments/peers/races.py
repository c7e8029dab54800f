"""How well short trainings rank networks that lost different blocks: against a training of an epoch.

    python experiments/peers/races.py --device virtual-pi4 --network resnet20 --budget 15 --seed 0

The choices are those that ``rig optimize`` races for (``blocks_first``: the first ones and what is around each of
them), at the budget, of the network that is cut. Each is built once for every training of TRAININGS and judged by its
loss on steering images. Printed: the losses, and Spearman's rank correlation of each training with the longest, with
how far the training's favourite is behind the best by the longest. About 8 minutes on one core at 15 %, 20 at 30 %.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
from peer_ground import Ground, ground_of
from peer_pieces import COUNTED, LIMITED
from scipy.stats import spearmanr

from rig.compression.budget import resolve
from rig.compression.choosing.recovery import Recovery
from rig.compression.methods.allocating import Worth, block_losses, scored, template_of
from rig.compression.methods.base import Choice, Workplace
from rig.compression.methods.blocks_first import BlockChoices
from rig.compression.methods.race import FASTER, PARTS, Judge
from rig.console import Progress
from rig.units import parse_limit


class Training(NamedTuple):
    """Whole batches of it, the parts that each is cut into, and the factor of the rate."""

    batches: int
    parts: int
    faster: float

    @property
    def name(self) -> str:
        """A column's head."""
        return f"{self.batches} {'whole' if self.parts == 1 else 'in parts'}"


TRAININGS = (
    Training(16, 1, 1.0),
    Training(16, PARTS, FASTER),
    Training(40, PARTS, FASTER),
    Training(100, 1, 1.0),
    Training(100, PARTS, FASTER),
    Training(430, 1, 1.0),
)


def choices_of(ground: Ground, worth: Worth, budget: Any) -> list[Choice]:
    """The first choices and those around each."""
    blocks = BlockChoices(worth, ground.survey, budget)
    first = blocks.first()
    every = [*first, *(near for one in first for near in blocks.around(one))]
    return list({tuple(one.removed): one for one in every}.values())


def losses(ground: Ground, workplace: Workplace, network: Any, worth: Worth, choices: Sequence[Choice]) -> np.ndarray:
    """Loss of each choice (rows) after each training (columns)."""
    judge = Judge(workplace, network, worth)
    found = np.full((len(choices), len(TRAININGS)), np.nan)
    for column, training in enumerate(TRAININGS):
        recovery = Recovery(ground.task, training.batches, annealed=True, parts=training.parts, faster=training.faster)
        for row, choice in enumerate(choices):
            workplace.progress.update(f"{training.name}: choice {row + 1} of {len(choices)}")
            found[row, column] = judge.entered(choice, recovery).loss
    return found


def main() -> None:
    """Race, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=list(COUNTED), default="virtual-pi4")
    parser.add_argument("--network", default="resnet20")
    parser.add_argument("--budget", type=float, default=15.0, help="percent of the baseline's cost")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    ground = ground_of(asked.device, asked.network, "full")
    survey, network = ground.survey, ground.start(asked.seed)
    limit = parse_limit(LIMITED[ground.quantity], f"{asked.budget:g}%")
    budget = resolve([limit], None, survey.idle_power_w, survey.measured)
    with tempfile.TemporaryDirectory() as folder, Progress() as progress:
        workplace = Workplace(ground.task, ground.settings(asked.seed), Path(folder), progress, {}, lambda kept: None)
        template = template_of(survey.template, network, workplace.example)
        found = scored(workplace, network, template, [], (), 0)
        worth = Worth(template, [], found.channels, block_losses(found.trials))
        choices = choices_of(ground, worth, budget)
        table = losses(ground, workplace, network, worth, choices)
    removable = [b.name for b in template.blocks if b.name in worth.blocks]
    print(f"| blocks that stay | {' | '.join(training.name for training in TRAININGS)} |")
    print("| --- " * (1 + len(TRAININGS)) + "|")
    for choice, row in sorted(zip(choices, table, strict=True), key=lambda pair: pair[1][-1]):
        stay = ", ".join(name for name in removable if name not in choice.removed) or "none"
        print(f"| {stay} | {' | '.join(f'{loss:.3f}' for loss in row)} |")
    longest = table[:, -1]
    ranks = [float(spearmanr(column, longest).statistic) for column in table.T]
    behind = [float(longest[int(np.argmin(column))] - longest.min()) for column in table.T]
    print(f"| rank correlation with the last | {' | '.join(f'{rank:.2f}' for rank in ranks)} |")
    print(f"| favourite behind the best of the last | {' | '.join(f'{value:.3f}' for value in behind)} |")


if __name__ == "__main__":
    main()
