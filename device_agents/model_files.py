"""Models that were sent to the device and never taken back, because a power cut or a lost host ended the session."""

import os
import re
import time
from typing import Any, Dict

_SENT = re.compile(r"model-[0-9a-f]{64}\.onnx$")

ABANDONED_AFTER_S = 86400.0


def remove_abandoned(request: Dict[str, Any]) -> None:
    """Delete what was sent into the folder of ``request``'s model more than a day ago, that model apart.

    A session sends its models again where they are missing, and takes them back at its end. The day is for sessions in
    the same account that hold another lock (simulated devices, tests).
    """
    path = request.get("subject", {}).get("path")
    if not isinstance(path, str) or not _SENT.match(os.path.basename(path)):
        return
    folder = os.path.dirname(os.path.abspath(path))
    for name in os.listdir(folder) if os.path.isdir(folder) else []:
        sent = os.path.join(folder, name)
        if not _SENT.match(name) or name == os.path.basename(path):
            continue
        try:
            if time.time() - os.path.getmtime(sent) > ABANDONED_AFTER_S:
                os.remove(sent)
        except FileNotFoundError:
            continue  # its own session took it back just now
