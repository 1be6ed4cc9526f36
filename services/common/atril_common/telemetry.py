"""Metrics of the requests that a front answers; each instance has a registry of its own."""

from prometheus_client import CollectorRegistry, Counter, Histogram

from atril_common.errors import ErrorKind

OK = "ok"
UNKNOWN_MODEL = "unknown"

_LATENCY_BUCKETS_S = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip


class Telemetry:
    """Counts and times requests by method, model and outcome.

    Labels come from closed sets: `method` from the routes, `model` from the models served (any other name
    is `unknown`), `outcome` is `ok` or an `ErrorKind`.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "atril_requests",
            "Requests answered, by outcome.",
            ["method", "model", "outcome"],
            registry=self.registry,
        )
        self._duration = Histogram(
            "atril_request_duration_seconds",
            "Time from the request read whole to its answer written.",
            ["method", "model"],
            buckets=_LATENCY_BUCKETS_S,
            registry=self.registry,
        )

    def observe(self, method: str, model: str, kind: ErrorKind | None, duration_s: float) -> None:
        """Record one request; `kind` is None for a good answer."""
        if kind is ErrorKind.NOT_FOUND:
            model = UNKNOWN_MODEL
        self._requests.labels(method, model, OK if kind is None else kind.value).inc()
        self._duration.labels(method, model).observe(duration_s)
