"""The simulated boards of the study, by name."""

from __future__ import annotations

from device_agents.virtual_board.physics import BoardModel


def board_of(name: str) -> BoardModel:
    """``nominal`` or a seed of a perturbed board, with ``+surprise`` for an effect that the features do not know."""
    base, _, surprise = name.partition("+")
    board = BoardModel.load("pi4", surprise=bool(surprise))
    return board if base == "nominal" else board.perturbed(int(base))
