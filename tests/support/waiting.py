"""Waiting for what must become true, with a deadline instead of a guess."""

import time
from collections.abc import Callable

_POLL_S = 0.02


def wait_until(
    condition: Callable[[], bool], what: str, *, deadline_s: float = 30.0, report: str = ""
) -> None:
    """Poll a condition until it holds.

    Raises:
        TimeoutError: it did not within the deadline; the text says what was waited for.
    """
    end_s = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() >= end_s:
            raise TimeoutError(f"waited {deadline_s:g} s for {what}; {report}")
        time.sleep(_POLL_S)
