"""Made-up tables in the two shapes of measured tables: kernels of a known roofline, networks that are sums of them."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from typing import Any

QUIET_W = 2.9
FIELDS = (
    "kind", "batch", "in_channels", "in_height", "in_width", "out_channels", "kernel_h", "kernel_w", "stride",
    "padding", "groups",
)  # fmt: skip


def kernel(rng: random.Random, kind: str = "conv") -> dict[str, Any]:
    channels = [rng.choice([8, 16, 24, 32, 48, 64, 96, 128]) for _ in range(2)]
    size, side = rng.choice([7, 14, 28, 56]), rng.choice([1, 3, 5])
    if kind == "depthwise":
        channels[1], side = channels[0], 3
    groups = channels[0] if kind == "depthwise" else 1
    values = (kind, 1, channels[0], size, size, channels[1], side, side, 1, side // 2, groups)
    return dict(zip(FIELDS, values, strict=True))


def cost(row: dict[str, Any], dtype: str = "float32") -> tuple[float, float]:
    """(seconds, joules above quiet power): a roofline, quicker with int8."""
    pixels = row["in_height"] * row["in_width"]
    macs = pixels * row["out_channels"] * row["in_channels"] // row["groups"] * row["kernel_h"] * row["kernel_w"]
    moved = 4 * pixels * (row["in_channels"] + row["out_channels"])
    scale = 0.4 if dtype == "int8" else 1.0
    seconds = scale * (2e-5 + ((2e-10 * macs) ** 2 + (6e-10 * moved) ** 2) ** 0.5)
    return seconds, 1.5 * seconds + scale * 2e-10 * macs


def kernel_table(path: Path, count: int, seed: int = 0, quiet: bool = True, power: bool = True) -> Path:
    """A CSV of kernels with 1 % of noise, each kernel once."""
    rng = random.Random(seed)
    made: dict[tuple[Any, ...], dict[str, Any]] = {}
    while len(made) < count:
        row = kernel(rng, "conv" if len(made) % 4 else "depthwise")
        made.setdefault(tuple(row.values()), row)
    names = [*FIELDS, "dtype", "latency_s", "power_w", "energy_j", *(["idle_power_w"] if quiet else [])]
    with open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, names)
        writer.writeheader()
        for row in made.values():
            seconds, joules = (value * rng.gauss(1, 0.01) for value in cost(row))
            energy = joules + QUIET_W * seconds
            measured = {"power_w": energy / seconds, "energy_j": energy} if power else {"power_w": "", "energy_j": ""}
            extra = {"idle_power_w": QUIET_W} if quiet else {}
            writer.writerow({**row, "dtype": "float32", "latency_s": seconds, **measured, **extra})
    return path


def network_table(path: Path, count: int, seed: int = 0, device: str = "board-tflite-v2.7.1") -> Path:
    """JSON lines: networks of three families in two data types, sums of kernels, 1 % of noise."""
    rng = random.Random(seed)
    with open(path, "w", encoding="utf-8") as stream:
        for i in range(count):
            dtype = ("float32", "int8")[i % 2]
            family = ("net-v1", "net-v2", "other")[i % 3]
            kinds = ("conv", "depthwise") if family != "other" else ("conv",)
            kernels = [kernel(rng, rng.choice(kinds)) for _ in range(rng.randrange(5, 20))]
            seconds = sum(cost(one, dtype)[0] for one in kernels) * rng.gauss(1, 0.01)
            joules = sum(cost(one, dtype)[1] for one in kernels) * rng.gauss(1, 0.01)
            row = {
                "network": f"{family}-{i}", "device": device, "source": "MLPerf inference", "dtype": dtype,
                "latency_s": seconds, "energy_j": joules + QUIET_W * seconds, "idle_power_w": QUIET_W,
                "power_w": joules / seconds + QUIET_W, "kernels": [{**one, "activation": "relu"} for one in kernels],
            }  # fmt: skip
            stream.write(json.dumps(row) + "\n")
    return path
