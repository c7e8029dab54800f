"""The inputs of an ONNX model: their shapes, and what is drawn into them (numpy is handed in, not imported)."""

from typing import Any, Dict, List, Tuple

from device_agents.protocol import AgentError

# Below this an activation could be, or become, a denormal, which some CPUs compute a hundred times slower.
SMALLEST_INPUT = 1e-3


def input_shapes(inputs: List[Any], given: Any) -> Dict[str, Tuple[int, ...]]:
    """The shape of every input; one that the model leaves open must be given."""
    by_name = given if isinstance(given, dict) else {inputs[0].name: given} if given else {}
    unknown = sorted(set(by_name) - {tensor.name for tensor in inputs})
    if unknown:
        raise AgentError("bad-request", "the model has no input %s" % ", ".join(unknown))
    shapes = {}
    for tensor in inputs:
        declared = list(tensor.shape)
        shape = list(by_name.get(tensor.name, declared))
        fixed = all(isinstance(size, int) and size > 0 for size in shape)
        fits = len(shape) == len(declared) and all(
            not isinstance(size, int) or size == wanted for size, wanted in zip(declared, shape)
        )
        if not fixed:
            raise AgentError(
                "model",
                "input %s has the dynamic shape %s" % (tensor.name, declared),
                "give its shape: --shape %s" % ",".join(str(s) if isinstance(s, int) else "N" for s in declared),
            )
        if not fits:
            raise AgentError("bad-request", "input %s is %s and cannot be %s" % (tensor.name, declared, shape))
        shapes[tensor.name] = tuple(shape)
    return shapes


_FLOATS = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64"}
_INTEGERS = {
    "tensor(int64)": ("int64", 0, 9),
    "tensor(int32)": ("int32", 0, 9),
    "tensor(uint8)": ("uint8", 0, 255),
    "tensor(int8)": ("int8", -128, 127),
    "tensor(bool)": ("bool", 0, 1),
}


def draw_input(numpy: Any, random: Any, kind: str, shape: Tuple[int, ...]) -> Tuple[Any, str]:
    """A tensor as data would be: never constant, never denormal; small indices for wide integers."""
    if kind in _FLOATS:
        values = random.standard_normal(shape)
        tiny = numpy.abs(values) < SMALLEST_INPUT
        return numpy.where(tiny, SMALLEST_INPUT, values).astype(_FLOATS[kind]), "normal"
    if kind in _INTEGERS:
        dtype, low, high = _INTEGERS[kind]
        return random.randint(low, high + 1, shape).astype(dtype), "uniform integers %d to %d" % (low, high)
    raise AgentError("model", "inputs of type %s are not supported" % kind, "wrap the model so that it takes numbers")
