"""The engine's metrics under Triton's names.

A `Counter` of prometheus_client would be exported as `…_total`, which no Triton dashboard knows;
untyped families carry exactly Triton's names.
"""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    UntypedMetricFamily,
)
from prometheus_client.registry import Collector

from atril_common.histogram import Histogram
from atril_inference.decoding.statistics import DecodingStatistics
from atril_inference.engine import Engine
from atril_inference.machine import MachineCollector
from atril_inference.manager import READY
from atril_inference.served import Served
from atril_inference.statistics import ModelStatistics

_MODEL = ["model", "version"]

_NS_PER_US = 1000

_STAGES: tuple[tuple[str, Callable[[ModelStatistics], Histogram]], ...] = (
    ("nv_inference_request", lambda s: s.request),
    ("nv_inference_queue", lambda s: s.queue),
    ("nv_inference_compute_input", lambda s: s.compute_input),
    ("nv_inference_compute_infer", lambda s: s.compute_infer),
    ("nv_inference_compute_output", lambda s: s.compute_output),
)

_COUNTS: tuple[tuple[str, str, Callable[[ModelStatistics], int]], ...] = (
    ("nv_inference_request_success", "Requests answered.", lambda s: s.success_count),
    ("nv_inference_count", "Inferences done; a batch of n adds n.", lambda s: s.inference_count),
    ("nv_inference_exec_count", "Batches executed.", lambda s: s.execution_count),
)

_CACHE: tuple[tuple[str, str, Callable[[ModelStatistics], float]], ...] = (
    ("nv_cache_num_hits_per_model", "Answers from the cache.", lambda s: s.cache_hits),
    ("nv_cache_num_misses_per_model", "Looked for in vain.", lambda s: s.cache_misses),
    (
        "nv_cache_hit_duration_per_model",
        "Time of hits, microseconds.",
        lambda s: s.cache_hit_ns / _NS_PER_US,
    ),
    (
        "nv_cache_miss_duration_per_model",
        "Time that misses took to look and to keep, microseconds.",
        lambda s: s.cache_miss_ns / _NS_PER_US,
    ),
)

_DECODING: tuple[tuple[str, str, Callable[[DecodingStatistics], Histogram]], ...] = (
    ("wait_seconds", "From a request to its slots.", lambda d: d.wait),
    (
        "time_to_first_token_seconds",
        "From a request to its first step taken.",
        lambda d: d.time_to_first_token,
    ),
    ("step_seconds", "One step with its search.", lambda d: d.step),
    ("step_rows", "Hypotheses of one step.", lambda d: d.rows),
)


def register_metrics(registry: CollectorRegistry, engine: Engine) -> None:
    """Add the engine's metrics, and those of the machine that it runs on."""
    registry.register(EngineCollector(engine))
    registry.register(MachineCollector())


