"""Offset and drift between the host's clock and a device's (or a meter's), with their uncertainty.

The estimate itself is ``device_agents.clocks``, which the agent uses for its sensors too; here are the exchanges that
cross the wire.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from device_agents.clocks import ClockMap, Exchange, fit_clock

__all__ = ["ClockMap", "Exchange", "compare_clocks", "fit_clock"]


def compare_clocks(
    ask: Callable[[], tuple[float, float]],
    count: int = 8,
    now_s: Callable[[], float] = time.monotonic,
) -> list[Exchange]:
    """``count`` exchanges with the clock behind ``ask``, which returns (received_s, replied_s) on that clock.

    Times here are ``now_s``'s. Feed exchanges of several moments to ``fit_clock``: drift needs a span.
    """
    exchanges = []
    for _ in range(count):
        sent_s = now_s()
        received_s, replied_s = ask()
        exchanges.append(Exchange(sent_s, received_s, replied_s, now_s()))
    return exchanges
