"""The slot table: what is remembered of every hypothesis, one row each.

Rows in use are always the first n, so that a step runs on views of the buffers and copies nothing.
Buffers are as long as the longest row needs, in steps of `BUCKET`: the graph's free dimensions take
few values, and a new value is rare.

Dimensions: n rows in use, S source positions, P room for past positions.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from atril_common.tensors import Tensor
from atril_inference.decoding.layout import (
    CACHE_LENGTH,
    POSITION,
    SOURCE_LENGTH,
    TOKEN,
    RowTensor,
    StepLayout,
    next_name,
    update_name,
)

BUCKET = 16
"""Free dimensions are multiples of this."""


class SlotTable:
    """Rows of memory, states and caches.

    Args:
        layout: which tensors there are.
        capacity: most rows.
    """

    def __init__(self, layout: StepLayout, capacity: int) -> None:
        self.capacity = capacity
        self._layout = layout
        self._length = np.zeros(capacity, np.int64)
        """Past positions of each row, which is also the place of its next token."""
        self._source_length = np.zeros(capacity, np.int64)
        self._source_room = BUCKET
        self._past_room = BUCKET
        self._rows = 0
        self._memory = {
            spec.name: np.zeros(spec.shape(capacity, BUCKET), spec.dtype) for spec in layout.memory
        }
        self._states = {
            spec.name: np.zeros(spec.shape(capacity, 0), spec.dtype) for spec in layout.states
        }
        self._caches = {
            spec.name: np.zeros(spec.shape(capacity, BUCKET), spec.dtype) for spec in layout.caches
        }

    @property
    def rows(self) -> int:
        """Rows in use."""
        return self._rows

    def admit(self, encoded: Mapping[str, Tensor], source_lengths: Sequence[int]) -> list[int]:
        """Take new rows in, and return their places.

        Args:
            encoded: memory and first states, one row each; states that are missing start at zero.
            source_lengths: of the rows.
        """
        count = len(source_lengths)
        first, after = self._rows, self._rows + count
        self._rows = after
        self._length[first:after] = 0
        self._source_length[first:after] = source_lengths
        self._fit_source()
        for spec in self._layout.memory:
            target, value = self._memory[spec.name], encoded[spec.name]
            if spec.growing is None:
                target[first:after] = value
            else:
                axis = spec.growing + 1
                length = min(value.shape[axis], target.shape[axis])
                new = target[first:after]
                new[_along(axis, slice(length, None))] = 0
                new[_along(axis, slice(length))] = value[_along(axis, slice(length))]
        for name, target in self._states.items():
            target[first:after] = encoded.get(name, 0)
        return list(range(first, after))

    def inputs(self, tokens: Tensor) -> dict[str, Tensor]:
        """What the step takes: the next token of each row in use, and what is remembered.

        Args:
            tokens: int64 [n].
        """
        rows, layout = self._rows, self._layout
        feed = {TOKEN: tokens}
        if SOURCE_LENGTH in layout.places:
            feed[SOURCE_LENGTH] = self._source_length[:rows]
        if layout.caches:
            self._fit_past()
        if POSITION in layout.places:
            feed[POSITION] = self._length[:rows]
        if CACHE_LENGTH in layout.places:
            feed[CACHE_LENGTH] = self._length[:rows]
        for group in (self._memory, self._states, self._caches):
            for name, buffer in group.items():
                feed[name] = buffer[:rows]
        return feed

    def remember(self, outputs: Mapping[str, Tensor]) -> None:
        """Keep what a step answered: the next states, and the new position of each cache."""
        rows = self._rows
        for name, buffer in self._states.items():
            buffer[:rows] = outputs[next_name(name)]
        places = self._length[:rows]
        every = np.arange(rows)
        for spec in self._layout.caches:
            assert spec.growing is not None
            axis = spec.growing + 1
            buffer = np.moveaxis(self._caches[spec.name], axis, 1)
            buffer[every, places] = np.moveaxis(outputs[update_name(spec.name)], axis, 1)[:, 0]
        places += 1

    def keep(self, parents: Sequence[int]) -> list[int]:
        """Go on with copies of these rows, and drop the others.

        A row that goes on once stays where it is or moves into a gap; one that goes on more often
        is copied.

        Args:
            parents: for each row wanted, the row it continues.

        Returns:
            The place of each row wanted.
        """
        wanted = len(parents)
        seen: set[int] = set()
        places = [-1] * wanted
        homeless: list[int] = []
        for child, parent in enumerate(parents):
            if parent in seen or parent >= wanted:
                homeless.append(child)
            else:
                seen.add(parent)
                places[child] = parent
        gaps = [row for row in range(wanted) if row not in seen]
        for child, gap in zip(homeless, gaps, strict=True):
            places[child] = gap
        if gaps:
            self._copy([parents[child] for child in homeless], gaps)
        self._rows = wanted
        return places

    def _copy(self, origins: list[int], targets: list[int]) -> None:
        """No target is an origin: a gap is a row that nobody continues in place."""
        for group in (self._memory, self._states, self._caches):
            for buffer in group.values():
                buffer[targets] = buffer[origins]
        for places in (self._length, self._source_length):
            places[targets] = places[origins]

    def _fit_source(self) -> None:
        needed = _bucketed(int(self._source_length[: self._rows].max(initial=1)))
        if needed > self._source_room or 2 * needed < self._source_room:
            self._source_room = needed
            _resize(self._layout.memory, self._memory, self._rows, needed)

    def _fit_past(self) -> None:
        needed = _bucketed(int(self._length[: self._rows].max(initial=0)) + 1)
        if needed > self._past_room or 2 * needed < self._past_room:
            self._past_room = needed
            _resize(self._layout.caches, self._caches, self._rows, needed)


def _resize(
    specs: tuple[RowTensor, ...], buffers: dict[str, Tensor], rows: int, length: int
) -> None:
    """Make the growing dimension so long; what is cut off is room that no row uses."""
    for spec in specs:
        if spec.growing is None:
            continue
        old = buffers[spec.name]
        axis = spec.growing + 1
        new = np.zeros(spec.shape(len(old), length), spec.dtype)
        kept = (slice(rows), *_along(axis, slice(min(length, old.shape[axis])))[1:])
        new[kept] = old[kept]
        buffers[spec.name] = new


def _along(axis: int, part: slice) -> tuple[slice, ...]:
    return (*(slice(None) for _ in range(axis)), part)


def _bucketed(length: int) -> int:
    return -(-length // BUCKET) * BUCKET
