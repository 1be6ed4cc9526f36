"""System shared memory over both protocols (H15, H16, E14, E31-E33, 2.8, 2.10)."""

import uuid
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.utils.shared_memory as shm
from tritonclient.grpc import service_pb2 as pb
from tritonclient.utils import InferenceServerException

from tests.support.servers import OipServer
from tests.support.tiny_models import WEIGHTS
from tests.support.transports import Call, Grpc, Refusal, grpc_message, triton_http

SYSTEM = "/v2/systemsharedmemory"
X = np.array([[1, 2, 3, 4]], np.float32)
Y = X @ WEIGHTS
SIZE = 4096


class Memory:
    """An object of shared memory of this process."""

    def __init__(self) -> None:
        self.key = f"/atril-test-{uuid.uuid4().hex}"
        self.handle = shm.create_shared_memory_region("test", self.key, SIZE)
        shm.set_shared_memory_region(self.handle, [X])

    def floats(self, offset: int, *shape: int) -> Any:
        """Numbers in the object."""
        return shm.get_contents_as_numpy(self.handle, np.float32, shape, offset=offset)


@pytest.fixture
def memory(http: httpx.Client) -> Iterator[Memory]:
    """Shared memory whose first 16 bytes are X; afterwards no region is registered."""
    made = Memory()
    yield made
    http.post(f"{SYSTEM}/unregister")
    shm.destroy_shared_memory_region(made.handle)


def register(http: httpx.Client, memory: Memory, name: str = "region", **fields: Any) -> Any:
    """Register a region over HTTP."""
    body = {"key": memory.key, "offset": 0, "byte_size": SIZE} | fields
    return http.post(f"{SYSTEM}/region/{name}/register", json=body)


def error_text(response: httpx.Response, status: int) -> str:
    """The text of an error."""
    assert response.status_code == status, response.content
    return str(response.json()["error"])


def placed(offset: int, byte_size: int, name: str = "region") -> dict[str, Any]:
    """The parameters of a tensor in shared memory."""
    return {
        "shared_memory_region": name,
        "shared_memory_offset": offset,
        "shared_memory_byte_size": byte_size,
    }


def post(
    http: httpx.Client, source: dict[str, Any], *, place: dict[str, Any] | None = None
) -> httpx.Response:
    """A request to `matmul` with its input, and perhaps its output, in shared memory."""
    entry = {"name": "x", "shape": [1, 4], "datatype": "FP32", "parameters": source}
    message: dict[str, Any] = {"inputs": [entry]}
    if place is not None:
        message["outputs"] = [{"name": "y", "parameters": place}]
    return http.post("/v2/models/matmul/infer", json=message)


def test_a_region_is_registered_looked_at_and_unregistered(
    http: httpx.Client, memory: Memory
) -> None:
    """H15: an empty answer; the status is an array, of one region or of all."""
    assert http.get(f"{SYSTEM}/status").json() == []
    response = register(http, memory, offset=8, byte_size=100)
    assert (response.status_code, response.content) == (200, b"")
    register(http, memory, "other")
    expected = {"name": "region", "key": memory.key, "offset": 8, "byte_size": 100}
    assert http.get(f"{SYSTEM}/region/region/status").json() == [expected]
    assert {r["name"] for r in http.get(f"{SYSTEM}/status").json()} == {"region", "other"}
    assert http.post(f"{SYSTEM}/region/region/unregister").status_code == 200
    assert [r["name"] for r in http.get(f"{SYSTEM}/status").json()] == ["other"]
    assert http.post(f"{SYSTEM}/unregister").status_code == 200
    assert http.get(f"{SYSTEM}/status").json() == []


def test_a_region_is_registered_once(http: httpx.Client, memory: Memory) -> None:
    """E31: 400, naming it."""
    register(http, memory)
    assert "'region'" in error_text(register(http, memory), 400)


def test_an_unknown_region_is_not_found(http: httpx.Client, memory: Memory) -> None:
    """E32: 404 for its status and for a tensor in it."""
    assert "'region'" in error_text(http.get(f"{SYSTEM}/region/region/status"), 404)
    assert "'region'" in error_text(post(http, placed(0, 16)), 404)
    register(http, memory, "input")
    response = post(http, placed(0, 16, "input"), place=placed(0, 12, "nowhere"))
    assert "'nowhere'" in error_text(response, 404)


