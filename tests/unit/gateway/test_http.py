"""The task API over HTTP: every body that is accepted, and every one that is not."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
import pytest

from atril_common.errors import AtrilError, ErrorKind
from atril_common.status import STATUS
from atril_common.telemetry import Telemetry
from atril_gateway.app import create_app
from atril_gateway.settings import GatewaySettings

from .conftest import png_bytes
from .fakes import ATRIL_ERRORS, LABELS, FakeCore

URL = "/v1/models/grey:classify"
PIXELS = [[0, 50, 100, 150, 5], [10, 60, 110, 160, 6], [20, 70, 120, 170, 7]]
PNG = png_bytes(PIXELS)
B64 = base64.b64encode(PNG).decode()
DARK, BRIGHT = png_bytes(np.zeros((4, 4))), png_bytes(np.full((4, 4), 255))
JSON = {"content-type": "application/json"}


async def results_of(client: httpx.AsyncClient, **request: Any) -> list[Any]:
    """The results of a good request."""
    response = await client.post(URL, **request)
    assert response.status_code == 200, response.text
    return response.json()["results"]


async def assert_refused(
    client: httpx.AsyncClient, status: int, text: str, url: str = URL, **request: Any
) -> httpx.Response:
    """The request is refused with this status and text, and the next good one is answered."""
    response = await client.post(url, **request)
    assert response.status_code == status, response.text
    assert list(response.json()) == ["error"]
    assert text in response.json()["error"]
    assert response.headers["content-type"] == "application/json"
    assert (await client.post(URL, content=PNG, headers={"content-type": "image/png"})).is_success
    return response


def png_body(content_type: str | None) -> dict[str, Any]:
    """A raw file as a body."""
    return {"content": PNG, "headers": {"content-type": content_type} if content_type else {}}


GOOD_BODIES: dict[str, dict[str, Any]] = {
    "image/png": png_body("image/png"),
    "octets": png_body("application/octet-stream"),
    "parameters and capitals": png_body("Image/PNG; q=1"),
    "no content type": png_body(None),
    "form": {"files": {"image": ("seven.png", PNG)}},
    "array": {"json": PIXELS},
    "array with channel": {"json": [[[value] for value in row] for row in PIXELS]},
    "array of fractions": {"json": [[float(value) for value in row] for row in PIXELS]},
    "list of arrays": {"json": [PIXELS]},
    "list of arrays with channel": {"json": [[[[value] for value in row] for row in PIXELS]]},
    "pictures": {"json": {"pictures": [PIXELS]}},
    "base64": {"json": {"pictures": [{"b64": B64}]}},
}


@pytest.mark.parametrize("body", GOOD_BODIES.values(), ids=GOOD_BODIES)
async def test_every_form_of_a_picture_gets_the_same_answer(
    client: httpx.AsyncClient, core: FakeCore, body: dict[str, Any]
) -> None:
    """Raw file, form, array and base64 of one picture are one tensor and one answer."""
    results = await results_of(client, **body)
    assert results == await results_of(client, **GOOD_BODIES["image/png"])
    tensors = [request.inputs["image"].tobytes() for request in core.requests]
    assert tensors[0] == tensors[1]


async def test_the_answer_is_what_is_documented(client: httpx.AsyncClient) -> None:
    """Names, version, the three most probable labels, and timing."""
    answer = (await client.post(URL, **png_body("image/png"))).json()
    assert list(answer) == ["model_name", "model_version", "results", "timing"]
    assert (answer["model_name"], answer["model_version"]) == ("grey", "3")
    assert list(answer["timing"]) == ["preprocess_ms", "inference_ms", "total_ms"]
    (result,) = answer["results"]
    assert len(result["top"]) == 3
    for score in result["top"]:
        assert list(score) == ["label", "index", "probability"]
        assert score["label"] == LABELS[score["index"]]


async def test_many_files_are_answered_in_their_order(client: httpx.AsyncClient) -> None:
    """Result i of a form belongs to file i, whatever the fields are called."""
    pictures = [DARK, BRIGHT, PNG, BRIGHT, DARK, PNG]
    files = [(f"field{i % 2}", (f"{i}.png", picture)) for i, picture in enumerate(pictures)]
    together = await results_of(client, files=files)
    assert together == [(await results_of(client, content=p))[0] for p in pictures]


async def test_arrays_and_files_can_be_mixed_in_json(client: httpx.AsyncClient) -> None:
    """Every picture of a list says by itself what it is."""
    mixed = await results_of(client, json={"pictures": [PIXELS, {"b64": B64}, PIXELS]})
    assert mixed[0] == mixed[1] == mixed[2]


@pytest.mark.parametrize(
    ("request_of", "count"),
    [
        ({"content": PNG}, 3),
        ({"content": PNG, "params": {"top_k": 1}}, 1),
        ({"content": PNG, "params": {"top_k": 1000}}, 5),
        ({"json": {"pictures": [PIXELS], "top_k": 2}}, 2),
        ({"json": {"pictures": [PIXELS], "top_k": 2}, "params": {"top_k": 4}}, 2),
        ({"files": {"a": PNG}, "data": {"top_k": "4"}}, 4),
    ],
)
async def test_top_k_says_how_many_labels(
    client: httpx.AsyncClient, request_of: dict[str, Any], count: int
) -> None:
    """Three if not given, all if there are fewer; the body's goes before the query's."""
    (result,) = await results_of(client, **request_of)
    assert len(result["top"]) == count


async def test_names_may_have_dots_and_dashes_and_a_version(
    client: httpx.AsyncClient, core: FakeCore
) -> None:
    """The colon of the verb does not get in the way of the name."""
    for url, version in [
        ("/v1/models/colour.v1-small:classify", "3"),
        ("/v1/models/colour.v1-small%3Aclassify", "3"),
        ("/v1/models/colour.v1-small/versions/2:classify", "2"),
    ]:
        answer = (await client.post(url, content=PNG)).json()
        assert (answer["model_name"], answer["model_version"]) == ("colour.v1-small", version)


def json_body(text: str) -> dict[str, Any]:
    """A JSON body as it is."""
    return {"content": text.encode(), "headers": JSON}


FORM_TYPE = "multipart/form-data; boundary=x"
FORM_HEAD = b'--x\r\nContent-Disposition: form-data; name="a"; filename="a"\r\n\r\n'

REFUSED: dict[str, tuple[int, str, dict[str, Any]]] = {
    "wrong content type": (
        415,
        "content type 'text/plain': expected one of image/png, image/jpeg, "
        "application/octet-stream, multipart/form-data, application/json",
        png_body("text/plain"),
    ),
    "curl's default": (415, "expected one of", png_body("application/x-www-form-urlencoded")),
    "compressed": (415, "content coding 'gzip': expected none", {
        "content": PNG, "headers": {"content-encoding": "gzip"}}),
    "empty": (400, "the body is empty", {"content": b""}),
    "empty JSON": (400, "the body is empty", json_body("")),
    "no image": (400, "picture 0: not an image: expected a PNG or JPEG", {"content": b"hello"}),
    "damaged image": (400, "picture 0: damaged file", {"content": PNG[:-30]}),
    "not JSON": (400, "the body is not JSON", json_body("{")),
    "NaN": (400, "no NaN or Infinity", json_body("[[NaN]]")),
    "Infinity": (400, "no NaN or Infinity", json_body("[[Infinity]]")),
    "overflow": (400, "no NaN or Infinity", json_body("[[1e999]]")),
    "too deep": (400, "the body is not JSON", json_body("[" * 5000)),
    "a hundred dimensions": (400, "100 dimensions", json_body("[" * 100 + "1" + "]" * 100)),
    "a deep picture": (400, "picture 0", json_body(
        '{"pictures": [' + "[" * 100 + "1" + "]" * 100 + "]}")),
    "a number": (400, "JSON number: expected an array or {", json_body("7")),
    "a string": (400, "JSON string: expected an array or {", json_body('"x"')),
    "null": (400, "JSON null: expected", json_body("null")),
    "true": (400, "JSON boolean: expected", json_body("true")),
    "empty array": (400, "array of 1 dimensions: expected one picture", json_body("[]")),
    "one row": (400, "array of 1 dimensions", json_body("[1, 2]")),
    "ragged": (400, "picture 0: rows of different lengths", {"json": [[1, 2], [3]]}),
    "out of range": (400, "picture 0: value 256 at [0, 0]", {"json": [[256]]}),
    "second of two": (400, "picture 1: value -1", {"json": {"pictures": [[[1]], [[-1]]]}}),
    "second of a bare list": (400, "picture 1", {"json": [[[1] * 5], 5]}),
    "no pictures": (400, 'no list under "pictures": expected', {"json": {"top_k": 1}}),
    "pictures not a list": (400, "no list", {"json": {"pictures": "x"}}),
    "zero pictures": (400, "no pictures: expected at least one", {"json": {"pictures": []}}),
    "unknown key": (400, "unknown topk: expected", {"json": {"pictures": [[[1]]], "topk": 1}}),
    "picture of another type": (400, "picture 0: a JSON string that is no picture", {
        "json": {"pictures": ["x"]}}),
    "object without b64": (400, 'picture 0: a JSON object that is no picture: expected', {
        "json": {"pictures": [{"url": "x"}]}}),
    "bad base64": (400, "picture 0: not base64", {"json": {"pictures": [{"b64": "?"}]}}),
    "base64 with umlaut": (400, "picture 0: not base64", {"json": {"pictures": [{"b64": "ä"}]}}),
    "base64 of no image": (400, "picture 0: not an image", {
        "json": {"pictures": [{"b64": "aGVsbG8="}]}}),
    "top_k of zero": (400, "query top_k is '0'", {"content": PNG, "params": {"top_k": 0}}),
    "top_k too large": (400, "query top_k is '1001'", {"content": PNG, "params": {"top_k": 1001}}),
    "top_k of letters": (400, "query top_k is 'x'", {"content": PNG, "params": {"top_k": "x"}}),
    "top_k of zero in JSON": (400, "top_k is 0: expected 1 … 1000", {
        "json": {"pictures": [PIXELS], "top_k": 0}}),
    "top_k of letters in JSON": (400, "top_k is 'x': expected a whole number", {
        "json": {"pictures": [PIXELS], "top_k": "x"}}),
    "top_k true in JSON": (400, "top_k is 'True': expected a whole number", {
        "json": {"pictures": [PIXELS], "top_k": True}}),
    "top_k of letters in a form": (400, "top_k is 'x': expected a whole number", {
        "files": {"a": PNG}, "data": {"top_k": "x"}}),
    "text in a form": (400, "the form's field 'a' is text: expected files", {
        "files": {"b": PNG}, "data": {"a": "b"}}),
    "form without a file": (400, "no pictures: expected at least one", {
        "files": {"top_k": (None, "3")}}),
    "form without a boundary": (400, "not a form", png_body("multipart/form-data")),
    "form of nonsense": (400, "not a form", png_body(FORM_TYPE)),
    "form that ends early": (400, "not a form", {
        "content": FORM_HEAD + PNG, "headers": {"content-type": FORM_TYPE}}),
    "form whose second file is cut off": (400, "it ends before its closing boundary", {
        "content": FORM_HEAD + PNG + b"\r\n" + FORM_HEAD + PNG,
        "headers": {"content-type": FORM_TYPE}}),
    "empty form": (400, "it ends before its closing boundary", {
        "content": b"", "headers": {"content-type": FORM_TYPE}}),
    "form with a nameless part": (400, "not a form", {
        "content": b"--x\r\n\r\nabc\r\n--x--\r\n", "headers": {"content-type": FORM_TYPE}}),
    "too many pixels": (413, "picture 0: 500 × 401 = 200500 pixels: expected at most 200000", {
        "content": png_bytes(np.zeros((401, 500)))}),
    "too many pictures": (413, "21 pictures: expected at most 20", {
        "json": {"pictures": [PIXELS] * 21}}),
    "too many files": (413, "21 pictures: expected at most 20", {
        "files": [("a", PNG)] * 21}),
    "far too many files": (413, "too many parts: expected at most 20 pictures", {
        "files": [("a", PNG)] * 40}),
    "too large": (413, "the body has 200001 bytes: expected at most 200000", {
        "content": b"x" * 200_001}),
    "too large a form": (413, "expected at most 200000", {"files": {"a": b"x" * 200_001}}),
}  # fmt: skip


@pytest.mark.parametrize(("status", "text", "request_of"), REFUSED.values(), ids=REFUSED)
async def test_a_bad_request_is_refused(
    client: httpx.AsyncClient, status: int, text: str, request_of: dict[str, Any]
) -> None:
    """The status is the kind's, the text says what was expected, and the gateway goes on."""
    await assert_refused(client, status, text, **request_of)


