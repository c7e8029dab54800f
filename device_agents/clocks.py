"""Offset and drift between two clocks from exchanges of four time stamps, with their uncertainty.

     here   sent ─────────────────────────► back        offset <= received − sent     nothing arrives
     there          received ──► replied                offset >= replied − back      before it was sent

Each way bounds the offset by itself, so jitter on one way does not spoil what the other way says. The lines
offset(t) = a + b t that every bound allows are a convex polygon in the plane of a and b; the map is its middle, and
the uncertainty is how far the polygon's corners are from it anywhere between the first exchange and the last: no
delay, however unequal on the two ways, puts the truth further away.

Source: D. Mills, RFC 5905 (Network Time Protocol version 4), section 8, for the four time stamps; S. Moon, P. Skelly,
D. Towsley, "Estimation and removal of clock skew from network delay measurements", INFOCOM 1999, for the line under
one-way delays by linear programming.
"""

from typing import Any, Dict, List, NamedTuple, Sequence, Tuple

# No crystal runs off by more than this over a measurement, heat and age included (data sheets: 20 to 100 ppm).
PLAUSIBLE_DRIFT = 2e-4

# A drift known no better than this is not told from none.
VISIBLE_DRIFT = 5e-5

# Lines steeper than this are not looked at: the clock stepped.
STEEPEST = 1e-2

# How far no straight line can be from the bounds, as a share of the span: beyond it, the clock stepped.
STEPPED = 1e-3

# Stamps are rounded to this at least (s).
TICK_S = 1e-6

_Point = Tuple[float, float]


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
        """Clock there minus clock here, if both ways took the same time."""
        return 0.5 * ((self.received_s - self.sent_s) + (self.replied_s - self.back_s))


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
    """Offset and drift from exchanges, good from the first of them to the last.

    Drift is 0 where the span is too short to tell it from none; the uncertainty then holds what a crystal may run off
    within the span. A clock that is slewed, so that no straight line fits, widens the uncertainty. Raises ValueError
    without exchanges, or where a clock stepped.
    """
    if not exchanges:
        raise ValueError("no clock exchanges")
    worst_s = min(exchange.round_trip_s for exchange in exchanges)
    if worst_s < -TICK_S:
        raise ValueError("a clock stepped: round trip of %.6f s" % worst_s)
    bounds = _Bounds(exchanges)
    polygon, bend_s = bounds.polygon(TICK_S), 0.0
    if not polygon:
        polygon, bend_s = bounds.loosened_polygon()
    if bend_s > STEPPED * max(2.0 * bounds.half_span_s, 1.0):
        raise ValueError("a clock stepped: %.3f s off every straight line through the exchanges" % bend_s)
    most = PLAUSIBLE_DRIFT * bounds.half_span_s
    plausible = _clipped(_clipped(polygon, 0.0, 1.0, most), 0.0, -1.0, most)
    polygon = plausible or polygon
    runs_off = [c for _, c in polygon]
    low, high = min(runs_off), max(runs_off)
    told = high - low <= 2.0 * VISIBLE_DRIFT * bounds.half_span_s or low > 0.0 or high < 0.0
    middle = 0.5 * (low + high) if told else 0.0
    off = [a + sign * (c - middle) for a, c in polygon for sign in (-1.0, 1.0)]
    return ClockMap(
        bounds.near_s + 0.5 * (min(off) + max(off)),
        middle / bounds.half_span_s,
        bounds.reference_s,
        0.5 * (max(off) - min(off)) + bend_s,
    )


def exchanges_from(stamps: Sequence[Sequence[float]]) -> List[Exchange]:
    """Lists of four numbers, as they come over the wire."""
    return [Exchange(*_four(four)) for four in stamps]


def _four(values: Sequence[float]) -> Tuple[float, float, float, float]:
    if len(values) != 4:
        raise ValueError("a clock exchange has four time stamps, not %d" % len(values))
    return float(values[0]), float(values[1]), float(values[2]), float(values[3])


class _Bounds(object):
    """What each way says about offset = near + a + c x, with x from -1 at the first exchange to 1 at the last."""

    def __init__(self, exchanges: Sequence[Exchange]) -> None:
        first_s = min(exchange.sent_s for exchange in exchanges)
        last_s = max(exchange.back_s for exchange in exchanges)
        self.half_span_s = max(0.5 * (last_s - first_s), 1e-3)
        self.reference_s = 0.5 * (first_s + last_s)
        self.near_s = min(exchanges, key=lambda exchange: exchange.round_trip_s).offset_s
        self._most = [(self._x(e.sent_s), e.received_s - e.sent_s - self.near_s) for e in exchanges]
        self._least = [(self._x(e.back_s), e.replied_s - e.back_s - self.near_s) for e in exchanges]

    def polygon(self, slack_s: float) -> List[_Point]:
        """Corners (a, c) of what all bounds allow, loosened by ``slack_s``; none where they contradict each other."""
        steepest = STEEPEST * self.half_span_s
        widest = steepest + slack_s + max(abs(limit) for _, limit in self._most + self._least)
        corners = [(-widest, -steepest), (widest, -steepest), (widest, steepest), (-widest, steepest)]
        for x, limit in self._most:
            corners = _clipped(corners, 1.0, x, limit + slack_s)
        for x, limit in self._least:
            corners = _clipped(corners, -1.0, -x, slack_s - limit)
        return corners

    def loosened_polygon(self) -> Tuple[List[_Point], float]:
        """The corners with twice the least slack that leaves any, and that doubled slack."""
        narrow_s, wide_s = TICK_S, 2.0 * TICK_S
        while not self.polygon(wide_s):
            narrow_s, wide_s = wide_s, 2.0 * wide_s
        for _ in range(6):
            middle_s = 0.5 * (narrow_s + wide_s)
            if self.polygon(middle_s):
                wide_s = middle_s
            else:
                narrow_s = middle_s
        return self.polygon(2.0 * wide_s), 2.0 * wide_s

    def _x(self, t_s: float) -> float:
        return (t_s - self.reference_s) / self.half_span_s


def _clipped(corners: Sequence[_Point], p: float, q: float, most: float) -> List[_Point]:
    """The part of a convex polygon where p a + q c <= most (Sutherland and Hodgman, 1974)."""
    kept: List[_Point] = []
    for i, (a, c) in enumerate(corners):
        a_before, c_before = corners[i - 1]
        room, room_before = most - p * a - q * c, most - p * a_before - q * c_before
        if (room >= 0.0) != (room_before >= 0.0):
            share = room_before / (room_before - room)
            kept.append((a_before + share * (a - a_before), c_before + share * (c - c_before)))
        if room >= 0.0:
            kept.append((a, c))
    return kept
