"""`python -m atril_inference`: the inference service as a process."""

import logging
import sys

import uvloop

from atril_common.errors import AtrilError
from atril_common.logs import configure_logging
from atril_common.serving import Ports
from atril_common.settings import load_settings
from atril_inference.service import serve
from atril_inference.settings import InferenceSettings

logger = logging.getLogger(__name__)


def main() -> int:
    """Run until a signal; returns the exit status."""
    configure_logging()
    try:
        settings = load_settings(InferenceSettings)
        uvloop.run(serve(settings, _log_started))
    except AtrilError as err:
        logger.error("start_failed", extra={"reason": str(err)})
        return 1
    return 0


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


if __name__ == "__main__":
    sys.exit(main())
