"""`atril serve` and `atril run`: the gateway over an engine in the same process."""

from collections.abc import Callable
from pathlib import Path

import uvloop

from atril_common.logs import configure_logging
from atril_common.serving import Ports, serve_until_signal
from atril_common.settings import load_settings
from atril_common.telemetry import Telemetry
from atril_gateway.service import create_application
from atril_gateway.settings import GatewaySettings
from atril_inference.metrics import register_metrics
from atril_inference.service import loading_engine
from atril_inference.settings import InferenceSettings


def serve_embedded(repository: Path, started: Callable[[Ports], None]) -> None:
    """Serve a model repository until a signal.

    Args:
        repository: served in place of the settings' model repository.
        started: called once, when every model is loaded or known to be broken and the ports answer.

    Raises:
        InvalidInputError: a setting is wrong or a port cannot be had.
    """
    configure_logging("WARNING")
    gateway = load_settings(GatewaySettings)
    inference = load_settings(InferenceSettings)
    inference = inference.model_copy(update={"model_repository": str(repository)})
    uvloop.run(_serve(gateway, inference, started))


async def _serve(
    gateway: GatewaySettings, inference: InferenceSettings, started: Callable[[Ports], None]
) -> None:
    async with loading_engine(inference) as (engine, loading):
        telemetry = Telemetry()
        register_metrics(telemetry.registry, engine)
        await serve_until_signal(
            create_application(engine, gateway, telemetry),
            Ports.of(gateway),
            lambda ports: loading.add_done_callback(lambda _: started(ports)),
        )
