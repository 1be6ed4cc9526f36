"""The replicas behind the gateway: which there are, which are ready, and one call to one of them.

A replica is one address. A configured name that resolves to several addresses (a headless service)
stands for one replica each, and is resolved again as long as the gateway runs.
"""

import asyncio
import logging
import socket
from collections.abc import Sequence
from typing import Any

import grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from atril_common.errors import (
    AlreadyExistsError,
    AtrilError,
    CancelledRequestError,
    DeadlineExceededError,
    InternalError,
    InvalidInputError,
    NotFoundError,
    RefusedError,
    TooLargeError,
    UnsupportedError,
    UpstreamUnavailableError,
)

logger = logging.getLogger(__name__)

PROBE_PERIOD_S = 0.5
PROBE_TIMEOUT_S = 2.0
RESOLVE_EVERY = 10
"""Names are resolved anew at every tenth probe."""

ERROR_OF_CODE: dict[grpc.StatusCode, type[AtrilError]] = {
    grpc.StatusCode.CANCELLED: CancelledRequestError,
    grpc.StatusCode.UNKNOWN: InternalError,
    grpc.StatusCode.INVALID_ARGUMENT: InvalidInputError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceededError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExistsError,
    grpc.StatusCode.PERMISSION_DENIED: InternalError,
    grpc.StatusCode.UNAUTHENTICATED: InternalError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: TooLargeError,
    grpc.StatusCode.FAILED_PRECONDITION: RefusedError,
    grpc.StatusCode.ABORTED: InternalError,
    grpc.StatusCode.OUT_OF_RANGE: InvalidInputError,
    grpc.StatusCode.UNIMPLEMENTED: UnsupportedError,
    grpc.StatusCode.INTERNAL: InternalError,
    grpc.StatusCode.UNAVAILABLE: UpstreamUnavailableError,
    grpc.StatusCode.DATA_LOSS: InternalError,
}
"""What a replica's status means to our callers; total over the codes but OK."""

_CHANNEL_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2000),
    # Replicas on one address must not share a connection through the process-wide pool.
    ("grpc.use_local_subchannel_pool", 1),
)


class Replica:
    """One address, its channel, and how it is doing."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.ready = False
        self.outstanding = 0
        self._channel = grpc.aio.insecure_channel(address, options=_CHANNEL_OPTIONS)
        self._stub = GRPCInferenceServiceStub(self._channel)

    async def call(self, method: str, request: Any, timeout_s: float) -> Any:
        """One RPC of the protocol.

        Raises:
            AtrilError: the replica's status, translated; `UpstreamUnavailableError` also when it
            cannot
                be reached.
        """
        self.outstanding += 1
        try:
            return await getattr(self._stub, method)(request, timeout=timeout_s)
        except grpc.aio.AioRpcError as err:
            code = err.code()
            if code is grpc.StatusCode.UNAVAILABLE:
                self.ready = False  # until the next probe says otherwise
            raise ERROR_OF_CODE[code](err.details() or code.name) from err
        finally:
            self.outstanding -= 1

    async def probe(self) -> None:
        """Ask whether it is ready."""
        try:
            answer = await self.call("ServerReady", pb.ServerReadyRequest(), PROBE_TIMEOUT_S)
        except AtrilError:
            self.ready = False
        else:
            self.ready = answer.ready

    async def close(self) -> None:
        """Close the channel; calls under way end as cancelled."""
        await self._channel.close()


class ReplicaSet:
    """Every replica, probed and resolved in the background between `start` and `close`."""

    def __init__(self, targets: Sequence[str]) -> None:
        self._targets = tuple(targets)
        self._replicas: dict[str, Replica] = {}
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
        await asyncio.gather(*(replica.close() for replica in self._replicas.values()))

    @property
    def ready(self) -> list[Replica]:
        """The replicas that take requests."""
        return [replica for replica in self._replicas.values() if replica.ready]

    async def call(self, method: str, request: Any, timeout_s: float) -> Any:
        """One RPC to the least busy replica; if that one is gone or refuses, once to another.

        Raises:
            AtrilError: the answer of the replica that was asked last.
            UpstreamUnavailableError: no replica can be reached.
        """
        first = self._choose(None)
        try:
            return await first.call(method, request, timeout_s)
        except UpstreamUnavailableError:
            if len(self._replicas) < 2:
                raise
            second = self._choose(first)
            logger.warning(
                "retrying",
                extra={"method": method, "failed": first.address, "next": second.address},
            )
            return await second.call(method, request, timeout_s)

    def _choose(self, excluded: Replica | None) -> Replica:
        """The least busy ready replica, in turn where several are; any other one when none is."""
        others = [r for r in self._replicas.values() if r is not excluded]
        candidates = [r for r in others if r.ready] or others
        if not candidates:
            raise UpstreamUnavailableError(
                f"no inference replica: {', '.join(self._targets)} resolve to no address"
            )
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
        addresses: set[str] = set()
        for target in self._targets:
            try:
                addresses |= await _addresses(target)
            except OSError as err:
                # A name that does not resolve now keeps the addresses it had.
                logger.warning("unresolved", extra={"target": target, "reason": str(err)})
                return
        for address in addresses - self._replicas.keys():
            self._replicas[address] = Replica(address)
        for address in self._replicas.keys() - addresses:
            await self._replicas.pop(address).close()


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
