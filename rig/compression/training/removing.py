"""A shrinking hook whose dead channels leave the network between epochs, and with them their share of the time.

The regularizer's prices and steps stay as they are: widths alive do not change by a cut. What it watches is stored by
channel, and is cut as the network is.
"""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor, nn

from power_models.regularizer import CostRegularizer
from rig.compression.cutting.channel_group import ChannelGroup
from rig.compression.cutting.groups import find_groups
from rig.compression.cutting.removal import Cut, cut_of, dead_channels

BY_CHANNEL = ("resistance", "condemned", "dead", "sentenced")  # attributes of the regularizer


class Shrinks(Protocol):
    """A step hook with a regularizer: ``methods.shrinker.Shrinker``."""

    regularizer: CostRegularizer

    def after_step(self, step: int, total: int, learning_rate: float, loss: float) -> None:
        """As ``StepHook``."""

    def state(self) -> dict[str, Any]:
        """As ``StepHook``."""

    def restore(self, state: dict[str, Any]) -> None:
        """As ``StepHook``."""


class Removing:
    """``hook`` with surgery every ``every`` epochs; example: one input of zeros, to trace networks with.

    ``network`` is the one in training; ``groups`` point into it.
    """

    def __init__(self, hook: Shrinks, network: nn.Module, example: Tensor, every: int = 1) -> None:
        self.hook = hook
        self.network = network
        self.groups: list[ChannelGroup] = list(hook.regularizer.groups)  # type: ignore[arg-type]
        self._seed = list(self.groups)
        self._example = example
        self._every = every
        self._cut: Cut | None = None

    def after_step(self, step: int, total: int, learning_rate: float, loss: float) -> None:
        """As the hook does."""
        self.hook.after_step(step, total, learning_rate, loss)

    def state(self) -> dict[str, Any]:
        """As the hook's."""
        return self.hook.state()

    def restore(self, state: dict[str, Any]) -> None:
        """As the hook does."""
        self.hook.restore(state)

    def surgery(self, epoch: int) -> Cut | None:
        """What has died since the last cut."""
        self._cut = cut_of(self.groups, dead_channels(self.groups)) if epoch % self._every == 0 else None
        return self._cut

    def adopt(self, network: nn.Module) -> None:
        """Go on with ``network``; after a cut what was watched of its channels is cut, else ``restore`` brings it."""
        self.network = network
        self.groups = find_groups(network, self._example, like=self._seed)
        regularizer = self.hook.regularizer
        regularizer.groups = [g for g in self.groups if g.name in regularizer.tables.largest]
        if self._cut is not None:
            for attribute in BY_CHANNEL:
                watched: dict[str, Tensor] = getattr(regularizer, attribute)
                for name, units in self._cut.kept.items():
                    if name in watched:
                        watched[name] = watched[name][units]
            self._cut = None
