"""A service as a process: settings from the environment, logs, the event loop, the exit status."""

import logging
from collections.abc import Awaitable, Callable

import uvloop
from pydantic_settings import BaseSettings

from atril_common.errors import AtrilError
from atril_common.logs import configure_logging
from atril_common.serving import Ports
from atril_common.settings import SettingsT, load_settings

logger = logging.getLogger(__name__)

Serve = Callable[[SettingsT, Callable[[Ports], None]], Awaitable[None]]


def run_service(settings_class: type[SettingsT], serve: Serve[SettingsT]) -> int:
    """Run a service until a signal.

    Returns:
        The exit status: 0 after a drain, 1 if it could not start; the log says why.
    """
    configure_logging()
    try:
        uvloop.run(_serve(load_settings(settings_class), serve))
    except AtrilError as err:
        logger.error("start_failed", extra={"reason": str(err)})
        return 1
    return 0


async def _serve(settings: BaseSettings, serve: Callable[..., Awaitable[None]]) -> None:
    await serve(settings, _log_started)


def _log_started(ports: Ports) -> None:
    logger.info(
        "serving",
        extra={
            "host": ports.host,
            "http": ports.http,
            "grpc": ports.grpc,
            "metrics": ports.metrics,
        },
    )
