"""Offset and drift between two clocks from exchanges of four time stamps, with their uncertainty.

     here   sent ─────────────────────────► back        offset = ((received − sent) + (replied − back)) / 2
     there          received ──► replied                 wrong by at most half the round trip

Source: D. Mills, RFC 5905 (Network Time Protocol version 4), section 8.
"""

from typing import Any, Dict, List, NamedTuple, Sequence, Tuple


class Exchange(NamedTuple):
    """Four time stamps in seconds: sent and back on the clock here, received and replied on the clock there."""

    sent_s: float
    received_s: float
    replied_s: float
    back_s: float

    @property
    def round_trip_s(self) -> float:
        """Time on the way, both ways together."""
        return (self.back_s - self.sent_s) - (self.replied_s - self.received_s)

    @property
    def offset_s(self) -> float:
        """Clock there minus clock here."""
        return 0.5 * ((self.received_s - self.sent_s) + (self.replied_s - self.back_s))

    @property
    def middle_s(self) -> float:
        """When, on the clock here."""
        return 0.5 * (self.sent_s + self.back_s)


class ClockMap(NamedTuple):
    """``there = here + offset_s + drift * (here - reference_s)``, right to within ``uncertainty_s``."""

    offset_s: float
    drift: float
    reference_s: float
    uncertainty_s: float

    def there_s(self, here_s: float) -> float:
        """A time of the clock here on the clock there."""
        return here_s + self.offset_s + self.drift * (here_s - self.reference_s)

    def to_json(self) -> Dict[str, Any]:
        """The fields as a plain dict."""
        return dict(self._asdict())


def fit_clock(exchanges: Sequence[Exchange]) -> ClockMap:
    """Offset and drift from exchanges, the quickest round trips of each end of the span deciding.

    Drift is fitted only where the span is long enough for it to exceed what the round trips leave open; else it is 0
    and the uncertainty says nothing about drift. Raises ValueError without exchanges, or with a negative round trip
    (a clock stepped).
    """
    if not exchanges:
        raise ValueError("no clock exchanges")
    worst = min(exchange.round_trip_s for exchange in exchanges)
    if worst < -1e-6:
        raise ValueError("a clock stepped: round trip of %.6f s" % worst)
    ordered = sorted(exchanges, key=lambda exchange: exchange.middle_s)
    half = max(1, len(ordered) // 2)
    early, late = _best(ordered[:half]), _best(ordered[half:] or ordered)
    best = _best(ordered)
    span_s = late.middle_s - early.middle_s
    doubt_s = 0.5 * (early.round_trip_s + late.round_trip_s)
    if span_s <= 0.0 or abs(late.offset_s - early.offset_s) <= doubt_s:
        return ClockMap(best.offset_s, 0.0, best.middle_s, max(0.5 * best.round_trip_s, 0.0))
    drift = (late.offset_s - early.offset_s) / span_s
    reference_s = 0.5 * (early.middle_s + late.middle_s)
    offset_s = 0.5 * (early.offset_s + late.offset_s)
    return ClockMap(offset_s, drift, reference_s, 0.5 * max(early.round_trip_s, late.round_trip_s))


def _best(exchanges: Sequence[Exchange]) -> Exchange:
    return min(exchanges, key=lambda exchange: exchange.round_trip_s)


def exchanges_from(stamps: Sequence[Sequence[float]]) -> List[Exchange]:
    """Lists of four numbers, as they come over the wire."""
    return [Exchange(*_four(four)) for four in stamps]


def _four(values: Sequence[float]) -> Tuple[float, float, float, float]:
    if len(values) != 4:
        raise ValueError("a clock exchange has four time stamps, not %d" % len(values))
    return float(values[0]), float(values[1]), float(values[2]), float(values[3])
