"""What else a measurement rests on: the clock, governor and power mode, heat, room on the disks, libraries.

Each check is PASS, WARN (a figure is worse for it), FAIL (measuring is blocked) or SKIP (not on this device), with what
was seen and what to do.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rig.units import Quantity

if TYPE_CHECKING:
    from rig.connection.clock import ClockMap
    from rig.profiles import DeviceProfile

ENOUGH_DISK_BYTES = 200e6  # a campaign's spool and models
ENOUGH_HEADROOM_K = 10.0
GOOD_CLOCK_S = 0.010
CRYSTAL_PPM = 200.0
CORE_SHARE, SAMPLER_BYTES = 0.05, 60e6  # of a sampler process; more disturbs what is measured
STEADY_GOVERNORS = ("performance", "powersave", "userspace")


class Check(NamedTuple):
    """One line of the doctor's."""

    name: str
    status: str
    text: str
    fix: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The fields as a plain dict."""
        return dict(self._asdict())


def runtime_check(profile: DeviceProfile, hello: Mapping[str, Any]) -> Check:
    """Whether the profile's inference engine is there."""
    name = profile.runtime.name
    state = hello["runtimes"].get(name)
    if state is None:
        return Check(
            "runtime", "FAIL", f"this version has no runtime {name}", f"correct runtime.name in {profile.own_file}"
        )
    if state["state"] != "ok":
        return Check("runtime", "FAIL", state["reason"], state.get("fix") or None)
    provider = str(profile.runtime.options.get("provider", "cpu"))
    if provider not in state.get("providers", [provider]):
        fix = "on the device: python3 -m pip install onnxruntime-gpu"
        return Check("runtime", "FAIL", f"{name} there cannot use {provider}, only the CPU", fix)
    return Check("runtime", "PASS", name)


def clock_check(found: ClockMap, span_s: float, whose: str = "clock") -> Check:
    """Offset and drift of a device's (or a meter's) clock, as far as the exchanges tell."""
    offset = Quantity.around(found.offset_s, found.uncertainty_s)
    ppm = 1e6 * found.drift
    doubt_ppm = 2e6 * found.uncertainty_s / span_s if span_s > 0.0 else float("inf")
    told = doubt_ppm < 1000.0
    drift = f"drift {round(ppm):+d} ± {doubt_ppm:.0f} ppm" if told else f"drift not told in {span_s:.2g} s"
    text = f"offset {offset.format('s')}, {drift}"
    if abs(ppm) > CRYSTAL_PPM + doubt_ppm:
        return Check(whose, "FAIL", f"{text}: no crystal does that, a clock was stepped", "stop what steps the clock")
    if found.uncertainty_s > GOOD_CLOCK_S:
        return Check(whose, "WARN", text, "a quicker link, or longer windows (plan.window_s)")
    return Check(whose, "PASS", f"{text}: corrected")


def governor_check(profile: DeviceProfile, facts: Mapping[str, Any], pinned: Mapping[str, Any] | None) -> Check:
    """Whether the clock frequency depends on what ran before."""
    governor, wanted = facts.get("governor"), profile.power_mode
    if pinned is not None and pinned.get("pinned"):
        return Check("governor", "PASS", f"{governor or 'unknown'} at rest, {pinned['wanted']} while measuring")
    if pinned is not None and wanted:
        fix = "sudo cpupower frequency-set -g performance on the device, or leave power_mode out of the profile"
        return Check("governor", "WARN", f"{wanted} was asked for: {pinned.get('reason')}", fix)
    if governor is None:
        return Check("governor", "SKIP", "the device has no cpufreq governors")
    if governor not in STEADY_GOVERNORS:
        fix = f'write power_mode = "performance" in {profile.own_file}'
        return Check("governor", "WARN", f"{governor}: power depends on history", fix)
    return Check("governor", "PASS", str(governor))


def mode_check(facts: Mapping[str, Any]) -> Check | None:
    """A Jetson's power mode; None elsewhere."""
    mode = facts.get("nvpmodel")
    return None if not mode else Check("power mode", "PASS", f"nvpmodel {mode}")


def heat_check(
    profile: DeviceProfile, zones: Sequence[Mapping[str, Any]], conditions: Mapping[str, Any] | None
) -> Check:
    """Room between the temperature now, the plan's limit and the trip points."""
    limit_c = profile.plan.max_temp_c
    now_c = (conditions or {}).get("temp_c")
    if now_c is None:
        return Check("heat", "SKIP", "the device tells no temperature")
    trips = [trip for zone in zones for trip in zone["trips"] if trip["temp_c"] > now_c]
    nearest = min(trips, key=lambda trip: trip["temp_c"], default=None)
    words = f"{now_c:.0f} °C under load, limit of the plan {limit_c:.0f} °C"
    if nearest is not None:
        words += f", nearest trip point {nearest['temp_c']:.0f} °C ({nearest['type']})"
    flags = list((conditions or {}).get("throttled") or ())
    if flags:
        return Check("heat", "WARN", f"{words}; set: {', '.join(flags)}", "a better supply or more cooling")
    room_k = min(limit_c, nearest["temp_c"] if nearest else limit_c) - now_c
    if room_k <= 0.0:
        return Check("heat", "FAIL", words, "cool it, or raise plan.max_temp_c")
    if room_k < ENOUGH_HEADROOM_K:
        return Check("heat", "WARN", f"{words}: {room_k:.0f} K left", "more cooling, or plan.cooldown_s")
    return Check("heat", "PASS", f"{words}: {room_k:.0f} K left")


def disk_checks(facts: Mapping[str, Any], home: Path) -> list[Check]:
    """Free space where results are spooled and stored."""
    while not home.is_dir() and home != home.parent:
        home = home.parent
    here = shutil.disk_usage(home).free
    there = facts.get("disk_free_bytes")
    found = [("disk here", here, f"set RIG_HOME to another disk than that of {home}")]
    if there is not None:
        found.insert(0, ("disk there", there, f"free space in {facts['disk_path']} on the device"))
    return [
        Check(
            name,
            "PASS" if free >= ENOUGH_DISK_BYTES else "FAIL",
            f"{free / 1e9:.1f} GB free",
            None if free >= ENOUGH_DISK_BYTES else fix,
        )
        for name, free, fix in found
    ]


def library_check(facts: Mapping[str, Any]) -> Check:
    """Versions there, as their installers noted them."""
    versions = {"python": facts["python"], **facts["libraries"]}
    text = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    return Check("libraries", "PASS", text)


def agent_check(agent_hash: str, facts: Mapping[str, Any]) -> Check:
    """Which agent runs there, and what its supervisor takes of the memory."""
    return Check("agent", "PASS", f"{agent_hash[:12]}, {facts['rss_bytes'] / 1e6:.0f} MB beside its samplers")


def sampling_check(name: str, usage: Mapping[str, Any] | None, simulated: bool) -> Check:
    """What the sampler process takes of the device that it watches."""
    if usage is None:
        why = "virtual time: a sampler costs the simulated board nothing" if simulated else "the sampler did not tell"
        return Check(f"{name} cost", "SKIP", why)
    share, size = usage["core_share"], usage["rss_bytes"]
    text = f"{100 * share:.1f} % of a core, {size / 1e6:.0f} MB"
    if usage.get("read_s"):
        text += f", {1e3 * usage['read_s']:.2g} ms a reading"
    if share > CORE_SHARE or size > SAMPLER_BYTES:
        return Check(f"{name} cost", "WARN", f"{text}: it is a part of quiet power", "a lower rate, or another source")
    return Check(f"{name} cost", "PASS", text)