class EngineCollector(Collector):
    """Reads an engine at each scrape."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        """Yield every family; they are there, empty, even when no model is."""
        models = list(self._engine.served())
        yield from _counters(models)
        yield from _durations(models)
        yield from _gauges(models)
        yield from _caches(models)
        yield from _sessions(models)
        yield from _decoders(models)
        ready = GaugeMetricFamily(
            "atril_model_ready", "1 if the version answers requests.", labels=_MODEL
        )
        for entry in self._engine.entries():
            ready.add_metric([entry.name, entry.version], float(entry.state == READY))
        yield ready


def _labels(model: Served) -> list[str]:
    return [model.config.name, model.version]


def _counters(models: list[Served]) -> Iterator[Metric]:
    for name, text, count in _COUNTS:
        family = UntypedMetricFamily(name, text, labels=_MODEL)
        for model in models:
            family.add_metric(_labels(model), count(model.statistics))
        yield family
    failures = UntypedMetricFamily(
        "nv_inference_request_failure", "Requests failed, by reason.", labels=[*_MODEL, "reason"]
    )
    for model in models:
        for reason, count_ in model.statistics.failures.items():
            failures.add_metric([*_labels(model), reason], count_)
    yield failures
    departures = UntypedMetricFamily(
        "atril_batch_departures", "Batches that left the queue, by why.", labels=[*_MODEL, "reason"]
    )
    for model in models:
        for departure, count_ in model.statistics.departures.items():
            departures.add_metric([*_labels(model), departure.value], count_)
    yield departures


def _durations(models: list[Served]) -> Iterator[Metric]:
    for prefix, stage in _STAGES:
        total = UntypedMetricFamily(
            f"{prefix}_duration_us", "Total time in this stage, microseconds.", labels=_MODEL
        )
        histogram = HistogramMetricFamily(
            f"{prefix}_duration_histogram_us", "Time of one request, microseconds.", labels=_MODEL
        )
        for model in models:
            latencies = stage(model.statistics)
            sum_us = latencies.sum / _NS_PER_US
            total.add_metric(_labels(model), sum_us)
            histogram.add_metric(_labels(model), latencies.cumulative(_NS_PER_US), sum_us)
        yield total
        yield histogram


def _caches(models: list[Served]) -> Iterator[Metric]:
    for name, text, count in _CACHE:
        family = UntypedMetricFamily(name, text, labels=_MODEL)
        for model in models:
            family.add_metric(_labels(model), count(model.statistics))
        yield family


def _gauges(models: list[Served]) -> Iterator[Metric]:
    pending = GaugeMetricFamily(
        "nv_inference_pending_request_count", "Requests waiting to be run.", labels=_MODEL
    )
    load = GaugeMetricFamily("nv_model_load_duration_secs", "Last load time.", labels=_MODEL)
    for model in models:
        pending.add_metric(_labels(model), model.pending)
        load.add_metric(_labels(model), model.load_record.duration_s)
    yield from (pending, load)


def _sessions(models: list[Served]) -> Iterator[Metric]:
    provider = GaugeMetricFamily(
        "atril_model_provider",
        "1 for the execution provider in force.",
        labels=[*_MODEL, "provider"],
    )
    nodes = GaugeMetricFamily(
        "atril_model_nodes", "Nodes of the graph, by who runs them.", labels=[*_MODEL, "provider"]
    )
    warm_up = GaugeMetricFamily(
        "atril_warmup_seconds",
        "First run of a size of batch, before the version was ready.",
        labels=[*_MODEL, "batch_size"],
    )
    memory = GaugeMetricFamily(
        "atril_model_memory_bytes",
        "Growth of the process's memory while the session was made, and its arena warmed up.",
        labels=[*_MODEL, "device", "device_id", "part"],
    )
    for model in models:
        labels = _labels(model)
        provider.add_metric([*labels, model.placement.provider], 1)
        for name, count in model.placement.nodes.items():
            nodes.add_metric([*labels, name], count)
        first_s: dict[int, float] = {}
        for taken in model.load_record.warm_up_times:
            first_s.setdefault(taken.batch_size, taken.first_s)
        for batch_size, seconds in sorted(first_s.items()):
            warm_up.add_metric([*labels, str(batch_size)], seconds)
        taken_memory = model.load_record.memory
        where = [taken_memory.kind, str(taken_memory.device_id)]
        memory.add_metric([*labels, *where, "session"], taken_memory.session_bytes)
        memory.add_metric([*labels, *where, "arena"], taken_memory.arena_bytes)
    yield from (provider, nodes, warm_up, memory)


def _decoders(models: list[Served]) -> Iterator[Metric]:
    tokens = CounterMetricFamily("atril_decoding_tokens", "Tokens written.", labels=_MODEL)
    slots = GaugeMetricFamily("atril_decoding_active_slots", "Hypotheses under way.", labels=_MODEL)
    waiting = GaugeMetricFamily(
        "atril_decoding_waiting_requests", "Requests that wait for slots.", labels=_MODEL
    )
    histograms = [
        (HistogramMetricFamily(f"atril_decoding_{name}", text, labels=_MODEL), read)
        for name, text, read in _DECODING
    ]
    for model in models:
        decoding = model.decoding
        if decoding is None:
            continue
        labels = _labels(model)
        active_slots, waiting_requests = decoding.slots()
        tokens.add_metric(labels, decoding.tokens)
        slots.add_metric(labels, active_slots)
        waiting.add_metric(labels, waiting_requests)
        for family, read in histograms:
            histogram = read(decoding)
            family.add_metric(labels, histogram.cumulative(), histogram.sum)
    yield from (tokens, slots, waiting, *(family for family, _ in histograms))
