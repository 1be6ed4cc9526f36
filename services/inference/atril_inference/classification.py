"""The classification extension: an output's best classes in place of its values (reference 2.10).

It is applied to each request's own rows after the batch has run, so requests with and without it
share batches.
"""

import asyncio
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from tritonclient.grpc.model_config_pb2 import ModelConfig

from atril_common.core import InferResponse
from atril_common.errors import InvalidInputError, NotReadyError
from atril_common.tensors import Tensor, TensorSpec

MAX_LABEL_BYTES = 16 * 1024 * 1024
"""Largest file of labels."""

_MOST_INLINE = 1 << 14
"""Values to sort plus strings to write; more of them are left to a thread."""

ClassCounts = tuple[tuple[str, int], ...]


def read_labels(folder: Path, config: ModelConfig) -> dict[str, tuple[str, ...]]:
    """The labels of each output that has a `label_filename`, one a line.

    Args:
        folder: the model's; a label file lies in it.
        config: the model's.

    Raises:
        NotReadyError: a file is not there, not in the folder, too large or not UTF-8.
    """
    labels: dict[str, tuple[str, ...]] = {}
    for output in config.output:
        if not output.label_filename:
            continue
        where = f"label_filename '{output.label_filename}' of output '{output.name}'"
        path = (folder / output.label_filename).resolve()
        if not path.is_relative_to(folder.resolve()) or not path.is_file():
            raise NotReadyError(f"{where} is not a file in the model's folder")
        if path.stat().st_size > MAX_LABEL_BYTES:
            raise NotReadyError(f"{where} is larger than {MAX_LABEL_BYTES} bytes")
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as err:
            raise NotReadyError(f"{where} is not UTF-8: {err}") from err
        labels[output.name] = tuple(line.rstrip("\r") for line in text.rstrip("\n").split("\n"))
    return labels


class Classifier:
    """Writes the outputs of one model version as classes.

    Args:
        model_name: for the error texts.
        outputs: the declared ones.
        labels: by output, see `read_labels`.
        batching: whether the first dimension of an output is the batch.
    """

    def __init__(
        self,
        model_name: str,
        outputs: Iterable[TensorSpec],
        labels: Mapping[str, tuple[str, ...]],
        *,
        batching: bool,
    ) -> None:
        self._model_name = model_name
        self._datatypes = {spec.name: spec.datatype for spec in outputs}
        self._labels = labels
        self._batching = batching

    def check(self, counts: ClassCounts) -> None:
        """Refuse classes of what has none.

        Raises:
            InvalidInputError: an output does not hold numbers.
        """
        for name, _ in counts:
            datatype = self._datatypes[name]
            if datatype in ("BYTES", "BOOL", "BF16"):
                raise InvalidInputError(
                    f"class result not available for output '{name}' of model "
                    f"'{self._model_name}' due to unsupported type '{datatype}': classification "
                    f"needs numbers"
                )

    def classified(
        self, answered: asyncio.Future[InferResponse], counts: ClassCounts
    ) -> asyncio.Future[InferResponse]:
        """The same answer with classes in it; cancelling it cancels the request."""
        task = asyncio.ensure_future(self._classify(answered, counts))
        task.add_done_callback(lambda done: answered.cancel() if done.cancelled() else None)
        return task

    async def _classify(
        self, answered: asyncio.Future[InferResponse], counts: ClassCounts
    ) -> InferResponse:
        response = await answered
        outputs = dict(response.outputs)
        for name, count in counts:
            tensor, labels = outputs[name], self._labels.get(name, ())
            if tensor.size > _MOST_INLINE:
                outputs[name] = await asyncio.to_thread(self._classes, tensor, count, labels)
            else:
                outputs[name] = self._classes(tensor, count, labels)
        return response._replace(outputs=outputs)

    def _classes(self, tensor: Tensor, count: int, labels: tuple[str, ...]) -> Tensor:
        if self._batching:
            return best_classes(tensor.reshape(len(tensor), -1), count, labels)
        classes: Tensor = best_classes(tensor.reshape(1, -1), count, labels)[0]
        return classes


def best_classes(values: Tensor, count: int, labels: tuple[str, ...] = ()) -> Tensor:
    """The largest values of each row as `value:index` or `value:index:label`.

    Args:
        values: numbers, `[rows, classes]`; NaN counts as the smallest.
        count: most classes a row.
        labels: of the classes, as far as there are any.

    Returns:
        BYTES, `[rows, min(count, classes)]`, in descending order; equal values by index.
    """
    rows, classes = values.shape
    count = min(count, classes)
    floating = values.dtype.kind == "f"
    keys = np.where(np.isnan(values), -np.inf, values) if floating else values
    # Reversed twice, because a stable sort is ascending and equal values are to stay in order.
    order = classes - 1 - np.argsort(keys[:, ::-1], axis=1, kind="stable")[:, ::-1][:, :count]
    number = "%f" if floating else "%d"
    result = np.empty((rows, count), dtype=object)
    for row, indices in enumerate(order.tolist()):
        for column, (index, value) in enumerate(
            zip(indices, values[row, indices].tolist(), strict=True)
        ):
            label = labels[index] if index < len(labels) else ""
            text = f"{number % value}:{index}"
            result[row, column] = (f"{text}:{label}" if label else text).encode()
    return result
