"""An app over the fake core, and a client of it."""

import io
from collections.abc import AsyncIterator

import httpx
import numpy as np
import pytest
from PIL import Image

from atril_common.telemetry import Telemetry
from atril_gateway.app import create_app
from atril_gateway.settings import GatewaySettings

from .fakes import FakeCore, fake_core


def png_bytes(pixels: object) -> bytes:
    """A PNG file of uint8 pixels."""
    file = io.BytesIO()
    Image.fromarray(np.array(pixels, dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def core() -> FakeCore:
    """A core with several models."""
    return fake_core()


@pytest.fixture
def settings() -> GatewaySettings:
    """Limits that a test can reach."""
    return GatewaySettings(max_body_bytes=200_000, max_image_pixels=200_000, max_pictures=20)


@pytest.fixture
def telemetry() -> Telemetry:
    """Fresh counters."""
    return Telemetry()


@pytest.fixture
async def client(
    core: FakeCore, settings: GatewaySettings, telemetry: Telemetry
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the app over that core."""
    app = create_app(core, settings, telemetry)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://gateway"
    ) as opened:
        yield opened
