"""Work in threads is bounded."""

import asyncio
import threading

import pytest

from atril_common.errors import OverloadedError
from atril_gateway.offload import Offload


async def test_work_runs_in_a_thread() -> None:
    """The event loop's thread is left alone."""
    assert await Offload(1, 1).run(threading.get_ident) != threading.get_ident()


async def test_too_much_work_is_refused_at_once() -> None:
    """One runs, one waits, the third is refused; afterwards there is room again."""
    offload, go, begun = Offload(1, 2), threading.Event(), threading.Event()

    def work() -> bool:
        begun.set()
        return go.wait(30)

    tasks = [asyncio.create_task(offload.run(work)) for _ in range(2)]
    await asyncio.to_thread(begun.wait, 30)
    with pytest.raises(OverloadedError, match="2 requests wait"):
        await offload.run(work)
    go.set()
    assert await asyncio.gather(*tasks) == [True, True]
    assert await offload.run(work)


async def test_an_error_of_the_work_is_the_callers() -> None:
    """What the function raises, the caller sees."""
    with pytest.raises(ZeroDivisionError):
        await Offload(1, 1).run(lambda: 1 // 0)
