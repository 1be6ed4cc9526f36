"""Request metrics and histograms."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from atril_common.core import InferRequest
from atril_common.errors import ErrorKind, NotFoundError
from atril_common.histogram import Histogram
from atril_common.oip.controls import Controls
from atril_common.oip.http_infer import InferHandler
from atril_common.telemetry import Telemetry

_finite = st.floats(0, 1e6)


def samples(telemetry: Telemetry) -> dict[tuple[Any, ...], float]:
    """Every sample of the exposition, by name and label values."""
    text = generate_latest(telemetry.registry).decode()
    return {
        (s.name, *s.labels.values()): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
    }


def test_requests_are_counted_by_method_model_and_outcome() -> None:
    """A good answer is `ok`, an error its kind."""
    telemetry = Telemetry()
    for kind in (None, None, ErrorKind.OVERLOADED):
        telemetry.observe("http_infer", "lenet5", kind, 0.01)
    found = samples(telemetry)
    assert found["atril_requests_total", "http_infer", "lenet5", "ok"] == 2
    assert found["atril_requests_total", "http_infer", "lenet5", "overloaded"] == 1
    assert found["atril_request_duration_seconds_count", "http_infer", "lenet5"] == 3
    assert found["atril_request_duration_seconds_sum", "http_infer", "lenet5"] == pytest.approx(
        0.03
    )


def test_a_model_that_is_not_there_has_no_label_of_its_own() -> None:
    """Whoever guesses names adds no series."""
    telemetry = Telemetry()
    for i in range(3):
        telemetry.observe("http_infer", f"guess{i}", ErrorKind.NOT_FOUND, 0.01)
    assert samples(telemetry)["atril_requests_total", "http_infer", "unknown", "not_found"] == 3


class _EmptyCore:
    """A core without models."""

    def infer(self, request: InferRequest) -> asyncio.Future[Any]:
        """Refuse."""
        raise NotFoundError(f"Request for unknown model: '{request.model_name}' is not found")


def test_a_malformed_request_to_a_model_that_is_not_there_adds_no_series() -> None:
    """Labels stay in their closed set when the body is wrong as well as the name."""
    telemetry = Telemetry()
    handler = InferHandler(_EmptyCore(), telemetry, 1024, Controls())  # type: ignore[arg-type]
    for i in range(3):
        handler.begin(f"guess{i}", "", b"{", None)
        handler.too_large(f"guess{i}")
    text = generate_latest(telemetry.registry).decode()
    labels = [s.labels for family in text_string_to_metric_families(text) for s in family.samples]
    assert {label["model"] for label in labels} == {"unknown"}


def test_two_telemetries_do_not_share_anything() -> None:
    """Each has a registry of its own."""
    first, second = Telemetry(), Telemetry()
    first.observe("m", "n", None, 1)
    assert samples(second) == {}


@given(st.lists(_finite), st.lists(_finite, min_size=1, unique=True).map(sorted))
def test_a_histogram_counts_what_is_at_most_each_bound(
    values: list[float], bounds: list[float]
) -> None:
    """Cumulative buckets: every value once, at its bound or below, all of them at +Inf."""
    histogram = Histogram(tuple(bounds))
    for value in values:
        histogram.observe(value)
    for bound, count in histogram.cumulative():
        assert count == sum(value <= float(bound) for value in values)
    assert histogram.sum == pytest.approx(sum(values))


def test_an_observation_may_stand_for_several() -> None:
    """`times` adds as many counts and as much to the sum."""
    histogram = Histogram((1.0, 2.0))
    histogram.observe(1.5, 3)
    assert histogram.cumulative() == [("1.0", 0.0), ("2.0", 3.0), ("+Inf", 3.0)]
    assert histogram.sum == 4.5