@pytest.mark.parametrize("content_type", ["image/png", "multipart/form-data; boundary=x"])
async def test_a_body_of_unknown_length_is_cut_off_at_the_limit(
    client: httpx.AsyncClient, content_type: str
) -> None:
    """A chunked body is refused as soon as it is over the limit; the rest is not read."""
    sent = []

    async def chunks() -> AsyncIterator[bytes]:
        yield FORM_HEAD
        for i in range(100):
            sent.append(i)
            yield b"x" * 50_000

    await assert_refused(
        client,
        413,
        "the body is too large: expected at most 200000 bytes",
        content=chunks(),
        headers={"content-type": content_type},
    )
    assert len(sent) <= 5


async def test_a_large_body_is_decoded_like_a_small_one(client: httpx.AsyncClient) -> None:
    """Arrays that are decoded in a thread are the same pictures, and the same errors."""
    big = np.zeros((200, 200), int)
    assert len(json.dumps(big.tolist())) > 65_536
    assert await results_of(client, json=big.tolist()) == await results_of(client, content=DARK)
    big[7, 9] = 300
    await assert_refused(client, 400, "picture 0: value 300 at [7, 9]", json=big.tolist())


@pytest.mark.parametrize(
    ("model", "status", "text"),
    [
        ("nothing", 404, "unknown model 'nothing'"),
        ("grey/versions/7", 404, "version '7'"),
        ("translator", 400, "'translator' is not a classifier: it is for 'translation'"),
        ("bare", 400, "'bare' is not a classifier: its configuration declares no task"),
    ],
)
async def test_a_wrong_model_is_refused(
    client: httpx.AsyncClient, model: str, status: int, text: str
) -> None:
    """Unknown models and versions are not found, others are not classifiers."""
    await assert_refused(client, status, text, url=f"/v1/models/{model}:classify", content=PNG)


