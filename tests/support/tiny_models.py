"""ONNX models of a few nodes whose answers can be told without running them."""

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

OPSET = 20
IR_VERSION = 10

ELEMENT_TYPES = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}
"""Wire datatype to ONNX element type."""

WEIGHTS = np.arange(12, dtype=np.float32).reshape(4, 3)
"""The matrix of `matmul`."""

Shape = tuple[int | None, ...]


def identity(datatype: str, shape: Shape = (None, None)) -> ModelProto:
    """`output = input`; a dimension None is variable."""
    return _model(
        [helper.make_node("Identity", ["input"], ["output"])],
        [_value("input", datatype, shape)],
        [_value("output", datatype, shape)],
    )


def matmul() -> ModelProto:
    """`y = x @ WEIGHTS`: FP32 `[batch, 4]` to `[batch, 3]`."""
    return _model(
        [helper.make_node("MatMul", ["x", "weights"], ["y"])],
        [_value("x", "FP32", (None, 4))],
        [_value("y", "FP32", (None, 3))],
        {"weights": WEIGHTS},
    )


def sum_and_difference() -> ModelProto:
    """`sum = a + b`, `difference = a - b`: INT32 `[batch, 4]`."""
    shape: Shape = (None, 4)
    return _model(
        [
            helper.make_node("Add", ["a", "b"], ["sum"]),
            helper.make_node("Sub", ["a", "b"], ["difference"]),
        ],
        [_value("a", "INT32", shape), _value("b", "INT32", shape)],
        [_value("sum", "INT32", shape), _value("difference", "INT32", shape)],
    )


def two_identities() -> ModelProto:
    """`left = a`, `right = b`: FP32 `[batch, any]` each."""
    shape: Shape = (None, None)
    return _model(
        [
            helper.make_node("Identity", ["a"], ["left"]),
            helper.make_node("Identity", ["b"], ["right"]),
        ],
        [_value("a", "FP32", shape), _value("b", "FP32", shape)],
        [_value("left", "FP32", shape), _value("right", "FP32", shape)],
    )


def add_constant(constant: float) -> ModelProto:
    """`y = x + constant`: FP32 `[batch, 1]`; tells versions apart."""
    return _model(
        [helper.make_node("Add", ["x", "constant"], ["y"])],
        [_value("x", "FP32", (None, 1))],
        [_value("y", "FP32", (None, 1))],
        {"constant": np.array([constant], np.float32)},
    )


def two_recurrences() -> ModelProto:
    """`y = 2·a + x` and `w = z + 3·x`: FP32 `[batch, 1]`; two states that sort the wrong way round.

    The state `a` is replaced by `z_next`, which is `y`, and the state `z` by `a_next`, which is
    `w`: paired by name or by order, each would be taken for the other.
    """
    shape: Shape = (None, 1)
    return _model(
        [
            helper.make_node("Mul", ["a", "two"], ["doubled"]),
            helper.make_node("Add", ["doubled", "x"], ["y"]),
            helper.make_node("Mul", ["x", "three"], ["tripled"]),
            helper.make_node("Add", ["z", "tripled"], ["w"]),
            helper.make_node("Identity", ["y"], ["z_next"]),
            helper.make_node("Identity", ["w"], ["a_next"]),
        ],
        [_value(name, "FP32", shape) for name in ("x", "a", "z")],
        [_value(name, "FP32", shape) for name in ("y", "w", "a_next", "z_next")],
        {"two": np.array([[2]], np.float32), "three": np.array([[3]], np.float32)},
    )


def controls() -> ModelProto:
    """Answers the control inputs of a sequence as they come, and how many requests it has had."""
    told = [("start", "INT32"), ("end", "FP32"), ("ready", "BOOL"), ("id", "UINT64")]
    shape: Shape = (None, 1)
    return _model(
        [
            *(helper.make_node("Identity", [name], [f"{name}_told"]) for name, _ in told),
            helper.make_node("Add", ["count", "one"], ["next_count"]),
            helper.make_node("Add", ["x", "next_count"], ["y"]),
        ],
        [_value(name, datatype, shape) for name, datatype in told]
        + [_value("x", "INT32", shape), _value("count", "INT32", shape)],
        [_value(f"{name}_told", datatype, shape) for name, datatype in told]
        + [_value("y", "INT32", shape), _value("next_count", "INT32", shape)],
        {"one": np.array([[1]], np.int32)},
    )


