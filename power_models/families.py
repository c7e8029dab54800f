"""Which kernels are priced together: one algorithm of the runtime, one data type."""

from __future__ import annotations

from device_agents.records import WEIGHTED_KINDS, KernelSpec

CLAMPS = ("relu", "relu6", "clip")  # ride along with the store of the result, alike on every runtime known
RAGGED = "~"  # in a family's name, before the block that its channels are no multiple of (``power_models.switches``)
CONVOLUTIONS = ("conv_1x1", "conv_kxk", "conv_grouped")


def family_of(spec: KernelSpec) -> str:
    """The family whose rows are fitted together: one algorithm of the runtime, one data type.

    Convolutions split into 1×1, k×k and grouped; a 1×1 with a single output position is a matrix-vector product, as
    ``fc`` is; each kind without weights is a family where it has rows enough, else one of ``memory``.
    """
    single = spec.batch * spec.out_height * spec.out_width * spec.kernel_h * spec.kernel_w * spec.groups == 1
    if spec.kind == "conv" and single:
        name = "fc"
    elif spec.kind == "conv":
        area = spec.kernel_h * spec.kernel_w
        name = "conv_grouped" if spec.groups > 1 else ("conv_1x1" if area == 1 else "conv_kxk")
    else:
        name = spec.kind
    return f"{name}/{spec.dtype}"


def pool_of(family: str) -> str:
    """The wider family that stands in where ``family`` has too few rows of its own."""
    name, dtype = family.split("/")
    name = name.partition(RAGGED)[0]
    weighted = name in WEIGHTED_KINDS or name in CONVOLUTIONS or name == "weighted"
    return f"{'weighted' if weighted else 'memory'}/{dtype}"


def supporters_of(family: str) -> tuple[str, ...]:
    """Families whose rows may help a small ``family``: other convolutions of the same data type."""
    name, dtype = family.split("/")
    return tuple(f"{other}/{dtype}" for other in CONVOLUTIONS if other != name) if name in CONVOLUTIONS else ()


def fused_class(fused: str) -> str:
    """What was fused, clamps under one name: the runtime stores their results alike."""
    return "+".join(sorted("clamp" if name in CLAMPS else name for name in fused.split("+") if name))