@pytest.mark.parametrize("error", ATRIL_ERRORS, ids=lambda c: c.__name__)
async def test_every_kind_of_error_has_its_status(
    client: httpx.AsyncClient, core: FakeCore, error: type[AtrilError]
) -> None:
    """What the core raises is told with the kind's status, its text, and whether to retry."""
    core.error = error("told to the caller")
    response = await client.post(URL, content=PNG)
    status = STATUS[error.kind]
    assert response.status_code == status.task
    assert response.json() == {"error": "told to the caller"}
    assert response.headers.get("retry-after") == ("1" if status.retry else None)


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/nothing", "/v1/models/grey", "/nothing"])
async def test_an_unknown_path_is_not_found(client: httpx.AsyncClient, path: str) -> None:
    """Every 404 has the same form."""
    response = await client.get(path)
    assert (response.status_code, response.json()) == (404, {"error": "Not Found"})


@pytest.mark.parametrize(("method", "path"), [("GET", URL), ("POST", "/v1/models")])
async def test_a_wrong_method_is_refused(client: httpx.AsyncClient, method: str, path: str) -> None:
    """Every 405 has the same form and says what is allowed."""
    response = await client.request(method, path)
    assert (response.status_code, response.json()) == (405, {"error": "Method Not Allowed"})
    assert response.headers["allow"] != method


