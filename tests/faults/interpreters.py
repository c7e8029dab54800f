"""Interpreters of a test's own: the profile names one as ``python``, and the real agent runs on it.

A virtual environment made by hand (four files), whose site-packages see the packages of this one and hold stand-ins
for what may go wrong on a device. The agent's ``-I`` does not keep it from its interpreter's own site-packages.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import sys
import sysconfig
from pathlib import Path

# The real ONNX Runtime, which does what a file says: crash at the next inference, or be of another version.
ONNXRUNTIME = """
import ctypes, os, resource
__path__ = [{real!r}]
from onnxruntime.capi._pybind_state import ExecutionMode, GraphOptimizationLevel
from onnxruntime.capi._pybind_state import SessionOptions, get_available_providers
from onnxruntime.capi.onnxruntime_inference_collection import InferenceSession as _Real

ORDERS = {orders!r}

def _order():
    try:
        with open(ORDERS) as file:
            return file.read().strip()
    except FileNotFoundError:
        return ""

__version__ = _order()[len("version "):] if _order().startswith("version ") else {version!r}

class InferenceSession(_Real):
    def run(self, *arguments, **options):
        order = _order()
        if order and not order.startswith("version "):
            os.unlink(ORDERS)
            if order == "segv":
                ctypes.string_at(0)
            elif order == "memory":
                resource.setrlimit(resource.RLIMIT_AS, (1 << 31, 1 << 31))
                bytearray(1 << 33)
            elif order == "kill":
                os.kill(os.getpid(), 9)
        return super().run(*arguments, **options)
"""

# A power source in the place of "battery": honest until a file says otherwise. Watts follow the load that really runs.
SENSOR = '''
import json, os, time
from device_agents.protocol import clock_domain, now_s

ORDERS = {orders!r}
IDLE_W, BUSY_W = 2.0, 3.0

def runtime_cpu_s():
    """Processor seconds of the agent's runtime process, this process's sibling."""
    for entry in os.listdir("/proc"):
        if entry.isdigit() and entry != str(os.getpid()):
            try:
                with open("/proc/%s/stat" % entry) as file:
                    if int(file.read().rpartition(")")[2].split()[1]) != os.getppid():
                        continue
                with open("/proc/%s/schedstat" % entry) as file:
                    return float(file.read().split()[0]) * 1e-9
            except (OSError, ValueError, IndexError):
                continue
    raise OSError("the runtime process is gone")

class Sensor(object):
    def __init__(self, options):
        self._last = None

    def probe(self):
        if self._order() == "hang at probe":
            time.sleep(3600.0)
        return "ok", "", ""

    def describe(self):
        return {{"rate_hz": 50.0, "window_s": 0.02, "step_w": 0.01, "noise_w": 0.0, "gain_uncertainty": 0.01,
                "boundary": "board_input", "rail": "fake", "clock": clock_domain()}}

    def open(self):
        self._last, self._counter_j = (now_s(), runtime_cpu_s()), 0.0

    def poll(self):
        at_s, cpu_s = now_s(), runtime_cpu_s()
        last_s, last_cpu_s = self._last
        self._last = (at_s, cpu_s)
        joules = IDLE_W * (at_s - last_s) + BUSY_W * max(cpu_s - last_cpu_s, 0.0)
        self._counter_j += joules
        return self._spoiled(at_s, joules / (at_s - last_s), self._counter_j)

    def _spoiled(self, at_s, watts, counter_j):
        order = self._order()
        if order == "die":
            os.kill(os.getpid(), 11)
        elif order == "hang":
            time.sleep(3600.0)
        elif order == "print garbage":
            for fd in range(3, 64):
                try:
                    os.write(fd, b"\\xff\\x00 not a line of the agent's\\n")
                except OSError:
                    pass
        elif order == "not a number":
            watts = float("nan")
        elif order == "break":
            raise RuntimeError("a defect of the driver's library")
        elif order == "time runs backwards":
            at_s -= 3600.0
        elif order == "counter runs backwards":
            counter_j = -counter_j
        return [(at_s, watts, counter_j)]

    def _order(self):
        """What the file says; an order that ends the process is taken away first, so that the next one is honest."""
        try:
            with open(ORDERS) as file:
                order = file.read().strip()
        except FileNotFoundError:
            return ""
        if order in ("die", "hang", "print garbage", "break"):
            os.unlink(ORDERS)
        return order

    def close(self):
        pass
'''

ROGUE_SENSOR = """
import importlib.abc, importlib.util, sys

class Rogue(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "device_agents.sensors.battery":
            return importlib.util.spec_from_file_location(name, {path!r})

sys.meta_path.insert(0, Rogue())
"""

# Every look at the wall clock finds it six hours further off, now ahead, now behind.
STEPPING_CLOCK = """
import datetime, itertools, time
_real, _looks = time.time, itertools.count(1)

def _stepping():
    look = next(_looks)
    return _real() + (-1) ** look * 6 * 3600.0 * look

class _Datetime(datetime.datetime):
    @classmethod
    def utcnow(cls):
        return cls.utcfromtimestamp(_stepping() % 2e9)

time.time = _stepping
datetime.datetime = _Datetime
"""

ANCIENT = "import sys\nsys.version_info = (3, 5, 2, 'final', 0)\n"


def interpreter(folder: Path, site: str = "", **packages: str) -> str:
    """Make a virtual environment in ``folder`` and return its python.

    ``site``: what runs at every start (sitecustomize); ``packages``: name → text of its ``__init__``.
    """
    base = Path(os.path.realpath(sys.executable))
    inside = folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    inside.mkdir(parents=True)
    (folder / "bin").mkdir()
    (folder / "bin" / "python").symlink_to(base)
    (folder / "pyvenv.cfg").write_text(f"home = {base.parent}\ninclude-system-site-packages = false\n")
    (inside / "outer.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    (inside / "sitecustomize.py").write_text(site)
    for name, text in packages.items():
        (inside / name).mkdir()
        (inside / name / "__init__.py").write_text(text)
    return str(folder / "bin" / "python")


def with_rogue_sensor(folder: Path, orders: Path, site: str = "") -> str:
    """An interpreter on which the power source "battery" is one that obeys the file ``orders``."""
    folder.mkdir(parents=True)
    path = folder / "rogue_sensor.py"
    path.write_text(SENSOR.format(orders=str(orders)))
    return interpreter(folder / "venv", ROGUE_SENSOR.format(path=str(path)) + site)


def with_onnxruntime(folder: Path, orders: Path) -> str:
    """An interpreter whose onnxruntime is the real one and obeys the file ``orders``."""
    from importlib.metadata import version

    spec = importlib.util.find_spec("onnxruntime")
    if spec is None or spec.origin is None:
        raise RuntimeError("onnxruntime is not installed")
    real = str(Path(spec.origin).parent)
    text = ONNXRUNTIME.format(real=real, orders=str(orders), version=version("onnxruntime"))
    return interpreter(folder, onnxruntime=text)


def wrapped(path: Path, python: str, before: str = "", after: str = "") -> str:
    """A shell script that starts ``python``: ``before`` is a line of shell, ``after`` are more arguments."""
    path.write_text(f'#!/bin/sh\n{before}\nexec {shlex.quote(python)} "$@" {after}\n')
    path.chmod(0o755)
    return str(path)
