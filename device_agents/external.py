"""A power source that only the host sees (a meter wired to it): the device times its phases as if it had the source.

The request's ``external_source`` says how fast that source is; the record repeats it, and the host adds the trace. With
``judged`` the host also says when the energy is precise enough: it is told of each window in the progress messages.
"""

from typing import Any, Dict, NamedTuple, Optional

from device_agents.protocol import AgentError


class ExternalSource(NamedTuple):
    """``asked``: what the request said, which the record repeats; ``judged``: the host says enough; times in s."""

    asked: Dict[str, Any]
    period_s: float
    window_s: float
    judged: bool = False

    @property
    def lag_s(self) -> float:
        """How long after an instant the samples around it are complete."""
        return 2.0 * self.period_s + self.window_s


def external_source(request: Dict[str, Any]) -> Optional[ExternalSource]:
    """The source of a ``measure`` request; None where it names none. Raises AgentError "bad-request"."""
    asked = request.get("external_source")
    if not asked:
        return None
    try:
        rate_hz, window_s = float(asked["rate_hz"]), float(asked["window_s"])
    except (KeyError, TypeError, ValueError) as error:
        raise AgentError("bad-request", "external_source: %r" % error, "send name, rate_hz and window_s") from error
    if not (rate_hz > 0.0 and window_s >= 0.0):
        raise AgentError("bad-request", "external_source: rate_hz above 0 and window_s of 0 or more: %r" % (asked,))
    return ExternalSource(asked, 1.0 / rate_hz, window_s, bool(asked.get("judged")))
