"""The task API over gRPC: a real server on a free port, over the fake core."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest

from atril_common.errors import AtrilError
from atril_common.h2grpc.server import GrpcServer
from atril_common.status import STATUS
from atril_common.telemetry import Telemetry
from atril_gateway.rpc import classification_methods
from atril_gateway.settings import GatewaySettings
from atril_proto.v1 import classification_pb2 as pb
from atril_proto.v1.classification_pb2_grpc import ClassificationStub

from .conftest import png_bytes
from .fakes import ATRIL_ERRORS, LABELS, BoomError, FakeCore

PIXELS = np.array([[0, 50, 100], [150, 200, 250]], np.float32)
PNG = png_bytes(PIXELS)
Code = grpc.StatusCode


@pytest.fixture
async def stub(
    core: FakeCore, settings: GatewaySettings, telemetry: Telemetry
) -> AsyncIterator[ClassificationStub]:
    """A client of a server whose core lives on this test's loop."""
    server = GrpcServer(
        classification_methods(core, settings, telemetry), max_message_bytes=1 << 24
    )
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    await server.start(listener)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield ClassificationStub(channel)
    await server.stop(1.0)


def encoded(*files: bytes, **fields: Any) -> pb.ClassifyRequest:
    """A request for files."""
    pictures = [pb.Picture(encoded=file) for file in files]
    return pb.ClassifyRequest(**{"model_name": "grey", "pictures": pictures} | fields)


def pixels(values: Any, height: int, width: int, channels: int = 1) -> pb.ClassifyRequest:
    """A request for one array."""
    array = pb.PixelArray(height=height, width=width, channels=channels, values=values)
    return pb.ClassifyRequest(model_name="grey", pictures=[pb.Picture(pixels=array)])


async def refusal(stub: ClassificationStub, request: pb.ClassifyRequest) -> grpc.aio.AioRpcError:
    """The error of a bad request."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Classify(request)
    return caught.value


async def test_files_are_classified(stub: ClassificationStub) -> None:
    """Three labels a picture, most probable first, with version and timing."""
    answer = await stub.Classify(encoded(PNG, model_version="2"))
    assert (answer.model_name, answer.model_version) == ("grey", "2")
    (result,) = answer.results
    assert [s.label for s in result.top] == [LABELS[s.index] for s in result.top]
    probabilities = [s.probability for s in result.top]
    assert len(probabilities) == 3
    assert probabilities == sorted(probabilities, reverse=True)
    assert answer.timing.total_ms > 0


async def test_an_array_is_the_same_picture_as_its_file(
    stub: ClassificationStub, core: FakeCore
) -> None:
    """Both forms are one tensor and one answer."""
    from_file = await stub.Classify(encoded(PNG))
    from_array = await stub.Classify(pixels(PIXELS.ravel(), 2, 3))
    assert from_file.results == from_array.results
    first, second = (request.inputs["image"] for request in core.requests)
    assert first.tobytes() == second.tobytes()


async def test_results_come_in_the_order_of_the_pictures(stub: ClassificationStub) -> None:
    """Result i is that of picture i."""
    files = [png_bytes(np.full((4, 4), value)) for value in range(0, 200, 20)]
    together = await stub.Classify(encoded(*files, top_k=1))
    alone = [await stub.Classify(encoded(file, top_k=1)) for file in files]
    assert list(together.results) == [answer.results[0] for answer in alone]


BAD = {
    "no pictures": (encoded(), Code.INVALID_ARGUMENT, "no pictures: expected at least one"),
    "empty picture": (
        pb.ClassifyRequest(model_name="grey", pictures=[pb.Picture()]),
        Code.INVALID_ARGUMENT,
        "picture 0: empty: expected 'encoded' or 'pixels'",
    ),
    "no image": (encoded(PNG, b"x"), Code.INVALID_ARGUMENT, "picture 1: not an image"),
    "damaged": (encoded(PNG[:-30]), Code.INVALID_ARGUMENT, "picture 0: damaged file"),
    "nan": (pixels([float("nan")], 1, 1), Code.INVALID_ARGUMENT, "value nan at [0, 0, 0]"),
    "infinite": (pixels([float("inf")], 1, 1), Code.INVALID_ARGUMENT, "value inf at [0, 0, 0]"),
    "out of range": (pixels([256], 1, 1), Code.INVALID_ARGUMENT, "expected numbers 0 … 255"),
    "too few values": (
        pixels([1, 2, 3], 2, 2),
        Code.INVALID_ARGUMENT,
        "picture 0: 3 values: expected height × width × channels = 2 × 2 × 1",
    ),
    "empty array": (pixels([], 0, 0), Code.INVALID_ARGUMENT, "picture 0: empty: expected"),
    "two channels": (pixels([1, 2], 1, 1, 2), Code.INVALID_ARGUMENT, "1 or 3 channels"),
    "top_k": (encoded(PNG, top_k=1001), Code.INVALID_ARGUMENT, "top_k is 1001: expected 1 … 1000"),
    "unknown model": (encoded(PNG, model_name="x"), Code.NOT_FOUND, "unknown model 'x'"),
    "no classifier": (
        encoded(PNG, model_name="translator"),
        Code.INVALID_ARGUMENT,
        "'translator' is not a classifier: it is for 'translation'",
    ),
    "too many pictures": (encoded(*[PNG] * 21), Code.RESOURCE_EXHAUSTED, "expected at most 20"),
    "too many pixels": (
        encoded(png_bytes(np.zeros((401, 500)))),
        Code.RESOURCE_EXHAUSTED,
        "picture 0: 500 × 401 = 200500 pixels",
    ),
}


@pytest.mark.parametrize(("bad", "code", "text"), BAD.values(), ids=BAD)
async def test_a_bad_request_is_refused(
    stub: ClassificationStub, bad: pb.ClassifyRequest, code: Code, text: str
) -> None:
    """Code and text are the kind's, and the next good request is answered."""
    error = await refusal(stub, bad)
    assert error.code() is code
    assert text in error.details()
    assert (await stub.Classify(encoded(PNG))).results


