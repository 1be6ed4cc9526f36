"""PyTorch against ONNX Runtime."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from atril_common.errors import RefusedError
from atril_common.imaging import normalise
from atril_common.model_config import ImageInput
from atril_models import ClassifierWithProbabilities
from atril_training.datasets import ImageDataset
from atril_training.parity import BatchParity, ParityBar, ParityRecord, measure_parity

EQUAL = BatchParity(
    batch_size=1,
    examples=10,
    logits_max_abs=0.0,
    logits_max_rel=0.0,
    probabilities_max_abs=0.0,
    probabilities_max_rel=0.0,
    argmax_agreement=1.0,
)


@pytest.fixture(scope="module")
def pictures(digits: ImageDataset, image: ImageInput) -> np.ndarray:
    """The test digits as the network takes them."""
    return normalise(digits.test.pixels, image)


def test_export_answers_as_the_module_does(
    classifier: ClassifierWithProbabilities, onnx_model: bytes, pictures: np.ndarray
) -> None:
    """On real pictures, one, seven and 64 at a time, every figure meets the bar."""
    record = measure_parity(classifier, onnx_model, pictures)
    assert record.failures() == ()
    assert [(b.batch_size, b.examples) for b in record.batches] == [(1, 359), (7, 357), (64, 320)]
    assert all(batch.argmax_agreement == 1.0 for batch in record.batches)


def test_changed_weight_fails_the_bar(
    classifier: ClassifierWithProbabilities, onnx_model: bytes, pictures: np.ndarray
) -> None:
    """A file with another bias at the output is found out, by how much it differs."""
    changed = onnx.load_from_string(onnx_model)
    bias = next(t for t in changed.graph.initializer if t.name.endswith("output.bias"))
    moved = numpy_helper.to_array(bias) + np.float32([0, 0, 0, 0.5, 0, 0, 0, 0, 0, 0])
    bias.CopyFrom(numpy_helper.from_array(moved, bias.name))
    record = measure_parity(classifier, changed.SerializeToString(), pictures, batch_sizes=(7,))
    (batch,) = record.batches
    assert batch.logits_max_abs == pytest.approx(0.5, abs=1e-4)
    assert record.failures()[0].startswith("logits max abs difference 0.5 at batch 7, at most")


@pytest.mark.parametrize(
    ("measured", "failure"),
    [
        (
            {"logits_max_abs": 2e-4},
            "logits max abs difference 0.0002 at batch 1, at most 0.0001 allowed",
        ),
        (
            {"probabilities_max_abs": 2e-5},
            "probabilities max abs difference 2e-05 at batch 1, at most 1e-05 allowed",
        ),
        (
            {"argmax_agreement": 0.9},
            "argmax agreement 0.9000 at batch 1, at least 1.0000 required",
        ),
        (
            {"logits_max_abs": float("nan")},
            "logits max abs difference nan at batch 1, at most 0.0001 allowed",
        ),
    ],
    ids=["logits", "probabilities", "argmax", "nan"],
)
def test_each_figure_is_held_to_its_bar(measured: dict[str, float], failure: str) -> None:
    """A miss says which figure, what it is and what was allowed; NaN never passes."""
    record = ParityRecord(ParityBar(), (EQUAL, replace(EQUAL, **measured)))
    assert record.failures() == (failure,)


def test_too_few_pictures_are_refused(
    classifier: ClassifierWithProbabilities, onnx_model: bytes, pictures: np.ndarray
) -> None:
    """A proof at batch 64 needs 64 pictures."""
    with pytest.raises(ValueError, match="at least 64 pictures, got 10"):
        measure_parity(classifier, onnx_model, pictures[:10])


def test_file_that_does_not_load_is_refused(
    classifier: ClassifierWithProbabilities, pictures: np.ndarray
) -> None:
    """ONNX Runtime's own errors become ours."""
    with pytest.raises(RefusedError, match="ONNX Runtime refuses the exported graph"):
        measure_parity(classifier, b"not a model", pictures)
