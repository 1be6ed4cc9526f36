"""Does a request fit the model? Checked once, before it is queued; the texts are Triton's."""

from collections.abc import Iterable

from atril_common.core import InferRequest
from atril_common.errors import InvalidInputError
from atril_common.tensors import DATATYPES, DTYPES, Tensor, TensorSpec


class RequestValidator:
    """The checks of one model version (cases E06-E10 of the protocol reference).

    Args:
        model_name: for the error texts.
        inputs: declared inputs, batch dimension included where the model batches.
        outputs: names of the declared outputs.
        max_batch_size: 0 for a model without a batch dimension.
    """

    def __init__(
        self,
        model_name: str,
        inputs: Iterable[TensorSpec],
        outputs: Iterable[str],
        max_batch_size: int,
    ) -> None:
        self._model_name = model_name
        self._specs = {spec.name: spec for spec in inputs}
        self._dtypes = {name: DTYPES[spec.datatype] for name, spec in self._specs.items()}
        self._first = 1 if max_batch_size else 0
        """First dimension that is not the batch."""
        self._outputs = frozenset(outputs)
        self._max_batch_size = max_batch_size

    def check(self, request: InferRequest) -> int:
        """Return the request's batch size; 1 for a model without a batch dimension.

        Raises:
            InvalidInputError: a missing, surplus or unknown tensor, a datatype, shape or batch size
                that does not fit.
        """
        inputs = request.inputs
        if inputs.keys() != self._specs.keys():
            self._reject_names(inputs)
        if request.outputs and not self._outputs.issuperset(request.outputs):
            unknown = next(name for name in request.outputs if name not in self._outputs)
            raise InvalidInputError(
                f"unexpected inference output '{unknown}' for model '{self._model_name}': "
                f"it has {sorted(self._outputs)}"
            )
        batch_size = 1
        for name, tensor in inputs.items():
            if tensor.dtype != self._dtypes[name]:
                self._reject_datatype(name, tensor)
            shape, expected, first = tensor.shape, self._specs[name].shape, self._first
            if len(shape) != len(expected) or shape[first:] != expected[first:]:
                self._check_shape(name, shape)
            batch_size = shape[0] if first else 1
        if self._max_batch_size:
            self._check_batch(inputs, batch_size)
        return batch_size

    def _check_shape(self, name: str, shape: tuple[int, ...]) -> None:
        """Accept a shape that differs from the declared one in variable dimensions only."""
        expected = self._specs[name].shape
        if len(shape) == len(expected) and all(
            want in (-1, got) for want, got in zip(expected, shape, strict=True)
        ):
            return
        note = (
            "; the model's max_batch_size is "
            f"{self._max_batch_size}, so the first dimension is the batch"
            if self._max_batch_size
            else ""
        )
        raise InvalidInputError(
            f"unexpected shape for input '{name}' for model '{self._model_name}'. "
            f"Expected {_dims(expected)}, got {_dims(shape)}{note}"
        )

    def _check_batch(self, inputs: dict[str, Tensor], batch_size: int) -> None:
        if len(inputs) > 1 and any(t.shape[0] != batch_size for t in inputs.values()):
            sizes = {name: tensor.shape[0] for name, tensor in inputs.items()}
            raise InvalidInputError(
                f"inputs of one request to model '{self._model_name}' must have one batch size, "
                f"got {sizes}"
            )
        if not 1 <= batch_size <= self._max_batch_size:
            raise InvalidInputError(
                f"inference request batch-size must be <= {self._max_batch_size} and at least 1 "
                f"for '{self._model_name}', got {batch_size}"
            )

    def _reject_datatype(self, name: str, tensor: Tensor) -> None:
        came = DATATYPES.get(tensor.dtype, str(tensor.dtype))
        raise InvalidInputError(
            f"inference input '{name}' data-type is '{came}', but model "
            f"'{self._model_name}' expects '{self._specs[name].datatype}'"
        )

    def _reject_names(self, inputs: dict[str, Tensor]) -> None:
        missing = sorted(self._specs.keys() - inputs.keys())
        surplus = sorted(inputs.keys() - self._specs.keys())
        if surplus and not missing:
            raise InvalidInputError(
                f"unexpected inference input '{surplus[0]}' for model '{self._model_name}': "
                f"expected {len(self._specs)} inputs but got {len(inputs)} inputs; "
                f"it has {sorted(self._specs)}"
            )
        raise InvalidInputError(
            f"expected {len(self._specs)} inputs but got {len(inputs)} inputs for model "
            f"'{self._model_name}'. Got input(s) {sorted(inputs)}, but missing required "
            f"input(s) {missing}"
        )


def _dims(shape: tuple[int, ...]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"
