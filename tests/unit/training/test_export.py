"""The exported file."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from atril_common.errors import RefusedError
from atril_models import Network
from atril_training.card import Training
from atril_training.export import IR_VERSION, OPSET, Export, check_graph, export_graph
from atril_training.tasks.pictures import PictureClassificationCourse


@pytest.fixture(scope="module")
def graph(onnx_model: bytes) -> onnx.ModelProto:
    """The exported file, parsed."""
    return onnx.load_from_string(onnx_model)


def _session(model: bytes) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])


def test_names_types_and_shapes_are_those_of_the_contract(onnx_model: bytes) -> None:
    """`image` in, `logits` and `probabilities` out, float32, the batch free in all three."""
    session = _session(onnx_model)
    described = [(v.name, v.type, v.shape) for v in (*session.get_inputs(), *session.get_outputs())]
    assert described == [
        ("image", "tensor(float)", ["batch", 1, 32, 32]),
        ("logits", "tensor(float)", ["batch", 10]),
        ("probabilities", "tensor(float)", ["batch", 10]),
    ]


def test_versions_are_pinned(graph: onnx.ModelProto) -> None:
    """Opset and IR version do not follow the installed exporter."""
    assert graph.ir_version == IR_VERSION
    assert [(opset.domain, opset.version) for opset in graph.opset_import] == [("", OPSET)]


def test_c3_is_a_plain_convolution_with_a_constant_weight(graph: onnx.ModelProto) -> None:
    """The connection table is folded: three Conv nodes on dense weights, no gather and no pad."""
    weights = {tensor.name: tuple(tensor.dims) for tensor in graph.graph.initializer}
    convolutions = [node for node in graph.graph.node if node.op_type == "Conv"]
    assert [weights[node.input[1]] for node in convolutions] == [
        (6, 1, 5, 5),
        (16, 6, 5, 5),
        (120, 16, 5, 5),
    ]
    assert {node.op_type for node in graph.graph.node} == {
        "Add", "AveragePool", "Conv", "Gemm", "Mul", "Reshape", "Softmax", "Tanh",
    }  # fmt: skip


def test_file_carries_all_weights_and_no_notes(graph: onnx.ModelProto, onnx_model: bytes) -> None:
    """No external data, no stack traces, no paths of the machine it was made on."""
    external = onnx.TensorProto.EXTERNAL
    assert all(tensor.data_location != external for tensor in graph.graph.initializer)
    assert not graph.metadata_props
    assert not any(node.metadata_props or node.doc_string for node in graph.graph.node)
    for trace in (b".py", b"site-packages", b"stack_trace", b"class_hierarchy", b"atril_models"):
        assert trace not in onnx_model


def test_same_weights_give_the_same_bytes(export: Export, onnx_model: bytes) -> None:
    """A second export of the same network cannot be told from the first."""
    assert export_graph(export) == onnx_model


def test_batch_of_one_equals_row_of_a_batch(onnx_model: bytes) -> None:
    """In the exported graph too, a picture's answer does not depend on its neighbours."""
    session = _session(onnx_model)
    batch = np.random.default_rng(0).standard_normal((9, 1, 32, 32)).astype(np.float32)
    (together,) = session.run(["logits"], {"image": batch})
    alone = [session.run(["logits"], {"image": batch[i : i + 1]})[0][0] for i in range(9)]
    np.testing.assert_allclose(np.stack(alone), together, atol=1e-5)


def test_module_in_training_mode_is_refused(
    course: PictureClassificationCourse, trained: tuple[Network, Training]
) -> None:
    """Even when only a part of it still trains."""
    (export,) = course.exports(trained[0])
    part = next(module for module in export.module.modules() if isinstance(module, torch.nn.Linear))
    part.train()
    try:
        with pytest.raises(ValueError, match="eval mode"):
            export_graph(export)
    finally:
        part.eval()


def _dim(graph: onnx.ModelProto, axis: int) -> onnx.TensorShapeProto.Dimension:
    return graph.graph.input[0].type.tensor_type.shape.dim[axis]


def test_fixed_batch_dimension_is_refused(export: Export, onnx_model: bytes) -> None:
    """The check names the tensor, the shape it has and the one it should have."""
    fixed = onnx.load_from_string(onnx_model)
    _dim(fixed, 0).dim_value = 2
    with pytest.raises(RefusedError, match=r"'image' has shape \[2, 1, 32, 32\], .*'batch', 1, 32"):
        check_graph(fixed, export.inputs, export.outputs)


def test_free_dimension_that_should_be_fixed_is_refused(export: Export, onnx_model: bytes) -> None:
    """A picture's size is part of the contract."""
    loose = onnx.load_from_string(onnx_model)
    _dim(loose, 3).dim_param = "width"
    with pytest.raises(RefusedError, match=r"'image' has shape \['batch', 1, 32, 'width'\]"):
        check_graph(loose, export.inputs, export.outputs)


def test_other_names_and_types_are_refused(export: Export, onnx_model: bytes) -> None:
    """The graph takes and answers what was declared, by name and element type."""
    graph = onnx.load_from_string(onnx_model)
    with pytest.raises(
        RefusedError, match=r"has the outputs \['logits', 'prob.*expected \['logits'\]"
    ):
        check_graph(graph, export.inputs, export.outputs[:1])
    graph.graph.output[0].name = "logits"
    graph.graph.output[1].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    with pytest.raises(RefusedError, match=r"not valid ONNX|element type DOUBLE"):
        check_graph(graph, export.inputs, export.outputs)


def test_invalid_graph_is_refused(export: Export, onnx_model: bytes) -> None:
    """What the ONNX checker finds is told."""
    broken = onnx.load_from_string(onnx_model)
    broken.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(RefusedError, match=r"not valid ONNX: (.|\n)*NoSuchOperator"):
        check_graph(broken, export.inputs, export.outputs)
