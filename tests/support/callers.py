"""Callers that ask a server again and again, over both protocols, and keep count of the answers."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event
from typing import Any

import grpc
import httpx
import numpy as np

from tests.support.processes import ServerProcess
from tests.support.transports import Call, Grpc, HttpBinary, Refusal
from tests.support.waiting import wait_until

OK = "ok"


@dataclass
class Load:
    """What callers have seen so far.

    Attributes:
        counts: answers by protocol and by what they were: `OK`, a status, or the name of the
            exception with which a request was lost.
        texts: the texts of refusals, and of what was lost.
        stop: set to have every caller end after its next answer.
    """

    counts: Counter[tuple[str, Any]] = field(default_factory=Counter)
    texts: set[str] = field(default_factory=set)
    stop: Event = field(default_factory=Event)

    def answers(self, protocol: str) -> int:
        """How many requests of a protocol have ended."""
        return sum(count for (name, _), count in list(self.counts.items()) if name == protocol)

    def wait_for_more(self, more: int = 30) -> None:
        """Wait until so many more requests of each protocol have ended."""
        goals = {protocol: self.answers(protocol) + more for protocol in ("http", "grpc")}
        wait_until(
            lambda: all(self.answers(name) >= goal for name, goal in goals.items()),
            f"{more} more answers of each protocol",
            report=str(self.counts),
        )

    @property
    def outcomes(self) -> set[Any]:
        """Everything that a request came to."""
        return {outcome for _, outcome in self.counts}


@contextmanager
def calling(
    server: ServerProcess, call: Call, expected: dict[str, np.ndarray], *, callers: int = 3
) -> Iterator[Load]:
    """Keep so many callers of each protocol asking, each on its own connection."""
    load = Load()
    with ThreadPoolExecutor(2 * callers) as pool:
        asked = [
            pool.submit(_ask, load, server, call, expected, protocol)
            for protocol in ("http", "grpc")
            for _ in range(callers)
        ]
        try:
            yield load
        finally:
            load.stop.set()
    for caller in asked:
        caller.result()


def _ask(
    load: Load, server: ServerProcess, call: Call, expected: dict[str, np.ndarray], protocol: str
) -> None:
    client = (HttpBinary if protocol == "http" else Grpc)(server.http_url, server.grpc_address)
    try:
        while not load.stop.is_set():
            outcome: Any = OK
            try:
                answer = client.infer(call)
            except Refusal as refusal:
                outcome = refusal.status
                load.texts.add(refusal.text)
            except (httpx.HTTPError, grpc.RpcError) as err:
                outcome = type(err).__name__
                load.texts.add(str(err))
            else:
                for name, array in expected.items():
                    np.testing.assert_allclose(answer.outputs[name], array, rtol=1e-5)
            load.counts[protocol, outcome] += 1
    finally:
        client.close()
