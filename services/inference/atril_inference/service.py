"""The inference service: the Open Inference Protocol over the engine."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from atril_common.lifecycle import Lifecycle
from atril_common.oip.controls import Controls
from atril_common.oip.grpc_methods import oip_methods
from atril_common.oip.http import create_oip_app
from atril_common.oip.http_infer import InferHandler
from atril_common.oip.shared_memory import SharedMemory
from atril_common.oip.tracing import Tracer
from atril_common.serving import Application, GrpcConnections, Ports, serve_until_signal
from atril_common.telemetry import Telemetry
from atril_inference.control import ModelControl
from atril_inference.engine import Engine
from atril_inference.loader import LoadPolicy
from atril_inference.metrics import register_metrics
from atril_inference.remote_repository import open_repository
from atril_inference.session_options import SessionOptions
from atril_inference.settings import InferenceSettings
from atril_inference.threads import available_threads


def create_engine(settings: InferenceSettings) -> Engine:
    """The engine that the settings describe; `Engine.start` loads its repository."""
    return Engine(
        open_repository(
            settings.model_repository, settings.repository_cache, settings.max_model_bytes
        ),
        session_options(settings),
        settings.max_queue_size,
        ModelControl(
            settings.model_control_mode,
            settings.poll_interval_s,
            tuple(filter(None, settings.load_models.split(","))),
        ),
        LoadPolicy(
            settings.max_model_bytes, settings.trial_limit_s, settings.default_max_batch_size
        ),
        settings.response_cache_bytes,
    )


def session_options(settings: InferenceSettings) -> SessionOptions:
    """How a model is run whose configuration says nothing about it."""
    return SessionOptions(
        device=settings.device,
        intra_op_threads=settings.intra_op_threads or available_threads(),
        inter_op_threads=settings.inter_op_threads,
        cpu_arena=settings.cpu_arena,
        shrink_arena=settings.arena_shrinkage,
        gpu_memory_limit_bytes=settings.gpu_memory_limit_bytes,
        gpu_arena_strategy=settings.gpu_arena_strategy,
        convolution_search=settings.convolution_search,
        cuda_graphs=settings.cuda_graphs,
        warm_up_budget_s=settings.warm_up_budget_s,
    )


@asynccontextmanager
async def loading_engine(
    settings: InferenceSettings,
) -> AsyncIterator[tuple[Engine, asyncio.Task[None]]]:
    """The engine and the task that loads its repository; closed afterwards, loaded or not."""
    engine = create_engine(settings)
    loading = asyncio.create_task(engine.start())
    try:
        yield engine, loading
    finally:
        loading.cancel()
        await engine.close()


def create_application(settings: InferenceSettings, engine: Engine) -> Application:
    """Mount the protocol over an engine."""
    lifecycle, telemetry = Lifecycle(), Telemetry()
    register_metrics(telemetry.registry, engine)
    controls = Controls(
        tracer=Tracer(settings.trace_file),
        memory=SharedMemory(enabled=settings.shared_memory),
        max_load_bytes=settings.max_load_bytes,
    )
    handler = InferHandler(engine, telemetry, settings.max_body_bytes, controls)
    return Application(
        core=engine,
        lifecycle=lifecycle,
        asgi=create_oip_app(engine, lifecycle, handler, controls),
        infer=handler,
        controls=controls,
        grpc_methods=oip_methods(engine, lifecycle, telemetry, controls),
        registry=telemetry.registry,
        drain_s=settings.drain_s,
        connections=GrpcConnections(settings.grpc_max_connection_age_s, settings.grpc_keepalive_s),
    )


async def serve(settings: InferenceSettings, started: Callable[[Ports], None]) -> None:
    """Serve until a signal; live at once, ready when the repository is loaded.

    Raises:
        InvalidInputError: a port cannot be had.
    """
    async with loading_engine(settings) as (engine, _):
        application = create_application(settings, engine)
        await serve_until_signal(application, Ports.of(settings), started)
