"""Health, metadata, configuration and index over every transport (2.1, 2.6, 2.7)."""

from collections.abc import Iterator

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.grpc import service_pb2 as pb

from tests.support.repositories import DATATYPES, MAX_BATCH_SIZE
from tests.support.servers import OipServer
from tests.support.transports import Grpc, HttpJson, Refusal, Transport


def test_a_running_server_is_live(transport: Transport) -> None:
    """H01, 2.8 ServerLive: a server that answers is live."""
    assert transport.server_live()


def test_a_server_whose_models_are_loaded_is_ready(transport: Transport) -> None:
    """H02, 2.7: ready once every model that is to be served is."""
    assert transport.server_ready()


def test_server_metadata_has_name_version_and_extensions(transport: Transport) -> None:
    """H03: name, version and a list of extensions, all required."""
    metadata = transport.server_metadata()
    assert metadata["name"]
    assert metadata["version"]
    assert isinstance(metadata["name"], str)
    assert isinstance(metadata["version"], str)
    assert set(metadata["extensions"]) >= {"binary_tensor_data", "model_configuration"}


def test_server_metadata_is_also_at_the_path_with_a_slash(http: httpx.Client) -> None:
    """H03: `/v2/` answers as `/v2` does."""
    assert http.get("/v2/").json() == http.get("/v2").json()


def test_server_metadata_lists_only_extensions_that_answer(http: httpx.Client) -> None:
    """2.10: a listed extension has its route, an unlisted one has none."""
    routes = {
        "statistics": "/v2/models/matmul/stats",
        "system_shared_memory": "/v2/systemsharedmemory/status",
        "cuda_shared_memory": "/v2/cudasharedmemory/status",
        "trace": "/v2/trace/setting",
        "logging": "/v2/logging",
    }
    extensions = http.get("/v2").json()["extensions"]
    for extension, path in routes.items():
        assert (http.get(path).status_code == 200) == (extension in extensions), extension


def test_model_metadata_describes_the_tensors(transport: Transport) -> None:
    """H04: name, versions, platform, inputs and outputs, with -1 for the batch dimension."""
    metadata = transport.model_metadata("sum_and_difference")
    assert metadata["name"] == "sum_and_difference"
    assert list(metadata["versions"]) == ["1"]
    assert metadata["platform"] in ("onnxruntime_onnx", "python")
    described = {t["name"]: (t["datatype"], list(t["shape"])) for t in metadata["inputs"]}
    assert described == {"a": ("INT32", [-1, 4]), "b": ("INT32", [-1, 4])}
    assert {t["name"] for t in metadata["outputs"]} == {"sum", "difference"}


def test_model_metadata_has_no_batch_dimension_where_the_model_has_none(
    transport: Transport,
) -> None:
    """H04: a model with max_batch_size 0 is described by its own dimensions."""
    metadata = transport.model_metadata("fixed")
    assert [list(t["shape"]) for t in metadata["inputs"]] == [[2, 3]]


@pytest.mark.parametrize("datatype", DATATYPES)
def test_every_datatype_has_its_wire_name(http: httpx.Client, datatype: str) -> None:
    """2.2 datatypes: TYPE_STRING is BYTES on the wire, any other TYPE_X is X."""
    metadata = http.get(f"/v2/models/identity_{datatype.lower()}").json()
    assert [t["datatype"] for t in metadata["inputs"]] == [datatype]
    config = http.get(f"/v2/models/identity_{datatype.lower()}/config").json()
    expected = "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}"
    assert [t["data_type"] for t in config["input"]] == [expected]


def test_metadata_of_one_version_is_that_of_the_model(transport: Transport) -> None:
    """H05: a version in the path describes the same tensors."""
    one = transport.model_metadata("every", "2")
    assert one["name"] == "every"
    assert one["inputs"] == transport.model_metadata("every")["inputs"]


@pytest.mark.parametrize(
    ("model_name", "versions"),
    [
        ("latest", ["10"]),
        ("latest_two", ["2", "10"]),
        ("every", ["1", "2", "10"]),
        ("chosen", ["1", "2"]),
    ],
)
def test_the_version_policy_says_which_versions_there_are(
    transport: Transport, model_name: str, versions: list[str]
) -> None:
    """2.6 version policy: latest (default 1), latest n, all, specific."""
    assert list(transport.model_metadata(model_name)["versions"]) == versions