@pytest.mark.parametrize("error", ATRIL_ERRORS, ids=lambda c: c.__name__)
async def test_every_kind_of_error_has_its_code(
    stub: ClassificationStub, core: FakeCore, error: type[AtrilError]
) -> None:
    """What the core raises is told with the kind's code and its text."""
    core.error = error("told to the caller")
    refused = await refusal(stub, encoded(PNG))
    assert refused.code() is STATUS[error.kind].grpc
    assert refused.details() == "told to the caller"


async def test_an_unexpected_failure_is_logged_once_and_not_told(
    stub: ClassificationStub, core: FakeCore, caplog: pytest.LogCaptureFixture
) -> None:
    """The log has the traceback, the caller two words."""
    core.error = BoomError("secret")
    refused = await refusal(stub, encoded(PNG))
    assert refused.code() is Code.INTERNAL
    assert refused.details() == "internal error"
    failures = [record for record in caplog.records if record.exc_info]
    assert [record.message for record in failures] == ["request_failed"]


async def test_the_callers_deadline_ends_the_request(
    stub: ClassificationStub, core: FakeCore
) -> None:
    """A request that the core does not answer is dropped when the caller's time is over."""
    core.hold = True
    call = stub.Classify(encoded(PNG), timeout=1.0)
    await core.held.wait()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is Code.DEADLINE_EXCEEDED
    await asyncio.wait(core.futures, timeout=30)
    assert [future.cancelled() for future in core.futures] == [True]


async def test_cancelling_the_call_cancels_the_request(
    stub: ClassificationStub, core: FakeCore
) -> None:
    """A caller who goes away takes the core's request along."""
    core.hold = True
    call = stub.Classify(encoded(PNG))
    await core.held.wait()
    call.cancel()
    await asyncio.wait(core.futures, timeout=30)
    assert [future.cancelled() for future in core.futures] == [True]


async def test_a_request_id_comes_back_and_the_request_is_counted(
    stub: ClassificationStub, telemetry: Telemetry, caplog: pytest.LogCaptureFixture
) -> None:
    """The same record as over HTTP is kept of a call."""
    with caplog.at_level(logging.INFO, logger="atril_gateway"):
        call = stub.Classify(encoded(PNG, PNG), metadata=(("x-request-id", "me"),))
        metadata = dict(await call.initial_metadata())
        await call
        await refusal(stub, encoded(b"x", model_name="invented"))
    assert metadata["x-request-id"] == "me"
    line = vars(caplog.records[0])
    assert (line["protocol"], line["request_id"], line["pictures"]) == ("grpc", "me", 2)
    assert (line["model_version"], line["outcome"]) == ("3", "ok")
    for model, outcome in [("grey", "ok"), ("unknown", "invalid_input")]:
        labels = {"method": "classify", "model": model, "outcome": outcome}
        assert telemetry.registry.get_sample_value("atril_requests_total", labels) == 1
