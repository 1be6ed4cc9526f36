"""The replicas behind the gateway: which there are, which are ready, and calls to them.

A replica is one address. A configured name that resolves to several addresses (a headless service)
stands for one replica each, and is resolved again as long as the gateway runs.
"""

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from typing import Any

from atril_common.errors import InvalidInputError, NotReadyError, UpstreamUnavailableError
from atril_gateway.remote.replica import Replica

logger = logging.getLogger(__name__)

PROBE_PERIOD_S = 0.5
RESOLVE_EVERY = 10
"""Names are resolved anew at every tenth probe."""

LINGER_S = 30.0
"""How long the connection to a replica whose address is gone is kept, for what it still answers."""


class ReplicaSet:
    """Every replica, probed and resolved in the background between `start` and `close`.

    Args:
        targets: gRPC addresses, see `parse_targets`.
        changed: called when there are more or fewer replicas than before.
    """

    def __init__(self, targets: Sequence[str], changed: Callable[[], None]) -> None:
        self._targets = tuple(targets)
        self._changed = changed
        self._addresses: dict[str, set[str]] = {}
        self._replicas: dict[str, Replica] = {}
        self._leaving: dict[asyncio.Task[None], Replica] = {}
        self._turn = 0
        self._watching: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Resolve and probe once, then go on in the background."""
        await self._resolve()
        await self._probe()
        self._watching = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """Stop probing and close every channel."""
        if self._watching is not None:
            self._watching.cancel()
        for leaving in self._leaving:
            leaving.cancel()
        replicas = (*self._replicas.values(), *self._leaving.values())
        await asyncio.gather(*(replica.close() for replica in replicas))

    @property
    def all(self) -> list[Replica]:
        """The replicas that the targets resolve to, by address."""
        return [self._replicas[address] for address in sorted(self._replicas)]

    @property
    def ready(self) -> list[Replica]:
        """The replicas that take requests."""
        return [replica for replica in self._replicas.values() if replica.ready]

    async def call(self, method: str, request: Any, deadline_s: float) -> Any:
        """One RPC to the least busy replica; if that one is gone or refuses, once to another.

        Args:
            method: name of a unary RPC of the protocol.
            request: its message.
            deadline_s: until when, on the loop's clock, both tries together.

        Raises:
            AtrilError: the answer of the replica that was asked last.
            UpstreamUnavailableError: no replica can be reached.
            DeadlineExceededError: no answer by the deadline.
        """
        first = self.least_busy()
        try:
            return await first.call(method, request, deadline_s)
        except (UpstreamUnavailableError, NotReadyError) as err:
            second = self._other_than(first, reachable=isinstance(err, NotReadyError))
            if second is None:
                raise
            logger.warning(
                "retrying",
                extra={"method": method, "failed": first.address, "next": second.address},
            )
        return await second.call(method, request, deadline_s)

    def least_busy(self) -> Replica:
        """The ready replica with the fewest calls under way; any one when none is ready.

        Raises:
            UpstreamUnavailableError: there is no replica at all.
        """
        candidates = self.ready or list(self._replicas.values())
        if not candidates:
            raise UpstreamUnavailableError(
                f"no inference replica: {', '.join(self._targets)} resolve to no address"
            )
        return self._least_busy_of(candidates)

    def for_sequence(self) -> Replica:
        """The ready replica with the fewest sequences, the least busy of these.

        Raises:
            UpstreamUnavailableError: there is no replica at all.
        """
        least = self.least_busy()
        return min([least, *self.ready], key=lambda replica: replica.sequences)

    def _other_than(self, excluded: Replica, *, reachable: bool) -> Replica | None:
        """Another replica for a second try; one that does not look ready only if it must be."""
        others = [replica for replica in self.ready if replica is not excluded]
        if not others and not reachable:
            others = [replica for replica in self.all if replica is not excluded]
        return self._least_busy_of(others) if others else None

    def _least_busy_of(self, candidates: list[Replica]) -> Replica:
        """The least busy one, in turn where several are."""
        self._turn += 1
        turn = self._turn % len(candidates)
        return min(candidates[turn:] + candidates[:turn], key=lambda r: r.outstanding)

    async def _watch(self) -> None:
        probes = 0
        while True:
            await asyncio.sleep(PROBE_PERIOD_S)
            probes += 1
            if probes % RESOLVE_EVERY == 0:
                await self._resolve()
            await self._probe()

    async def _probe(self) -> None:
        await asyncio.gather(*(replica.probe() for replica in self._replicas.values()))

    async def _resolve(self) -> None:
        for target in self._targets:
            try:
                self._addresses[target] = await _addresses(target)
            except (OSError, UnicodeError) as err:
                # A name that does not resolve now keeps the addresses it had.
                logger.warning("unresolved", extra={"target": target, "reason": str(err)})
        addresses = set[str]().union(*self._addresses.values())
        known = self._replicas.keys()
        new, gone = addresses - known, known - addresses
        for address in new:
            self._replicas[address] = Replica(address)
        for address in gone:
            self._let_go(self._replicas.pop(address))
        if new or gone:
            self._changed()

    def _let_go(self, replica: Replica) -> None:
        """Send a replica nothing new; what it holds (calls, sequences) has some time to end."""

        async def leave() -> None:
            await asyncio.sleep(LINGER_S)
            await replica.close()

        task = asyncio.create_task(leave())
        self._leaving[task] = replica
        task.add_done_callback(self._leaving.pop)


async def _addresses(target: str) -> set[str]:
    host, _, port = target.rpartition(":")
    infos = await asyncio.get_running_loop().getaddrinfo(
        host.strip("[]"), int(port), type=socket.SOCK_STREAM
    )
    return {
        f"[{address[0]!s}]:{port}" if family == socket.AF_INET6 else f"{address[0]!s}:{port}"
        for family, _, _, _, address in infos
    }


def parse_targets(text: str) -> tuple[str, ...]:
    """Split the setting `REPLICAS`.

    Raises:
        InvalidInputError: an entry is not `host:port`.
    """
    targets = tuple(part.strip() for part in text.split(",") if part.strip())
    for target in targets:
        host, _, port = target.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise InvalidInputError(f"replica '{target}': expected host:port")
    if not targets:
        raise InvalidInputError("no replica is configured: expected host:port[,host:port …]")
    return targets
