"""NVML: the power of one NVIDIA card, through pynvml (package nvidia-ml-py); source: NVIDIA's NVML API reference.

Three methods, best first:

- ``energy``: nvmlDeviceGetTotalEnergyConsumption, a counter in mJ that moves about every 100 ms (Volta and later);
- ``instant``: field 186, NVML_FI_DEV_POWER_INSTANT, mW;
- ``average``: nvmlDeviceGetPowerUsage, mW; averaged over one second on Ampere and later, GA100 apart.
"""

from typing import Any, Dict, List, Optional, Tuple

from device_agents.protocol import AgentError, clock_domain, now_s
from device_agents.sensors import raw

METHODS = ("energy", "instant", "average")

# NVML_FI_DEV_POWER_AVERAGE and NVML_FI_DEV_POWER_INSTANT: older versions of pynvml have no names for them.
FIELD_POWER_AVERAGE, FIELD_POWER_INSTANT = 185, 186
# nvml.h, NVML_POWER_SCOPE_*: the module of a Grace Hopper holds processor and memory too.
SCOPES = {"gpu": 0, "module": 1, "memory": 2}
_INCLUDES = {
    "gpu": "the card alone (GPU, its memory and converters), not the host that feeds it",
    "module": "the module: GPU, processor and their memory, not the rest of the host",
    "memory": "the GPU's memory alone",
}

# nvml.h, nvmlClocksEventReason*: those that lower the clock against the user's will.
THROTTLE_REASONS = {0x4: "power-cap", 0x8: "hw-slowdown", 0x20: "sw-thermal", 0x40: "hw-thermal", 0x80: "power-brake"}

# The sensor converts about every 100 ms, and on A100 and H100 looks only a quarter of that time (arXiv 2312.02741).
CONVERSION_S = 0.1
AVERAGE_S = 1.0
FIRST_AVERAGING_CAPABILITY = (8, 6)  # 8.0 is GA100, which returns the last conversion

# The counter is read five times per step, so that the time of a step is known to 10 ms either way.
ENERGY_RATE_HZ = 50.0
POWER_RATE_HZ = 1.0 / CONVERSION_S
MOST_W = 10e3  # no card, nor a module of several, draws as much

# Error name in pynvml -> state, what it means, what to do.
_REFUSALS = {
    "NVML_ERROR_LIBRARY_NOT_FOUND": (
        "absent",
        "the driver's library libnvidia-ml.so.1 is not installed",
        "install the NVIDIA driver; start a container with --gpus all",
    ),
    "NVML_ERROR_DRIVER_NOT_LOADED": ("absent", "the NVIDIA kernel driver is not loaded", "sudo modprobe nvidia"),
    "NVML_ERROR_LIB_RM_VERSION_MISMATCH": (
        "absent",
        "the driver's library and the loaded kernel driver are of different versions",
        "reboot: the driver was updated while it was in use",
    ),
    "NVML_ERROR_NO_PERMISSION": (
        "denied",
        "the driver does not let this user read the card",
        "give the user read and write access to /dev/nvidia* (ls -l /dev/nvidia* names the group)",
    ),
    "NVML_ERROR_GPU_IS_LOST": (
        "absent",
        "the GPU is lost: it fell off the bus or the driver reset it",
        "read dmesg for the Xid error, then reboot",
    ),
}


