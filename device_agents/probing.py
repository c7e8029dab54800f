"""Asking the power sources what they are, where one that hangs or dies must not hide the others."""

from typing import Any, Dict, List

from device_agents.child import Child, ChildDied, ChildSilent


def probe_sources(sampler: Child, names: List[str], options: Dict[str, Any]) -> Dict[str, Any]:
    """State, reason and fix of each power source: all at once, or one by one where that ends the process."""
    sampler.start()
    try:
        return sampler.ask({"op": "probe", "names": names, "options": options}, sampler.patience_s)
    except (ChildDied, ChildSilent):
        return {name: _probe_alone(sampler, name, options) for name in names}


def _probe_alone(sampler: Child, name: str, options: Dict[str, Any]) -> Dict[str, Any]:
    sampler.start()
    request = {"op": "probe", "names": [name], "only": True, "options": options}
    fix = "leave %s out of the device profile's sensors, or mend its driver (dmesg)" % name
    try:
        state: Dict[str, Any] = sampler.ask(request, sampler.patience_s)[name]
    except ChildSilent as silence:
        return {"state": "absent", "reason": "asking it hung for %.0f s" % silence.waited_s, "fix": fix}
    except ChildDied as death:
        return {"state": "absent", "reason": "the process that asked it was %s" % death.how, "fix": fix}
    return state
