"""HTTP connections: kept alive, pipelined, chunked, cut, slow and abused (2.1, 2.4)."""

import json
import select
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from tests.support.raw_http import (
    RawConnection,
    RawResponse,
    infer_bytes,
    raw_connection,
    request_bytes,
)
from tests.support.servers import OipServer
from tests.support.tiny_models import WEIGHTS

PATH = "/v2/models/matmul/infer"
LIVE = request_bytes("GET", "/v2/health/live")
SERVER = request_bytes("GET", "/v2")
HEADER_LIMIT = 64 * 1024


def message(value: float, request_id: str = "") -> dict[str, Any]:
    """A request to `matmul` whose answer tells `value`."""
    entry = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [value] * 4}
    return {"id": request_id, "inputs": [entry]}


def infer(value: float, request_id: str = "", *headers: str) -> bytes:
    """The bytes of such a request."""
    return infer_bytes("matmul", message(value, request_id), *headers)


def slow_infer(request_id: str, rounds: int = 0) -> bytes:
    """A request to `slow`, which is not answered at once."""
    inputs = [
        {"name": "rounds", "shape": [1, 1], "datatype": "INT64", "data": [rounds]},
        {"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [1.0]},
    ]
    return infer_bytes("slow", {"id": request_id, "inputs": inputs})


def assert_answers(response: RawResponse, value: float) -> None:
    """The response is that of `infer(value)`."""
    assert response.status == 200
    expected = (np.full((1, 4), value, np.float32) @ WEIGHTS).ravel().tolist()
    assert response.json()["outputs"][0]["data"] == expected


def assert_json_error(response: RawResponse, statuses: range = range(400, 500)) -> None:
    """The response is an error in the protocol's form."""
    assert response.status in statuses
    assert response.headers["content-type"] == "application/json"
    assert list(response.json()) == ["error"]
    assert isinstance(response.json()["error"], str)


@pytest.fixture
def unharmed(oip: OipServer) -> Iterator[None]:
    """After the test a new connection is answered."""
    yield
    with raw_connection(oip.http_url) as connection:
        connection.send(infer(1))
        assert_answers(connection.read_response(), 1)


def test_a_connection_is_kept_for_the_next_request(raw: RawConnection) -> None:
    """H08: many requests of both ways through the server on one connection."""
    for value in range(3):
        raw.send(infer(value))
        assert_answers(raw.read_response(), value)
        raw.send(SERVER)
        assert raw.read_response().json()["name"]


@pytest.mark.parametrize(
    "bad",
    [
        infer_bytes("nowhere", message(1)),
        request_bytes("POST", PATH, b"{"),
        infer(1, "", "Inference-Header-Content-Length: 7"),
        infer(1, "", "Inference-Header-Content-Length: x"),
        infer(1, "", "Content-Encoding: br"),
        infer_bytes(
            "pick", {"inputs": [{"name": "row", "shape": [1], "datatype": "INT64", "data": [9]}]}
        ),
        request_bytes("GET", "/nothing"),
        request_bytes("PUT", PATH, b"12345"),
        request_bytes("POST", "/v2/repository/index", b"["),
    ],
    ids=["model", "json", "length", "no length", "coding", "back end", "path", "method", "index"],
)
def test_a_connection_survives_a_bad_request(raw: RawConnection, bad: bytes) -> None:
    """2.2 errors: a bad request whose body was read leaves its connection usable."""
    raw.send(bad)
    assert_json_error(raw.read_response(), range(400, 600))
    raw.send(infer(2))
    assert_answers(raw.read_response(), 2)


@pytest.mark.parametrize("rounds", [1, 5])
def test_pipelined_requests_are_answered_in_order(raw: RawConnection, rounds: int) -> None:
    """H08: two and more inferences in one send."""
    raw.send(*(infer(value, str(value)) for value in range(2 * rounds)))
    for value in range(2 * rounds):
        response = raw.read_response()
        assert_answers(response, value)
        assert response.json()["id"] == str(value)


def test_a_slow_inference_holds_back_the_pipelined_answers_behind_it(raw: RawConnection) -> None:
    """H08: order holds where the second request could be answered before the first."""
    raw.send(
        slow_infer("first"), infer(5, "second"), SERVER, slow_infer("fourth"), infer(6, "last")
    )
    assert raw.read_response().json()["id"] == "first"
    assert raw.read_response().json()["id"] == "second"
    assert "extensions" in raw.read_response().json()
    assert raw.read_response().json()["id"] == "fourth"
    assert raw.read_response().json()["id"] == "last"


def test_an_inference_and_a_question_behind_it_are_answered_in_order(raw: RawConnection) -> None:
    """H01, H08: infer, then GET, in one send."""
    raw.send(infer(3), LIVE, SERVER)
    assert_answers(raw.read_response(), 3)
    assert raw.read_response().status == 200
    assert "extensions" in raw.read_response().json()


def test_a_question_and_an_inference_behind_it_are_answered_in_order(raw: RawConnection) -> None:
    """H01, H08: GET, then infer, in one send."""
    raw.send(SERVER, infer(3), LIVE)
    assert "extensions" in raw.read_response().json()
    assert_answers(raw.read_response(), 3)
    assert raw.read_response().status == 200


def test_a_bad_request_between_good_ones_keeps_its_place(raw: RawConnection) -> None:
    """2.2 errors: an error that is known at once does not overtake."""
    raw.send(slow_infer("first"), request_bytes("POST", PATH, b"{"), infer(4))
    assert raw.read_response().json()["id"] == "first"
    assert_json_error(raw.read_response())
    assert_answers(raw.read_response(), 4)


def _chunked(body: bytes, size: int, *headers: str) -> bytes:
    lines = ["POST " + PATH + " HTTP/1.1", "Host: test", "Transfer-Encoding: chunked", *headers]
    head = "\r\n".join([*lines, "", ""]).encode()
    pieces = [body[i : i + size] for i in range(0, len(body), size)]
    return head + b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in pieces) + b"0\r\n\r\n"


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_a_chunked_body_is_read(raw: RawConnection, size: int) -> None:
    """H08: a body of unknown length, in chunks of any size."""
    raw.send(_chunked(json.dumps(message(2)).encode(), size))
    assert_answers(raw.read_response(), 2)
    raw.send(infer(3))
    assert_answers(raw.read_response(), 3)


