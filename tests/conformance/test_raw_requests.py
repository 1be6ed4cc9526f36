"""Raw binary requests: header length 0 and a body that is the only tensor (2.5)."""

import json
import struct

import httpx
import numpy as np
import pytest

from tests.support.tiny_models import WEIGHTS

HEADER = "Inference-Header-Content-Length"


def post(http: httpx.Client, model_name: str, body: bytes, version: str = "") -> httpx.Response:
    """A raw request."""
    path = f"/v2/models/{model_name}{version and '/versions/' + version}/infer"
    return http.post(path, content=body, headers={HEADER: "0"})


def refused(response: httpx.Response, status: int = 400) -> str:
    """The text of an error."""
    assert response.status_code == status, response.content
    return str(response.json()["error"])


@pytest.mark.parametrize("version", ["", "1"])
def test_a_raw_request_is_one_row_and_answered_in_binary(http: httpx.Client, version: str) -> None:
    """2.5 raw: batch 1, every output binary, the header tells where they begin."""
    row = np.array([1, 2, 3, 4], "<f4")
    response = post(http, "matmul", row.tobytes(), version)
    assert response.headers["content-type"] == "application/octet-stream"
    length = int(response.headers[HEADER])
    (output,) = json.loads(response.content[:length])["outputs"]
    assert output == {
        "name": "y",
        "datatype": "FP32",
        "shape": [1, 3],
        "parameters": {"binary_data_size": 12},
    }
    assert np.array_equal(np.frombuffer(response.content[length:], "<f4"), row @ WEIGHTS)


@pytest.mark.parametrize("count", [0, 1, 7])
def test_one_variable_dimension_follows_from_the_size(http: httpx.Client, count: int) -> None:
    """2.5 raw: at most one variable dimension, which the body's length tells."""
    response = post(http, "logarithm", np.ones(count, "<f4").tobytes())
    length = int(response.headers[HEADER])
    (output,) = json.loads(response.content[:length])["outputs"]
    assert output["shape"] == [count]
    assert response.content[length:] == bytes(4 * count)


def test_a_raw_string_is_the_content_of_the_only_element(http: httpx.Client) -> None:
    """2.5 raw: a BYTES input of shape [1] takes the body as it is, without a length before it."""
    response = post(http, "one_text", "añil".encode())
    length = int(response.headers[HEADER])
    content = "añil".encode()
    assert response.content[length:] == struct.pack("<I", len(content)) + content


@pytest.mark.parametrize(
    ("model_name", "size", "text"),
    [
        ("sum_and_difference", 16, "only have 1 input"),
        ("identity_fp32", 16, "more than one variable-sized dimension"),
        ("identity_bytes", 3, "shape [1]"),
        ("matmul", 15, "unexpected size for input 'x'"),
        ("matmul", 32, "unexpected size for input 'x'"),
        ("matmul", 0, "unexpected size for input 'x'"),
        ("logarithm", 6, "unexpected size for input 'x'"),
    ],
)
def test_a_body_that_does_not_tell_its_tensor_is_refused(
    http: httpx.Client, model_name: str, size: int, text: str
) -> None:
    """2.5 raw: 400 for several inputs, a shape that cannot be deduced, a size that does not fit."""
    assert text in refused(post(http, model_name, bytes(size)))


def test_a_raw_request_to_an_unknown_model_is_not_found(http: httpx.Client) -> None:
    """E01: as for any request."""
    assert "'nowhere' is not found" in refused(post(http, "nowhere", bytes(4)), 404)
