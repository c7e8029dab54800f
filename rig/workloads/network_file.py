"""A network that a person names on the command line: its file, its input shape, the kernels a device would run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rig.errors import BadInputError, ModelError, UnsupportedOperatorError

if TYPE_CHECKING:
    from power_models.kernels import FusionRules, KernelNode


def check_file(path: Path) -> None:
    """Raise ModelError where there is no file to read, or an empty one."""
    if not path.exists():
        raise ModelError(f"no such file: {path}", fix="give the path of an ONNX model")
    if not path.is_file():
        raise ModelError(f"{path} is not a file", fix="give the path of an ONNX model")
    if path.stat().st_size == 0:
        raise ModelError(f"{path} is empty", fix="export the model again")


def check_onnx(path: Path) -> None:
    """As ``check_file``, and ModelError for what is no ONNX network in one file."""
    check_file(path)
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(path, load_external_data=False)
    except DecodeError as error:
        raise ModelError(f"{path}: not an ONNX file, or cut short: {error}", fix="export the model again") from error
    if not model.graph.node:
        raise ModelError(f"{path}: holds no network (no nodes)", fix="export the model again")
    outside = [tensor.name for tensor in model.graph.initializer if tensor.external_data]
    if outside:
        raise ModelError(
            f"{path}: weights lie in another file ({outside[0]} and {len(outside) - 1} more)",
            fix="save the model as one file: onnx.save(onnx.load(PATH), NEW_PATH)",
        )


def parse_shape(text: str) -> tuple[int, ...]:
    """``1,3,224,224`` or ``1x3x224x224`` as integers; raises BadInputError."""
    parts = text.lower().replace("x", ",").split(",")
    try:
        shape = tuple(int(part) for part in parts)
    except ValueError:
        raise BadInputError(
            f"--shape {text}: not a list of whole numbers", fix="write for example 1,3,224,224"
        ) from None
    if min(shape) < 1:
        raise BadInputError(f"--shape {text}: every dimension is at least 1", fix="write for example 1,3,224,224")
    return shape


def read_kernels(
    path: Path, runtime: str | FusionRules, shape_text: str | None = None, block: int | None = None
) -> list[KernelNode]:
    """The kernels that ``runtime`` (a name, or measured rules) executes for the ONNX file, in order.

    ``block``: channels in a block of the runtime's layout on the device (a cost model's ``layout_block``), where known.
    Raises ModelError (no file, corrupt, open dimensions without a shape), UnsupportedOperatorError (names operator and
    node), BadInputError (a wrong ``--shape``).
    """
    check_file(path)
    shape = parse_shape(shape_text) if shape_text is not None else None
    from power_models.kernels import DynamicShape, InvalidModel, UnsupportedOperator, kernel_graph

    try:
        return kernel_graph(path, rules=runtime, shape=shape, **({} if block is None else {"block": block}))
    except DynamicShape as error:
        raise ModelError(f"{path}: {error}", fix="give the shape, as --shape 1,3,224,224") from error
    except InvalidModel as error:
        raise ModelError(f"{path}: {error}", fix="export the model again, or check it with onnx.checker") from error
    except UnsupportedOperator as error:
        raise UnsupportedOperatorError(
            f"{path}: operator {error.operator} (node {error.node!r}): {error.why}",
            fix="rewrite the network without it, or simplify the file so that it is folded away",
        ) from error
