"""Compressed bodies over both protocols (2.5, E20, E22)."""

import gzip
import json
import zlib
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc

from tests.support.raw_http import RawConnection, request_bytes
from tests.support.servers import OipServer
from tests.support.tiny_models import WEIGHTS
from tests.support.transports import Call, Grpc, grpc_answer, grpc_message, triton_http

PATH = "/v2/models/matmul/infer"
LONG = "/v2/models/zeros/infer"
COMPRESS = {"gzip": gzip.compress, "deflate": zlib.compress}
DECOMPRESS = {"gzip": gzip.decompress, "deflate": zlib.decompress}
HEADER = "Inference-Header-Content-Length"
ROW = np.array([[1, 2, 3, 4]], "<f4")
ANSWER = (ROW @ WEIGHTS).ravel().tolist()

codings = pytest.mark.parametrize("coding", ["gzip", "deflate"])


def zeros(count: int, *, binary: bool = False) -> bytes:
    """A request whose answer has so many zeros."""
    entry = {"name": "count", "shape": [1], "datatype": "INT64", "data": [count]}
    head = {"inputs": [entry], "parameters": {"binary_data_output": binary}}
    return json.dumps(head).encode()


def message() -> bytes:
    """A request to `matmul` in JSON."""
    entry = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": ROW.ravel().tolist()}
    return json.dumps({"inputs": [entry]}).encode()


@codings
def test_a_compressed_request_is_read(http: httpx.Client, coding: str) -> None:
    """2.5: `Content-Encoding` in any case of letters."""
    for name in (coding, coding.upper()):
        headers = {"Content-Encoding": name}
        response = http.post(PATH, content=COMPRESS[coding](message()), headers=headers)
        assert response.json()["outputs"][0]["data"] == ANSWER


@codings
def test_the_header_length_counts_plain_bytes(http: httpx.Client, coding: str) -> None:
    """2.5: the body is decompressed first, the header length is checked against the result."""
    entry = {
        "name": "x",
        "shape": [1, 4],
        "datatype": "FP32",
        "parameters": {"binary_data_size": 16},
    }
    head = json.dumps({"inputs": [entry]}).encode()
    plain = head + ROW.tobytes()
    headers = {"Content-Encoding": coding, HEADER: str(len(head))}
    response = http.post(PATH, content=COMPRESS[coding](plain), headers=headers)
    assert response.json()["outputs"][0]["data"] == ANSWER
    headers[HEADER] = str(len(plain) + 1)
    response = http.post(PATH, content=COMPRESS[coding](plain), headers=headers)
    assert response.status_code == 400
    assert f"in range (0, {len(plain)})" in response.json()["error"]


@pytest.mark.parametrize("size", [1000, 200_000])
@pytest.mark.parametrize("binary", [True, False])
@codings
def test_an_answer_is_compressed_where_that_is_accepted(
    raw: RawConnection, coding: str, binary: bool, size: int
) -> None:
    """2.5: short and long answers, whose header length is that of the plain JSON."""
    raw.send(request_bytes("POST", LONG, zeros(size, binary=binary), f"Accept-Encoding: {coding}"))
    response = raw.read_response()
    assert response.headers["content-encoding"] == coding
    plain = DECOMPRESS[coding](response.body)
    if binary:
        assert plain[int(response.headers[HEADER.lower()]) :] == bytes(4 * size)
    else:
        assert json.loads(plain)["outputs"][0]["data"] == [0.0] * size


def test_long_compressed_answers_keep_the_order_of_pipelined_requests(raw: RawConnection) -> None:
    """2.5, H08: what is compressed beside the loop is not overtaken."""
    requests = [
        request_bytes("POST", LONG, zeros(count), "Accept-Encoding: gzip")
        for count in (300_000, 1, 200_000, 2)
    ]
    raw.send(*requests)
    for count in (300_000, 1, 200_000, 2):
        response = raw.read_response()
        coded = "content-encoding" in response.headers
        body = gzip.decompress(response.body) if coded else response.body
        assert json.loads(body)["outputs"][0]["shape"] == [count]


