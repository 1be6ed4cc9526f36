"""Parity: what is compared, and what a miss says."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from atril_common.errors import RefusedError
from atril_training.export import (
    Export,
    OutputSpec,
    ParityCase,
    TensorSpec,
    batch_cases,
    export_graph,
)
from atril_training.parity import (
    CaseParity,
    OutputParity,
    ParityRecord,
    check_coverage,
    measure_parity,
)

EQUAL = OutputParity("logits", max_abs=0.0, max_rel=0.0, tolerance=1e-4, argmax_agreement=1.0)


def test_export_answers_as_the_module_does(export: Export, onnx_model: bytes) -> None:
    """On real pictures, one, seven and 64 at a time, every figure meets its bar."""
    record = measure_parity(export, onnx_model)
    assert record.failures() == ()
    assert [(case.sizes, case.examples) for case in record.cases] == [
        ({"batch": 1}, 323), ({"batch": 7}, 322), ({"batch": 64}, 320),
    ]  # fmt: skip
    logits, probabilities = zip(*(case.outputs for case in record.cases), strict=True)
    assert [output.argmax_agreement for output in logits] == [1.0] * 3
    assert [output.tolerance for output in probabilities] == [1e-5] * 3
    assert record.max_abs == max(output.max_abs for output in (*logits, *probabilities))


def test_changed_weight_fails_the_bar(export: Export, onnx_model: bytes) -> None:
    """A file with another bias at the output is found out, by how much it differs."""
    changed = onnx.load_from_string(onnx_model)
    bias = next(t for t in changed.graph.initializer if t.name.endswith("output.bias"))
    moved = numpy_helper.to_array(bias) + np.float32([0, 0, 0, 0.5, 0, 0, 0, 0, 0, 0])
    bias.CopyFrom(numpy_helper.from_array(moved, bias.name))
    record = measure_parity(export, changed.SerializeToString())
    assert record.cases[1].outputs[0].max_abs == pytest.approx(0.5, abs=1e-4)
    assert record.failures()[0].startswith("logits max abs difference 0.5 at batch 1, at most")


@pytest.mark.parametrize(
    ("measured", "failure"),
    [
        (
            replace(EQUAL, max_abs=2e-4),
            "logits max abs difference 0.0002 at batch 2, length 9, at most 0.0001 allowed",
        ),
        (
            replace(EQUAL, argmax_agreement=0.9),
            "logits argmax agreement 0.9000 at batch 2, length 9, all required",
        ),
        (
            replace(EQUAL, max_abs=float("nan")),
            "logits max abs difference nan at batch 2, length 9, at most 0.0001 allowed",
        ),
    ],
    ids=["difference", "argmax", "nan"],
)
def test_each_figure_is_held_to_its_bar(measured: OutputParity, failure: str) -> None:
    """A miss says which figure at which sizes, and what was allowed; NaN never passes."""
    case = CaseParity({"batch": 2, "length": 9}, 2, (EQUAL, measured))
    assert ParityRecord((case,)).failures() == (failure,)


def test_file_that_does_not_load_is_refused(export: Export) -> None:
    """ONNX Runtime's own errors become ours."""
    with pytest.raises(RefusedError, match="ONNX Runtime refuses the exported graph"):
        measure_parity(export, b"not a model")


def test_too_few_examples_are_refused() -> None:
    """A proof at batch 64 needs 64 examples."""
    with pytest.raises(ValueError, match="at least 64 examples, got 10"):
        batch_cases((torch.zeros(10, 3),))


class _RunningSum(nn.Module):
    """Answers with the sums so far, [batch, length]."""

    def forward(self, series: Tensor) -> Tensor:
        return series.cumsum(dim=1)


def _sums(*sizes: tuple[int, int]) -> Export:
    generator = torch.Generator().manual_seed(0)
    return Export(
        module=_RunningSum().eval(),
        inputs=(TensorSpec("series", ("batch", "length")),),
        outputs=(OutputSpec("sums", ("batch", "length")),),
        example=(torch.zeros(2, 4),),
        cases=tuple(
            ParityCase(
                {"batch": batch, "length": length},
                [(torch.rand(batch, length, generator=generator),)],
            )
            for batch, length in sizes
        ),
    )


def test_lengths_are_as_free_as_the_batch() -> None:
    """A graph traced at length 4 answers at 1 and at 50."""
    export = _sums((1, 1), (3, 4), (5, 50))
    record = measure_parity(export, export_graph(export))
    assert record.failures() == ()
    assert [case.sizes["length"] for case in record.cases] == [1, 4, 50]


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (((1, 1), (2, 50)), r"'batch' of \[1, 2\]: expected at least 3"),
        (((2, 1), (3, 4), (4, 50)), r"'batch' of \[2, 3, 4\]"),
        (((1, 2), (2, 4), (4, 50)), r"'length' of \[2, 4, 50\]: .* 1 among them"),
        (((1, 1), (2, 3), (4, 4)), r"'length' of \[1, 3, 4\]: .* one over the 4"),
    ],
    ids=["too few", "no batch of one", "no length of one", "none longer than traced"],
)
def test_proof_that_proves_too_little_is_refused(
    sizes: tuple[tuple[int, int], ...], message: str
) -> None:
    """A free dimension is only believed with three sizes, one of them 1, one beyond the trace."""
    with pytest.raises(ValueError, match=message):
        check_coverage(_sums(*sizes))
