"""Bodies of the inference route over HTTP: JSON (2.2, 2.4) and the binary extension (2.5)."""

import json
import struct
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest

from tests.support.servers import OipServer
from tests.support.tiny_models import WEIGHTS

ROW = [1.0, 2.0, 3.0, 4.0]
ANSWER = (np.array([ROW], np.float32) @ WEIGHTS).ravel().tolist()
HEADER = "Inference-Header-Content-Length"
PATH = "/v2/models/matmul/infer"


def tensor(**changes: Any) -> dict[str, Any]:
    """The input of `matmul`, changed; a value None leaves the key out."""
    entry = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": ROW} | changes
    return {k: v for k, v in entry.items() if v is not None}


def message(**changes: Any) -> dict[str, Any]:
    """A good request to `matmul`, changed."""
    return {"inputs": [tensor()]} | changes


def post_binary(
    http: httpx.Client, head: dict[str, Any], rest: bytes = b"", path: str = PATH
) -> httpx.Response:
    """Send a JSON part and what follows it, with the header that says where it ends."""
    body = json.dumps(head).encode()
    return http.post(path, content=body + rest, headers={HEADER: str(len(body))})


def error_text(response: httpx.Response, status: int = 400) -> str:
    """The text of an error whose status and form have been checked."""
    assert response.status_code == status, response.content
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert list(body) == ["error"]
    assert isinstance(body["error"], str)
    return body["error"]


def assert_still_answers(http: httpx.Client) -> None:
    """The next good request is answered."""
    assert http.post(PATH, json=message()).json()["outputs"][0]["data"] == ANSWER


def test_the_answer_is_json_with_flat_data(http: httpx.Client) -> None:
    """2.2 response: every required field, `data` flat, `Content-Type: application/json`."""
    response = http.post(PATH, json=message(id="seven"))
    assert response.headers["content-type"] == "application/json"
    assert HEADER.lower() not in response.headers
    assert response.json() == {
        "id": "seven",
        "model_name": "matmul",
        "model_version": "1",
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 3], "data": ANSWER}],
    }


@pytest.mark.parametrize(
    "data", [ROW, [ROW], [[1.0, 2.0], [3.0, 4.0]], [1, 2, 3, 4], [[1, 2.0, 3, 4]]], ids=repr
)
def test_nested_and_flat_data_give_the_same_answer(http: httpx.Client, data: Any) -> None:
    """2.2 data: nested by rows or flat, row-major either way; whole numbers are numbers too."""
    response = http.post(PATH, json=message(inputs=[tensor(data=data)]))
    assert response.json()["outputs"][0]["data"] == ANSWER


def test_an_id_is_left_out_of_the_answer_where_none_was_given(http: httpx.Client) -> None:
    """2.2 request: `id` is optional and only echoed when given."""
    assert "id" not in http.post(PATH, json=message()).json()


@pytest.mark.parametrize(
    "extra",
    [
        {"unknown": {"deeply": [1, None]}},
        {"parameters": {}},
        {"parameters": {"text": "a", "number": 1.5, "flag": True}},
        {"parameters": None},
        {"outputs": None},
    ],
    ids=repr,
)
def test_what_the_server_does_not_know_is_ignored(http: httpx.Client, extra: Any) -> None:
    """2.2: unknown keys at top level and unreserved parameters are no error."""
    assert http.post(PATH, json=message(**extra)).json()["outputs"][0]["data"] == ANSWER


def test_strings_are_json_strings(http: httpx.Client) -> None:
    """2.2 datatypes: BYTES in JSON is a list of strings, nested or flat."""
    words = ["é€", "", 'quote " backslash \\', "a\u0000b"]
    for data in (words, [words[:2], words[2:]]):
        entry = {"name": "input", "shape": [2, 2], "datatype": "BYTES", "data": data}
        answer = http.post("/v2/models/identity_bytes/infer", json={"inputs": [entry]}).json()
        assert answer["outputs"][0]["data"] == words


