"""What a study asks of the store: the ``rig optimize`` runs it has made, runs of its own, a store of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from rig.commands.options import OptimizeOptions, command_words
from rig.compression.loop import outdated
from rig.store.store import Run, Store


def runs_of(options: OptimizeOptions) -> list[dict[str, Any]]:
    """Manifests of the runs of these options, the newest first; not of those that another version of the loop made."""
    words, store = command_words("optimize", options), Store()
    known = [m for m in reversed(store.runs()) if m["command"] == "optimize" and m["argv"] == words]
    return [manifest for manifest in known if not outdated(store.open_run(manifest["id"]))]


def finished(options: OptimizeOptions) -> dict[str, Any] | None:
    """The result of the newest finished run of these options, or None."""
    done = [manifest["id"] for manifest in runs_of(options) if manifest["state"] == "done"]
    return dict(Store().open_run(done[0]).read_json("result.json")) if done else None


def optimized(options: OptimizeOptions, ablation: Any = None) -> dict[str, Any]:
    """The result of these options: finished earlier, resumed, or new. ``ablation``: as of ``optimize.run``."""
    from rig.commands import optimize

    result = finished(options)
    if result is None:
        result = optimize.run(replace(options, resume=True) if runs_of(options) else options, ablation)
    return result


def run_of(store: Store, words: Sequence[str], device: str) -> Run:
    """A study's own run of measurements, found by its words: the newest that is there, or a new one."""
    known = [manifest["id"] for manifest in store.runs() if manifest["argv"] == list(words)]
    return store.open_run(known[-1]) if known else store.new_run("measure", device, argv=list(words))


@contextmanager
def environment(**values: str) -> Iterator[None]:
    """These variables of the environment, such as RIG_HOME; as they were before afterwards."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
