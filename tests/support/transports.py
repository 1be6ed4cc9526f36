"""Seven ways to speak the protocol, behind one face, so that a test is written once.

Two are written here from the protocol's text alone (raw HTTP in JSON and in binary), one uses the
bare gRPC stubs, four are Triton's own clients.
"""

import asyncio
import json
import struct
import warnings
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeVar

import grpc
import httpx
import numpy as np
import tritonclient.grpc as triton_grpc
import tritonclient.grpc.aio as triton_grpc_aio
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub
from tritonclient.utils import InferenceServerException

with warnings.catch_warnings():
    # gevent, under tritonclient.http, warns of its own use of deprecated parts of Python.
    warnings.simplefilter("ignore")
    import tritonclient.http as triton_http
    import tritonclient.http.aio as triton_http_aio

Array = NDArray[Any]
ResultT = TypeVar("ResultT")

DTYPES: dict[str, type] = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
    "BYTES": np.object_,
}
_DATATYPES = {np.dtype(dtype): datatype for datatype, dtype in DTYPES.items()}

CONTENTS_FIELD = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""Typed field of each datatype; FP16 has none."""


class Answer(NamedTuple):
    """What an inference answered."""

    model_name: str
    model_version: str
    request_id: str
    outputs: dict[str, Array]


class Refusal(Exception):  # noqa: N818  # what the server answered, not a fault of the test
    """An error that the server answered: HTTP status or gRPC code, and its text."""

    def __init__(self, status: object, text: str) -> None:
        super().__init__(f"{status}: {text}")
        self.status = status
        self.text = text


@dataclass(frozen=True)
class Call:
    """One inference, independent of how it travels."""

    model_name: str
    inputs: dict[str, Array]
    model_version: str = ""
    request_id: str = ""
    outputs: tuple[str, ...] = ()
    datatypes: dict[str, str] = field(default_factory=dict)
    """Datatypes to declare where they are not the array's own."""

    def datatype(self, name: str) -> str:
        """The datatype that the request declares for an input."""
        return self.datatypes.get(name) or datatype_of(self.inputs[name])


class Transport(Protocol):
    """A client."""

    protocol: str
    """`http` or `grpc`: which column of the tables holds."""

    def infer(self, call: Call) -> Answer:
        """Run an inference."""
        ...

    def server_live(self) -> bool:
        """Whether the server is live."""
        ...

    def server_ready(self) -> bool:
        """Whether the server is ready."""
        ...

    def model_ready(self, name: str, version: str = "") -> bool:
        """Whether a model is ready."""
        ...

    def server_metadata(self) -> dict[str, Any]:
        """The server's metadata."""
        ...

    def model_metadata(self, name: str, version: str = "") -> dict[str, Any]:
        """A model's metadata."""
        ...

    def model_config(self, name: str, version: str = "") -> dict[str, Any]:
        """A model's configuration."""
        ...

    def index(self) -> list[dict[str, Any]]:
        """The repository index."""
        ...

    def close(self) -> None:
        """Let the connection go."""
        ...


def datatype_of(array: Array) -> str:
    """Wire datatype of an array."""
    return _DATATYPES[array.dtype]


def to_wire(array: Array) -> bytes:
    """Little-endian row-major bytes, BYTES elements with a 4-byte length before each."""
    if array.dtype == object:
        return b"".join(struct.pack("<I", len(item)) + item for item in array.ravel())
    return array.astype(array.dtype.newbyteorder("<")).tobytes()


def from_wire(raw: bytes, datatype: str, shape: Sequence[int]) -> Array:
    """The inverse of `to_wire`."""
    if datatype != "BYTES":
        dtype = np.dtype(DTYPES[datatype]).newbyteorder("<")
        return np.frombuffer(raw, dtype).astype(DTYPES[datatype]).reshape(shape)
    items, offset = [], 0
    while offset < len(raw):
        (size,) = struct.unpack_from("<I", raw, offset)
        items.append(raw[offset + 4 : offset + 4 + size])
        offset += 4 + size
    return _objects(items).reshape(shape)


def _objects(items: Sequence[object]) -> Array:
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array


def bytes_array(items: Sequence[bytes], shape: Sequence[int] | None = None) -> Array:
    """An object array of bytes."""
    return _objects(items).reshape(shape if shape is not None else (len(items),))


