"""Work that is too long for the event loop, in few threads and a bounded queue."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from atril_common.errors import OverloadedError

ParamsT = ParamSpec("ParamsT")
ResultT = TypeVar("ResultT")


class Offload:
    """Runs functions in threads.

    Args:
        threads: how many run at once.
        max_pending: how many may run or wait; a further one is refused.
    """

    def __init__(self, threads: int, max_pending: int) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._max_pending = max_pending
        self._room = threading.BoundedSemaphore(max_pending)

    async def run(
        self, work: Callable[ParamsT, ResultT], *args: ParamsT.args, **kwargs: ParamsT.kwargs
    ) -> ResultT:
        """Run and wait; a cancelled caller leaves work that has begun to end by itself.

        Raises:
            OverloadedError: too much is waiting already.
        """
        if not self._room.acquire(blocking=False):
            raise OverloadedError(
                f"{self._max_pending} requests wait for their pictures to be decoded already"
            )
        future = self._executor.submit(work, *args, **kwargs)
        future.add_done_callback(lambda _: self._room.release())
        return await asyncio.wrap_future(future)
