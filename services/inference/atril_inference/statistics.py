"""What a model version did: the totals and histograms behind its metrics.

Written on the event loop, read by the metrics thread; a scrape may see a request counted in one
total and not yet in another, which the next scrape mends.
"""

import time
from collections.abc import Sequence

from tritonclient.grpc import service_pb2 as pb

from atril_common.batching import Departure, ExecutionTimes
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

BUCKETS_NS = tuple(
    1000 * us
    for us in (
        50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
        1_000_000, 2_500_000, 10_000_000,
    )
)  # fmt: skip
"""Upper bounds of the latency histograms, nanoseconds."""


class ModelStatistics:
    """Totals of one model version; the batcher's observer. All times are nanoseconds.

    The stage totals have one entry a request, as Triton's have: a batch of n requests that took t
    adds n·t. The totals of `batch_stats` have one entry an execution.
    """

    def __init__(self) -> None:
        self.inference_count = 0
        self.execution_count = 0
        self.success_count = 0
        self.failures = dict.fromkeys(REASONS, 0)
        self.departures = dict.fromkeys(Departure, 0)
        self.request = Histogram(BUCKETS_NS)
        self.queue = Histogram(BUCKETS_NS)
        self.compute_input = Histogram(BUCKETS_NS)
        self.compute_infer = Histogram(BUCKETS_NS)
        self.compute_output = Histogram(BUCKETS_NS)
        self.cache_hits = self.cache_hit_ns = 0
        self.cache_misses = self.cache_miss_ns = 0
        self._executed_requests = 0
        self._fail_ns = 0
        self._last_inference_ns = 0
        self._batches: dict[int, list[int]] = {}
        """By executed batch size: executions, then nanoseconds of input, infer and output."""

    def departed(self, reason: Departure) -> None:
        """Count a batch by why it left the queue."""
        self.departures[reason] += 1

    def executed(self, batch_size: int, enqueued_ns: Sequence[int], times: ExecutionTimes) -> None:
        """Count an answered batch of `batch_size` rows."""
        requests = len(enqueued_ns)
        self.inference_count += batch_size
        self.execution_count += 1
        self.success_count += requests
        self._executed_requests += requests
        self._last_inference_ns = time.time_ns()
        started, infer, infer_end, end = times
        for since in enqueued_ns:
            self.request.observe(end - since)
            self.queue.observe(started - since)
        self.compute_input.observe(infer - started, requests)
        self.compute_infer.observe(infer_end - infer, requests)
        self.compute_output.observe(end - infer_end, requests)
        totals = self._batches.get(batch_size)
        if totals is None:
            totals = self._batches[batch_size] = [0, 0, 0, 0]
        totals[0] += 1
        totals[1] += infer - started
        totals[2] += infer_end - infer
        totals[3] += end - infer_end

    def failed(self, requests: int, error: AtrilError, spent_ns: int = 0) -> None:
        """Count requests that were answered with an error."""
        self.failures[_REASON_OF_KIND.get(error.kind, "OTHER")] += requests
        self._fail_ns += spent_ns

    def cache_hit(self, spent_ns: int) -> None:
        """Count a request that was answered from the cache: no inference, but a success."""
        self.success_count += 1
        self.cache_hits += 1
        self.cache_hit_ns += spent_ns
        self.request.observe(spent_ns)

    def cache_miss(self, spent_ns: int) -> None:
        """Count a request that the cache did not know, and the time of looking and keeping."""
        self.cache_misses += 1
        self.cache_miss_ns += spent_ns

    def cancelled(self, requests: int) -> None:
        """Count requests that were dropped before they ran."""
        self.failures["CANCELED"] += requests

    def message(self, model_name: str, model_version: str) -> pb.ModelStatistics:
        """The statistics tree of the protocol (reference 2.8).

        The one response that a request gets is response 0 of `response_stats`.
        """
        canceled = self.failures["CANCELED"]
        failed = sum(self.failures.values())
        infer, output = self._stage(self.compute_infer), self._stage(self.compute_output)
        success = pb.StatisticDuration(count=self.success_count, ns=int(self.request.sum))
        return pb.ModelStatistics(
            name=model_name,
            version=model_version,
            last_inference=self._last_inference_ns // 1_000_000,
            inference_count=self.inference_count,
            execution_count=self.execution_count,
            inference_stats=pb.InferStatistics(
                success=success,
                fail=pb.StatisticDuration(count=failed, ns=self._fail_ns),
                queue=self._stage(self.queue),
                compute_input=self._stage(self.compute_input),
                compute_infer=infer,
                compute_output=output,
                cache_hit=pb.StatisticDuration(count=self.cache_hits, ns=self.cache_hit_ns),
                cache_miss=pb.StatisticDuration(count=self.cache_misses, ns=self.cache_miss_ns),
            ),
            batch_stats=[_batch_message(size, *t) for size, t in sorted(self._batches.items())],
            response_stats={
                "0": pb.InferResponseStatistics(
                    compute_infer=infer,
                    compute_output=output,
                    success=success,
                    fail=pb.StatisticDuration(count=failed - canceled, ns=self._fail_ns),
                    empty_response=pb.StatisticDuration(),
                    cancel=pb.StatisticDuration(count=canceled),
                )
            },
        )

    def _stage(self, histogram: Histogram) -> pb.StatisticDuration:
        return pb.StatisticDuration(count=self._executed_requests, ns=int(histogram.sum))


def _batch_message(
    size: int, executions: int, input_ns: int, infer_ns: int, output_ns: int
) -> pb.InferBatchStatistics:
    return pb.InferBatchStatistics(
        batch_size=size,
        compute_input=pb.StatisticDuration(count=executions, ns=input_ns),
        compute_infer=pb.StatisticDuration(count=executions, ns=infer_ns),
        compute_output=pb.StatisticDuration(count=executions, ns=output_ns),
    )