@pytest.mark.parametrize("value", [2**63, 2**64 - 1, 2**53 + 1])
def test_large_unsigned_numbers_keep_every_digit_beside_small_ones(
    http: httpx.Client, value: int
) -> None:
    """2.2 UINT64: a value above 2^63 may stand beside a small one and neither loses a digit."""
    entry = {"name": "input", "shape": [1, 2], "datatype": "UINT64", "data": [1, value]}
    response = http.post("/v2/models/identity_uint64/infer", json={"inputs": [entry]})
    assert response.json()["outputs"][0]["data"] == [1, value]


@pytest.mark.parametrize("value", [2**53 + 1, -(2**63), 2**63 - 1])
def test_large_signed_numbers_keep_every_digit(http: httpx.Client, value: int) -> None:
    """2.2 INT64: no value passes through a float on its way."""
    entry = {"name": "input", "shape": [1, 2], "datatype": "INT64", "data": [0, value]}
    response = http.post("/v2/models/identity_int64/infer", json={"inputs": [entry]})
    assert response.json()["outputs"][0]["data"] == [0, value]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"nonsense", b"\xff\xfe", b"null", b"[]", b"7", b'"text"', b"{}{}", b"[" * 5000],
    ids=repr,
)
def test_a_body_that_is_no_json_object_is_refused(http: httpx.Client, body: bytes) -> None:
    """E11: 400 (Triton: 500) with `Unable to parse`."""
    assert "Unable to parse" in error_text(http.post(PATH, content=body))
    assert_still_answers(http)


