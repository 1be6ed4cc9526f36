"""Dropping the work of a caller who went away."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.types import Receive

from atril_common.errors import CancelledRequestError

ResultT = TypeVar("ResultT")


async def while_connected(request: Request, work: Coroutine[Any, Any, ResultT]) -> ResultT:
    """Await the work, or cancel it when the client closes the connection.

    The request's body must have been read.

    Raises:
        CancelledRequestError: the client went away first.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnect(request.receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise CancelledRequestError("the client went away before the answer was there")
    finally:
        leaving.cancel()
        working.cancel()
        await asyncio.wait({working, leaving})


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