class HttpJson:
    """Raw HTTP with every tensor in JSON; FP16, which has no JSON form, goes as binary."""

    protocol = "http"

    def __init__(self, http_url: str, grpc_address: str) -> None:
        self.client = httpx.Client(base_url=http_url, timeout=20)

    def infer(self, call: Call) -> Answer:
        """Run an inference."""
        head, blobs = self._message(call)
        body = json.dumps(head).encode()
        headers = {}
        if blobs:
            headers["Inference-Header-Content-Length"] = str(len(body))
        version = f"/versions/{call.model_version}" if call.model_version else ""
        response = self.client.post(
            f"/v2/models/{call.model_name}{version}/infer",
            content=b"".join([body, *blobs]),
            headers=headers,
        )
        return _http_answer(_checked(response))

    def _is_binary(self, datatype: str) -> bool:
        return datatype == "FP16"

    def _message(self, call: Call) -> tuple[dict[str, Any], list[bytes]]:
        blobs: list[bytes] = []
        inputs = []
        binary = False
        for name, array in call.inputs.items():
            datatype = call.datatype(name)
            tensor: dict[str, Any] = {
                "name": name,
                "datatype": datatype,
                "shape": list(array.shape),
            }
            if self._is_binary(datatype):
                binary = True
                blobs.append(to_wire(array))
                tensor["parameters"] = {"binary_data_size": len(blobs[-1])}
            elif array.dtype == object:
                tensor["data"] = [item.decode() for item in array.ravel()]
            else:
                tensor["data"] = array.ravel().tolist()
            inputs.append(tensor)
        head: dict[str, Any] = {"inputs": inputs}
        if binary:
            head["parameters"] = {"binary_data_output": True}
        if call.request_id:
            head["id"] = call.request_id
        if call.outputs:
            head["outputs"] = [{"name": name} for name in call.outputs]
        return head, blobs

    def server_live(self) -> bool:
        """Whether the server is live."""
        return self.client.get("/v2/health/live").status_code == 200

    def server_ready(self) -> bool:
        """Whether the server is ready."""
        return self.client.get("/v2/health/ready").status_code == 200

    def model_ready(self, name: str, version: str = "") -> bool:
        """Whether a model is ready."""
        response = self.client.get(f"{_model_path(name, version)}/ready")
        if response.status_code == 404:
            _checked(response)
        return response.status_code == 200

    def server_metadata(self) -> dict[str, Any]:
        """The server's metadata."""
        return self._get("/v2")

    def model_metadata(self, name: str, version: str = "") -> dict[str, Any]:
        """A model's metadata."""
        return self._get(_model_path(name, version))

    def model_config(self, name: str, version: str = "") -> dict[str, Any]:
        """A model's configuration."""
        return self._get(f"{_model_path(name, version)}/config")

    def index(self) -> list[dict[str, Any]]:
        """The repository index."""
        entries: list[dict[str, Any]] = _checked(self.client.post("/v2/repository/index")).json()
        return entries

    def close(self) -> None:
        """Let the connection go."""
        self.client.close()

    def _get(self, path: str) -> dict[str, Any]:
        message: dict[str, Any] = _checked(self.client.get(path)).json()
        return message


class HttpBinary(HttpJson):
    """Raw HTTP with every tensor in binary."""

    def _is_binary(self, datatype: str) -> bool:
        return True


class Grpc:
    """The bare gRPC stubs, tensors raw."""

    protocol = "grpc"

    def __init__(self, http_url: str, grpc_address: str) -> None:
        self._channel = grpc.insecure_channel(
            grpc_address,
            options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)],
        )
        self.stub = GRPCInferenceServiceStub(self._channel)

    def infer(self, call: Call) -> Answer:
        """Run an inference."""
        response = self.ask(lambda: self.stub.ModelInfer(grpc_message(call), timeout=20))
        return grpc_answer(response)

    def server_live(self) -> bool:
        """Whether the server is live."""
        return bool(self.stub.ServerLive(pb.ServerLiveRequest()).live)

    def server_ready(self) -> bool:
        """Whether the server is ready."""
        return bool(self.stub.ServerReady(pb.ServerReadyRequest()).ready)

    def model_ready(self, name: str, version: str = "") -> bool:
        """Whether a model is ready."""
        request = pb.ModelReadyRequest(name=name, version=version)
        return bool(self.ask(lambda: self.stub.ModelReady(request)).ready)

    def server_metadata(self) -> dict[str, Any]:
        """The server's metadata."""
        return _plain(self.ask(lambda: self.stub.ServerMetadata(pb.ServerMetadataRequest())))

    def model_metadata(self, name: str, version: str = "") -> dict[str, Any]:
        """A model's metadata."""
        request = pb.ModelMetadataRequest(name=name, version=version)
        return _plain(self.ask(lambda: self.stub.ModelMetadata(request)))

    def model_config(self, name: str, version: str = "") -> dict[str, Any]:
        """A model's configuration."""
        request = pb.ModelConfigRequest(name=name, version=version)
        return _plain(self.ask(lambda: self.stub.ModelConfig(request)).config)

    def index(self) -> list[dict[str, Any]]:
        """The repository index."""
        answer = self.ask(lambda: self.stub.RepositoryIndex(pb.RepositoryIndexRequest()))
        return [_plain(entry) for entry in answer.models]

    def close(self) -> None:
        """Let the connection go."""
        self._channel.close()

    def ask(self, rpc: Callable[[], Any]) -> Any:
        """Call an RPC; an error status becomes a `Refusal`."""
        try:
            return rpc()
        except grpc.RpcError as err:
            raise Refusal(err.code(), err.details()) from None


