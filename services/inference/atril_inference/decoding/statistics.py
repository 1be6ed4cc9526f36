"""What a decoder did: the totals and histograms behind its metrics.

Written on the event loop, read by the metrics thread.
"""

from collections.abc import Callable

from atril_common.histogram import Histogram

_LATENCY_BUCKETS_S = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
_ROW_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128)


class DecodingStatistics:
    """Totals of one decoder; a `DecodingObserver`. Times are seconds.

    Attributes:
        tokens: written, those of dropped hypotheses of a beam left out.
        wait: from submission to the slots.
        time_to_first_token: from submission to the first step taken.
        step: of each step, with the search.
        rows: of each step.
    """

    def __init__(self) -> None:
        self.tokens = 0
        self.wait = Histogram(_LATENCY_BUCKETS_S)
        self.time_to_first_token = Histogram(_LATENCY_BUCKETS_S)
        self.step = Histogram(_LATENCY_BUCKETS_S)
        self.rows = Histogram(_ROW_BUCKETS)
        self._slots: list[Callable[[], tuple[int, int]]] = []

    def watch(self, slots: Callable[[], tuple[int, int]]) -> None:
        """Ask here for the slots that are active, and the requests that wait for some."""
        self._slots.append(slots)

    def slots(self) -> tuple[int, int]:
        """Slots that are active, and requests that wait for some."""
        found = [ask() for ask in self._slots]
        return sum(active for active, _ in found), sum(waiting for _, waiting in found)

    def admitted(self, waited_s: float) -> None:
        """See `DecodingObserver`."""
        self.wait.observe(waited_s)

    def first_token(self, since_submitted_s: float) -> None:
        """See `DecodingObserver`."""
        self.time_to_first_token.observe(since_submitted_s)

    def stepped(self, rows: int, tokens: int, duration_s: float) -> None:
        """See `DecodingObserver`."""
        self.tokens += tokens
        self.rows.observe(rows)
        self.step.observe(duration_s)
