"""The slot table against a list of rows that are kept one by one."""

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from atril_common.tensors import TensorSpec
from atril_inference.decoding.layout import StepLayout
from atril_inference.decoding.slots import BUCKET, SlotTable

CAPACITY = 6
LAYOUT = StepLayout.read(
    [
        TensorSpec("token", "INT64", (-1,)),
        TensorSpec("source_length", "INT64", (-1,)),
        TensorSpec("memory_flat", "FP32", (-1, 2)),
        TensorSpec("memory_long", "FP32", (-1, -1, 2)),
        TensorSpec("state_h", "FP32", (-1, 3)),
        TensorSpec("position", "INT64", (-1,)),
        TensorSpec("cache_length", "INT64", (-1,)),
        TensorSpec("cache_key", "FP32", (-1, 2, -1, 1)),
    ],
    [
        TensorSpec("logits", "FP32", (-1, 5)),
        TensorSpec("next_state_h", "FP32", (-1, 3)),
        TensorSpec("update_key", "FP32", (-1, 2, 1, 1)),
    ],
)


class Model:
    """What the table should hold, row by row."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self._number = 0.0

    def number(self) -> float:
        """A number that was not there before."""
        self._number += 1
        return self._number

    def admit(self, table: SlotTable, lengths: list[int]) -> None:
        """New rows with numbers of their own; the encoder pads with rubbish."""
        longest = max(lengths)
        new = [
            {
                "flat": np.full(2, self.number()),
                "long": np.full((length, 2), self.number()),
                "state": np.full(3, self.number()),
                "past": [],
            }
            for length in lengths
        ]
        long = np.full((len(lengths), longest, 2), 99.0, np.float32)
        for row, (length, values) in enumerate(zip(lengths, new, strict=True)):
            long[row, :length] = values["long"]
        places = table.admit(
            {
                "memory_flat": np.array([row["flat"] for row in new], np.float32),
                "memory_long": long,
                "state_h": np.array([row["state"] for row in new], np.float32),
            },
            lengths,
        )
        assert places == list(range(len(self.rows), len(self.rows) + len(lengths)))
        self.rows += new

    def step(self, table: SlotTable) -> None:
        """One step, which answers numbers of its own."""
        states = np.array([[self.number()] * 3 for _ in self.rows], np.float32)
        updates = np.array([[[[self.number()]]] * 2 for _ in self.rows], np.float32)
        table.remember({"next_state_h": states, "update_key": updates})
        for row, state, update in zip(self.rows, states, updates, strict=True):
            row["state"] = state
            row["past"] = [*row["past"], update[:, 0, 0]]

    def keep(self, table: SlotTable, parents: list[int]) -> None:
        """Continue these rows, in places of the table's choice."""
        places = table.keep(parents)
        assert sorted(places) == list(range(len(parents)))
        kept: list[Any] = [None] * len(parents)
        for place, parent in zip(places, parents, strict=True):
            kept[place] = dict(self.rows[parent])
        self.rows = kept

    def check(self, table: SlotTable) -> None:
        """The step is given what it should be."""
        count = len(self.rows)
        tokens = np.arange(count)
        feed = table.inputs(tokens)
        assert feed["token"] is tokens
        assert all(len(value) == count and value.flags.c_contiguous for value in feed.values())
        assert feed["memory_long"].shape[1] % BUCKET == feed["cache_key"].shape[2] % BUCKET == 0
        for place, row in enumerate(self.rows):
            length, past = len(row["long"]), len(row["past"])
            assert feed["source_length"][place] == length
            assert feed["position"][place] == feed["cache_length"][place] == past
            assert past < feed["cache_key"].shape[2]
            assert (feed["memory_flat"][place] == row["flat"]).all()
            assert (feed["memory_long"][place, :length] == row["long"]).all()
            assert (feed["state_h"][place] == row["state"]).all()
            for position, values in enumerate(row["past"]):
                assert (feed["cache_key"][place, :, position, 0] == values).all()
        assert all(np.isfinite(value).all() for value in feed.values())


@settings(deadline=None)
@given(st.data())
def test_rows_are_what_was_put_in_them(data: st.DataObject) -> None:
    """Whoever comes, steps, forks and goes, each row keeps its own and moves whole."""
    table, model = SlotTable(LAYOUT, CAPACITY), Model()
    for _ in range(data.draw(st.integers(1, 12))):
        count = len(model.rows)
        if count < CAPACITY and (not count or data.draw(st.booleans())):
            lengths = st.lists(st.integers(1, 40), min_size=1, max_size=CAPACITY - count)
            model.admit(table, data.draw(lengths))
        model.check(table)
        for _ in range(data.draw(st.sampled_from([1, 1, 2, 20]))):
            table.inputs(np.zeros(len(model.rows), np.int64))
            model.step(table)
        parents = st.lists(st.integers(0, len(model.rows) - 1), max_size=CAPACITY)
        model.keep(table, data.draw(parents))
        assert table.rows == len(model.rows)
        if model.rows:
            model.check(table)


def test_buffers_shrink_when_the_long_ones_have_gone() -> None:
    """A step does not go on paying for a row that has left."""
    table, model = SlotTable(LAYOUT, CAPACITY), Model()
    model.admit(table, [100, 3])
    assert table.inputs(np.zeros(2, np.int64))["memory_long"].shape[1] == 112
    model.keep(table, [1])

    model.admit(table, [5])

    assert table.inputs(np.zeros(2, np.int64))["memory_long"].shape[1] == BUCKET
    model.check(table)
