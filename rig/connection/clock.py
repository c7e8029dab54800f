"""Offset and drift between the host's clock and a device's (or a meter's), with their uncertainty.

The estimate itself is ``device_agents.clocks``, which the agent uses for its sensors too; here are the exchanges that
cross the wire.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from device_agents.clocks import ClockMap, Exchange, fit_clock

__all__ = ["EXCHANGES", "ClockMap", "Exchange", "compare_clocks", "fit_clock"]

# Under jitter of up to 20 ms one way, so many leave an error above 2 ms in fewer than one case of twenty.
EXCHANGES = 40
FEWEST = 8
GOOD_S = 2.5e-4


def compare_clocks(
    ask: Callable[[], tuple[float, float]],
    count: int = EXCHANGES,
    now_s: Callable[[], float] = time.monotonic,
    good_s: float = GOOD_S,
) -> list[Exchange]:
    """Exchanges with the clock behind ``ask``, which returns (received_s, replied_s) on that clock.

    ``count`` of them at most, and eight at least; fewer than ``count`` where these already leave no more than
    ``good_s`` open. Times here are ``now_s``'s. Feed exchanges of several moments to ``fit_clock``: drift needs a span.
    """
    exchanges: list[Exchange] = []
    while len(exchanges) < count:
        sent_s = now_s()
        received_s, replied_s = ask()
        exchanges.append(Exchange(sent_s, received_s, replied_s, now_s()))
        if len(exchanges) % FEWEST == 0 and _doubt_s(exchanges) <= good_s:
            break
    return exchanges


def _doubt_s(exchanges: list[Exchange]) -> float:
    """What a moment's exchanges leave open: half of the quickest way there and the quickest way back."""
    there_s = min(exchange.received_s - exchange.sent_s for exchange in exchanges)
    back_s = min(exchange.back_s - exchange.replied_s for exchange in exchanges)
    return 0.5 * (there_s + back_s)