async def test_a_late_answer_is_504(core: FakeCore, telemetry: Telemetry) -> None:
    """The setting's time-out ends a request that the core does not answer."""
    core.hold = True
    app = create_app(core, GatewaySettings(request_timeout_s=0.01), telemetry)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://gateway"
    ) as client:
        response = await client.post(URL, content=PNG)
    assert response.status_code == 504
    assert response.json() == {"error": "model 'grey' did not answer within 0.01 s"}


async def test_a_caller_who_goes_away_takes_the_request_along(
    core: FakeCore, settings: GatewaySettings, telemetry: Telemetry
) -> None:
    """When the connection closes, the core's request is cancelled."""
    core.hold = True
    sent: list[Any] = []
    messages = [{"type": "http.request", "body": PNG, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        await core.held.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": URL, "headers": [], "query_string": b""}
    await create_app(core, settings, telemetry)(scope, receive, send)
    assert [future.cancelled() for future in core.futures] == [True]
    counted = telemetry.registry.get_sample_value(
        "atril_requests_total", {"method": "classify", "model": "grey", "outcome": "cancelled"}
    )
    assert counted == 1


async def test_a_request_without_an_end_is_refused(
    core: FakeCore, settings: GatewaySettings, telemetry: Telemetry
) -> None:
    """A connection that closes in the middle of a body asks the core nothing."""
    messages = [
        {"type": "http.disconnect"},
        {"type": "http.request", "body": PNG[:9], "more_body": True},
    ]

    async def receive() -> Any:
        return messages.pop()

    async def send(message: Any) -> None: ...

    scope = {"type": "http", "method": "POST", "path": URL, "headers": [], "query_string": b""}
    await create_app(core, settings, telemetry)(scope, receive, send)
    assert core.requests == []


async def test_cancelling_the_app_cancels_the_request(
    client: httpx.AsyncClient, core: FakeCore
) -> None:
    """A server that gives up an exchange takes the core's request along."""
    core.hold = True
    task = asyncio.create_task(client.post(URL, content=PNG))
    await core.held.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [future.cancelled() for future in core.futures] == [True]


def test_every_kind_of_error_is_tried() -> None:
    """The table of statuses and the errors of the test above are the same set."""
    assert {error.kind for error in ATRIL_ERRORS} == set(ErrorKind)