class TritonHttp:
    """tritonclient.http, blocking."""

    protocol = "http"

    def __init__(self, http_url: str, grpc_address: str) -> None:
        self._client = triton_http.InferenceServerClient(
            http_url.removeprefix("http://"), network_timeout=20.0, connection_timeout=20.0
        )

    def infer(self, call: Call) -> Answer:
        """Run an inference."""
        with _triton_errors():
            result = self._client.infer(**_triton_arguments(triton_http, call))
            return _triton_http_answer(result)

    def server_live(self) -> bool:
        """Whether the server is live."""
        return bool(self._client.is_server_live())

    def server_ready(self) -> bool:
        """Whether the server is ready."""
        return bool(self._client.is_server_ready())

    def model_ready(self, name: str, version: str = "") -> bool:
        """Whether a model is ready; this client cannot tell an unknown one from one not ready."""
        return bool(self._client.is_model_ready(name, version))

    def server_metadata(self) -> dict[str, Any]:
        """The server's metadata."""
        with _triton_errors():
            return dict(self._client.get_server_metadata())

    def model_metadata(self, name: str, version: str = "") -> dict[str, Any]:
        """A model's metadata."""
        with _triton_errors():
            return dict(self._client.get_model_metadata(name, version))

    def model_config(self, name: str, version: str = "") -> dict[str, Any]:
        """A model's configuration."""
        with _triton_errors():
            return dict(self._client.get_model_config(name, version))

    def index(self) -> list[dict[str, Any]]:
        """The repository index."""
        with _triton_errors():
            return list(self._client.get_model_repository_index())

    def close(self) -> None:
        """Let the connection go."""
        self._client.close()


class TritonGrpc:
    """tritonclient.grpc, blocking."""

    protocol = "grpc"

    def __init__(self, http_url: str, grpc_address: str) -> None:
        self._client = triton_grpc.InferenceServerClient(grpc_address)

    def infer(self, call: Call) -> Answer:
        """Run an inference."""
        with _triton_errors():
            return _triton_grpc_answer(self._client.infer(**_triton_arguments(triton_grpc, call)))

    def server_live(self) -> bool:
        """Whether the server is live."""
        return bool(self._client.is_server_live())

    def server_ready(self) -> bool:
        """Whether the server is ready."""
        return bool(self._client.is_server_ready())

    def model_ready(self, name: str, version: str = "") -> bool:
        """Whether a model is ready."""
        with _triton_errors():
            return bool(self._client.is_model_ready(name, version))

    def server_metadata(self) -> dict[str, Any]:
        """The server's metadata."""
        with _triton_errors():
            return _plain(self._client.get_server_metadata())

    def model_metadata(self, name: str, version: str = "") -> dict[str, Any]:
        """A model's metadata."""
        with _triton_errors():
            return _plain(self._client.get_model_metadata(name, version))

    def model_config(self, name: str, version: str = "") -> dict[str, Any]:
        """A model's configuration."""
        with _triton_errors():
            return _plain(self._client.get_model_config(name, version).config)

    def index(self) -> list[dict[str, Any]]:
        """The repository index."""
        with _triton_errors():
            return [_plain(e) for e in self._client.get_model_repository_index().models]

    def close(self) -> None:
        """Let the connection go."""
        self._client.close()