def test_a_client_that_leaves_while_its_answer_is_compressed_harms_nobody(
    raw: RawConnection, http: httpx.Client
) -> None:
    """2.5: the answer is dropped, the next one is given."""
    raw.send(request_bytes("POST", LONG, zeros(500_000), "Accept-Encoding: gzip"))
    raw.close()
    assert http.post(PATH, content=message()).json()["outputs"][0]["data"] == ANSWER


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("gzip;q=0.2, deflate;q=0.9", "deflate"),
        ("identity, gzip;q=0.5", None),
        ("gzip;q=0", None),
        ("br", None),
        ("*", "gzip"),
    ],
)
def test_the_coding_is_chosen_by_weight(
    raw: RawConnection, accepted: str, coding: str | None
) -> None:
    """2.5: `Accept-Encoding` by q-values."""
    raw.send(request_bytes("POST", LONG, zeros(1000), f"Accept-Encoding: {accepted}"))
    assert raw.read_response().headers.get("content-encoding") == coding


def test_both_directions_may_be_compressed(raw: RawConnection) -> None:
    """2.5: request and answer each have their own coding."""
    body = zlib.compress(zeros(1000))
    headers = ("Content-Encoding: deflate", "Accept-Encoding: gzip")
    raw.send(request_bytes("POST", LONG, body, *headers))
    response = raw.read_response()
    assert json.loads(gzip.decompress(response.body))["outputs"][0]["shape"] == [1000]


@codings
def test_a_body_that_inflates_beyond_the_limit_is_refused(
    http: httpx.Client, oip: OipServer, coding: str
) -> None:
    """E20: the limit holds for the plain body, so that a small one cannot fill the memory."""
    if oip.max_body_bytes is None:
        pytest.skip("the limit of a given server is not known")
    bomb = COMPRESS[coding](message().ljust(oip.max_body_bytes + 1))
    response = http.post(PATH, content=bomb, headers={"Content-Encoding": coding})
    assert response.status_code == 400
    assert str(oip.max_body_bytes) in response.json()["error"]
    whole = COMPRESS[coding](message().ljust(oip.max_body_bytes))
    response = http.post(PATH, content=whole, headers={"Content-Encoding": coding})
    assert response.status_code == 200


@pytest.mark.parametrize("body", [b"", b"plain", gzip.compress(message())[:-5]], ids=repr)
def test_a_body_that_is_not_in_its_coding_is_refused(http: httpx.Client, body: bytes) -> None:
    """E11: 400, and the next request is answered."""
    response = http.post(PATH, content=body, headers={"Content-Encoding": "gzip"})
    assert response.status_code == 400
    assert "gzip" in response.json()["error"]
    assert http.post(PATH, content=message()).status_code == 200


@codings
def test_triton_http_compresses(oip: OipServer, coding: str) -> None:
    """2.5: `request_compression_algorithm` and `response_compression_algorithm`."""
    x = np.zeros((1, 1000), np.float32)
    with triton_http.InferenceServerClient(oip.http_url.removeprefix("http://")) as client:
        entry = triton_http.InferInput("input", list(x.shape), "FP32")
        entry.set_data_from_numpy(x)
        result = client.infer(
            "identity_fp32",
            [entry],
            request_compression_algorithm=coding,
            response_compression_algorithm=coding,
        )
    assert np.array_equal(result.as_numpy("output"), x)


@codings
def test_triton_grpc_compresses(oip: OipServer, coding: str) -> None:
    """2.8: `compression_algorithm` of tritonclient.grpc."""
    x = np.zeros((1, 1000), np.float32)
    with triton_grpc.InferenceServerClient(oip.grpc_address) as client:
        entry = triton_grpc.InferInput("input", list(x.shape), "FP32")
        entry.set_data_from_numpy(x)
        result = client.infer("identity_fp32", [entry], compression_algorithm=coding)
    assert np.array_equal(result.as_numpy("output"), x)


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_messages_of_a_stream_are_read(rpc: Grpc, compression: Any) -> None:
    """2.8: ModelStreamInfer reads compressed messages too."""
    requests = iter([grpc_message(Call("matmul", {"x": ROW}))] * 3)
    call = rpc.stub.ModelStreamInfer(requests, compression=compression, timeout=20)
    answers = [grpc_answer(message.infer_response) for message in call]
    assert [answer.outputs["y"].ravel().tolist() for answer in answers] == [ANSWER] * 3
