"""What a graph of one decoding step remembers, read from its names.

    token, memory_*, [source_length,] state_*, [position, cache_length,] cache_*
        -> logits, next_state_*, update_* [, attention]

`memory_*` stays for the whole of a request, `next_state_*` replaces `state_*` after each step, and
`update_*` is the one new position of `cache_*`, to be written at index `cache_length`
(docs/decisions/0006).
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from atril_common.errors import NotReadyError
from atril_common.tensors import DTYPES, TensorSpec

TOKEN, SOURCE, SOURCE_LENGTH = "token", "source", "source_length"
POSITION, CACHE_LENGTH = "position", "cache_length"
LOGITS, ATTENTION = "logits", "attention"

_MEMORY, _STATE, _CACHE = "memory_", "state_", "cache_"
_PLACES = frozenset({TOKEN, SOURCE_LENGTH, POSITION, CACHE_LENGTH})
_KEPT = frozenset({"FP32", "FP16", "INT64"})
"""Datatypes of what is remembered."""


class RowTensor(NamedTuple):
    """What is remembered of each row in one tensor.

    `dims` leaves the batch out; `growing` is the index in it of the dimension that is as long as
    the source (memory) or as the room for past positions (cache), None where there is none.
    """

    name: str
    dtype: np.dtype[Any]
    dims: tuple[int, ...]
    growing: int | None

    def shape(self, rows: int, length: int) -> tuple[int, ...]:
        """The shape of so many rows, the growing dimension so long."""
        dims = list(self.dims)
        if self.growing is not None:
            dims[self.growing] = length
        return (rows, *dims)


class StepLayout(NamedTuple):
    """The tensors of a step by role, and which of the scalars a row the graph takes."""

    memory: tuple[RowTensor, ...]
    states: tuple[RowTensor, ...]
    caches: tuple[RowTensor, ...]
    places: frozenset[str]
    vocabulary: int
    attends: bool

    @classmethod
    def read(cls, inputs: Iterable[TensorSpec], outputs: Iterable[TensorSpec]) -> "StepLayout":
        """The layout of a graph; free dimensions are -1, the first of each tensor is the batch.

        Raises:
            NotReadyError: the graph is not one step of a decoder; the text names the tensor.
        """
        answers = {node.name: node for node in outputs}
        roles: dict[str, list[RowTensor]] = {_MEMORY: [], _STATE: [], _CACHE: []}
        places = set()
        for node in inputs:
            if node.name in _PLACES:
                places.add(node.name)
                continue
            role = next((prefix for prefix in roles if node.name.startswith(prefix)), None)
            if role is None:
                raise NotReadyError(
                    f"input '{node.name}' is not one of a decoding step: expected "
                    f"{', '.join(sorted(_PLACES))}, memory_*, state_* or cache_*"
                )
            roles[role].append(_row_tensor(node))
        for state in roles[_STATE]:
            _require(answers, next_name(state.name))
        for cache in roles[_CACHE]:
            _require(answers, update_name(cache.name))
            if cache.growing is None:
                raise NotReadyError(f"input '{cache.name}' has no free dimension to grow in")
        logits = _require(answers, LOGITS)
        vocabulary = logits.shape[-1]
        if TOKEN not in places or vocabulary < 1:
            raise NotReadyError("a decoding step takes 'token' and answers logits of a fixed width")
        return cls(
            tuple(roles[_MEMORY]),
            tuple(roles[_STATE]),
            tuple(roles[_CACHE]),
            frozenset(places),
            vocabulary,
            ATTENTION in answers,
        )


def next_name(state_name: str) -> str:
    """`state_x` becomes `next_state_x`."""
    return f"next_{state_name}"


def update_name(cache_name: str) -> str:
    """`cache_x` becomes `update_x`."""
    return f"update_{cache_name.removeprefix(_CACHE)}"


def _row_tensor(node: TensorSpec) -> RowTensor:
    batch, *dims = node.shape or (0,)
    free = [index for index, dim in enumerate(dims) if dim == -1]
    if node.datatype not in _KEPT or batch != -1 or len(free) > 1:
        raise NotReadyError(
            f"input '{node.name}' of {node.datatype} {list(node.shape)} cannot be kept by row: "
            f"expected a free batch and at most one other free dimension"
        )
    return RowTensor(node.name, DTYPES[node.datatype], tuple(dims), free[0] if free else None)


def _require(answers: dict[str, TensorSpec], name: str) -> TensorSpec:
    if name not in answers:
        raise NotReadyError(f"a decoding step has to answer '{name}', this one {sorted(answers)}")
    return answers[name]