@pytest.mark.parametrize(
    "fields",
    [
        {"key": None},
        {"key": 7},
        {"key": "../../etc/passwd"},
        {"key": "/etc/passwd"},
        {"key": "atril-test-nobody-made-this"},
        {"byte_size": None},
        {"byte_size": 0},
        {"byte_size": -1},
        {"byte_size": "16"},
        {"byte_size": SIZE + 1},
        {"offset": -1},
        {"offset": SIZE},
        {"offset": True},
        {"unknown": 1},
    ],
    ids=str,
)
def test_a_region_that_cannot_be_is_refused(
    http: httpx.Client, memory: Memory, fields: dict[str, Any]
) -> None:
    """H15: 400 for a key that is no object, and for numbers that are none or too large."""
    error_text(register(http, memory, **fields), 400)
    assert http.get(f"{SYSTEM}/status").json() == []


def test_input_and_output_may_be_in_shared_memory(http: httpx.Client, memory: Memory) -> None:
    """2.10: read from the region, written into it; the answer tells datatype and shape."""
    register(http, memory)
    response = post(http, placed(0, 16), place=placed(100, 50))
    (output,) = response.json()["outputs"]
    assert "data" not in output
    assert (output["datatype"], output["shape"]) == ("FP32", [1, 3])
    assert memory.floats(100, 1, 3).tolist() == Y.tolist()


def test_an_input_in_shared_memory_may_be_answered_in_json(
    http: httpx.Client, memory: Memory
) -> None:
    """2.10: each tensor travels in its own way; the offset may be left out."""
    register(http, memory)
    source = {"shared_memory_region": "region", "shared_memory_byte_size": 16}
    assert post(http, source).json()["outputs"][0]["data"] == Y.ravel().tolist()


@pytest.mark.parametrize(
    ("source", "place", "text"),
    [
        (placed(0, 12), None, "unexpected size for input 'x'"),
        (placed(SIZE - 8, 16), None, "Invalid offset + byte size"),
        (placed(0, -1), None, "shared_memory_byte_size"),
        (placed(-1, 16), None, "shared_memory_offset"),
        ({"shared_memory_region": "region"}, None, "shared_memory_byte_size"),
        ({"shared_memory_region": 7}, None, "shared_memory_region"),
        (placed(0, 16) | {"binary_data_size": 16}, None, "must set only one of"),
        (placed(0, 16), placed(0, SIZE + 1), "Invalid offset + byte size"),
        (placed(0, 16), placed(0, 8), "at least 12 bytes"),
        (placed(0, 16), placed(0, 64) | {"classification": 2}, "classification"),
    ],
    ids=str,
)
def test_a_place_that_does_not_fit_is_refused(
    http: httpx.Client, memory: Memory, source: Any, place: Any, text: str
) -> None:
    """2.10, E14, E17: 400, and nothing is read or written beyond the region."""
    register(http, memory)
    assert text in error_text(post(http, source, place=place), 400)
    assert post(http, placed(0, 16)).status_code == 200


@pytest.mark.parametrize("library", [triton_http, triton_grpc], ids=["http", "grpc"])
def test_triton_clients_use_shared_memory(oip: OipServer, memory: Memory, library: Any) -> None:
    """2.8, 2.10: tritonclient registers, infers in place, reads the answer and unregisters."""
    address = oip.grpc_address if library is triton_grpc else oip.http_url.removeprefix("http://")
    with library.InferenceServerClient(address) as client:
        client.register_system_shared_memory("region", memory.key, SIZE)
        entry = library.InferInput("x", [1, 4], "FP32")
        entry.set_shared_memory("region", 16)
        wanted = library.InferRequestedOutput("y")
        wanted.set_shared_memory("region", 64, offset=128)
        result = client.infer("matmul", [entry], outputs=[wanted])
        assert result.get_output("y") is not None
        assert memory.floats(128, 1, 3).tolist() == Y.tolist()
        with pytest.raises(InferenceServerException, match="region"):
            client.register_system_shared_memory("region", memory.key, SIZE)
        client.unregister_system_shared_memory("region")
        with pytest.raises(InferenceServerException, match="region"):
            client.get_system_shared_memory_status("region")


