"""The control plane's two fronts over a core that remembers what it is asked."""

import base64
import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from tritonclient.grpc import service_pb2 as pb

from atril_common.core import NO_LOAD_OPTIONS, LoadOptions
from atril_common.errors import (
    InvalidInputError,
    LoadFailedError,
    NotReadyError,
    UnsupportedError,
)
from atril_common.h2grpc.rpc import RpcContext, UnaryMethod
from atril_common.lifecycle import Lifecycle
from atril_common.oip.controls import Controls
from atril_common.oip.grpc_control import control_methods
from atril_common.oip.http import create_oip_app
from atril_common.oip.http_infer import InferHandler
from atril_common.oip.log_settings import LogSettings
from atril_common.telemetry import Telemetry
from tests.unit.common.fake_core import FakeCore

LOAD = "/v2/repository/models/twice/load"
UNLOAD = "/v2/repository/models/twice/unload"
MAX_LOAD_BYTES = 4096


@pytest.fixture
def core() -> FakeCore:
    """What is asked."""
    return FakeCore()


@pytest.fixture
def controls() -> Controls:
    """Without a hand on the log of the tests."""
    return Controls(log=LogSettings(logging.Logger("test")), max_load_bytes=MAX_LOAD_BYTES)


@pytest.fixture
async def http(core: FakeCore, controls: Controls) -> AsyncIterator[httpx.AsyncClient]:
    """The HTTP front."""
    handler = InferHandler(core, Telemetry(), 1024, Controls())
    app = create_oip_app(core, Lifecycle(), handler, controls)
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


@pytest.fixture
def methods(core: FakeCore, controls: Controls) -> dict[str, UnaryMethod]:
    """The gRPC methods by name."""
    made = {}
    for method in control_methods(core, controls):
        assert isinstance(method, UnaryMethod)
        made[method.path.rsplit("/", 1)[1]] = method
    return made


async def call(method: UnaryMethod, request: Any) -> bytes:
    """Send a message to a method."""
    parsed = method.parse(request.SerializeToString())
    return await method.handle(parsed, RpcContext({}, None, "test"))


async def test_statistics_print_the_whole_tree(http: httpx.AsyncClient) -> None:
    """2.8: every duration is there, whether or not anything was counted in it."""
    (model,) = (await http.get("/v2/models/twice/stats")).json()["model_stats"]
    nothing = {"count": 0, "ns": 0}
    assert model == {
        "name": "twice",
        "version": "1",
        "last_inference": 0,
        "inference_count": 3,
        "execution_count": 2,
        "inference_stats": dict.fromkeys(
            (
                "success",
                "fail",
                "queue",
                "compute_input",
                "compute_infer",
                "compute_output",
                "cache_hit",
                "cache_miss",
            ),
            nothing,
        ),
        "response_stats": {},
        "batch_stats": [],
        "memory_usage": [],
    }


async def test_a_load_without_a_body_brings_nothing_along(
    http: httpx.AsyncClient, core: FakeCore
) -> None:
    """H14, 2.6: the body is optional; the answer is 200 and empty."""
    for content in (b"", b"{}", b'{"parameters": {}}'):
        answer = await http.post(LOAD, content=content)
        assert (answer.status_code, answer.content) == (200, b"")
    assert core.loads == [("twice", NO_LOAD_OPTIONS)] * 3


async def test_a_load_brings_configuration_and_files(
    http: httpx.AsyncClient, core: FakeCore
) -> None:
    """2.6: files are base64 over HTTP."""
    content = bytes(range(256))
    parameters = {
        "config": '{"max_batch_size": 4}',
        "file:1/model.onnx": base64.b64encode(content).decode(),
    }
    answer = await http.post(LOAD, json={"parameters": parameters})
    assert answer.status_code == 200
    options = LoadOptions('{"max_batch_size": 4}', {"1/model.onnx": content})
    assert core.loads == [("twice", options)]


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ([], "'parameters'"),
        ({"config": 1}, "'config'"),
        ({"speed": "x"}, "unrecognized load parameter 'speed'"),
        ({"file:1/model.onnx": "aGVsbG8="}, "'config' must be given"),
        ({"config": "{}", "file:1/model.onnx": "***"}, "not base64"),
        ({"config": "{}", "file:1/model.onnx": "aGVsbG8"}, "not base64"),
        ({"config": "{}", "file:1/model.onnx": "é"}, "not base64"),
    ],
    ids=str,
)
async def test_a_wrong_load_parameter_is_refused(
    http: httpx.AsyncClient, core: FakeCore, parameters: object, text: str
) -> None:
    """E11, 2.6: 400 that names the parameter, and nothing is loaded."""
    refused = await http.post(LOAD, json={"parameters": parameters})
    assert refused.status_code == 400
    assert text in refused.json()["error"]
    assert core.loads == []


