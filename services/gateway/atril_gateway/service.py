"""The gateway as a process: the task API and the Open Inference Protocol over one core."""

from collections.abc import Callable

from atril_common.core import InferenceCore
from atril_common.lifecycle import Lifecycle
from atril_common.oip.controls import Controls
from atril_common.oip.grpc_methods import oip_methods
from atril_common.oip.http import oip_routes
from atril_common.oip.http_infer import InferHandler
from atril_common.oip.shared_memory import SharedMemory
from atril_common.oip.tracing import Tracer
from atril_common.serving import Application, GrpcConnections, Ports, serve_until_signal
from atril_common.telemetry import Telemetry
from atril_gateway.app import create_app
from atril_gateway.remote import RemoteCore
from atril_gateway.remote.replicas import parse_targets
from atril_gateway.rpc import classification_methods
from atril_gateway.settings import GatewaySettings


def create_application(
    core: InferenceCore, settings: GatewaySettings, telemetry: Telemetry
) -> Application:
    """Put every front over a core."""
    lifecycle = Lifecycle()
    controls = Controls(
        tracer=Tracer(settings.trace_file),
        memory=SharedMemory(enabled=settings.shared_memory),
        max_load_bytes=settings.max_load_bytes,
    )
    handler = InferHandler(core, telemetry, settings.max_body_bytes, controls)
    app = create_app(core, settings, telemetry)
    app.router.routes.extend(oip_routes(core, lifecycle, handler, controls))
    return Application(
        core=core,
        lifecycle=lifecycle,
        asgi=app,
        infer=handler,
        controls=controls,
        grpc_methods=(
            *oip_methods(core, lifecycle, telemetry, controls),
            *classification_methods(core, settings, telemetry),
        ),
        registry=telemetry.registry,
        drain_s=settings.drain_s,
        connections=GrpcConnections(settings.grpc_max_connection_age_s, settings.grpc_keepalive_s),
    )


async def serve(settings: GatewaySettings, started: Callable[[Ports], None]) -> None:
    """Serve over the configured replicas until a signal.

    Raises:
        InvalidInputError: a port cannot be had, or `REPLICAS` is malformed.
    """
    core = RemoteCore(
        parse_targets(settings.replicas), settings.request_timeout_s, settings.max_queue_size
    )
    await core.start()
    try:
        application = create_application(core, settings, Telemetry())
        await serve_until_signal(application, Ports.of(settings), started)
    finally:
        await core.close()