def test_outputs_in_shared_memory_keep_their_place_among_the_raw_ones(
    rpc: Grpc, memory: Memory, http: httpx.Client
) -> None:
    """2.8: one raw entry an output; that of an output in shared memory is empty."""
    register(http, memory)
    a, b = np.full((1, 4), 5, np.int32), np.full((1, 4), 3, np.int32)
    call = Call("sum_and_difference", {"a": a, "b": b}, outputs=("sum", "difference"))
    message = grpc_message(call)
    _place(message.outputs[0], 64, 16)
    response = rpc.ask(lambda: rpc.stub.ModelInfer(message, timeout=20))
    assert [len(raw) for raw in response.raw_output_contents] == [0, 16]
    assert np.frombuffer(response.raw_output_contents[1], np.int32).tolist() == [2] * 4
    assert memory.floats(64, 4).view(np.int32).tolist() == [8] * 4


def _place(tensor: Any, offset: int, byte_size: int, name: str = "region") -> None:
    tensor.parameters["shared_memory_region"].string_param = name
    tensor.parameters["shared_memory_offset"].int64_param = offset
    tensor.parameters["shared_memory_byte_size"].int64_param = byte_size


@pytest.mark.parametrize("position", [0, 1])
def test_raw_inputs_and_shared_memory_may_be_mixed(
    rpc: Grpc, memory: Memory, http: httpx.Client, position: int
) -> None:
    """2.8: raw entries belong to the inputs that are not in shared memory, in their order."""
    register(http, memory)
    message = grpc_message(Call("two_identities", {"a": X * 2, "b": X * 2}))
    del message.raw_input_contents[position]
    _place(message.inputs[position], 0, 16)
    stream = rpc.stub.ModelStreamInfer(iter([message]), timeout=20)
    for response in (
        rpc.ask(lambda: rpc.stub.ModelInfer(message, timeout=20)),
        next(stream).infer_response,
    ):
        got = [np.frombuffer(raw, np.float32).tolist() for raw in response.raw_output_contents]
        expected = [(X * 2).ravel().tolist(), (X * 2).ravel().tolist()]
        expected[position] = X.ravel().tolist()
        assert got == expected


def test_grpc_refuses_what_does_not_fit(rpc: Grpc, memory: Memory, http: httpx.Client) -> None:
    """E31, E32, 2.10 over gRPC: ALREADY_EXISTS, NOT_FOUND, INVALID_ARGUMENT."""
    register(http, memory)
    again = pb.SystemSharedMemoryRegisterRequest(name="region", key=memory.key, byte_size=16)
    unknown = pb.SystemSharedMemoryStatusRequest(name="nowhere")
    message = grpc_message(Call("matmul", {"x": X}, outputs=("y",)))
    _place(message.outputs[0], 0, 8)
    for ask, code in (
        (lambda: rpc.stub.SystemSharedMemoryRegister(again), grpc.StatusCode.ALREADY_EXISTS),
        (lambda: rpc.stub.SystemSharedMemoryStatus(unknown), grpc.StatusCode.NOT_FOUND),
        (lambda: rpc.stub.ModelInfer(message, timeout=20), grpc.StatusCode.INVALID_ARGUMENT),
    ):
        with pytest.raises(Refusal) as refused:
            rpc.ask(ask)
        assert refused.value.status is code
    status = rpc.stub.SystemSharedMemoryStatus(pb.SystemSharedMemoryStatusRequest())
    assert status.regions["region"].byte_size == SIZE


def test_cuda_shared_memory_is_not_supported(http: httpx.Client, rpc: Grpc) -> None:
    """H16: 501 / UNIMPLEMENTED, and the extension is not listed."""
    cuda = "/v2/cudasharedmemory"
    for response in (
        http.get(f"{cuda}/status"),
        http.get(f"{cuda}/region/r/status"),
        http.post(f"{cuda}/region/r/register", json={}),
        http.post(f"{cuda}/unregister"),
    ):
        assert "CUDA" in error_text(response, 501)
    with pytest.raises(Refusal) as refused:
        rpc.ask(lambda: rpc.stub.CudaSharedMemoryStatus(pb.CudaSharedMemoryStatusRequest()))
    assert refused.value.status is grpc.StatusCode.UNIMPLEMENTED
    extensions = http.get("/v2").json()["extensions"]
    assert "cuda_shared_memory" not in extensions
    assert "system_shared_memory" in extensions