def test_a_chunked_body_may_be_binary(raw: RawConnection) -> None:
    """2.5: the header length counts in a chunked body too."""
    entry = message(0)["inputs"][0] | {"parameters": {"binary_data_size": 16}}
    del entry["data"]
    head = json.dumps({"inputs": [entry]}).encode()
    body = head + np.full(4, 2, "<f4").tobytes()
    raw.send(_chunked(body, 50, f"Inference-Header-Content-Length: {len(head)}"))
    assert_answers(raw.read_response(), 2)


def test_a_chunked_body_over_the_limit_is_refused(oip: OipServer, raw: RawConnection) -> None:
    """E20: the limit holds where no content length announces the size."""
    if oip.max_body_bytes is None:
        pytest.skip("the limit of a given server is not known")
    raw.send(_chunked(b" " * (oip.max_body_bytes + 1), 1 << 20))
    response = raw.read_response()
    assert_json_error(response)
    assert str(oip.max_body_bytes) in response.json()["error"]


@pytest.mark.parametrize(("chunks", "status"), [(65536, 200), (65537, 400)])
def test_the_number_of_chunks_is_limited(raw: RawConnection, chunks: int, status: int) -> None:
    """E21: a body of more than 65,536 chunks → 400; so many are read."""
    raw.send(_chunked(json.dumps(message(2)).encode().ljust(chunks), 1))
    response = raw.read_response()
    assert response.status == status
    if status == 200:
        assert_answers(response, 2)
    else:
        assert "65536 chunks" in response.json()["error"]


def test_a_client_that_expects_100_continue_is_told_to_go_on(raw: RawConnection) -> None:
    """H08: `Expect: 100-continue`, as curl sends it with large bodies."""
    body = json.dumps(message(2)).encode()
    request = request_bytes("POST", PATH, body, "Expect: 100-continue")
    raw.send(request[: -len(body)])
    assert raw.read_response().status == 100
    raw.send(body)
    assert_answers(raw.read_response(), 2)


def test_http_1_0_is_answered_and_the_connection_closed(raw: RawConnection) -> None:
    """H08: an old client gets its answer and the end of the connection."""
    raw.send(request_bytes("POST", PATH, json.dumps(message(2)).encode(), version="1.0"))
    assert_answers(raw.read_response(), 2)
    assert raw.is_closed()


def test_connection_close_is_honoured(raw: RawConnection) -> None:
    """H08: the server says and does as it was asked."""
    raw.send(infer(2, "", "Connection: close"))
    response = raw.read_response()
    assert_answers(response, 2)
    assert response.headers["connection"] == "close"
    assert raw.is_closed()


def test_header_names_are_read_in_any_case(raw: RawConnection) -> None:
    """2.5: header names have no case."""
    entry = message(0)["inputs"][0] | {"parameters": {"binary_data_size": 16}}
    del entry["data"]
    head = json.dumps({"inputs": [entry]}).encode()
    body = head + np.full(4, 2, "<f4").tobytes()
    header = f"INFERENCE-header-CONTENT-length: {len(head)}"
    raw.send(request_bytes("POST", PATH, body, header))
    assert_answers(raw.read_response(), 2)


