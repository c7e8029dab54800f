"""A torch network as an ONNX file that computes the same numbers, checked before anything is measured."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from rig.compression.tasks import Task
from rig.errors import ModelError

RELATIVE_TOLERANCE = 1e-3  # of the largest output; float32 sums in another order


def to_onnx(model: nn.Module, input_shape: Sequence[int]) -> onnx.ModelProto:
    """Export in inference mode at batch 1; batch-norms are folded, weights keep their layers' names.

    Raises ModelError where the exporter fails.
    """
    try:
        # In channels-last order the exporter writes strided views instead of plain reshapes.
        plain = copy.deepcopy(model).to(memory_format=torch.contiguous_format).eval()
        with _quiet_exporter():
            program = torch.onnx.export(plain, (torch.zeros(1, *input_shape),), dynamo=True, verbose=False)
    except (RuntimeError, ValueError, TypeError, torch.onnx.errors.OnnxExporterError) as error:
        raise ModelError(
            f"the network cannot be exported to ONNX: {str(error).splitlines()[0] if str(error) else error!r}",
            "copy.deepcopy must be able to copy it and torch.onnx.export to trace it with a batch of one",
        ) from error
    if program is None:
        raise ModelError("the network cannot be exported to ONNX: the exporter returned nothing")
    return program.model_proto


def save_seed(task: Task, path: Path) -> None:
    """Write a task's network, untrained, as ``save_checked`` does; the same file each time."""
    torch.manual_seed(0)
    save_checked(task.model(), task.input_shape, path)


def save_checked(model: nn.Module, input_shape: Sequence[int], path: Path, seed: int = 0) -> float:
    """Export to ``path`` and return the largest difference from torch, relative to the largest output.

    Raises ModelError where ONNX Runtime's numbers differ by more than RELATIVE_TOLERANCE.
    """
    proto = to_onnx(model, input_shape)
    beside = path.with_suffix(".part")
    onnx.save(proto, beside)
    os.replace(beside, path)
    difference = onnx_difference(model, input_shape, path, seed)
    if not difference <= RELATIVE_TOLERANCE:
        raise ModelError(
            f"{path.name}: ONNX Runtime and torch differ by {difference:.2e} of the largest output",
            "the exported network is not the trained one; please report the layers it is made of",
        )
    return difference


def onnx_difference(model: nn.Module, input_shape: Sequence[int], path: Path, seed: int = 0) -> float:
    """Largest absolute difference of the outputs on four random inputs, relative to the largest output."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    generator = torch.Generator().manual_seed(seed)
    model.eval()
    worst = 0.0
    for _ in range(4):
        inputs = torch.randn(1, *input_shape, generator=generator)
        with torch.inference_mode():
            expected = model(inputs).numpy()
        found = session.run(None, {name: inputs.numpy()})[0]
        scale = max(float(np.abs(expected).max()), 1e-12)
        worst = max(worst, float(np.abs(found - expected).max()) / scale)
    return worst


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """The exporter warns that torchvision is absent and prints its progress; neither is the user's business."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
