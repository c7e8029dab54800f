"""Models that were sent to the device and never taken back, because a power cut or a lost host ended the session."""

import os
import re
from typing import Any, Dict

_SENT = re.compile(r"model-[0-9a-f]{64}\.onnx$")


def remove_abandoned(request: Dict[str, Any]) -> None:
    """Delete the sent models beside that of ``request``, which is kept.

    Only while the device is locked: nobody measures one of them then, and who waits for the device looks whether its
    model is there, and sends it again, before it asks again.
    """
    path = request.get("subject", {}).get("path")
    if not isinstance(path, str) or not _SENT.match(os.path.basename(path)):
        return
    folder = os.path.dirname(os.path.abspath(path))
    for name in os.listdir(folder) if os.path.isdir(folder) else []:
        if _SENT.match(name) and name != os.path.basename(path):
            try:
                os.remove(os.path.join(folder, name))
            except FileNotFoundError:
                continue  # its own session took it back just now
