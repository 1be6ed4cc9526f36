"""The two clients, blocking and asyncio: the same calls over the same wire."""

from types import TracebackType
from typing import Any, Self

import httpx

from atril_client.types import Classification, Model, Pictures
from atril_client.wire import (
    MODELS,
    READY,
    WireRequest,
    classification_from,
    classify_request,
    error_from,
    models_from,
)

TIMEOUT_S = 60.0

_CONNECT_RETRIES = 1
"""A connection that cannot be made is tried once more; what was sent is never sent again."""


class Client:
    """Calls an Atril server, blocking.

    Args:
        base_url: the server, for example `http://127.0.0.1:8000`.
        timeout_s: how long to wait for the connection, and for each part of the answer.
        transport: replaces the network, for tests.
    """

    def __init__(
        self,
        base_url: str,
        timeout_s: float = TIMEOUT_S,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._http = httpx.Client(
            base_url=base_url,
            timeout=timeout_s,
            transport=transport or httpx.HTTPTransport(retries=_CONNECT_RETRIES),
        )

    def classify(
        self,
        model: str,
        pictures: Pictures,
        top_k: int = 3,
        version: str | int | None = None,
    ) -> Classification:
        """Ask for the most probable labels of one or many pictures.

        Args:
            model: name of a model in the server's repository.
            pictures: `bytes` or `Path` of a PNG or JPEG file, a sequence of such, or pixel values
                0 … 255 as nested lists or anything with `tolist()`: `[H, W]`, `[H, W, C]`, or a
                list of either.
            top_k: how many labels a picture.
            version: version of the model, or None for its newest.

        Raises:
            AtrilClientError: the server refused or could not be reached.
            TypeError, ValueError, OSError: the pictures are none.
        """
        return classification_from(self._send(classify_request(model, pictures, top_k, version)))

    def models(self) -> list[Model]:
        """List the models of the repository.

        Raises:
            AtrilClientError: the server refused or could not be reached.
        """
        return models_from(self._send(MODELS))

    def ready(self) -> bool:
        """Whether the server takes requests.

        Raises:
            AtrilClientError: the server could not be reached.
        """
        return self._send(READY).is_success

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _send(self, request: WireRequest) -> httpx.Response:
        try:
            return self._http.request(**_arguments(request))
        except httpx.RequestError as err:
            raise error_from(err) from err

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class AsyncClient:
    """Calls an Atril server from asyncio; arguments, answers and errors are those of `Client`."""

    def __init__(
        self,
        base_url: str,
        timeout_s: float = TIMEOUT_S,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._http = httpx.AsyncClient(
            base_url=base_url,
            timeout=timeout_s,
            transport=transport or httpx.AsyncHTTPTransport(retries=_CONNECT_RETRIES),
        )

    async def classify(
        self,
        model: str,
        pictures: Pictures,
        top_k: int = 3,
        version: str | int | None = None,
    ) -> Classification:
        """Ask for the most probable labels of pictures; see `Client.classify`."""
        request = classify_request(model, pictures, top_k, version)
        return classification_from(await self._send(request))

    async def models(self) -> list[Model]:
        """List the models of the repository; see `Client.models`."""
        return models_from(await self._send(MODELS))

    async def ready(self) -> bool:
        """Whether the server takes requests; see `Client.ready`."""
        return (await self._send(READY)).is_success

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _send(self, request: WireRequest) -> httpx.Response:
        try:
            return await self._http.request(**_arguments(request))
        except httpx.RequestError as err:
            raise error_from(err) from err

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()


def _arguments(request: WireRequest) -> dict[str, Any]:
    return {"method": request.method, "url": request.path, "params": request.params} | request.body
