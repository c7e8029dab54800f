"""The cost models: one folder a device in the store, replaced only by a better one; else one shipped with the rig.

Shipped models (``devices/models``) are fitted to published measurements of such a board. They are no calibration of a
person's own, say so in ``report["shipped"]``, and stand back as soon as the store has a model of that name.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rig.errors import NoCostModelError, StoreError, UnsupportedOperatorError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from power_models.kernel_cost import KernelCostModel
    from power_models.kernels import KernelNode
    from power_models.network_cost import NetworkCost
    from rig.store.store import Store

MODEL_FILE = "model.json"
SHIPPED_FOLDER = Path(__file__).parent / "devices" / "models"
GENERAL_RULES = "virtual"


def calibrated_devices(root: Path) -> list[str]:
    """The devices that have a cost model under the store's root folder."""
    return sorted(path.parent.name for path in (root / "models").glob(f"*/{MODEL_FILE}"))


def shipped_devices() -> list[str]:
    """The devices whose cost model comes with the rig."""
    return sorted(path.parent.name for path in SHIPPED_FOLDER.glob(f"*/{MODEL_FILE}"))


def shipped_warnings(model: KernelCostModel) -> list[dict[str, Any]]:
    """What must be said of every figure of a shipped model; nothing of others."""
    about: Any = model.report.get("shipped")
    if about is None:
        return []
    from rig.output import warning

    device, ran = model.configuration.device, f"{about['runtime_words']} there, ONNX Runtime here"
    message = (
        f"shipped model of {device}: {about['fitted_to']}, not a calibration of your own board; runtimes differ: {ran}"
    )
    return [warning("shipped-model", message, f"rig calibrate --device {device} --from {device}")]


def load_cost_model(store: Store, device: str) -> KernelCostModel:
    """The cost model of a device, the store's or else the shipped one.

    NoCostModelError names those that have one, StoreError a damaged one.
    """
    folder = store.model_folder(device)
    calibrate = f"rig calibrate --device {device}"
    if not (folder / MODEL_FILE).is_file() and device in shipped_devices():
        folder = SHIPPED_FOLDER / device
    if not (folder / MODEL_FILE).is_file():
        have = sorted({*calibrated_devices(store.root), *shipped_devices()})
        raise NoCostModelError(f"no cost model for {device}; have {', '.join(have) or 'none yet'}", fix=calibrate)
    from power_models.kernel_cost import KernelCostModel

    try:
        return KernelCostModel.load(folder)
    except ValueError as error:
        raise StoreError(str(error), fix=calibrate) from error


def require_known(store: Store, device: str) -> None:
    """Raise UnknownDeviceError for a name that has neither a cost model nor a profile."""
    if device not in {*calibrated_devices(store.root), *shipped_devices()}:
        from rig.profiles import load_profile

        load_profile(device)


def kernel_rules(model: KernelCostModel) -> str:
    """The rules by which a network becomes kernels for this model: its runtime's own, else the general ones.

    The general ones fuse a convolution with its batch-norm and activation, as every runtime does.
    """
    from power_models.kernels import RULES

    return model.configuration.runtime if model.configuration.runtime in RULES else GENERAL_RULES


def price(model: KernelCostModel, nodes: Sequence[KernelNode], around: Path) -> NetworkCost:
    """Price a network; UnsupportedOperatorError names a kernel that nobody priced, and how to get it priced."""
    from power_models.kernel_cost import UnpricedKernel
    from power_models.network_cost import price_network

    try:
        return price_network(model, [node.spec for node in nodes], [node.name for node in nodes])
    except UnpricedKernel as error:
        device = model.configuration.device
        more = f"rig calibrate --device {device} --around {around}"
        fix = f"rig predict {around} --device {device} --measure-missing, or {more}"
        raise UnsupportedOperatorError(str(error), fix) from error
