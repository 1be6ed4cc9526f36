"""Which replica holds the state of each live sequence.

A sequence lives where it was started. It is forgotten with its last request, when it has been idle
for longer than the replica keeps its state, or with the replica: no other one ever answers for it.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from atril_common.core import SequenceControl
from atril_common.errors import InvalidInputError, OverloadedError, UpstreamUnavailableError
from atril_gateway.remote.replica import Replica
from atril_gateway.remote.replicas import ReplicaSet

MAX_SEQUENCES = 65_536
"""Most live sequences of one model."""

MARGIN_S = 5.0
"""A replica decides when a sequence was idle for too long; we forget it this much later."""

SequenceId = int | str


@dataclass(slots=True, eq=False)
class Pin:
    """A live sequence: who holds it, when it was used last, and how many calls are under way."""

    replica: Replica
    used_s: float
    calls: int = 0


class SequencePins:
    """The sequences of one model, the one that was used longest ago first.

    Times are points on one clock, in seconds.
    """

    def __init__(self, model_name: str) -> None:
        self._model_name = model_name
        self._pins: OrderedDict[SequenceId, Pin] = OrderedDict()

    def __len__(self) -> int:
        return len(self._pins)

    def start(self, sequence_id: SequenceId, replica: Replica, now_s: float) -> None:
        """Let a replica hold a sequence; one that had the same id before is forgotten.

        Raises:
            OverloadedError: too many sequences live.
        """
        self.end(sequence_id)
        if len(self._pins) >= MAX_SEQUENCES:
            raise OverloadedError(
                f"{MAX_SEQUENCES} sequences of model '{self._model_name}' are live"
            )
        self._pins[sequence_id] = Pin(replica, now_s)
        replica.sequences += 1

    def begin_call(self, sequence_id: SequenceId) -> Pin:
        """Who holds a sequence; `end_call` must follow.

        Raises:
            InvalidInputError: nobody started it, or it was forgotten (case E27).
        """
        pin = self._pins.get(sequence_id)
        if pin is None:
            raise InvalidInputError(
                f"inference request for sequence {sequence_id} to model '{self._model_name}' must "
                f"specify the START flag on the first request of the sequence"
            )
        pin.calls += 1
        return pin

    def end_call(self, sequence_id: SequenceId, pin: Pin, now_s: float) -> None:
        """Note that a call of a sequence has ended."""
        pin.calls -= 1
        pin.used_s = now_s
        if self._pins.get(sequence_id) is pin:
            self._pins.move_to_end(sequence_id)

    def end(self, sequence_id: SequenceId, pin: Pin | None = None) -> None:
        """Forget a sequence; with a pin, only if it has not been started anew since."""
        held = self._pins.get(sequence_id)
        if held is not None and pin in (None, held):
            del self._pins[sequence_id]
            held.replica.sequences -= 1

    def expire(self, now_s: float, idle_s: float) -> None:
        """Forget the sequences that nobody has used for `idle_s` and a margin."""
        while self._pins:
            sequence_id, pin = next(iter(self._pins.items()))
            if pin.calls:
                self._pins.move_to_end(sequence_id)
                return
            if now_s - pin.used_s <= idle_s + MARGIN_S:
                return
            self.end(sequence_id)


class Sequences:
    """The sequences of every model, over a set of replicas."""

    def __init__(self, replicas: ReplicaSet) -> None:
        self._replicas = replicas
        self._loop = asyncio.get_running_loop()
        self._by_model: dict[str, SequencePins] = {}

    @contextmanager
    def holder(self, model_name: str, control: SequenceControl, idle_s: float) -> Iterator[Replica]:
        """Who answers one request of a sequence, for as long as it takes.

        Args:
            model_name: the model; every model has sequences of its own.
            control: which sequence; its start chooses the replica with the fewest sequences.
            idle_s: how long a replica keeps the state of a sequence that nobody uses.

        Raises:
            InvalidInputError: the sequence was not started (case E27).
            OverloadedError: too many sequences live.
            UpstreamUnavailableError: the replica is gone, and the state with it.
        """
        pins = self._by_model.get(model_name)
        if pins is None:
            pins = self._by_model[model_name] = SequencePins(model_name)
        pins.expire(self._loop.time(), idle_s)
        sequence_id = control.sequence_id
        if control.start:
            pins.start(sequence_id, self._replicas.for_sequence(), self._loop.time())
        pin = pins.begin_call(sequence_id)
        try:
            yield pin.replica
        except UpstreamUnavailableError as err:
            pins.end(sequence_id, pin)
            raise UpstreamUnavailableError(
                f"the state of sequence {sequence_id} of model '{model_name}' is lost, start the "
                f"sequence anew: {err}"
            ) from err
        else:
            if control.end:
                pins.end(sequence_id, pin)
        finally:
            pins.end_call(sequence_id, pin, self._loop.time())
