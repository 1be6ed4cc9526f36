"""Running the servers of one process: HTTP, gRPC and metrics, from start to drained."""

import asyncio
import contextlib
import functools
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol
from wsgiref.simple_server import WSGIServer

import uvicorn
from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server

from atril_common.core import InferenceCore
from atril_common.errors import InvalidInputError
from atril_common.h2grpc.health import SERVICE_NAME as HEALTH_SERVICE
from atril_common.h2grpc.health import HealthService
from atril_common.h2grpc.reflection import reflection_method
from atril_common.h2grpc.rpc import Method
from atril_common.h2grpc.server import GrpcServer
from atril_common.lifecycle import Lifecycle
from atril_common.oip.controls import Controls
from atril_common.oip.http_infer import InferHandler
from atril_common.oip.http_protocol import InferProtocol
from atril_common.oip.server import is_ready

logger = logging.getLogger(__name__)

_HTTP_BACKLOG = 2048
_KEEP_ALIVE_S = 75
_GRACE_S = 30.0


class Listening(Protocol):
    """The part of a service's settings that says where it listens."""

    @property
    def host(self) -> str:
        """Address to bind."""
        ...

    @property
    def http_port(self) -> int:
        """0 takes a free one, here and below."""
        ...

    @property
    def grpc_port(self) -> int:
        """Port of the gRPC server."""
        ...

    @property
    def metrics_port(self) -> int:
        """Port of the metrics."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Where the servers of a process listen; a port 0 takes a free one."""

    host: str
    http: int
    grpc: int
    metrics: int

    @classmethod
    def of(cls, settings: Listening) -> "Ports":
        """Where the settings want a service to listen."""
        return cls(
            host=settings.host,
            http=settings.http_port,
            grpc=settings.grpc_port,
            metrics=settings.metrics_port,
        )


class GrpcConnections(NamedTuple):
    """How long gRPC connections live, and when silent ones are asked for a sign of life, seconds.

    0 is never. An age sends long-lived clients to another replica now and then.
    """

    max_age_s: float
    keepalive_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """Everything that a process serves."""

    core: InferenceCore
    lifecycle: Lifecycle
    asgi: Any
    infer: InferHandler
    controls: Controls
    grpc_methods: tuple[Method, ...]
    registry: CollectorRegistry
    drain_s: float
    connections: GrpcConnections


class _HttpServer(uvicorn.Server):
    """uvicorn without its signal handlers; the process has its own."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield


class ServerProcess:
    """The three servers of one process, on the running event loop."""

    def __init__(self, application: Application, ports: Ports) -> None:
        self._application = application
        self._asked = ports

    async def start(self) -> Ports:
        """Listen on every port; returns the ports in force.

        Raises:
            InvalidInputError: a port is taken or the host is not ours; the text names both.
        """
        host = self._asked.host
        with contextlib.ExitStack() as undo:
            http = undo.enter_context(_listen(host, self._asked.http, "HTTP"))
            grpc = undo.enter_context(_listen(host, self._asked.grpc, "gRPC"))
            self._metrics, self._metrics_thread = _start_metrics(
                host, self._asked.metrics, self._application.registry
            )
            undo.pop_all()
        self._grpc = self._grpc_server()
        await self._grpc.start(grpc)
        self._http = _HttpServer(self._http_config())
        self._serving = asyncio.create_task(self._http.serve([http]))
        return Ports(
            host=host,
            http=http.getsockname()[1],
            grpc=grpc.getsockname()[1],
            metrics=self._metrics.server_port,
        )

    async def stop(self) -> None:
        """Drain: not ready first, serve on for `drain_s`, then answer what was accepted, close."""
        self._application.lifecycle.drain()
        await asyncio.sleep(self._application.drain_s)
        await self.close()

    async def close(self) -> None:
        """Refuse new requests, answer what was accepted, close the ports."""
        self._http.should_exit = True
        await asyncio.gather(self._grpc.stop(_GRACE_S), self._serving)
        await self._application.controls.tracer.close()
        self._application.controls.memory.close()
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

    def _grpc_server(self) -> GrpcServer:
        application = self._application
        methods = application.grpc_methods
        services = tuple(dict.fromkeys(method.path.split("/")[1] for method in methods))
        health = HealthService(lambda: is_ready(application.core, application.lifecycle), services)
        return GrpcServer(
            (*methods, *health.methods(), reflection_method((*services, HEALTH_SERVICE))),
            max_message_bytes=application.infer.max_body_bytes,
            max_connection_age_s=application.connections.max_age_s or None,
            keepalive_idle_s=application.connections.keepalive_s or None,
        )


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