@pytest.mark.parametrize("version", ["", "1"])
def test_a_loaded_model_is_ready(transport: Transport, version: str) -> None:
    """H06, H07: a model that answers is ready, with and without its version."""
    assert transport.model_ready("matmul", version)


@pytest.mark.parametrize("version", ["", "1"])
def test_the_configuration_is_the_message_with_its_field_names(
    http: httpx.Client, version: str
) -> None:
    """H10: proto field names, enum names, integers as numbers."""
    path = f"/v2/models/matmul/versions/{version}" if version else "/v2/models/matmul"
    config = http.get(f"{path}/config").json()
    assert config["name"] == "matmul"
    assert config["max_batch_size"] == MAX_BATCH_SIZE
    assert config["input"][0]["data_type"] == "TYPE_FP32"
    assert config["input"][0]["dims"] == [4]
    assert config["dynamic_batching"]["max_queue_delay_microseconds"] == 0


def test_every_transport_tells_the_configuration(transport: Transport) -> None:
    """H10, 2.8 ModelConfig: name, batch size and tensors are there over each."""
    config = transport.model_config("matmul")
    assert config["name"] == "matmul"
    assert config["max_batch_size"] == MAX_BATCH_SIZE
    assert [t["name"] for t in config["input"]] == ["x"]


def test_the_index_lists_every_served_version(transport: Transport) -> None:
    """H13, 2.6: name, version as a string, state READY."""
    states = {(e["name"], e["version"]): e["state"] for e in transport.index()}
    assert states["matmul", "1"] == "READY"
    assert {version for name, version in states if name == "latest_two"} == {"2", "10"}
    assert set(states.values()) == {"READY"}


@pytest.mark.parametrize("body", [b"", b"{}", b'{"ready": true}', b'{"ready": false}'])
def test_the_index_takes_an_optional_filter(http: httpx.Client, body: bytes) -> None:
    """2.6: the body is optional; the answer is an array."""
    response = http.post("/v2/repository/index", content=body)
    assert response.status_code == 200
    assert isinstance(response.json(), list)
    assert {"name", "version", "state"} <= set(response.json()[0])


def test_the_index_route_accepts_a_repository_name(http: httpx.Client) -> None:
    """H13: `/v2/repository/{r}/index` is routed."""
    named = http.post("/v2/repository/anything/index")
    assert named.json() == http.post("/v2/repository/index").json()


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"ready": 1}', b"\xff", b'"ready"'])
def test_a_malformed_index_filter_is_refused(http: httpx.Client, body: bytes) -> None:
    """E11: a body that is not JSON, or of the wrong kind, is 400 and says what is unreadable."""
    response = http.post("/v2/repository/index", content=body)
    assert response.status_code == 400
    assert "Unable to parse" in response.json()["error"]


def test_the_ready_filter_leaves_out_what_is_not_ready(unready: Transport) -> None:
    """2.6: `{"ready": true}` filters to READY."""
    if isinstance(unready, Grpc):
        answer = unready.stub.RepositoryIndex(pb.RepositoryIndexRequest(ready=True))
        ready = {(e.name, e.version) for e in answer.models}
    else:
        assert isinstance(unready, HttpJson)
        response = unready.client.post("/v2/repository/index", json={"ready": True})
        ready = {(e["name"], e["version"]) for e in response.json()}
    assert ready == {("good", "1"), ("half", "1")}


def test_the_index_gives_the_reason_why_a_version_is_unavailable(unready: Transport) -> None:
    """2.6: states and reasons of models that could not be loaded."""
    entries = {(e["name"], e.get("version", "")): e for e in unready.index()}
    assert entries["good", "1"]["state"] == "READY"
    for name, version in (("broken", "1"), ("half", "2")):
        assert entries[name, version]["state"] == "UNAVAILABLE"
        assert entries[name, version]["reason"]
    assert entries["empty", ""]["reason"]


def test_a_server_with_a_broken_model_is_live_but_not_ready(unready: Transport) -> None:
    """2.7: one version that should be served and is not makes the server not ready."""
    assert unready.server_live()
    assert not unready.server_ready()


