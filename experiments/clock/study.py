"""How well two clocks are mapped onto each other where the way between them jitters, and whether the bound is kept.

    python experiments/clock/study.py [--trials 2000] [--real-minutes 2] [--out experiments/clock/results.json]

Simulated: exchanges before and after a measurement of 5 to 120 s, as the agent and the session make them, over links of
several kinds; the clock there is off by up to 300 ms and runs off by up to 50 ppm. Errors are looked at where the map
is used: at the first exchange, in the middle, at the last. ``asymmetric``: one way takes up to 20 ms longer, drawn anew
for each message (uniform); ``bursty``: so for half of the messages only, the other half is prompt; ``both``: each way
has its own 20 ms; ``heavy``: exponential with mean 10 ms; ``constant``: one way always takes 20 ms more, which no
exchange can see (the bound must say so).

Real: a server process whose clock is this machine's with a known offset and drift, asked over TCP through a proxy that
holds each message back; ``rig.connection.clock`` does the asking and fitting.
"""

from __future__ import annotations

import argparse
import json
import random
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from device_agents.clocks import ClockMap, Exchange, fit_clock
from rig.connection.clock import EXCHANGES, compare_clocks

LIMIT_S = 2e-3
MOST_JITTER_S = 20e-3
BASE_S = 3e-4

Delay = Callable[[random.Random], tuple[float, float]]


def asymmetric(rng: random.Random) -> tuple[float, float]:
    """Up to 20 ms more on the way there, none on the way back."""
    return BASE_S + rng.uniform(0.0, MOST_JITTER_S), BASE_S


def bursty(rng: random.Random) -> tuple[float, float]:
    """Every other message is held back on the way back."""
    return BASE_S, BASE_S + (rng.uniform(0.0, MOST_JITTER_S) if rng.random() < 0.5 else 0.0)


def both(rng: random.Random) -> tuple[float, float]:
    """Each way up to 20 ms more, independently."""
    return BASE_S + rng.uniform(0.0, MOST_JITTER_S), BASE_S + rng.uniform(0.0, MOST_JITTER_S)


def heavy(rng: random.Random) -> tuple[float, float]:
    """Exponential on the way there, mean 10 ms."""
    return BASE_S + rng.expovariate(1.0 / (0.5 * MOST_JITTER_S)), BASE_S


def constant(rng: random.Random) -> tuple[float, float]:
    """Always 20 ms more on the way there."""
    return BASE_S + MOST_JITTER_S, BASE_S + rng.uniform(0.0, 1e-3)


LINKS: dict[str, Delay] = {
    "asymmetric": asymmetric,
    "bursty": bursty,
    "both": both,
    "heavy": heavy,
    "constant": constant,
}


class SimulatedWay:
    """A clock there and a link with delays; time passes only as messages travel."""

    def __init__(self, delay: Delay, rng: random.Random) -> None:
        self.now_s = rng.uniform(1e3, 1e6)
        self._offset_s, self._drift = rng.uniform(-0.3, 0.3), rng.uniform(-50e-6, 50e-6)
        self._start_s = self.now_s
        self._delay, self._rng = delay, rng

    def there_s(self, here_s: float) -> float:
        """The true time there."""
        return here_s + self._offset_s + self._drift * (here_s - self._start_s)

    def ask(self) -> tuple[float, float]:
        """One exchange, as seen there."""
        out_s, back_s = self._delay(self._rng)
        received_s = self.now_s + out_s
        replied_s = received_s + 5e-5
        self.now_s = replied_s + back_s
        return self.there_s(received_s), self.there_s(replied_s)


def trial(delay: Delay, rng: random.Random) -> tuple[list[float], float, int]:
    """Errors of the map at three moments, its uncertainty, and how many exchanges it took."""
    way = SimulatedWay(delay, rng)
    first_s = way.now_s
    exchanges = compare_clocks(way.ask, now_s=lambda: way.now_s)
    way.now_s += rng.uniform(5.0, 120.0)
    exchanges += compare_clocks(way.ask, now_s=lambda: way.now_s)
    clock = fit_clock(exchanges)
    moments = (first_s, 0.5 * (first_s + way.now_s), way.now_s)
    return [clock.there_s(t) - way.there_s(t) for t in moments], clock.uncertainty_s, len(exchanges)


