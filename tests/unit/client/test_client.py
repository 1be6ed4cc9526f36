"""Both clients against the real gateway app over a fake core, and against odd servers."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import atril_client
from atril_client import (
    AsyncClient,
    AtrilClientError,
    Client,
    ConnectionFailedError,
    DeadlineExceededError,
    InvalidRequestError,
    NotFoundError,
    ServerError,
    TooLargeError,
    UnavailableError,
    UnexpectedAnswerError,
    UnsupportedMediaTypeError,
)
from atril_common.telemetry import Telemetry
from atril_gateway.app import create_app
from atril_gateway.settings import GatewaySettings
from tests.unit.gateway.conftest import png_bytes
from tests.unit.gateway.fakes import LABELS, FakeCore, fake_core

PIXELS = np.arange(30, dtype=np.uint8).reshape(5, 6) * 8
PNG = png_bytes(PIXELS)


class Gateway:
    """The real app behind both kinds of transport."""

    def __init__(self) -> None:
        self.core: FakeCore = fake_core()
        self.app = create_app(self.core, GatewaySettings(max_pictures=4), Telemetry())

    def answer(self, request: httpx.Request) -> httpx.Response:
        """Answer a blocking client."""
        return asyncio.run(self._answer(request))

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app)) as client:
            response = await client.request(
                request.method, request.url, content=request.read(), headers=request.headers
            )
        return httpx.Response(
            response.status_code, headers=response.headers, content=response.content
        )


@pytest.fixture
def gateway() -> Gateway:
    """A gateway with several models."""
    return Gateway()


@pytest.fixture
def client(gateway: Gateway) -> Client:
    """A blocking client of it."""
    return Client("http://gateway", transport=httpx.MockTransport(gateway.answer))


@pytest.fixture
async def async_client(gateway: Gateway) -> AsyncIterator[AsyncClient]:
    """An asyncio client of it."""
    async with AsyncClient("http://gateway", transport=httpx.ASGITransport(gateway.app)) as opened:
        yield opened


def answering(*responses: httpx.Response) -> Client:
    """A client of a server that gives these answers."""
    rest = list(responses)
    return Client("http://x", transport=httpx.MockTransport(lambda _: rest.pop(0)))


def test_a_file_is_classified(client: Client, tmp_path: Path) -> None:
    """Bytes and paths are files; labels, version and timing come back typed."""
    path = tmp_path / "seven.png"
    path.write_bytes(PNG)
    from_path = client.classify("grey", path)
    from_bytes = client.classify("grey", PNG, top_k=3)
    assert from_path.results == from_bytes.results
    assert (from_path.model_name, from_path.model_version) == ("grey", "3")
    best = from_path.results[0].top[0]
    assert best.label == LABELS[best.index]
    assert 0 < best.probability < 1
    assert from_path.timing.total_ms > 0


FORMS: dict[str, Any] = {
    "list of a file": [PNG],
    "tuple of a file": (PNG,),
    "array": PIXELS,
    "array with channel": PIXELS[:, :, None],
    "array of pictures": PIXELS[None],
    "nested list": PIXELS.tolist(),
    "list of an array": [PIXELS],
    "list of a nested list": [PIXELS.tolist()],
}


@pytest.mark.parametrize("pictures", FORMS.values(), ids=FORMS)
def test_every_form_of_a_picture_gets_the_same_answer(client: Client, pictures: Any) -> None:
    """Files, arrays and nested lists of one picture are one request."""
    assert client.classify("grey", pictures).results == client.classify("grey", PNG).results


def test_many_pictures_keep_their_order(client: Client, tmp_path: Path) -> None:
    """Result i is that of picture i, for files and for arrays."""
    path = tmp_path / "b.png"
    path.write_bytes(png_bytes(PIXELS // 3))
    together = client.classify("grey", [PNG, path, PNG])
    alone = [client.classify("grey", picture).results[0] for picture in (PNG, path, PNG)]
    assert list(together.results) == alone
    assert client.classify("grey", [PIXELS, PIXELS // 3, PIXELS]).results == together.results


def test_top_k_and_version_are_sent(client: Client, gateway: Gateway) -> None:
    """The version may be a number."""
    answer = client.classify("colour.v1-small", PNG, top_k=5, version=2)
    assert len(answer.results[0].top) == 5
    assert gateway.core.requests[0].model_version == "2"


async def test_both_clients_answer_the_same(async_client: AsyncClient, gateway: Gateway) -> None:
    """The asyncio client differs in nothing but the waiting."""

    def blocking() -> Any:
        with Client("http://gateway", transport=httpx.MockTransport(gateway.answer)) as client:
            return client.classify("grey", [PNG, PNG]).results, client.models(), client.ready()

    answered = await async_client.classify("grey", [PNG, PNG])
    mine = answered.results, await async_client.models(), await async_client.ready()
    assert mine == await asyncio.to_thread(blocking)


def test_models_are_listed(client: Client) -> None:
    """Name, versions, state, task and labels."""
    models = {model.name: model for model in client.models()}
    grey = models["grey"]
    assert (grey.versions, grey.state, grey.reason) == (("3",), "READY", "")
    assert (grey.task, grey.labels) == ("classification", 5)
    assert models["translator"].task == "translation"


@pytest.mark.parametrize(("status", "ready"), [(200, True), (503, False), (400, False)])
def test_ready_is_what_the_server_says(status: int, ready: bool) -> None:
    """A server that answers but is not ready is no error."""
    assert answering(httpx.Response(status)).ready() is ready


ERRORS: dict[int, type[AtrilClientError]] = {
    400: InvalidRequestError,
    404: NotFoundError,
    413: TooLargeError,
    415: UnsupportedMediaTypeError,
    429: ServerError,
    500: ServerError,
    503: UnavailableError,
    504: DeadlineExceededError,
}


@pytest.mark.parametrize(("status", "error"), ERRORS.items())
def test_each_status_has_its_error(status: int, error: type[AtrilClientError]) -> None:
    """The text is the server's own."""
    client = answering(httpx.Response(status, json={"error": "what was wrong"}))
    with pytest.raises(error, match=r"^what was wrong$") as caught:
        client.classify("grey", PNG)
    assert type(caught.value) is error
    assert caught.value.status == status