@pytest.mark.usefixtures("unharmed")
@pytest.mark.parametrize("count", [1, 100])
def test_headers_over_the_limit_are_refused_and_the_connection_closed(
    raw: RawConnection, count: int
) -> None:
    """2.2 errors: more than 64 KiB of headers, in one line or many, is a 4xx and the end."""
    value = "x" * (2 * HEADER_LIMIT // count)
    try:
        raw.send(infer(1, "", *(f"X-{i}: {value}" for i in range(count))))
        assert_json_error(raw.read_response())
    except ConnectionResetError:
        return  # closed while we were still sending: refused as well, the answer lost on its way
    assert raw.is_closed()


@pytest.mark.usefixtures("unharmed")
@pytest.mark.parametrize(
    "beginning",
    [b"GET /v2 HTTP/1.1\r\nHost: test\r\nX: ", b"GET /v2 HTTP/1.1\r\nX", b"GET /"],
    ids=["value", "name", "path"],
)
def test_a_header_without_an_end_is_cut_off(raw: RawConnection, beginning: bytes) -> None:
    """2.2 errors: the limit holds before the line is complete, or memory would have none."""
    raw.send(beginning)
    refused = False
    for _ in range(256):
        readable, _, _ = select.select([raw.socket], [], [], 0)
        if readable:
            refused = True
            break
        try:
            raw.send(b"x" * HEADER_LIMIT)
        except (ConnectionResetError, BrokenPipeError):
            refused = True
            break
    assert refused, "16 MiB of one header line were accepted"


@pytest.mark.usefixtures("unharmed")
@pytest.mark.parametrize(
    "nonsense",
    [
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"POST " + PATH.encode() + b" HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"POST " + PATH.encode() + b" HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST " + PATH.encode() + b" HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST " + PATH.encode() + b" HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        b"POST " + PATH.encode() + b" HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST "
        + PATH.encode()
        + b" HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\n: no name\r\n\r\n",
    ],
    ids=[
        "words",
        "tls",
        "length x",
        "length -1",
        "two lengths",
        "huge length",
        "chunk",
        "both",
        "name",
    ],
)
def test_what_is_not_http_is_refused_and_the_connection_closed(
    raw: RawConnection, nonsense: bytes
) -> None:
    """2.2 errors: malformed HTTP is a 4xx in the protocol's form of an error, and the end."""
    raw.send(nonsense)
    assert_json_error(raw.read_response())
    assert raw.is_closed()


@pytest.mark.usefixtures("unharmed")
@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_client_that_leaves_before_the_end_harms_nobody(
    raw: RawConnection, keep: float, chunked: bool
) -> None:
    """H08: a body that is cut short by the end of its connection."""
    request = _chunked(json.dumps(message(1)).encode(), 9) if chunked else infer(1)
    head = request.index(b"\r\n\r\n") + 4
    raw.send(request[: head + int(keep * (len(request) - head))])
    raw.close()


@pytest.mark.usefixtures("unharmed")
def test_a_client_that_leaves_before_its_answer_harms_nobody(oip: OipServer) -> None:
    """E35: answers to clients that have gone, pipelined ones too, are dropped."""
    for request in (slow_infer("a"), slow_infer("a") + infer(1), slow_infer("a") + SERVER):
        with raw_connection(oip.http_url) as connection:
            connection.send(request)


@pytest.mark.usefixtures("unharmed")
def test_a_body_in_many_small_packets_is_read(raw: RawConnection) -> None:
    """H08: packets end where they will, in headers and in the body."""
    for byte in infer(2):
        raw.send(bytes([byte]))
    assert_answers(raw.read_response(), 2)


def test_pipelined_requests_in_uneven_packets_are_answered_in_order(raw: RawConnection) -> None:
    """H08: a packet may end one request and begin the next."""
    stream = b"".join(infer(v, str(v)) + LIVE for v in range(4))
    for start in range(0, len(stream), 37):
        raw.send(stream[start : start + 37])
    for value in range(4):
        assert_answers(raw.read_response(), value)
        assert raw.read_response().status == 200


@pytest.mark.usefixtures("unharmed")
def test_a_client_that_does_not_read_holds_up_nobody(oip: OipServer, raw: RawConnection) -> None:
    """H08: long answers that nobody reads wait on their own connection; others are served."""
    entry = {"name": "count", "shape": [1], "datatype": "INT64", "data": [500_000]}
    output = {"name": "y", "parameters": {"binary_data": True}}
    request = infer_bytes("zeros", {"inputs": [entry], "outputs": [output]})
    raw.send(*[request] * 20)
    with raw_connection(oip.http_url) as other:
        for value in range(5):
            other.send(infer(value))
            assert_answers(other.read_response(), value)
    for _ in range(20):
        response = raw.read_response()
        assert len(response.body) > 2_000_000
    raw.send(infer(1))
    assert_answers(raw.read_response(), 1)


def test_a_body_of_the_limit_and_its_answer_pass_whole(oip: OipServer, http: httpx.Client) -> None:
    """E20, 2.5: a large body that arrives in many packets, answered in as many."""
    count = 1_000_000
    values = np.arange(count, dtype="<f4")
    head = json.dumps(
        {
            "inputs": [
                {
                    "name": "input",
                    "shape": [1, count],
                    "datatype": "FP32",
                    "parameters": {"binary_data_size": values.nbytes},
                }
            ],
            "parameters": {"binary_data_output": True},
        }
    ).encode()
    response = http.post(
        "/v2/models/identity_fp32/infer",
        content=head + values.tobytes(),
        headers={"Inference-Header-Content-Length": str(len(head))},
    )
    length = int(response.headers["Inference-Header-Content-Length"])
    assert response.content[length:] == values.tobytes()
