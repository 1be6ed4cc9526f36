"""Who holds a sequence, and for how long."""

import pytest

from atril_common.errors import InvalidInputError, OverloadedError
from atril_gateway.remote import sequences
from atril_gateway.remote.sequences import MARGIN_S, SequencePins


class Holder:
    """As much of a replica as a pin needs."""

    def __init__(self) -> None:
        self.sequences = 0


def pins(holder: Holder, *sequence_ids: int) -> SequencePins:
    """Sequences that one replica holds since 0 s."""
    made = SequencePins("m")
    for sequence_id in sequence_ids:
        made.start(sequence_id, holder, 0.0)  # type: ignore[arg-type]
    return made


def test_an_idle_sequence_is_forgotten_after_its_time_and_a_margin() -> None:
    """2.10: later than the replica forgets it; the replica is told apart from its other ones."""
    holder = Holder()
    held = pins(holder, 1, 2)
    pin = held.begin_call(2)
    held.end_call(2, pin, 10.0)
    held.expire(MARGIN_S + 30.0, 30.0)
    assert (len(held), holder.sequences) == (2, 2)
    held.expire(MARGIN_S + 30.1, 30.0)
    assert (len(held), holder.sequences) == (1, 1)
    with pytest.raises(InvalidInputError, match="sequence 1 to model 'm'"):
        held.begin_call(1)


def test_a_sequence_with_a_call_under_way_is_not_idle() -> None:
    """A call may take longer than the idle time."""
    held = pins(Holder(), 1)
    held.begin_call(1)
    held.expire(1e6, 1.0)
    assert len(held) == 1


def test_a_call_that_ends_after_the_sequence_was_started_anew_changes_nothing() -> None:
    """The end of an old call neither ends nor ages the new sequence."""
    first, second = Holder(), Holder()
    held = pins(first, 1)
    old = held.begin_call(1)
    held.start(1, second, 5.0)  # type: ignore[arg-type]
    held.end(1, old)
    held.end_call(1, old, 100.0)
    assert held.begin_call(1).replica is second  # type: ignore[comparison-overlap]
    assert (first.sequences, second.sequences) == (0, 1)


def test_sequences_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that starts sequences and never ends them meets a limit."""
    monkeypatch.setattr(sequences, "MAX_SEQUENCES", 2)
    held = pins(Holder(), 1, 2)
    with pytest.raises(OverloadedError, match="2 sequences of model 'm' are live"):
        held.start(3, Holder(), 0.0)  # type: ignore[arg-type]
    held.start(2, Holder(), 0.0)  # type: ignore[arg-type]
