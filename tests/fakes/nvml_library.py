"""A driver library libnvidia-ml.so.1 compiled from C, for the real pynvml to load where there is no NVIDIA card.

It does at each call what it is told: a value, or minus an NVML error code, from the file ``NVML_FOLDER``/NAME where
that variable is set, else from the environment variable NAME. "clock" is a counter of 50 W that moves every 100 ms.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")

NOT_SUPPORTED, NO_PERMISSION, DRIVER_NOT_LOADED, LOST, MISMATCH, UNKNOWN = -3, -4, -9, -15, -18, -999

# Signatures and struct as in nvml.h.
SOURCE = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct { unsigned fieldId, scopeId; long long timestamp, latencyUsec; int valueType, nvmlReturn;
                 union { double d; unsigned ui; unsigned long long ull; } value; } field_t;
static int card, opened, reads;

static const char *told(const char *name) {
    static char text[64];
    char path[4096];
    const char *folder = getenv("NVML_FOLDER");
    if (!folder) return getenv(name);
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "r");
    if (!file) return NULL;
    char *line = fgets(text, sizeof text, file);
    fclose(file);
    if (!line) return NULL;
    text[strcspn(text, "\n")] = 0;
    return text;
}
static int number(const char *name, unsigned long long *value) {
    if (!opened) return 1;
    if (told("LOST_AFTER") && ++reads > atoi(told("LOST_AFTER"))) return 15;
    const char *text = told(name);
    if (!text) return 3;
    if (!strcmp(text, "clock")) {  /* 50 W in steps of 100 ms, as the counter has them */
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        *value = 1000000 + (now.tv_sec * 10ull + now.tv_nsec / 100000000) * 5000;
        return 0;
    }
    long long given = atoll(text);
    if (given < 0) return (int)-given;
    *value = (unsigned long long)given;
    return 0;
}
static int small(const char *name, unsigned *value) {
    unsigned long long wide = 0;
    int code = number(name, &wide);
    *value = (unsigned)wide;
    return code;
}
int nvmlInitWithFlags(unsigned flags) {
    int code = told("INIT") ? -atoi(told("INIT")) : 0;
    opened += !code;
    return code;
}
int nvmlShutdown(void) { opened--; return 0; }
int fake_opened(void) { return opened; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = told("COUNT") ? atoi(told("COUNT")) : 1; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) { *device = &card; return 0; }
int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *mj) { return number("ENERGY", mj); }
int nvmlDeviceGetPowerUsage(void *device, unsigned *mw) { return small("AVERAGE", mw); }
int nvmlDeviceGetTemperature(void *device, int sensor, unsigned *celsius) { return small("TEMPERATURE", celsius); }
int nvmlDeviceGetClockInfo(void *device, int clock, unsigned *mhz) { return small("CLOCK", mhz); }
int nvmlDeviceGetFieldValues(void *device, int count, field_t *fields) {
    const char *name = fields[0].fieldId == 186 ? "INSTANT" : "AVERAGE_FIELD";
    char scoped[32];
    if (fields[0].fieldId != 186 && fields[0].fieldId != 185) return 2;
    snprintf(scoped, sizeof scoped, fields[0].scopeId ? "%s_SCOPE_%u" : "%s", name, fields[0].scopeId);
    fields[0].nvmlReturn = small(scoped, &fields[0].value.ui);
    fields[0].valueType = 1;
    fields[0].timestamp = told("STAMP") ? atoll(told("STAMP")) : 0;
    return 0;
}
int nvmlDeviceGetCudaComputeCapability(void *device, int *major, int *minor) {
    int both = told("CAPABILITY") ? atoi(told("CAPABILITY")) : 75;
    *major = both / 10;
    *minor = both % 10;
    return 0;
}
int REASONS_CALL(void *device, unsigned long long *reasons) { return number("REASONS", reasons); }
const char *nvmlErrorString(int code) { return "No data"; }
"""


def compile_library(folder: Path, reasons_call: str = "nvmlDeviceGetCurrentClocksEventReasons") -> Path:
    """Build the library into ``folder``; ``reasons_call``: the name that the driver has for the throttle reasons."""
    (folder / "nvml.c").write_text(SOURCE)
    command = [str(COMPILER), "-shared", "-fPIC", f"-DREASONS_CALL={reasons_call}"]
    subprocess.run([*command, "-o", str(folder / "libnvidia-ml.so.1"), str(folder / "nvml.c")], check=True, timeout=60)
    return folder
