"""Raw binary requests: a body that is nothing but the model's only input (reference 2.5).

What the request does not say is taken from the model: name, datatype and shape of the input. It is
one row of a model that batches, and all outputs come back in binary.
"""

import numpy as np

from atril_common.core import InferenceCore, InferRequest
from atril_common.errors import InvalidInputError
from atril_common.oip.http_header import RequestHeader
from atril_common.tensors import (
    Tensor,
    TensorSpec,
    dtype_of,
    element_count,
    tensor_from_bytes,
)

RAW_HEADER = RequestHeader("", (), (), {}, binary_default=True)
"""How the answer to a raw request is written."""


async def raw_request(
    core: InferenceCore, model_name: str, model_version: str, body: bytes
) -> InferRequest:
    """Make a request of a raw body.

    Raises:
        AtrilError: the model is unknown, not ready, has several inputs or one whose shape the body
            does not tell, or the body is no such tensor.
    """
    metadata = await core.metadata(model_name, model_version)
    config = await core.config(model_name, model_version)
    if len(metadata.inputs) != 1:
        raise InvalidInputError(
            f"raw request must only have 1 input to be deduced, but model '{model_name}' has "
            f"{len(metadata.inputs)} inputs"
        )
    (spec,) = metadata.inputs
    tensor = raw_tensor(spec, body, batching=config.max_batch_size > 0)
    return InferRequest(model_name, {spec.name: tensor}, model_version)


def raw_tensor(spec: TensorSpec, body: bytes, *, batching: bool) -> Tensor:
    """The tensor that a raw body is.

    Args:
        spec: the declared input, batch dimension included where the model batches.
        body: row-major values; the content of the only element if the datatype is BYTES.
        batching: whether the first dimension is the batch, which is 1 here.

    Raises:
        InvalidInputError: the shape cannot be told, or the body does not fill it.
    """
    shape = (1, *spec.shape[1:]) if batching else spec.shape
    if spec.datatype == "BYTES":
        if any(dim != 1 for dim in shape):
            raise InvalidInputError(
                f"the shape of the raw input '{spec.name}' can not be deduced: a BYTES input must "
                f"have shape [1], the model declares {list(spec.shape)}"
            )
        text = np.empty(shape, dtype=object)
        text.fill(body)
        return text
    variable = [position for position, dim in enumerate(shape) if dim == -1]
    if len(variable) > 1:
        raise InvalidInputError(
            f"the shape of the raw input '{spec.name}' can not be deduced because there are more "
            f"than one variable-sized dimension in {list(spec.shape)}"
        )
    if variable:
        itemsize = dtype_of(spec.datatype, where=f"input '{spec.name}'").itemsize
        row = -element_count(shape) * itemsize
        if not row or len(body) % row:
            raise InvalidInputError(
                f"unexpected size for input '{spec.name}': shape {list(shape)} of {spec.datatype} "
                f"needs a multiple of {row} bytes, got {len(body)}"
            )
        at = variable[0]
        shape = (*shape[:at], len(body) // row, *shape[at + 1 :])
    return tensor_from_bytes(body, spec.datatype, shape, name=spec.name)