class _OnLoop:
    """Runs an asyncio client from plain tests, on a loop of its own."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()

    def run(self, coroutine: Coroutine[Any, Any, ResultT]) -> ResultT:
        """Await a coroutine; errors of the client become a `Refusal`."""
        with _triton_errors():
            return self._runner.run(coroutine)

    def close(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Await the client's own end, then close the loop."""
        self._runner.run(coroutine)
        self._runner.close()


async def _made(create: Callable[[], ResultT]) -> ResultT:
    return create()


class TritonHttpAio:
    """tritonclient.http.aio."""

    protocol = "http"

    def __init__(self, http_url: str, grpc_address: str) -> None:
        self._loop = _OnLoop()
        address = http_url.removeprefix("http://")
        self._client = self._loop.run(
            _made(lambda: triton_http_aio.InferenceServerClient(address, conn_timeout=20))
        )

    def infer(self, call: Call) -> Answer:
        """Run an inference."""
        arguments = _triton_arguments(triton_http_aio, call)
        return _triton_http_answer(self._loop.run(self._client.infer(**arguments)))

    def server_live(self) -> bool:
        """Whether the server is live."""
        return bool(self._loop.run(self._client.is_server_live()))

    def server_ready(self) -> bool:
        """Whether the server is ready."""
        return bool(self._loop.run(self._client.is_server_ready()))

    def model_ready(self, name: str, version: str = "") -> bool:
        """Whether a model is ready; this client cannot tell an unknown one from one not ready."""
        return bool(self._loop.run(self._client.is_model_ready(name, version)))

    def server_metadata(self) -> dict[str, Any]:
        """The server's metadata."""
        return dict(self._loop.run(self._client.get_server_metadata()))

    def model_metadata(self, name: str, version: str = "") -> dict[str, Any]:
        """A model's metadata."""
        return dict(self._loop.run(self._client.get_model_metadata(name, version)))

    def model_config(self, name: str, version: str = "") -> dict[str, Any]:
        """A model's configuration."""
        return dict(self._loop.run(self._client.get_model_config(name, version)))

    def index(self) -> list[dict[str, Any]]:
        """The repository index."""
        return list(self._loop.run(self._client.get_model_repository_index()))

    def close(self) -> None:
        """Let the connection go."""
        self._loop.close(self._client.close())


class TritonGrpcAio:
    """tritonclient.grpc.aio."""

    protocol = "grpc"

    def __init__(self, http_url: str, grpc_address: str) -> None:
        self._loop = _OnLoop()
        self._client = self._loop.run(
            _made(lambda: triton_grpc_aio.InferenceServerClient(grpc_address))
        )

    def infer(self, call: Call) -> Answer:
        """Run an inference."""
        arguments = _triton_arguments(triton_grpc_aio, call)
        return _triton_grpc_answer(self._loop.run(self._client.infer(**arguments)))

    def server_live(self) -> bool:
        """Whether the server is live."""
        return bool(self._loop.run(self._client.is_server_live()))

    def server_ready(self) -> bool:
        """Whether the server is ready."""
        return bool(self._loop.run(self._client.is_server_ready()))

    def model_ready(self, name: str, version: str = "") -> bool:
        """Whether a model is ready."""
        return bool(self._loop.run(self._client.is_model_ready(name, version)))

    def server_metadata(self) -> dict[str, Any]:
        """The server's metadata."""
        return _plain(self._loop.run(self._client.get_server_metadata()))

    def model_metadata(self, name: str, version: str = "") -> dict[str, Any]:
        """A model's metadata."""
        return _plain(self._loop.run(self._client.get_model_metadata(name, version)))

    def model_config(self, name: str, version: str = "") -> dict[str, Any]:
        """A model's configuration."""
        return _plain(self._loop.run(self._client.get_model_config(name, version)).config)

    def index(self) -> list[dict[str, Any]]:
        """The repository index."""
        answer = self._loop.run(self._client.get_model_repository_index())
        return [_plain(entry) for entry in answer.models]

    def close(self) -> None:
        """Let the connection go."""
        self._loop.close(self._client.close())


TRANSPORTS: dict[str, Callable[[str, str], Transport]] = {
    "http-json": HttpJson,
    "http-binary": HttpBinary,
    "grpc": Grpc,
    "triton-http": TritonHttp,
    "triton-http-aio": TritonHttpAio,
    "triton-grpc": TritonGrpc,
    "triton-grpc-aio": TritonGrpcAio,
}
"""Every way to speak the protocol, by name; each takes the HTTP URL and the gRPC address."""