def simulated(delay: Delay, trials: int, seed: int) -> dict[str, float]:
    """Errors over many trials: 95th percentile, worst, how often the bound holds, how wide it is."""
    rng = random.Random(seed)
    found = [trial(delay, rng) for _ in range(trials)]
    errors = np.abs([errors for errors, _, _ in found])
    bounds = np.asarray([bound for _, bound, _ in found])
    return {
        "trials": trials,
        "exchanges": float(np.mean([count for _, _, count in found])),
        "error_median_s": float(np.median(errors)),
        "error_p95_s": float(np.quantile(errors, 0.95)),
        "error_worst_s": float(errors.max()),
        "bound_median_s": float(np.median(bounds)),
        "bound_holds": float((errors.max(axis=1) <= bounds).mean()),
    }


class TrueClock:
    """This machine's clock with a known offset and drift."""

    def __init__(self, rng: random.Random) -> None:
        self._offset_s, self._drift = rng.uniform(-0.3, 0.3), rng.uniform(-50e-6, 50e-6)
        self._start_s = time.monotonic()

    def at(self, here_s: float) -> float:
        """The time there."""
        return here_s + self._offset_s + self._drift * (here_s - self._start_s)


def serve_clock(listening: socket.socket, clock: TrueClock) -> None:
    """Answer every line with the times it was received and replied at."""
    connection, _ = listening.accept()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with connection, connection.makefile("rb") as lines:
        for _ in lines:
            received_s = clock.at(time.monotonic())
            connection.sendall(f"{received_s!r} {clock.at(time.monotonic())!r}\n".encode())


def pump(source: socket.socket, sink: socket.socket, delay_s: Callable[[], float]) -> None:
    """Pass messages on, each held back; they are one line each, and the next is sent after the answer only."""
    while True:
        data = source.recv(4096)
        if not data:
            sink.shutdown(socket.SHUT_WR)
            return
        time.sleep(delay_s())
        sink.sendall(data)


def connected(port: int) -> socket.socket:
    """A connection to this machine, without Nagle's delay."""
    made = socket.create_connection(("127.0.0.1", port))
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def through_proxy(delay: Delay, rng: random.Random, span_s: float) -> tuple[float, float]:
    """Worst error of a map made over real sockets, and its bound."""
    clock = TrueClock(rng)
    server, proxy = socket.create_server(("127.0.0.1", 0)), socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=serve_clock, args=(server, clock), daemon=True).start()
    client = connected(proxy.getsockname()[1])
    inner, _ = proxy.accept()
    inner.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    outer = connected(server.getsockname()[1])
    for source, sink, way in ((inner, outer, 0), (outer, inner, 1)):
        wait = lambda way=way: delay(rng)[way]  # noqa: E731 - bound per direction
        threading.Thread(target=pump, args=(source, sink, wait), daemon=True).start()
    with client, client.makefile("rb") as answers:

        def ask() -> tuple[float, float]:
            client.sendall(b"clock\n")
            received_s, replied_s = answers.readline().split()
            return float(received_s), float(replied_s)

        first_s = time.monotonic()
        exchanges: list[Exchange] = compare_clocks(ask)
        time.sleep(span_s)
        exchanges += compare_clocks(ask)
        last_s = time.monotonic()
    for listening in (server, proxy):
        listening.close()
    fitted: ClockMap = fit_clock(exchanges)
    return max(abs(fitted.there_s(t) - clock.at(t)) for t in (first_s, last_s)), fitted.uncertainty_s


def main() -> None:
    """Simulated links, then real sockets; prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--real-minutes", type=float, default=2.0)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    found: dict[str, Any] = {"limit_s": LIMIT_S, "exchanges_at_most": EXCHANGES, "simulated": {}}
    for i, (name, delay) in enumerate(LINKS.items()):
        row = simulated(delay, chosen.trials, seed=i)
        found["simulated"][name] = row
        print(
            f"{name:<11} {row['exchanges']:.0f} exchanges: error p95 {1e3 * row['error_p95_s']:.3f}, worst "
            f"{1e3 * row['error_worst_s']:.2f} ms; bound {1e3 * row['bound_median_s']:.2f} ms, holds in "
            f"{100 * row['bound_holds']:.1f} %",
            flush=True,
        )
    rng, runs = random.Random(99), []
    end_s = time.monotonic() + 60.0 * chosen.real_minutes
    while time.monotonic() < end_s:
        runs.append(through_proxy(asymmetric, rng, 2.0))
    if runs:
        errors, bounds = np.asarray(runs).T
        found["sockets"] = {
            "link": "asymmetric",
            "runs": len(runs),
            "error_p95_s": float(np.quantile(errors, 0.95)),
            "error_worst_s": float(errors.max()),
            "bound_median_s": float(np.median(bounds)),
            "bound_holds": float((errors <= bounds).mean()),
        }
        print("sockets    ", json.dumps(found["sockets"]))
    if chosen.out:
        chosen.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
