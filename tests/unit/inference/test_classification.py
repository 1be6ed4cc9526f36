"""Classes in place of values (2.10 classification)."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tritonclient.grpc.model_config_pb2 import ModelConfig

from atril_common.errors import InvalidInputError, NotReadyError
from atril_common.tensors import Tensor, TensorSpec
from atril_inference import classification
from atril_inference.classification import Classifier, best_classes, read_labels

_ROWS = hnp.array_shapes(min_dims=2, max_dims=2, max_side=6)
_NUMBERS = st.sampled_from(["<f2", "<f4", "<f8", "<i1", "<i8", "<u1", "<u8"])
_TABLES = st.tuples(_NUMBERS, _ROWS).flatmap(lambda kind: hnp.arrays(*kind))


def test_classes_are_in_descending_order_with_their_labels() -> None:
    """2.10: `value:index:label`, the value as `%f`, the label where there is one."""
    values = np.array([[0.25, -1, 0.5], [3, 2, 1]], np.float32)
    assert best_classes(values, 2, ("a", "b")).tolist() == [
        [b"0.500000:2", b"0.250000:0:a"],
        [b"3.000000:0:a", b"2.000000:1:b"],
    ]


def test_whole_numbers_are_written_as_they_are() -> None:
    """2.10: integers have no decimals and lose no digit."""
    values = np.array([[1, 2**64 - 1]], np.uint64)
    assert best_classes(values, 1).tolist() == [[b"18446744073709551615:1"]]


def test_what_is_not_a_number_comes_last() -> None:
    """2.10: NaN is no large value."""
    values = np.array([[np.nan, -1, np.inf]], np.float32)
    assert best_classes(values, 3).tolist() == [[b"inf:2", b"-1.000000:1", b"nan:0"]]


@given(_TABLES, st.integers(1, 8))
def test_each_row_has_its_own_largest_values(values: Tensor, count: int) -> None:
    """2.10: min(N, classes) a row, no class twice, sorted, and none left out that is larger."""
    answer = best_classes(values, count)
    rows, classes = values.shape
    assert answer.shape == (rows, min(count, classes))
    keys = np.where(np.isnan(values), -np.inf, values) if values.dtype.kind == "f" else values
    for row, texts in zip(keys, answer.tolist(), strict=True):
        indices = [int(text.split(b":")[1]) for text in texts]
        assert len(set(indices)) == len(indices)
        chosen = [row[index] for index in indices]
        assert chosen == sorted(row.tolist(), reverse=True)[: len(chosen)]


def classifier(datatype: str, *, batching: bool) -> Classifier:
    """Of a model with one output."""
    spec = TensorSpec("y", datatype, (-1, -1))
    return Classifier("model", [spec], {}, batching=batching)


@pytest.mark.parametrize("datatype", ["BYTES", "BOOL", "BF16"])
def test_an_output_that_holds_no_numbers_has_no_classes(datatype: str) -> None:
    """2.10: the text names the output and its datatype."""
    with pytest.raises(InvalidInputError, match=f"'y'.*'{datatype}'"):
        classifier(datatype, batching=True).check((("y", 1),))


def config(filename: str) -> ModelConfig:
    """A configuration whose output has labels."""
    message = ModelConfig(name="model")
    message.output.add(name="y", label_filename=filename)
    message.output.add(name="z")
    return message


def test_labels_are_read_by_line(tmp_path: Path) -> None:
    """2.10 `label_filename`: one label a line, whatever ends the lines."""
    (tmp_path / "labels.txt").write_bytes("uno\r\ndós\n\ncuatro\n".encode())
    assert read_labels(tmp_path, config("labels.txt")) == {"y": ("uno", "dós", "", "cuatro")}


@pytest.mark.parametrize(
    ("filename", "reason"),
    [
        ("missing.txt", "not a file"),
        ("../outside.txt", "not a file in the model's folder"),
        ("link.txt", "not a file in the model's folder"),
        (".", "not a file"),
        ("binary.txt", "not UTF-8"),
        ("long.txt", "larger than"),
    ],
)
def test_a_label_file_that_cannot_be_read_keeps_the_model_from_being_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, filename: str, reason: str
) -> None:
    """2.10 `label_filename`: nothing outside the folder, nothing that is no text, nothing huge."""
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "outside.txt").write_text("secret")
    (folder / "link.txt").symlink_to(tmp_path / "outside.txt")
    (folder / "binary.txt").write_bytes(b"\xff\xfe")
    (folder / "long.txt").write_text("x" * 100)
    monkeypatch.setattr(classification, "MAX_LABEL_BYTES", 50)
    with pytest.raises(NotReadyError, match=reason):
        read_labels(folder, config(filename))