def grpc_message(call: Call) -> Any:
    """A call as a `ModelInferRequest` with raw tensors."""
    request = pb.ModelInferRequest(
        model_name=call.model_name, model_version=call.model_version, id=call.request_id
    )
    for name, array in call.inputs.items():
        request.inputs.add(name=name, datatype=call.datatype(name), shape=array.shape)
        request.raw_input_contents.append(to_wire(array))
    for name in call.outputs:
        request.outputs.add(name=name)
    return request


def grpc_answer(response: Any) -> Answer:
    """A `ModelInferResponse` whose outputs are raw, read by position as tritonclient does."""
    outputs = {
        output.name: from_wire(response.raw_output_contents[i], output.datatype, output.shape)
        for i, output in enumerate(response.outputs)
    }
    return Answer(response.model_name, response.model_version, response.id, outputs)


def _model_path(name: str, version: str) -> str:
    return f"/v2/models/{name}" + (f"/versions/{version}" if version else "")


def _checked(response: httpx.Response) -> httpx.Response:
    """The response, or its error as a `Refusal` once its form has been checked."""
    if response.status_code == 200:
        return response
    assert response.headers["content-type"] == "application/json", response.content
    message = response.json()
    assert list(message) == ["error"], message
    assert isinstance(message["error"], str), message
    raise Refusal(response.status_code, message["error"])


def _http_answer(response: httpx.Response) -> Answer:
    length = response.headers.get("inference-header-content-length")
    end = len(response.content) if length is None else int(length)
    message = json.loads(response.content[:end])
    offset = end
    outputs = {}
    for output in message["outputs"]:
        datatype, shape = output["datatype"], output["shape"]
        if "data" in output:
            data = output["data"]
            if datatype == "BYTES":
                array = bytes_array([item.encode() for item in data], shape)
            else:
                array = np.array(data, DTYPES[datatype]).reshape(shape)
        else:
            size = output["parameters"]["binary_data_size"]
            array = from_wire(response.content[offset : offset + size], datatype, shape)
            offset += size
        outputs[output["name"]] = array
    assert offset == len(response.content)
    return Answer(message["model_name"], message["model_version"], message.get("id", ""), outputs)


def _triton_arguments(library: Any, call: Call) -> dict[str, Any]:
    inputs = []
    for name, array in call.inputs.items():
        tensor = library.InferInput(name, list(array.shape), datatype_of(array))
        tensor.set_data_from_numpy(array)
        if name in call.datatypes:
            tensor._datatype = call.datatypes[name]
            if hasattr(tensor, "_input"):
                tensor._input.datatype = call.datatypes[name]
        inputs.append(tensor)
    outputs = [library.InferRequestedOutput(name) for name in call.outputs]
    return {
        "model_name": call.model_name,
        "inputs": inputs,
        "model_version": call.model_version,
        "outputs": outputs or None,
        "request_id": call.request_id,
    }


def _triton_http_answer(result: Any) -> Answer:
    message = result.get_response()
    outputs = {o["name"]: result.as_numpy(o["name"]) for o in message["outputs"]}
    return Answer(message["model_name"], message["model_version"], message.get("id", ""), outputs)


def _triton_grpc_answer(result: Any) -> Answer:
    message = result.get_response()
    outputs = {o.name: result.as_numpy(o.name) for o in message.outputs}
    return Answer(message.model_name, message.model_version, message.id, outputs)


@contextmanager
def _triton_errors() -> Iterator[None]:
    """Triton's one exception as a `Refusal`, its status as a number or a gRPC code."""
    try:
        yield
    except InferenceServerException as err:
        status = str(err.status())
        if status.startswith("StatusCode."):
            raise Refusal(
                grpc.StatusCode[status.removeprefix("StatusCode.")], err.message()
            ) from None
        raise Refusal(int(status) if status.isdigit() else status, err.message()) from None


def _plain(message: Any) -> dict[str, Any]:
    """A protobuf message as plain values, defaults included, 64-bit integers as numbers."""
    plain: dict[str, Any] = {}
    for described in message.DESCRIPTOR.fields:
        value = getattr(message, described.name)
        if described.message_type is None:
            plain[described.name] = list(value) if described.is_repeated else value
        elif described.is_repeated and not described.message_type.GetOptions().map_entry:
            plain[described.name] = [_plain(item) for item in value]
    return plain
