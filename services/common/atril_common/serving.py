"""Running the servers of one process: HTTP, gRPC and metrics, from start to drained."""

import asyncio
import contextlib
import functools
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from wsgiref.simple_server import WSGIServer

import grpc
import uvicorn
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server

from atril_common.core import InferenceCore
from atril_common.errors import InvalidInputError
from atril_common.lifecycle import Lifecycle
from atril_common.oip.http_infer import InferHandler
from atril_common.oip.http_protocol import InferProtocol
from atril_common.oip.server import is_ready

logger = logging.getLogger(__name__)

GRPC_WORKERS = 128
"""Threads that wait for answers: as many RPCs are under way at once, and no batch can be fuller."""

_GRPC_BACKLOG = 2048
_HTTP_BACKLOG = 2048
_KEEP_ALIVE_S = 75
_HEALTH_PERIOD_S = 0.25
_HEALTH_TIMEOUT_S = 10.0
_GRACE_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Where the servers of a process listen; a port 0 takes a free one."""

    host: str
    http: int
    grpc: int
    metrics: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpcService:
    """A gRPC service of the process: its full name, and how it is added to a server."""

    name: str
    add: Callable[[grpc.Server], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """Everything that a process serves."""

    core: InferenceCore
    lifecycle: Lifecycle
    asgi: Any
    infer: InferHandler
    grpc_services: tuple[GrpcService, ...]
    registry: CollectorRegistry
    drain_s: float


class _HttpServer(uvicorn.Server):
    """uvicorn without its signal handlers; the process has its own."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield


class _Health(health.HealthServicer):  # type: ignore[misc]  # grpc_health is untyped
    """`grpc.health.v1`, asked anew at each call so that it never says less than the HTTP route."""

    def __init__(self, refresh: Callable[[], None]) -> None:
        super().__init__()
        self._refresh = refresh

    def Check(self, request: Any, context: Any) -> Any:  # noqa: N802
        """The state now."""
        self._refresh()
        return super().Check(request, context)

    def Watch(self, request: Any, context: Any, send_response_callback: Any = None) -> Any:  # noqa: N802
        """The state now, and every change."""
        self._refresh()
        return super().Watch(request, context, send_response_callback)


class ServerProcess:
    """The three servers of one process, on the running event loop."""

    def __init__(self, application: Application, ports: Ports) -> None:
        self._application = application
        self._asked = ports
        self._loop = asyncio.get_running_loop()
        self._health = _Health(self._refresh_health)

    async def start(self) -> Ports:
        """Listen on every port; returns the ports in force.

        Raises:
            InvalidInputError: a port is taken or the host is not ours; the text names both.
        """
        host = self._asked.host
        listener = _listen(host, self._asked.http, "HTTP")
        self._grpc, grpc_port = self._start_grpc()
        try:
            self._metrics, self._metrics_thread = _start_metrics(
                host, self._asked.metrics, self._application.registry
            )
        except InvalidInputError:
            self._grpc.stop(0)
            listener.close()
            raise
        self._http = _HttpServer(self._http_config())
        self._serving = asyncio.create_task(self._http.serve([listener]))
        self._health_task = asyncio.create_task(self._follow_readiness())
        http_port: int = listener.getsockname()[1]
        return Ports(host=host, http=http_port, grpc=grpc_port, metrics=self._metrics.server_port)

    async def stop(self) -> None:
        """Drain: not ready first, serve on for `drain_s`, then answer what was accepted, close."""
        self._application.lifecycle.drain()
        await self._publish_health()
        await asyncio.sleep(self._application.drain_s)
        await self.close()

    async def close(self) -> None:
        """Refuse new requests, answer what was accepted, close the ports."""
        self._health_task.cancel()
        stopped = self._grpc.stop(_GRACE_S)
        self._http.should_exit = True
        await self._serving
        await asyncio.to_thread(stopped.wait)
        self._metrics.shutdown()
        self._metrics.server_close()
        self._metrics_thread.join()

    def _http_config(self) -> uvicorn.Config:
        return uvicorn.Config(
            self._application.asgi,
            http=functools.partial(InferProtocol, handler=self._application.infer),  # type: ignore[arg-type]  # any factory of protocols will do
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            backlog=_HTTP_BACKLOG,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=int(_GRACE_S),
        )

    def _start_grpc(self) -> tuple[grpc.Server, int]:
        limit = self._application.infer.max_body_bytes
        server = grpc.server(
            ThreadPoolExecutor(GRPC_WORKERS, thread_name_prefix="grpc"),
            options=[
                ("grpc.max_receive_message_length", limit),
                ("grpc.max_send_message_length", -1),
                # Without this a second server on the same port would get half of the connections.
                ("grpc.so_reuseport", 0),
            ],
            maximum_concurrent_rpcs=GRPC_WORKERS + _GRPC_BACKLOG,
        )
        for service in self._application.grpc_services:
            service.add(server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        names = [service.name for service in self._application.grpc_services]
        reflection.enable_server_reflection(
            (*names, health.SERVICE_NAME, reflection.SERVICE_NAME), server
        )
        address = f"{self._asked.host}:{self._asked.grpc}"
        try:
            port: int = server.add_insecure_port(address)
        except RuntimeError as err:
            raise InvalidInputError(f"cannot listen on {address} (gRPC): {err}") from err
        server.start()
        return server, port

    async def _follow_readiness(self) -> None:
        while True:
            await self._publish_health()
            await asyncio.sleep(_HEALTH_PERIOD_S)

    def _refresh_health(self) -> None:
        """From a gRPC worker thread: see that what health tells is not old."""
        published = asyncio.run_coroutine_threadsafe(self._publish_health(), self._loop)
        published.result(_HEALTH_TIMEOUT_S)

    async def _publish_health(self) -> None:
        """Tell gRPC health what the HTTP route says."""
        ready = await is_ready(self._application.core, self._application.lifecycle)
        serving = health_pb2.HealthCheckResponse.ServingStatus
        status = serving.Value("SERVING" if ready else "NOT_SERVING")
        for name in ("", *(service.name for service in self._application.grpc_services)):
            self._health.set(name, status)


async def serve_until_signal(
    application: Application, ports: Ports, started: Callable[[Ports], None]
) -> None:
    """Serve until SIGTERM or SIGINT, then drain; a second signal ends the drain at once.

    Args:
        application: what to serve.
        ports: where.
        started: called once with the ports in force.

    Raises:
        InvalidInputError: a port cannot be had.
    """
    loop = asyncio.get_running_loop()
    signals: asyncio.Queue[int] = asyncio.Queue()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signals.put_nowait, number)
    process = ServerProcess(application, ports)
    started(await process.start())
    received = await signals.get()
    logger.info("draining", extra={"signal": received, "drain_s": application.drain_s})
    drain = asyncio.create_task(process.stop())
    again = asyncio.create_task(signals.get())
    await asyncio.wait((drain, again), return_when=asyncio.FIRST_COMPLETED)
    if drain.done():
        again.cancel()
    else:
        drain.cancel()
        await process.close()


def _listen(host: str, port: int, what: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_HTTP_BACKLOG)
    except OSError as err:
        raise InvalidInputError(f"cannot listen on {host}:{port} ({what}): {err}") from err


def _start_metrics(
    host: str, port: int, registry: CollectorRegistry
) -> tuple[WSGIServer, threading.Thread]:
    ProcessCollector(registry=registry)
    try:
        return start_http_server(port, host, registry)
    except OSError as err:
        raise InvalidInputError(f"cannot listen on {host}:{port} (metrics): {err}") from err
