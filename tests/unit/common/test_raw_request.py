"""Raw bodies as tensors (2.5)."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from atril_common.errors import InvalidInputError
from atril_common.oip.raw_request import raw_tensor
from atril_common.tensors import DTYPES, TensorSpec, element_count

_SHAPES = st.lists(st.sampled_from([-1, 0, 1, 2, 3]), min_size=1, max_size=4).map(tuple)


@given(st.sampled_from(list(DTYPES)), _SHAPES, st.binary(max_size=48), st.booleans())
def test_a_body_is_the_tensor_of_the_only_shape_that_it_fills_or_refused(
    datatype: str, shape: tuple[int, ...], body: bytes, batching: bool
) -> None:
    """2.5 raw: declared dimensions are kept, one row a batch, every byte is used."""
    spec = TensorSpec("x", datatype, (-1, *shape[1:]) if batching else shape)
    try:
        tensor = raw_tensor(spec, body, batching=batching)
    except InvalidInputError:
        return
    assert tensor.dtype == DTYPES[datatype]
    assert tensor.ndim == len(shape)
    for position, (got, declared) in enumerate(zip(tensor.shape, spec.shape, strict=True)):
        assert declared in (got, -1)
        assert got == 1 or position or not batching
    if datatype == "BYTES":
        assert tensor.ravel().tolist() == [body]
    else:
        assert tensor.tobytes() == body


def test_a_body_for_a_fixed_shape_is_not_copied() -> None:
    """2.5 raw: the tensor is a view of the body."""
    body = np.arange(6, dtype=np.float32).tobytes()
    tensor = raw_tensor(TensorSpec("x", "FP32", (-1, 2, 3)), body, batching=True)
    assert tensor.shape == (1, 2, 3)
    assert np.shares_memory(tensor, np.frombuffer(body, np.uint8))
    assert element_count(tensor.shape) == 6
