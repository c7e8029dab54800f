"""In the place of smbus2: one INA226 on /dev/i2c-1, its registers in the JSON file ``SMBUS_REGISTERS``.

``registers``: number in hexadecimal -> word; ``error``: what opening the bus fails with; ``converts``: whether a new
conversion ends every 2.2 ms, which register 06 tells by its bit 3 until that register is read.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

CONVERSION_S = 2.2e-3
MASK_ENABLE, READY = 0x06, 8


class SMBus:
    """One open bus."""

    def __init__(self, bus: int) -> None:
        self._read_s = 0.0
        error = self._told().get("error")
        if error or bus != 1:
            number = error or 2
            raise OSError(number, os.strerror(number), f"/dev/i2c-{bus}")

    def read_word_data(self, address: int, register: int) -> int:
        """A register, low byte first."""
        told = self._told()
        if address != 0x40 or told.get("error"):
            raise OSError(121, os.strerror(121))
        word = int(told["registers"].get(f"{register:02x}", 0))
        if register == MASK_ENABLE:
            if told["converts"] and time.monotonic() - self._read_s >= CONVERSION_S:
                word |= READY
            self._read_s = time.monotonic()
        return (word & 0xFF) << 8 | word >> 8

    def close(self) -> None:
        """Nothing is held."""

    @staticmethod
    def _told() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(Path(os.environ["SMBUS_REGISTERS"]).read_text())
        return found
