"""Every `/v1` request is told once, to the log and to the metrics."""

import logging

import httpx
import pytest

from atril_common.telemetry import Telemetry

from .conftest import png_bytes
from .fakes import BoomError, FakeCore

URL = "/v1/models/grey:classify"
PIXELS = [[0, 50, 100, 150, 5], [10, 60, 110, 160, 6], [20, 70, 120, 170, 7]]
PNG = png_bytes(PIXELS)


@pytest.mark.parametrize(
    ("sent", "echoed"),
    [("abc-1", True), ("x" * 128, True), ("", False), ("x" * 129, False), ("a\tb", False)],
)
async def test_a_request_id_is_echoed_or_made(
    client: httpx.AsyncClient, sent: str, echoed: bool
) -> None:
    """A caller's own id comes back if it is fit to be logged; errors carry one too."""
    for path in ("/v1/models", "/v1/nothing"):
        response = await client.get(path, headers={"x-request-id": sent})
        answered = response.headers["x-request-id"]
        assert answered == sent if echoed else len(answered) == 32


async def test_each_request_is_logged_once_and_counted(
    client: httpx.AsyncClient, telemetry: Telemetry, caplog: pytest.LogCaptureFixture
) -> None:
    """One canonical line says who asked what and how it ended."""
    with caplog.at_level(logging.INFO, logger="atril_gateway"):
        await client.post(URL, json=[PIXELS, PIXELS], headers={"x-request-id": "me"})
        await client.post("/v1/models/grey/versions/2:classify", content=b"x")
    good, bad = (vars(record) for record in caplog.records)
    assert good["msg"] == bad["msg"] == "request_finished"
    assert (good["method"], good["model_name"], good["model_version"]) == ("classify", "grey", "3")
    assert (good["outcome"], good["pictures"], good["request_id"]) == ("ok", 2, "me")
    assert good["duration_ms"] >= 0
    assert (bad["outcome"], bad["model_version"], bad["pictures"]) == ("invalid_input", "2", 0)
    labels = {"method": "classify", "model": "grey", "outcome": "ok"}
    assert telemetry.registry.get_sample_value("atril_requests_total", labels) == 1


async def test_callers_cannot_make_up_labels(
    client: httpx.AsyncClient, telemetry: Telemetry
) -> None:
    """A model that nobody serves is counted as unknown, whatever went wrong."""
    await client.post("/v1/models/invented:classify", content=b"no image")
    await client.post("/v1/models/invented:classify", content=PNG)
    await client.get("/v1/invented")
    families = [
        family for family in telemetry.registry.collect() if family.name == "atril_requests"
    ]
    labels = [sample.labels for family in families for sample in family.samples]
    assert {label["model"] for label in labels} == {"unknown"}
    assert {label["method"] for label in labels} == {"classify", "unknown"}


async def test_an_unexpected_failure_is_logged_once_and_not_told(
    client: httpx.AsyncClient, core: FakeCore, caplog: pytest.LogCaptureFixture
) -> None:
    """The log has the traceback, the caller two words."""
    core.error = BoomError("secret")
    with caplog.at_level(logging.INFO):
        response = await client.post(URL, content=PNG)
    assert (response.status_code, response.json()) == (500, {"error": "internal error"})
    failures = [record for record in caplog.records if record.exc_info]
    assert [record.message for record in failures] == ["request_failed"]
    assert "secret" in str(failures[0].exc_info)
    core.error = None
    assert (await client.post(URL, content=PNG)).is_success
