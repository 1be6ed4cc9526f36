"""The gateway's HTTP app, over any core."""

from importlib.metadata import version

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from atril_common.core import InferenceCore
from atril_common.telemetry import Telemetry
from atril_gateway.bodies import BodyReader
from atril_gateway.classification import Classifier
from atril_gateway.http import create_router
from atril_gateway.http_errors import add_error_handlers
from atril_gateway.offload import Offload
from atril_gateway.pictures import PictureLimits
from atril_gateway.request_log import RequestLog
from atril_gateway.settings import GatewaySettings


def create_app(core: InferenceCore, settings: GatewaySettings, telemetry: Telemetry) -> FastAPI:
    """Build the app: the task API under `/v1`, its documentation under `/docs`."""
    # The documentation page must not need another site to be readable.
    app = FastAPIOffline(
        redoc_url=None,
        redirect_slashes=False,
        title="Atril",
        version=version("atril"),
        description="Deep-learning models, called by what they do: pictures in, labels out.",
    )
    offload = Offload(settings.decode_threads, settings.max_pending_decodes)
    limits = PictureLimits(settings.max_image_pixels, settings.max_pictures)
    app.include_router(
        create_router(
            core,
            Classifier(core, settings.request_timeout_s, offload),
            BodyReader(settings.max_body_bytes, limits, offload),
        )
    )
    add_error_handlers(app)
    app.add_middleware(RequestLog, telemetry=telemetry)
    return app
