"""What a model version did: the totals and histograms behind its metrics.

Written on the event loop, read by the metrics thread; a scrape may see a request counted in one
total and not yet in another, which the next scrape mends.
"""

from collections.abc import Sequence

from atril_common.batching import ExecutionTimes
from atril_common.errors import AtrilError, ErrorKind
from atril_common.histogram import Histogram

REASONS = ("REJECTED", "CANCELED", "BACKEND", "OTHER")
"""Triton's reasons of failure (`nv_inference_request_failure`)."""

_REASON_OF_KIND = {
    ErrorKind.OVERLOADED: "REJECTED",
    ErrorKind.QUEUE_TIMEOUT: "REJECTED",
    ErrorKind.DEADLINE_EXCEEDED: "REJECTED",
    ErrorKind.CANCELLED: "CANCELED",
    ErrorKind.INTERNAL: "BACKEND",
}

BUCKETS_US = (
    50.0, 100.0, 250.0, 500.0, 1e3, 2.5e3, 5e3, 1e4, 2.5e4, 5e4, 1e5, 2.5e5, 5e5, 1e6, 2.5e6, 1e7,
)  # fmt: skip
"""Upper bounds of the latency histograms, microseconds."""


class ModelStatistics:
    """Totals of one model version; the batcher's observer.

    The stage totals have one entry a request, as Triton's have: a batch of n requests that took t
    adds n·t.
    """

    def __init__(self) -> None:
        self.inference_count = 0
        self.execution_count = 0
        self.success_count = 0
        self.failures = dict.fromkeys(REASONS, 0)
        self.request = Histogram(BUCKETS_US)
        self.queue = Histogram(BUCKETS_US)
        self.compute_input = Histogram(BUCKETS_US)
        self.compute_infer = Histogram(BUCKETS_US)
        self.compute_output = Histogram(BUCKETS_US)

    def executed(self, batch_size: int, enqueued_ns: Sequence[int], times: ExecutionTimes) -> None:
        """Count an answered batch of `batch_size` rows."""
        requests = len(enqueued_ns)
        self.inference_count += batch_size
        self.execution_count += 1
        self.success_count += requests
        started, infer, infer_end, end = times
        for since in enqueued_ns:
            self.request.observe((end - since) / 1000)
            self.queue.observe((started - since) / 1000)
        self.compute_input.observe((infer - started) / 1000, requests)
        self.compute_infer.observe((infer_end - infer) / 1000, requests)
        self.compute_output.observe((end - infer_end) / 1000, requests)

    def failed(self, requests: int, error: AtrilError) -> None:
        """Count requests that were answered with an error."""
        self.failures[_REASON_OF_KIND.get(error.kind, "OTHER")] += requests

    def cancelled(self, requests: int) -> None:
        """Count requests that were dropped before they ran."""
        self.failures["CANCELED"] += requests