class Sensor(object):
    """One card. ``options``: ``index`` (0); ``method``, one of METHODS (None: the first of them that works); ``scope``,

    one of SCOPES ("gpu"); the others have no counter. Raises AgentError "bad-request" for any other value.
    """

    def __init__(self, options: Dict[str, Any]) -> None:
        self._index = options.get("index", 0)
        method = options.get("method")
        if not isinstance(self._index, int) or isinstance(self._index, bool) or self._index < 0:
            raise AgentError("bad-request", "nvml: index is %r" % (self._index,), "index is a number from 0 on")
        if method is not None and method not in METHODS:
            raise AgentError("bad-request", "nvml: no method %r" % (method,), "methods: %s" % ", ".join(METHODS))
        self._scope = options.get("scope", "gpu")
        if self._scope not in SCOPES or (self._scope != "gpu" and method == "energy"):
            raise AgentError(
                "bad-request", "nvml: no scope %r" % (self._scope,), "scopes: %s" % ", ".join(sorted(SCOPES))
            )
        methods = METHODS if self._scope == "gpu" else METHODS[1:]
        self._wanted = methods if method is None else (method,)
        self._method = self._wanted[0]
        self._window_s = CONVERSION_S
        self._nvml: Any = None
        self._card: Any = None
        self._cards = self._index + 1
        self._read_at_s = 0.0
        self._first_mj: Any = None
        self._last: Any = None
        self._stamp = 0

    def probe(self) -> Tuple[str, str, str]:
        """Whether a power value can be read now: a Jetson's NVML starts, and then supports no power call at all."""
        try:
            self._connect()
        except _Unusable as error:
            return error.state, error.message, error.fix
        self.close()
        return "ok", "GPU %d by method %s" % (self._index, self._method), ""

    def describe(self) -> Dict[str, Any]:
        """Rate, window and step of the method in use (before ``open``: of the first one wanted).

        The gain is NVIDIA's "accurate to within +/- 5%" (API reference, nvmlDeviceGetPowerUsage), taken as one standard
        deviation. The boundary is the card alone: not the host that feeds it.
        """
        energy = self._method == "energy"
        scope = "" if self._scope == "gpu" else "/" + self._scope
        rail = "gpu%d%s" % (self._index, scope)
        return {
            "rate_hz": ENERGY_RATE_HZ if energy else POWER_RATE_HZ,
            "update_s": CONVERSION_S,
            "window_s": self._window_s,
            "step_w": 1e-3 / CONVERSION_S if energy else 1e-3,
            "noise_w": 0.0,
            "gain_uncertainty": 0.05,
            "counts_energy": energy,
            "boundary": "rail" if self._scope == "memory" else "module",
            "rail": rail,
            "rails": ["gpu%d%s" % (index, scope) for index in range(self._cards)],
            "total": [rail],
            "includes": _INCLUDES[self._scope],
            "clock": clock_domain(),
        }

    def open(self) -> None:
        """Start reading; AgentError "no-sensor" where the card cannot be read."""
        self._connect()
        self._first_mj, self._last = None, None
        if self._method == "energy":
            self.poll()

    def temperature_c(self) -> Optional[float]:
        """Temperature of the open card's GPU; None where NVML does not give it."""
        try:
            return float(self._nvml.nvmlDeviceGetTemperature(self._card, self._nvml.NVML_TEMPERATURE_GPU))
        except self._nvml.NVMLError as error:
            if self._unsupported(error):
                return None
            raise self._refusal(error) from error

    def frequency_hz(self) -> Optional[float]:
        """Present clock of the open card's multiprocessors; None where NVML does not give it."""
        try:
            return 1e6 * float(self._nvml.nvmlDeviceGetClockInfo(self._card, self._nvml.NVML_CLOCK_SM))
        except self._nvml.NVMLError as error:
            if self._unsupported(error):
                return None
            raise self._refusal(error) from error

    def poll(self) -> List[Tuple[float, ...]]:
        """Power (W) at the middle of the reading, or the mean since the counter last moved and its energy (J).

        The counter's energy counts from its first movement after ``open``: what came before is part of a step, and
        no power follows from it. Raises AgentError where NVML refuses, as with a GPU that is lost.
        """
        before_s = now_s()
        try:
            value = self._value(self._method)
        except self._nvml.NVMLError as error:
            raise self._refusal(error) from error
        t_s = 0.5 * (before_s + now_s())
        if self._method != "energy":
            # NVML stamps a field with the time of its reading: the same value of the same time is no new sample.
            reading, self._last = self._last, (self._stamp, value)
            return [] if self._stamp and reading == self._last else [(t_s, value * 1e-3)]
        since_s, self._read_at_s = t_s - self._read_at_s, t_s
        last = self._last
        if last is None or value == last[1]:
            self._last = last or (t_s, value)
            return []
        if value < last[1]:
            raise _Unusable("absent", "GPU %d: its energy counter went back" % self._index, "was the driver reloaded?")
        # It moved since the reading before, and not earlier than one step ago.
        self._last = (t_s - 0.5 * min(since_s, CONVERSION_S), value)
        if self._first_mj is None:
            self._first_mj = value
            return []
        mean_w = (value - last[1]) * 1e-3 / (self._last[0] - last[0])
        if mean_w > MOST_W:
            raise _Unusable("absent", "GPU %d: its energy counter jumped" % self._index, "was the driver reloaded?")
        return [(self._last[0], mean_w, (value - self._first_mj) * 1e-3)]

    def throttle_reasons(self) -> List[str]:
        """Why the clock of the open card is held down now, values of THROTTLE_REASONS; none where not supported.

        Raises AgentError for any other refusal of NVML.
        """
        # The second is the first's name in drivers before 535.
        for name in ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"):
            function = getattr(self._nvml, name, None)
            if function is None:
                continue
            try:
                bits = function(self._card)
            except self._nvml.NVMLError as error:
                if not self._unsupported(error):
                    raise self._refusal(error) from error
            else:
                return [reason for bit, reason in sorted(THROTTLE_REASONS.items()) if bits & bit]
        return []

    def close(self) -> None:
        """Let go of NVML."""
        nvml, self._nvml, self._card = self._nvml, None, None
        if nvml is None:
            return
        try:
            nvml.nvmlShutdown()
        except nvml.NVMLError:
            pass  # a lost GPU: there is nothing left to let go of

    def _connect(self) -> None:
        self.close()
        try:
            import pynvml
        except ImportError as error:
            raise _Unusable("absent", "pynvml cannot be imported: %s" % error, "pip install nvidia-ml-py") from error
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            raise _refusal(pynvml, error, "NVML does not start") from error
        self._nvml = pynvml
        try:
            self._card = self._find_card()
            self._method = self._choose_method()
            self._window_s = self._find_window_s()
        except pynvml.NVMLError as error:
            refusal = self._refusal(error)
            self.close()
            raise refusal from error
        except _Unusable:
            self.close()
            raise

    def _find_card(self) -> Any:
        count = self._cards = self._nvml.nvmlDeviceGetCount()
        if self._index >= count:
            fix = "set the option index to one of 0 to %d" % (count - 1) if count else "is the card seated and powered?"
            raise _Unusable("absent", "no GPU %d: NVML sees %d" % (self._index, count), fix)
        return self._nvml.nvmlDeviceGetHandleByIndex(self._index)

    def _choose_method(self) -> str:
        refused = []
        for method in self._wanted:
            try:
                self._value(method)
            except self._nvml.NVMLError as error:
                if not self._unsupported(error):
                    raise
                refused.append("%s: %s" % (method, error))
            else:
                return method
        raise _Unusable(
            "absent",
            "GPU %d gives no power by NVML (%s)" % (self._index, "; ".join(refused)),
            "on a Jetson use the board's own power monitor"
            if self._wanted == METHODS
            else "unset the option method: another one may work",
        )

    def _find_window_s(self) -> float:
        if self._method != "average":
            return CONVERSION_S
        capability = tuple(self._nvml.nvmlDeviceGetCudaComputeCapability(self._card))
        return AVERAGE_S if capability >= FIRST_AVERAGING_CAPABILITY else CONVERSION_S

    def _value(self, method: str) -> int:
        """What a method reads, mJ or mW; NVMLError where it is refused, or 0: a card at work has neither."""
        nvml = self._nvml
        self._stamp = 0
        if method == "energy":
            value = nvml.nvmlDeviceGetTotalEnergyConsumption(self._card)
        elif method == "average" and self._scope == "gpu":
            value = nvml.nvmlDeviceGetPowerUsage(self._card)
        else:
            number = FIELD_POWER_INSTANT if method == "instant" else FIELD_POWER_AVERAGE
            field = nvml.nvmlDeviceGetFieldValues(self._card, [(number, SCOPES[self._scope])])[0]
            if field.nvmlReturn != nvml.NVML_SUCCESS:
                raise nvml.NVMLError(field.nvmlReturn)
            value, self._stamp = field.value.uiVal, int(field.timestamp)
        if value == 0:
            raise nvml.NVMLError(nvml.NVML_ERROR_NO_DATA)
        raw.note("nvml gpu%d %s" % (self._index, method), str(value))
        return int(value)

    def _unsupported(self, error: Any) -> bool:
        nvml = self._nvml
        return error.value in (
            nvml.NVML_ERROR_NOT_SUPPORTED,
            nvml.NVML_ERROR_FUNCTION_NOT_FOUND,
            nvml.NVML_ERROR_NO_DATA,
            nvml.NVML_ERROR_INVALID_ARGUMENT,  # a driver too old for the field
        )

    def _refusal(self, error: Any) -> "_Unusable":
        return _refusal(self._nvml, error, "GPU %d" % self._index)


class _Unusable(AgentError):
    """Why the card cannot be read, with the state that ``probe`` gives it."""

    def __init__(self, state: str, message: str, fix: str) -> None:
        super(_Unusable, self).__init__("no-sensor", message, fix)
        self.state = state


def _refusal(nvml: Any, error: Any, what: str) -> _Unusable:
    for name, (state, reason, fix) in _REFUSALS.items():
        if error.value == getattr(nvml, name):
            return _Unusable(state, "%s: %s" % (what, reason), fix)
    return _Unusable("absent", "%s: %s" % (what, error), "nvidia-smi -q -d POWER shows what the driver offers")