async def test_a_load_request_has_its_own_bound(http: httpx.AsyncClient, core: FakeCore) -> None:
    """E20: larger than other bodies, and not without limit."""
    comment = {"parameters": {"config": "x" * 2000}}
    assert (await http.post(LOAD, json=comment)).status_code == 200
    comment = {"parameters": {"config": "x" * MAX_LOAD_BYTES}}
    refused = await http.post(LOAD, json=comment)
    assert refused.status_code == 400
    assert "MAX_LOAD_BYTES" in refused.json()["error"]
    assert len(core.loads) == 1


async def test_an_unload_may_ask_for_what_depends_on_it(
    http: httpx.AsyncClient, core: FakeCore
) -> None:
    """H14, 2.6: `unload_dependents`; the answer is 200 and empty."""
    for parameters in ({}, {"unload_dependents": True}):
        answer = await http.post(UNLOAD, json={"parameters": parameters})
        assert (answer.status_code, answer.content) == (200, b"")
    assert core.unloads == [("twice", False), ("twice", True)]
    refused = await http.post(UNLOAD, json={"parameters": {"unload_dependents": 1}})
    assert refused.status_code == 400


@pytest.mark.parametrize("change", ["load", "unload"])
async def test_a_repository_name_is_not_supported(http: httpx.AsyncClient, change: str) -> None:
    """H14: a repository name in the path is 501."""
    refused = await http.post(f"/v2/repository/main/models/twice/{change}")
    assert refused.status_code == 501
    assert "'repository_name'" in refused.json()["error"]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NotReadyError("explicit model load / unload is not allowed"), 503),
        (LoadFailedError(""), 500),
    ],
)
@pytest.mark.parametrize("path", [LOAD, UNLOAD])
async def test_what_the_core_refuses_is_told(
    http: httpx.AsyncClient, core: FakeCore, path: str, error: Exception, status: int
) -> None:
    """E28, E29: with the status of the error's kind."""
    core.error_of_control = error
    answer = await http.post(path)
    assert answer.status_code == status
    assert answer.json() == {"error": str(error)}


async def test_a_load_over_grpc_brings_files_as_bytes(
    methods: dict[str, UnaryMethod], core: FakeCore
) -> None:
    """2.6: `bytes_param`, raw; the answer is an empty message."""
    request = pb.RepositoryModelLoadRequest(model_name="twice")
    request.parameters["config"].string_param = "{}"
    request.parameters["file:1/model.onnx"].bytes_param = b"\x00\xff"
    assert await call(methods["RepositoryModelLoad"], request) == b""
    assert core.loads == [("twice", LoadOptions("{}", {"1/model.onnx": b"\x00\xff"}))]
    assert methods["RepositoryModelLoad"].max_message_bytes == MAX_LOAD_BYTES


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("config", "bool_param", True),
        ("config", "bytes_param", b"{}"),
        ("file:1/model.onnx", "string_param", "aGVsbG8="),
        ("speed", "string_param", "x"),
    ],
)
async def test_a_wrong_load_parameter_over_grpc_is_refused(
    methods: dict[str, UnaryMethod], name: str, field: str, value: object
) -> None:
    """2.6: each parameter has its one field."""
    request = pb.RepositoryModelLoadRequest(model_name="twice")
    setattr(request.parameters[name], field, value)
    with pytest.raises(InvalidInputError, match=name):
        await call(methods["RepositoryModelLoad"], request)


async def test_an_unload_over_grpc_may_ask_for_what_depends_on_it(
    methods: dict[str, UnaryMethod], core: FakeCore
) -> None:
    """2.6: `unload_dependents` as a bool, nothing else."""
    request = pb.RepositoryModelUnloadRequest(model_name="twice")
    request.parameters["unload_dependents"].bool_param = True
    assert await call(methods["RepositoryModelUnload"], request) == b""
    assert core.unloads == [("twice", True)]
    request.parameters["unload_dependents"].int64_param = 1
    with pytest.raises(InvalidInputError, match="unload_dependents"):
        await call(methods["RepositoryModelUnload"], request)


@pytest.mark.parametrize("rpc", ["RepositoryModelLoad", "RepositoryModelUnload"])
async def test_a_repository_name_over_grpc_is_not_supported(
    methods: dict[str, UnaryMethod], rpc: str
) -> None:
    """H14: UNIMPLEMENTED."""
    request = getattr(pb, f"{rpc}Request")(model_name="twice", repository_name="main")
    with pytest.raises(UnsupportedError):
        await call(methods[rpc], request)


async def test_statistics_over_grpc_are_the_cores(methods: dict[str, UnaryMethod]) -> None:
    """2.8 ModelStatistics: the same tree."""
    answer = await call(methods["ModelStatistics"], pb.ModelStatisticsRequest())
    (model,) = pb.ModelStatisticsResponse.FromString(answer).model_stats
    assert (model.name, model.inference_count, model.execution_count) == ("twice", 3, 2)