def logarithm() -> ModelProto:
    """`y = log(x)`: FP32 `[any]`; a negative x gives NaN, zero gives -infinity."""
    return _model(
        [helper.make_node("Log", ["x"], ["y"])],
        [_value("x", "FP32", (None,))],
        [_value("y", "FP32", (None,))],
    )


def zeros() -> ModelProto:
    """`y` = as many FP32 zeros as `count` says: a short request with a long answer."""
    return _model(
        [helper.make_node("ConstantOfShape", ["count"], ["y"])],
        [_value("count", "INT64", (1,))],
        [_value("y", "FP32", (None,))],
    )


def mean_of_batch() -> ModelProto:
    """`y` = the mean over the batch: one row whatever the batch, which no batching model may do."""
    return _model(
        [helper.make_node("ReduceMean", ["x", "axes"], ["y"], keepdims=1)],
        [_value("x", "FP32", (None, 4))],
        [_value("y", "FP32", (None, 4))],
        {"axes": np.array([0], np.int64)},
    )


def pick() -> ModelProto:
    """`y` = WEIGHTS[row]: INT64 `[any]` to FP32 `[any, 3]`; there is no fifth row."""
    return _model(
        [helper.make_node("Gather", ["weights", "row"], ["y"], axis=0)],
        [_value("row", "INT64", (None,))],
        [_value("y", "FP32", (None, 3))],
        {"weights": WEIGHTS},
    )


def slow(base_rounds: int = 150, side: int = 256) -> ModelProto:
    """`y = x` after `base_rounds + rounds` matrix products: INT64 `rounds`, FP32 `x`, `[batch, 1]`.

    The product is kept in the answer times zero, so no optimiser may leave it out. Without extra
    rounds it takes some tens of milliseconds: long enough to be run off the event loop.
    """
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["state_in", "step"], ["product"]),
            helper.make_node("Identity", ["condition_in"], ["condition_out"]),
            helper.make_node("Identity", ["product"], ["state_out"]),
        ],
        "round",
        [
            helper.make_tensor_value_info("index", TensorProto.INT64, []),
            helper.make_tensor_value_info("condition_in", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state_in", TensorProto.FLOAT, [side, side]),
        ],
        [
            helper.make_tensor_value_info("condition_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state_out", TensorProto.FLOAT, [side, side]),
        ],
    )
    nodes = [
        helper.make_node("ReduceMax", ["rounds"], ["extra"], keepdims=0),
        helper.make_node("Add", ["extra", "base"], ["trips"]),
        helper.make_node("Loop", ["trips", "always", "step"], ["state"], body=body),
        helper.make_node("ReduceMax", ["state"], ["peak"], keepdims=0),
        helper.make_node("Mul", ["peak", "zero"], ["nothing"]),
        helper.make_node("Add", ["x", "nothing"], ["y"]),
    ]
    return _model(
        nodes,
        [_value("rounds", "INT64", (None, 1)), _value("x", "FP32", (None, 1))],
        [_value("y", "FP32", (None, 1))],
        {
            "base": np.array(base_rounds, np.int64),
            "always": np.array(True),
            "step": np.eye(side, dtype=np.float32),
            "zero": np.array(0, np.float32),
        },
    )


def _model(
    nodes: list[NodeProto],
    inputs: list[ValueInfoProto],
    outputs: list[ValueInfoProto],
    constants: dict[str, np.ndarray] | None = None,
) -> ModelProto:
    initializers = [numpy_helper.from_array(v, k) for k, v in (constants or {}).items()]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, initializers)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )


def _value(name: str, datatype: str, shape: Shape) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, ELEMENT_TYPES[datatype], shape)
