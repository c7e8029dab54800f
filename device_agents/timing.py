"""How inferences are timed: back to back, or paced by absolute deadlines.

     back to back   |infer|infer|infer| ...                 until ``seconds`` have passed; t1 is the end of the last one
     paced          |infer|--wait--|infer|--wait--| ...     frame i starts at t0 + i / fps; t1 = t0 + frames / fps

The clock is the engine's, so that a board in virtual time is timed by the same code.
"""

import gc
from typing import Any, Dict, List, Optional

from device_agents.intervals import thin

MAX_SAMPLES = 2000


def run_back_to_back(engine: Any, seconds: float) -> Dict[str, Any]:
    """Infer until ``seconds`` have passed (at least once) and return a phase: t0_s, t1_s, count, latencies."""
    latencies: List[float] = []
    now, infer, note = engine.now_s, engine.infer, latencies.append
    gc.collect()
    gc.disable()
    try:
        t0_s = before_s = now()
        end_s = t0_s + seconds
        while before_s < end_s:
            infer()
            after_s = now()
            note(after_s - before_s)
            before_s = after_s
    finally:
        gc.enable()
    return phase(t0_s, before_s, latencies, 0)


def run_paced(engine: Any, seconds: float, fps: float) -> Dict[str, Any]:
    """Infer at ``fps`` for the whole number of frames nearest ``seconds``, counting missed deadlines.

    A frame's deadline is the next frame's start. Frames whose start has wholly passed are dropped and counted as
    missed, so that a network too slow for the rate does not build up a queue.
    """
    period_s = 1.0 / fps
    frames = max(1, round(seconds * fps))
    latencies: List[float] = []
    missed = 0
    gc.collect()
    gc.disable()
    try:
        t0_s = engine.now_s()
        frame = 0
        while frame < frames:
            engine.wait_until(t0_s + frame * period_s)
            before_s = engine.now_s()
            engine.infer()
            after_s = engine.now_s()
            latencies.append(after_s - before_s)
            frame += 1
            if after_s > t0_s + frame * period_s:
                missed += 1
            while frame < frames and after_s > t0_s + (frame + 1) * period_s:
                missed += 1
                frame += 1
        engine.wait_until(t0_s + frames * period_s)
        t1_s = engine.now_s()
    finally:
        gc.enable()
    return phase(t0_s, t1_s, latencies, missed)


def run(engine: Any, seconds: float, fps: Optional[float]) -> Dict[str, Any]:
    """Back to back where ``fps`` is None, else paced."""
    return run_back_to_back(engine, seconds) if fps is None else run_paced(engine, seconds, fps)


def wait(engine: Any, seconds: float) -> Dict[str, Any]:
    """Do nothing, loaded and waiting, for ``seconds``: the quiet phase."""
    t0_s = engine.now_s()
    engine.wait_until(t0_s + seconds)
    return phase(t0_s, engine.now_s(), [], 0)


def phase(t0_s: float, t1_s: float, latencies: List[float], missed: int) -> Dict[str, Any]:
    """One phase of a record, its latencies thinned evenly to at most ``MAX_SAMPLES``."""
    return {
        "t0_s": t0_s,
        "t1_s": t1_s,
        "count": len(latencies),
        "latency_s": [round(value, 9) for value in thin(latencies, MAX_SAMPLES)],
        "latency_mean_s": sum(latencies) / len(latencies) if latencies else None,
        "missed": missed,
    }
