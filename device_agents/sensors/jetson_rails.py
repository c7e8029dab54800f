"""The power rails of Jetson boards: which of them holds the others, and which boards must have such a one."""

from typing import Iterable, Optional

# The whole supply in one rail; the other rails are parts of it. VIN_SYS_5V0 is none of these: on AGX Orin and Thor it
# supplies memory and I/O, and the core rails beside it draw more (github.com/rbonghi/jetson_stats/issues/344).
TOTAL_RAILS = ("POM_5V_IN", "VDD_IN")

# A rail of Nano, TX1, TX2, Xavier NX, Orin NX and Orin Nano -> the total beside it. AGX Xavier, AGX Orin and Thor have
# none.
_TOTAL_BESIDE = {
    "POM_5V_GPU": "POM_5V_IN",
    "POM_5V_CPU": "POM_5V_IN",
    "VDD_CPU": "VDD_IN",
    "VDD_SYS_GPU": "VDD_IN",
    "VDD_SYS_CPU": "VDD_IN",
    "VDD_CPU_GPU_CV": "VDD_IN",
}

INCLUDES = {
    "board_input": "all that flows into the module's supply input, of which the other rails are parts",
    "module": "the module's rails side by side; what its own converters and the carrier board take is not in it",
    "rail": "this rail alone",
}


def missing_total(rails: Iterable[str]) -> Optional[str]:
    """The total that these rails belong to and that is not among them: their sum would be taken for the board's."""
    names = set(rails)
    totals = {_TOTAL_BESIDE[name] for name in names if name in _TOTAL_BESIDE} - names
    return min(totals) if totals and not names & set(TOTAL_RAILS) else None