def test_an_unready_server_says_503(unready_oip: OipServer) -> None:
    """H02: a server that is not ready answers 503 (our choice of the two that exist)."""
    assert httpx.get(f"{unready_oip.http_url}/v2/health/ready").status_code == 503


def test_readiness_is_told_model_by_model(unready: Transport) -> None:
    """H06, 2.7: beside a broken model a good one is ready, the broken one is not."""
    assert unready.model_ready("good")
    assert not unready.model_ready("broken")
    assert not unready.model_ready("broken", "1")
    assert unready.model_ready("half")
    assert not unready.model_ready("half", "2")


def test_a_known_model_that_is_not_ready_says_so(unready_oip: OipServer) -> None:
    """H06: 400 with the text of Triton."""
    response = httpx.get(f"{unready_oip.http_url}/v2/models/broken/ready")
    assert response.status_code == 400
    assert response.json() == {"error": "Model version not ready"}


@pytest.mark.parametrize("ask", ["metadata", "config"])
def test_an_unready_model_is_described_by_its_reason(unready: Transport, ask: str) -> None:
    """E04: metadata and configuration of a version that is not ready are 503 / UNAVAILABLE."""
    question = unready.model_metadata if ask == "metadata" else unready.model_config
    with pytest.raises(Refusal) as refused:
        question("broken")
    assert refused.value.status in (503, grpc.StatusCode.UNAVAILABLE)
    assert "is not at ready state" in refused.value.text


@pytest.fixture(scope="session")
def health(oip: OipServer) -> Iterator[health_pb2_grpc.HealthStub]:
    """The standard gRPC health service."""
    with grpc.insecure_channel(oip.grpc_address) as channel:
        yield health_pb2_grpc.HealthStub(channel)


@pytest.mark.parametrize("service", ["", "inference.GRPCInferenceService"])
def test_grpc_health_check_says_serving(health: health_pb2_grpc.HealthStub, service: str) -> None:
    """2.7: `grpc.health.v1.Health/Check` follows readiness, for Kubernetes' gRPC probes."""
    answer = health.Check(health_pb2.HealthCheckRequest(service=service))
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("service", ["", "inference.GRPCInferenceService"])
def test_grpc_health_watch_begins_with_the_present_state(
    health: health_pb2_grpc.HealthStub, service: str
) -> None:
    """2.7: `Watch` is implemented too and tells the state at once."""
    watch = health.Watch(health_pb2.HealthCheckRequest(service=service), timeout=20)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    watch.cancel()


def test_grpc_health_of_an_unready_server_is_not_serving(unready_oip: OipServer) -> None:
    """2.7: NOT_SERVING while the server is not ready."""
    with grpc.insecure_channel(unready_oip.grpc_address) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.mark.parametrize(
    ("name", "version", "text"),
    [
        ("nowhere", "", "Request for unknown model: 'nowhere' is not found"),
        ("matmul", "99", "'matmul' version 99 is not found"),
    ],
)
@pytest.mark.parametrize("ask", ["metadata", "config", "ready"])
def test_an_unknown_model_or_version_cannot_be_described(
    transport: Transport, ask: str, name: str, version: str, text: str
) -> None:
    """E01, E02, 2.7 ModelReady: 404 / NOT_FOUND with Triton's words, for every question."""
    if ask == "ready" and type(transport).__name__.startswith("TritonHttp"):
        assert not transport.model_ready(name, version)
        return
    question = {
        "metadata": transport.model_metadata,
        "config": transport.model_config,
        "ready": transport.model_ready,
    }[ask]
    with pytest.raises(Refusal) as refused:
        question(name, version)
    assert refused.value.status in (404, grpc.StatusCode.NOT_FOUND)
    assert text in refused.value.text


def test_a_model_without_a_version_is_named_as_such(unready: Transport) -> None:
    """E03: a folder without any version is 404 / NOT_FOUND, `has no available versions`."""
    with pytest.raises(Refusal) as refused:
        unready.model_metadata("empty")
    assert refused.value.status in (404, grpc.StatusCode.NOT_FOUND)
    assert "has no available versions" in refused.value.text
