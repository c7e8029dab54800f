"""Boards are opt-in: without ``-m board`` their tests are not even selected."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests marked ``board`` unless the marker expression names them."""
    if "board" in (config.option.markexpr or ""):
        return
    of_boards = [item for item in items if item.get_closest_marker("board")]
    if of_boards:
        config.hook.pytest_deselected(items=of_boards)
        items[:] = [item for item in items if item not in of_boards]