@pytest.mark.parametrize(
    ("field", "changed"),
    [
        ("inputs", message(inputs=None)),
        ("inputs", {"id": "no inputs"}),
        ("inputs", message(inputs={})),
        ("inputs", message(inputs=[7])),
        ("name", message(inputs=[tensor(name=None)])),
        ("name", message(inputs=[tensor(name=7)])),
        ("datatype", message(inputs=[tensor(datatype=None)])),
        ("datatype", message(inputs=[tensor(datatype=["FP32"])])),
        ("shape", message(inputs=[tensor(shape=None)])),
        ("shape", message(inputs=[tensor(shape=4)])),
        ("shape", message(inputs=[tensor(shape=[1, "4"])])),
        ("shape", message(inputs=[tensor(shape=[1, 4.0])])),
        ("shape", message(inputs=[tensor(shape=[True, 4])])),
        ("shape", message(inputs=[tensor(shape=[-1, -4])])),
        ("shape", message(inputs=[tensor(shape=[1 << 62, 1 << 62])])),
        ("shape", message(inputs=[tensor(shape=[1] * 100)])),
        ("data", message(inputs=[tensor(data=7)])),
        ("data", message(inputs=[tensor(data="1 2 3 4")])),
        ("data", message(inputs=[tensor(data=[1, 2, 3, "4"])])),
        ("data", message(inputs=[tensor(data=[1, 2, 3, None])])),
        ("data", message(inputs=[tensor(data=[1, 2, 3, {}])])),
        ("data", message(inputs=[tensor(data=[[1, 2], [3]])])),
        ("data", message(inputs=[tensor(data=[1e300, 0, 0, 0])])),
        ("id", message(id=7)),
        ("parameters", message(parameters=[])),
        ("parameters", message(inputs=[tensor(parameters=[])])),
        ("binary_data_output", message(parameters={"binary_data_output": 1})),
        ("outputs", message(outputs={})),
        ("outputs", message(outputs=["y"])),
        ("name", message(outputs=[{}])),
        ("binary_data", message(outputs=[{"name": "y", "parameters": {"binary_data": "yes"}}])),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_field_that_is_missing_or_of_the_wrong_kind_is_named(
    http: httpx.Client, field: str, changed: dict[str, Any]
) -> None:
    """E11: 400 (Triton: 500) with `Unable to parse '…'`, naming the field."""
    text = error_text(http.post(PATH, json=changed))
    assert "Unable to parse" in text
    assert f"'{field}'" in text
    assert_still_answers(http)


@pytest.mark.parametrize("data", [[], [1, 2, 3], [1, 2, 3, 4, 5], [[1, 2, 3, 4]] * 2], ids=repr)
def test_data_that_does_not_fill_the_shape_is_refused(http: httpx.Client, data: Any) -> None:
    """E12: 400 (Triton: 500), `Shape does not match true shape of 'data' field`."""
    text = error_text(http.post(PATH, json=message(inputs=[tensor(data=data)])))
    assert "Shape does not match true shape of 'data' field" in text


def test_an_unknown_datatype_is_refused(http: httpx.Client) -> None:
    """E13: `invalid datatype`."""
    text = error_text(http.post(PATH, json=message(inputs=[tensor(datatype="FP12")])))
    assert "invalid datatype 'FP12'" in text


@pytest.mark.parametrize(
    "changed",
    [tensor(data=None), tensor(parameters={"binary_data_size": 16})],
    ids=["none", "both"],
)
def test_an_input_brings_its_data_in_exactly_one_way(
    http: httpx.Client, changed: dict[str, Any]
) -> None:
    """E14: none or more than one of data and binary_data_size is refused."""
    response = post_binary(http, message(inputs=[changed]), b"\0" * 16)
    assert "must set only one of" in error_text(response)


@pytest.mark.parametrize(
    ("datatype", "data"),
    [
        ("INT8", [128]),
        ("INT8", [-129]),
        ("UINT8", [256]),
        ("UINT8", [-1]),
        ("UINT64", [-1]),
        ("INT64", [2**63]),
        ("INT32", [1.5]),
        ("INT32", [True]),
        ("BOOL", [1]),
        ("BOOL", ["true"]),
        ("BYTES", [1]),
        ("BYTES", [None]),
        ("FP64", ["1"]),
    ],
)
def test_a_value_that_its_datatype_cannot_hold_is_refused(
    http: httpx.Client, datatype: str, data: list[Any]
) -> None:
    """E11, 2.2 datatypes: nothing is rounded, wrapped round or converted in silence."""
    entry = {"name": "input", "shape": [1, 1], "datatype": datatype, "data": data}
    path = f"/v2/models/identity_{datatype.lower()}/infer"
    assert "Unable to parse 'data'" in error_text(http.post(path, json={"inputs": [entry]}))


def test_fp16_in_json_is_refused_with_advice(http: httpx.Client) -> None:
    """2.2 FP16: no JSON form, in or out; the text advises binary."""
    path = "/v2/models/identity_fp16/infer"
    entry = {"name": "input", "shape": [1, 1], "datatype": "FP16", "data": [1.0]}
    assert "binary" in error_text(http.post(path, json={"inputs": [entry]}))
    del entry["data"]
    entry["parameters"] = {"binary_data_size": 2}
    response = post_binary(http, {"inputs": [entry]}, b"\0\0", path)
    assert "binary" in error_text(response)


@pytest.mark.parametrize("text", ["[" * 101 + "]" * 101, '{"a":' * 101 + "1" + "}" * 101])
@pytest.mark.parametrize("where", ['{"inputs":[],"extra":%s}', "%s"])
def test_a_body_nested_too_deeply_is_refused(http: httpx.Client, text: str, where: str) -> None:
    """E19: JSON nested deeper than 100 → 400, whether or not it is of use."""
    response = http.post(PATH, content=(where % text).encode())
    assert "nested deeper than 100" in error_text(response)
    assert_still_answers(http)


def test_many_brackets_are_not_depth(http: httpx.Client) -> None:
    """E19: rows beside each other and brackets in strings are not within each other."""
    extra = {"rows": [[[i]] for i in range(500)], "text": "[" * 500, '"\\': '\\"[[' * 300}
    response = http.post(PATH, json=message(extra=extra))
    assert response.json()["outputs"][0]["data"] == ANSWER


def test_an_input_or_output_named_twice_is_refused(http: httpx.Client) -> None:
    """E10: names are unique."""
    twice = http.post(PATH, json=message(inputs=[tensor(), tensor()]))
    assert "'x'" in error_text(twice)
    outputs = [{"name": "y"}, {"name": "y"}]
    assert "'y'" in error_text(http.post(PATH, json=message(outputs=outputs)))


def test_a_body_over_the_limit_is_refused_by_name_of_the_setting(
    http: httpx.Client, oip: OipServer
) -> None:
    """E20: 400 (not 413); the text names the limit and its setting."""
    if oip.max_body_bytes is None:
        pytest.skip("the limit of a given server is not known")
    response = http.post(PATH, content=b" " * (oip.max_body_bytes + 1))
    text = error_text(response)
    assert str(oip.max_body_bytes) in text
    assert "MAX_BODY_BYTES" in text
    assert_still_answers(http)


def test_a_body_of_exactly_the_limit_is_read(http: httpx.Client, oip: OipServer) -> None:
    """E20: the limit itself is allowed."""
    if oip.max_body_bytes is None:
        pytest.skip("the limit of a given server is not known")
    body = json.dumps(message()).encode()
    response = http.post(PATH, content=body.ljust(oip.max_body_bytes))
    assert response.json()["outputs"][0]["data"] == ANSWER


@pytest.mark.parametrize("coding", ["br", "gzip, gzip", "zstd", "nonsense"])
def test_a_content_coding_that_is_not_read_is_unsupported(http: httpx.Client, coding: str) -> None:
    """E22: 501 with those that are read, and the next request on the connection is answered."""
    response = http.post(PATH, json=message(), headers={"Content-Encoding": coding})
    assert coding in error_text(response, 501)
    assert response.headers["accept-encoding"] == "gzip, deflate"
    assert_still_answers(http)


def test_the_identity_coding_is_no_coding(http: httpx.Client) -> None:
    """E22: `Content-Encoding: identity` is read."""
    response = http.post(PATH, json=message(), headers={"Content-Encoding": "identity"})
    assert response.status_code == 200


@pytest.mark.parametrize(
    "content_type", [None, "application/json", "text/plain", "application/octet-stream"]
)
def test_the_content_type_of_a_request_does_not_matter(
    http: httpx.Client, content_type: str | None
) -> None:
    """2.5: what a body is follows from its headers of length, not from its content type."""
    headers = {"Content-Type": content_type} if content_type else {}
    response = http.post(PATH, content=json.dumps(message()).encode(), headers=headers)
    assert response.status_code == 200


X = np.array([ROW], "<f4").tobytes()
BINARY = tensor(data=None, parameters={"binary_data_size": 16})


def test_a_binary_input_is_answered_in_json_unless_asked(http: httpx.Client) -> None:
    """2.5: how the input came does not decide how the output goes."""
    response = post_binary(http, message(inputs=[BINARY]), X)
    assert response.headers["content-type"] == "application/json"
    assert response.json()["outputs"][0]["data"] == ANSWER


@pytest.mark.parametrize(
    ("default", "own", "binary"),
    [
        (None, None, False),
        (None, True, True),
        (None, False, False),
        (True, None, True),
        (True, False, False),
        (False, True, True),
    ],
)
def test_an_output_is_binary_where_its_own_parameter_or_the_default_says_so(
    http: httpx.Client, default: bool | None, own: bool | None, binary: bool
) -> None:
    """2.5 requested output: `binary_data` wins over `binary_data_output`."""
    output: dict[str, Any] = {"name": "y"}
    if own is not None:
        output["parameters"] = {"binary_data": own}
    head = message(outputs=[output])
    if default is not None:
        head["parameters"] = {"binary_data_output": default}
    response = http.post(PATH, json=head)
    assert (HEADER.lower() in response.headers) == binary


def test_the_default_holds_for_outputs_that_are_not_listed(http: httpx.Client) -> None:
    """2.5: tritonclient lists no outputs and sets `binary_data_output`."""
    response = http.post(PATH, json=message(parameters={"binary_data_output": True}))
    length = int(response.headers[HEADER])
    head = json.loads(response.content[:length])
    assert response.headers["content-type"] == "application/octet-stream"
    assert "data" not in head["outputs"][0]
    assert head["outputs"][0]["parameters"] == {"binary_data_size": 12}
    assert response.content[length:] == np.array(ANSWER, "<f4").tobytes()
    assert int(response.headers["content-length"]) == len(response.content)


def _integers(name: str, values: list[int], size: int | None) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": name, "shape": [1, 4], "datatype": "INT32"}
    if size is None:
        return entry | {"data": values}
    return entry | {"parameters": {"binary_data_size": size}}


def test_json_and_binary_inputs_may_be_mixed(http: httpx.Client) -> None:
    """2.5: mixed inputs in one request, mixed outputs in one answer."""
    head = {
        "inputs": [_integers("a", [5, 6, 7, 8], None), _integers("b", [], 16)],
        "outputs": [
            {"name": "difference"},
            {"name": "sum", "parameters": {"binary_data": True}},
        ],
    }
    rest = np.array([1, 2, 3, 4], "<i4").tobytes()
    response = post_binary(http, head, rest, "/v2/models/sum_and_difference/infer")
    length = int(response.headers[HEADER])
    outputs = {o["name"]: o for o in json.loads(response.content[:length])["outputs"]}
    assert outputs["difference"]["data"] == [4, 4, 4, 4]
    assert np.frombuffer(response.content[length:], "<i4").tolist() == [6, 8, 10, 12]


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_blobs_follow_in_the_order_of_the_lists(http: httpx.Client, order: tuple[str, str]) -> None:
    """2.5: blobs are concatenated in the order of `inputs` and of the `outputs` sent."""
    values = {"a": [5, 6, 7, 8], "b": [1, 2, 3, 4]}
    head = {
        "inputs": [_integers(name, [], 16) for name in order],
        "parameters": {"binary_data_output": True},
    }
    rest = b"".join(np.array(values[name], "<i4").tobytes() for name in order)
    response = post_binary(http, head, rest, "/v2/models/sum_and_difference/infer")
    offset = int(response.headers[HEADER])
    expected = {"sum": [6, 8, 10, 12], "difference": [4, 4, 4, 4]}
    for output in json.loads(response.content[:offset])["outputs"]:
        blob = response.content[offset : offset + output["parameters"]["binary_data_size"]]
        assert np.frombuffer(blob, "<i4").tolist() == expected[output["name"]]
        offset += len(blob)
    assert offset == len(response.content)


def test_binary_strings_have_their_length_before_them(http: httpx.Client) -> None:
    """2.5: a BYTES element is a 4-byte little-endian length and its content."""
    blob = b"".join(struct.pack("<I", len(w)) + w for w in (b"", b"abc"))
    head = {
        "inputs": [
            {
                "name": "input",
                "shape": [1, 2],
                "datatype": "BYTES",
                "parameters": {"binary_data_size": len(blob)},
            }
        ],
        "parameters": {"binary_data_output": True},
    }
    response = post_binary(http, head, blob, "/v2/models/identity_bytes/infer")
    assert response.content[int(response.headers[HEADER]) :] == blob


@pytest.mark.parametrize("value", ["ten", "1.5", "0x10", "", "1 2", "²"])
def test_a_header_length_that_is_no_integer_is_refused(http: httpx.Client, value: str) -> None:
    """2.5: not an integer → 400."""
    headers = {HEADER.encode(): value.encode("latin-1")}
    error_text(http.post(PATH, content=json.dumps(message()).encode(), headers=headers))
    assert_still_answers(http)


@pytest.mark.parametrize("value", ["-1", "100000", "9" * 30])
def test_a_header_length_out_of_range_is_refused(http: httpx.Client, value: str) -> None:
    """2.5: negative or larger than the body → 400, and the range is told."""
    body = json.dumps(message()).encode()
    text = error_text(http.post(PATH, content=body, headers={HEADER: value}))
    assert f"inference header size should be in range (0, {len(body)})" in text


def test_bytes_left_over_are_refused(http: httpx.Client) -> None:
    """2.5: `unexpected additional input data`."""
    text = error_text(post_binary(http, message(inputs=[BINARY]), X + b"\0"))
    assert "unexpected additional input data" in text


def test_too_few_bytes_are_refused(http: httpx.Client) -> None:
    """2.5, E17: `unexpected size for input`."""
    text = error_text(post_binary(http, message(inputs=[BINARY]), X[:-1]))
    assert "unexpected size for input 'x'" in text


@pytest.mark.parametrize("size", [-1, 15, 17, 1 << 40, 1.5, True, "16", [16]], ids=repr)
def test_a_binary_size_that_does_not_fit_is_refused(http: httpx.Client, size: Any) -> None:
    """E17: byte length ≠ shape × type size, or no byte length at all."""
    entry = tensor(data=None, parameters={"binary_data_size": size})
    error_text(post_binary(http, message(inputs=[entry]), X + b"\0"))
    assert_still_answers(http)


@pytest.mark.parametrize(
    "blob",
    [
        struct.pack("<I", 5) + b"abc",
        b"\1\0",
        struct.pack("<I", 0xFFFFFFFF) + b"abc",
        struct.pack("<I", 1) + b"a",
        b"",
    ],
    ids=["short content", "short length", "huge length", "one of two", "nothing"],
)
def test_strings_that_are_cut_short_are_refused(http: httpx.Client, blob: bytes) -> None:
    """E17: BYTES whose lengths do not fit their content or their shape."""
    entry = {
        "name": "input",
        "shape": [1, 2],
        "datatype": "BYTES",
        "parameters": {"binary_data_size": len(blob)},
    }
    response = post_binary(http, {"inputs": [entry]}, blob, "/v2/models/identity_bytes/infer")
    assert "unexpected size for input 'input'" in error_text(response)


def _no_version(version: str) -> str:
    return f"/v2/models/matmul/versions/{version}"


@pytest.mark.parametrize("suffix", ["", "/ready", "/config", "/infer"])
@pytest.mark.parametrize(
    "path", [_no_version("one"), _no_version("-1"), _no_version("1.0"), _no_version("")]
)
def test_a_version_that_is_no_number_is_no_route(
    http: httpx.Client, path: str, suffix: str
) -> None:
    """H05: a non-digit version is 404 Not Found at the router."""
    send: Callable[..., httpx.Response] = http.post if suffix == "/infer" else http.get
    assert error_text(send(path + suffix), 404) == "Not Found"


@pytest.mark.parametrize("suffix", ["", "/ready", "/config", "/infer"])
def test_a_version_of_absurd_length_is_not_found(http: httpx.Client, suffix: str) -> None:
    """E02: digits beyond any integer are an unknown version, not a failure."""
    path = _no_version("9" * 5000) + suffix
    send: Callable[..., httpx.Response] = http.post if suffix == "/infer" else http.get
    arguments = {"json": message()} if suffix == "/infer" else {}
    error_text(send(path, **arguments), 404)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v2/nothing",
        "/v2/models",
        "/v2/models/",
        "/v2/models/matmul/nothing",
        "/v2/models/matmul/",
        "/v2/health/live/",
        "/v2/health",
        "/v1/models/matmul",
        "/v2/models/a%2Fb/c",
        "//v2",
    ],
)
def test_any_other_path_is_not_found(http: httpx.Client, path: str) -> None:
    """H20: 404 `{"error":"Not Found"}`, no redirect."""
    assert error_text(http.get(path), 404) == "Not Found"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v2"),
        ("POST", "/v2/health/live"),
        ("PUT", "/v2/health/ready"),
        ("POST", "/v2/models/matmul"),
        ("DELETE", "/v2/models/matmul/ready"),
        ("POST", "/v2/models/matmul/config"),
        ("GET", "/v2/models/matmul/infer"),
        ("PUT", "/v2/models/matmul/versions/1/infer"),
        ("GET", "/v2/repository/index"),
    ],
)
def test_a_wrong_method_on_a_known_path_is_told(http: httpx.Client, method: str, path: str) -> None:
    """H21: 405 `{"error":"Method Not Allowed"}`."""
    assert error_text(http.request(method, path), 405) == "Method Not Allowed"


def test_an_encoded_model_name_is_decoded(http: httpx.Client) -> None:
    """H08: the path is percent-decoded, whichever way the request takes."""
    assert http.post("/v2/models/mat%6Dul/infer", json=message()).status_code == 200
    assert http.get("/v2/models/mat%6Dul").json()["name"] == "matmul"


def test_a_query_does_not_change_the_route(http: httpx.Client) -> None:
    """H08: a query string is not part of the path."""
    assert http.post(f"{PATH}?trace=1", json=message()).status_code == 200
