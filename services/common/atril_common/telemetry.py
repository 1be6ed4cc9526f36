"""Metrics of the requests that a front answers; each instance has a registry of its own."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from atril_common.errors import ErrorKind
from atril_common.histogram import Histogram

OK = "ok"
UNKNOWN_MODEL = "unknown"

_LATENCY_BUCKETS_S = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip


_BEFORE_THE_MODEL = frozenset(
    {
        ErrorKind.INVALID_INPUT,
        ErrorKind.TOO_LARGE,
        ErrorKind.UNSUPPORTED_MEDIA_TYPE,
        ErrorKind.UPSTREAM_UNAVAILABLE,
        ErrorKind.DEADLINE_EXCEEDED,
    }
)
"""Kinds that may be told before anybody has looked whether the model exists."""


class Telemetry(Collector):
    """Counts and times requests by method, model and outcome.

    Labels come from closed sets: `method` from the routes, `model` from the models served (any
    other name is `unknown`), `outcome` is `ok` or an `ErrorKind`. Used from the event loop only.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._models: set[str] = set()
        self._outcomes: dict[tuple[str, str, ErrorKind | None], int] = {}
        self._durations: dict[tuple[str, str], Histogram] = {}
        self.registry.register(self)

    def observe(self, method: str, model: str, kind: ErrorKind | None, duration_s: float) -> None:
        """Record one request; `kind` is None for a good answer."""
        if kind is None:
            self._models.add(model)
        elif kind is ErrorKind.NOT_FOUND or (
            kind in _BEFORE_THE_MODEL and model not in self._models
        ):
            model = UNKNOWN_MODEL
        outcome = (method, model, kind)
        self._outcomes[outcome] = self._outcomes.get(outcome, 0) + 1
        durations = self._durations.get((method, model))
        if durations is None:
            durations = self._durations[method, model] = Histogram(_LATENCY_BUCKETS_S)
        durations.observe(duration_s)

    def collect(self) -> Iterator[Metric]:
        """Yield the families; called by the registry at each scrape."""
        requests = CounterMetricFamily(
            "atril_requests", "Requests answered.", labels=["method", "model", "outcome"]
        )
        for (method, model, kind), count in list(self._outcomes.items()):
            requests.add_metric([method, model, OK if kind is None else kind.value], count)
        yield requests
        duration = HistogramMetricFamily(
            "atril_request_duration_seconds",
            "Time from the request read whole to its answer written.",
            labels=["method", "model"],
        )
        for labels, histogram in list(self._durations.items()):
            duration.add_metric(list(labels), histogram.cumulative(), histogram.sum)
        yield duration