def test_a_real_refusal_is_typed(client: Client) -> None:
    """The gateway's own refusals arrive as they should."""
    with pytest.raises(InvalidRequestError, match="picture 0: not an image"):
        client.classify("grey", b"x")
    with pytest.raises(NotFoundError, match="unknown model 'nothing'"):
        client.classify("nothing", PNG)
    with pytest.raises(TooLargeError, match="expected at most 4 in"):
        client.classify("grey", [PNG] * 5)


def test_a_name_cannot_lead_to_another_route() -> None:
    """Whatever a model is called, it stays one segment of the path."""
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(404)

    client = Client("http://x/prefix", transport=httpx.MockTransport(answer))
    with pytest.raises(NotFoundError):
        client.classify("../a b/ü?", PNG, version="1/2")
    path = b"/prefix/v1/models/..%2Fa%20b%2F%C3%BC%3F/versions/1%2F2:classify?top_k=3"
    assert seen[0].url.raw_path == path


@pytest.mark.parametrize(("header", "retry_after_s"), [({"retry-after": "2"}, 2.0), ({}, None)])
def test_unavailable_says_when_to_retry(
    header: dict[str, str], retry_after_s: float | None
) -> None:
    """The server's Retry-After is passed on; nothing is retried here."""
    client = answering(httpx.Response(503, headers=header))
    with pytest.raises(UnavailableError, match="503 Service Unavailable") as caught:
        client.models()
    assert caught.value.retry_after_s == retry_after_s


@pytest.mark.parametrize("body", ["<html>", "[]", "{}", '{"results": 1}', "null"])
def test_an_answer_of_another_server_is_an_error(body: str) -> None:
    """A wrong address is noticed."""
    client = answering(httpx.Response(200, text=body), httpx.Response(200, text=body))
    with pytest.raises(UnexpectedAnswerError, match="not an answer of this API"):
        client.classify("grey", PNG)
    with pytest.raises(UnexpectedAnswerError, match="not an answer of this API"):
        client.models()


@pytest.mark.parametrize(
    ("pictures", "error", "match"),
    [
        ([], ValueError, "no pictures"),
        ("seven.png", TypeError, "of type str: expected bytes or pathlib.Path"),
        (7, TypeError, "of type int: expected bytes"),
        ([PNG, PIXELS], TypeError, "several types"),
        (["seven.png"], TypeError, "several types"),
        (Path("nothing.png"), FileNotFoundError, "nothing.png"),
    ],
)
def test_what_is_no_picture_is_not_sent(
    client: Client, gateway: Gateway, pictures: Any, error: type[Exception], match: str
) -> None:
    """A mistake in the call is an error of the call."""
    with pytest.raises(error, match=match):
        client.classify("grey", pictures)
    assert gateway.core.requests == []


FAILURES: dict[str, tuple[Callable[[str], Exception], type[AtrilClientError]]] = {
    "refused": (httpx.ConnectError, ConnectionFailedError),
    "no connection in time": (httpx.ConnectTimeout, ConnectionFailedError),
    "hung up": (httpx.RemoteProtocolError, ConnectionFailedError),
    "no answer in time": (httpx.ReadTimeout, DeadlineExceededError),
}


@pytest.mark.parametrize(("failure", "error"), FAILURES.values(), ids=FAILURES)
async def test_a_failed_exchange_is_not_repeated(
    failure: Callable[[str], Exception], error: type[AtrilClientError]
) -> None:
    """What was sent may have been run, so the caller decides whether to send it again."""
    seen = []

    def fail(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        raise failure("")

    with (
        Client("http://x", transport=httpx.MockTransport(fail)) as client,
        pytest.raises(error, match="GET http://x/v1/models"),
    ):
        client.models()
    async with AsyncClient("http://x", transport=httpx.MockTransport(fail)) as async_client:
        with pytest.raises(error, match="GET http://x/v2/health/ready"):
            await async_client.ready()
    assert len(seen) == 2


async def test_a_server_that_is_not_there_is_told_so() -> None:
    """Over a real socket, to a port where nobody listens."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{reserved.getsockname()[1]}"
        with Client(url) as client, pytest.raises(ConnectionFailedError):
            client.ready()
        async with AsyncClient(url) as async_client:
            with pytest.raises(ConnectionFailedError):
                await async_client.models()


def test_every_error_is_exported() -> None:
    """The public surface is `__all__`, and it is whole."""
    exported = {getattr(atril_client, name) for name in atril_client.__all__}
    assert set(AtrilClientError.__subclasses__()) <= exported
