"""Images: Fashion-MNIST (Debian's package, ``$RIG_DATA`` or a checked download) and scikit-learn's digits.

Fashion-MNIST: Xiao, Rasul, Vollgraf, arXiv 1708.07747. The checksums are of the decompressed IDX files, so that any
gzip of the same images is accepted.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rig.errors import BadInputError

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
SOURCE_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
STEERING_IMAGES = 5000
SPLIT_SEED = 20170825  # fixed for ever: the steering split must be the same in every run


class Images(NamedTuple):
    """Images (n, channels, h, w) float32, normalized; labels (n,) int64."""

    inputs: Tensor
    targets: Tensor


def fashion_mnist() -> dict[str, Images]:
    """Splits train (55,000), val (a stratified 5,000 to steer by) and test (10,000).

    Raises BadInputError where the files are missing, cannot be downloaded, or have the wrong checksum.
    """
    images = _read_idx("train-images-idx3-ubyte"), _read_idx("t10k-images-idx3-ubyte")
    labels = _read_idx("train-labels-idx1-ubyte"), _read_idx("t10k-labels-idx1-ubyte")
    train = torch.from_numpy(images[0].astype(np.float32) / 255.0).unsqueeze(1)
    test = torch.from_numpy(images[1].astype(np.float32) / 255.0).unsqueeze(1)
    mean, std = train.mean(), train.std()
    targets = torch.from_numpy(labels[0].astype(np.int64))
    steer = _stratified(targets, STEERING_IMAGES)
    keep = torch.ones(len(targets), dtype=torch.bool)
    keep[steer] = False
    train = (train - mean) / std
    return {
        "train": Images(train[keep], targets[keep]),
        "val": Images(train[steer], targets[steer]),
        "test": Images((test - mean) / std, torch.from_numpy(labels[1].astype(np.int64))),
    }


def digits() -> dict[str, Images]:
    """scikit-learn's 1,797 digits of 8×8, enlarged to 16×16; splits train, val, test of 60, 20 and 20 %."""
    from sklearn.datasets import load_digits

    data = load_digits()
    inputs = torch.from_numpy(data.images.astype(np.float32) / 16.0).unsqueeze(1)
    inputs = torch.nn.functional.interpolate(inputs, scale_factor=2, mode="nearest")
    inputs = (inputs - inputs.mean()) / inputs.std()
    targets = torch.from_numpy(data.target.astype(np.int64))
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(SPLIT_SEED))
    cuts = int(0.6 * len(order)), int(0.8 * len(order))
    parts = order[: cuts[0]], order[cuts[0] : cuts[1]], order[cuts[1] :]
    return {
        name: Images(inputs[part], targets[part]) for name, part in zip(("train", "val", "test"), parts, strict=True)
    }


def _stratified(targets: Tensor, count: int) -> Tensor:
    """Indices of ``count`` images, the same number of every class."""
    generator = torch.Generator().manual_seed(SPLIT_SEED)
    classes = int(targets.max()) + 1
    chosen = []
    for label in range(classes):
        members = torch.nonzero(targets == label).flatten()
        chosen.append(members[torch.randperm(len(members), generator=generator)[: count // classes]])
    return torch.cat(chosen).sort().values


def _read_idx(name: str) -> np.ndarray:
    payload = _find(name)
    found = hashlib.sha256(payload).hexdigest()
    if found != SHA256[name]:
        raise BadInputError(
            f"Fashion-MNIST file {name}: SHA-256 {found[:16]}… is not the expected {SHA256[name][:16]}…",
            "delete the damaged file, or install the Debian package dataset-fashion-mnist",
        )
    dimensions = payload[3]
    shape = tuple(int.from_bytes(payload[4 + 4 * i : 8 + 4 * i], "big") for i in range(dimensions))
    return np.frombuffer(payload, dtype=np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def _find(name: str) -> bytes:
    """The decompressed file from ``$RIG_DATA``, Debian's folder, or the download that is then kept in ``$RIG_DATA``."""
    own = os.environ.get("RIG_DATA")
    folders = [Path(own), Path(own) / "fashion-mnist"] if own else []
    for folder in [*folders, DEBIAN_FOLDER]:
        for path in (folder / f"{name}.gz", folder / name):
            if path.is_file():
                return _decompress(path)
    return _download(name, Path(own) if own else None)


def _decompress(path: Path) -> bytes:
    try:
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:
        raise BadInputError(f"cannot read {path}: {error}", "delete it and fetch it again") from error


def _download(name: str, keep: Path | None) -> bytes:
    try:
        with urllib.request.urlopen(f"{SOURCE_URL}{name}.gz", timeout=30) as answer:
            packed = answer.read()
        payload = gzip.decompress(packed)
    except (urllib.error.URLError, OSError, EOFError) as error:
        raise BadInputError(
            f"Fashion-MNIST is not on this machine and cannot be downloaded: {error}",
            "install the Debian package dataset-fashion-mnist, or put its four .gz files into the folder $RIG_DATA",
        ) from error
    if keep is not None and hashlib.sha256(payload).hexdigest() == SHA256[name]:
        keep.mkdir(parents=True, exist_ok=True)
        (keep / f"{name}.gz").write_bytes(packed)
    return payload
