"""Logging and trace settings (H17, H18, 2.11), which a server lets its operator change."""

from collections.abc import Iterator

import grpc
import httpx
import pytest
import tritonclient.grpc as triton_grpc
from tritonclient.grpc import service_pb2 as pb

from tests.support.servers import OipServer
from tests.support.transports import Grpc

TRACE_SETTINGS = {
    "trace_level", "trace_rate", "trace_count", "log_frequency", "trace_file", "trace_mode",
}  # fmt: skip
LOG_SETTINGS = {
    "log_file", "log_info", "log_warning", "log_error", "log_verbose_level", "log_format",
}  # fmt: skip


@pytest.fixture
def log(http: httpx.Client) -> Iterator[httpx.Client]:
    """A client; the log settings are afterwards what they were before."""
    before = http.get("/v2/logging").json()
    yield http
    before.pop("log_file")
    assert http.post("/v2/logging", json=before).status_code == 200


@pytest.fixture
def trace(http: httpx.Client) -> Iterator[httpx.Client]:
    """A client; the trace settings are afterwards the server's defaults."""
    yield http
    cleared = dict.fromkeys(("trace_level", "trace_rate", "trace_count", "log_frequency"))
    for path in ("/v2/models/matmul/trace/setting", "/v2/trace/setting"):
        assert http.post(path, json=cleared).status_code == 200


def test_the_log_settings_have_the_names_and_kinds_of_the_extension(http: httpx.Client) -> None:
    """H18: file, three switches, a verbosity, a format."""
    settings = http.get("/v2/logging").json()
    assert set(settings) == LOG_SETTINGS
    assert isinstance(settings["log_file"], str)
    for switch in ("log_info", "log_warning", "log_error"):
        assert isinstance(settings[switch], bool)
    assert type(settings["log_verbose_level"]) is int
    assert settings["log_format"] in ("default", "ISO8601")


def test_changed_log_settings_are_answered_and_kept(log: httpx.Client) -> None:
    """H18: POST returns the new settings, and leaves the others as they were."""
    before = log.get("/v2/logging").json()
    changes = {"log_verbose_level": 1, "log_info": not before["log_info"]}
    assert log.post("/v2/logging", json=changes).json() == before | changes
    assert log.get("/v2/logging").json() == before | changes


@pytest.mark.parametrize("log_format", ["default", "ISO8601"])
def test_both_log_formats_can_be_had(log: httpx.Client, log_format: str) -> None:
    """2.11: `log_format` is `default` or `ISO8601`."""
    answer = log.post("/v2/logging", json={"log_format": log_format})
    assert answer.json()["log_format"] == log_format


@pytest.mark.parametrize(
    ("path", "setting"), [("/v2/logging", "log_file"), ("/v2/trace/setting", "trace_file")]
)
def test_the_file_of_log_and_trace_is_read_only(
    http: httpx.Client, path: str, setting: str
) -> None:
    """E34: 501, and the setting keeps its value."""
    before = http.get(path).json()
    refused = http.post(path, json={setting: "elsewhere"})
    assert refused.status_code == 501
    assert "can not be updated" in refused.json()["error"]
    assert http.get(path).json() == before


@pytest.mark.parametrize(
    "body",
    [
        b'{"log_info": 1}',
        b'{"log_verbose_level": "1"}',
        b'{"log_verbose_level": -1}',
        b'{"log_verbose_level": true}',
        b'{"log_format": "x"}',
        b"{",
    ],
)
def test_a_wrong_log_setting_is_refused(http: httpx.Client, body: bytes) -> None:
    """E11, H18: a value of another kind is 400 and changes nothing."""
    before = http.get("/v2/logging").json()
    assert http.post("/v2/logging", content=body).status_code == 400
    assert http.get("/v2/logging").json() == before


def test_an_unknown_setting_is_refused(http: httpx.Client) -> None:
    """2.11: a misspelt setting is 400 and named, not ignored."""
    for path in ("/v2/logging", "/v2/trace/setting"):
        refused = http.post(path, json={"verbose": "1"})
        assert refused.status_code == 400
        assert "'verbose'" in refused.json()["error"]


def test_log_settings_over_grpc(rpc: Grpc, log: httpx.Client) -> None:
    """2.8 LogSettings: the same settings, each in the field of its kind."""
    request = pb.LogSettingsRequest()
    request.settings["log_verbose_level"].uint32_param = 2
    request.settings["log_warning"].bool_param = False
    settings = rpc.stub.LogSettings(request).settings
    assert set(settings) == LOG_SETTINGS
    assert settings["log_verbose_level"].uint32_param == 2
    assert settings["log_warning"].bool_param is False
    assert settings["log_format"].string_param in ("default", "ISO8601")
    assert rpc.stub.LogSettings(pb.LogSettingsRequest()).settings == settings
    assert log.get("/v2/logging").json()["log_verbose_level"] == 2


def test_a_wrong_log_setting_over_grpc_is_refused(rpc: Grpc) -> None:
    """2.8 LogSettings, E34: INVALID_ARGUMENT for a wrong kind, UNIMPLEMENTED for the file."""
    for name, value, code in (
        ("log_info", "yes", grpc.StatusCode.INVALID_ARGUMENT),
        ("log_file", "elsewhere", grpc.StatusCode.UNIMPLEMENTED),
    ):
        request = pb.LogSettingsRequest()
        request.settings[name].string_param = value
        with pytest.raises(grpc.RpcError) as refused:
            rpc.stub.LogSettings(request)
        assert refused.value.code() is code


def test_the_trace_settings_are_strings(http: httpx.Client) -> None:
    """H17, 2.11: a list of levels, every other setting a string."""
    for path in ("/v2/trace/setting", "/v2/models/matmul/trace/setting"):
        settings = http.get(path).json()
        assert set(settings) == TRACE_SETTINGS
        assert settings.pop("trace_level") == ["OFF"]
        assert all(isinstance(value, str) for value in settings.values())


def test_trace_settings_with_a_version_have_no_route(http: httpx.Client) -> None:
    """H17: with `/versions/{v}` it is 404."""
    assert http.get("/v2/models/matmul/versions/1/trace/setting").status_code == 404


def test_changed_trace_settings_are_answered_and_kept(trace: httpx.Client) -> None:
    """H17: POST returns the new settings; models without their own have them too."""
    changes = {"trace_rate": "7", "trace_count": "3", "log_frequency": "2"}
    answer = trace.post("/v2/trace/setting", json=changes).json()
    assert changes.items() <= answer.items()
    assert trace.get("/v2/trace/setting").json() == answer
    assert trace.get("/v2/models/matmul/trace/setting").json() == answer


def test_a_models_own_trace_setting_outlives_a_global_change(trace: httpx.Client) -> None:
    """2.11: what is set for a model goes before what is set for all."""
    trace.post("/v2/models/matmul/trace/setting", json={"trace_rate": "7"})
    trace.post("/v2/trace/setting", json={"trace_rate": "9", "trace_count": "3"})
    own = trace.get("/v2/models/matmul/trace/setting").json()
    assert (own["trace_rate"], own["trace_count"]) == ("7", "3")
    assert trace.get("/v2/trace/setting").json()["trace_rate"] == "9"


def test_null_clears_a_models_own_trace_setting(trace: httpx.Client) -> None:
    """2.11: null clears a model-level override; the global value holds again."""
    trace.post("/v2/models/matmul/trace/setting", json={"trace_rate": "7"})
    trace.post("/v2/trace/setting", json={"trace_rate": "9"})
    answer = trace.post("/v2/models/matmul/trace/setting", json={"trace_rate": None}).json()
    assert answer["trace_rate"] == "9"


def test_null_brings_back_the_default_of_a_global_trace_setting(trace: httpx.Client) -> None:
    """2.11: null on the global setting is the value that the server started with."""
    before = trace.get("/v2/trace/setting").json()
    trace.post("/v2/trace/setting", json={"trace_rate": "9"})
    assert trace.post("/v2/trace/setting", json={"trace_rate": None}).json() == before


@pytest.mark.parametrize(
    "change",
    [
        {"trace_rate": 2},
        {"trace_rate": "x"},
        {"trace_rate": "0"},
        {"trace_rate": "-1"},
        {"trace_count": "-2"},
        {"log_frequency": "-1"},
        {"trace_level": "TIMESTAMPS"},
        {"trace_level": ["LOUD"]},
        {"trace_level": []},
        {"trace_level": ["OFF", "TIMESTAMPS"]},
    ],
    ids=str,
)
def test_a_wrong_trace_setting_is_refused(trace: httpx.Client, change: dict[str, object]) -> None:
    """H17, E11: 400, and nothing is changed."""
    before = trace.get("/v2/trace/setting").json()
    refused = trace.post("/v2/trace/setting", json=change)
    assert refused.status_code == 400
    assert next(iter(change)) in refused.json()["error"]
    assert trace.get("/v2/trace/setting").json() == before


def test_tracing_without_a_file_to_write_to_is_refused(trace: httpx.Client) -> None:
    """2.11: the trace file is given at the start; without it no level can be asked for."""
    if trace.get("/v2/trace/setting").json()["trace_file"]:
        pytest.skip("this server has a trace file")
    refused = trace.post("/v2/trace/setting", json={"trace_level": ["TIMESTAMPS"]})
    assert refused.status_code == 400
    assert "trace file name is not given" in refused.json()["error"]


@pytest.mark.parametrize("body", [b"", b"{}"])
def test_the_trace_settings_of_an_unknown_model_are_refused(
    http: httpx.Client, body: bytes
) -> None:
    """H17: 400, as Triton answers."""
    path = "/v2/models/nowhere/trace/setting"
    answer = http.post(path, content=body) if body else http.get(path)
    assert answer.status_code == 400
    assert "Request for unknown model" in answer.json()["error"]


def test_trace_settings_over_grpc(oip: OipServer, trace: httpx.Client) -> None:
    """2.8 TraceSetting: Triton's own client changes, reads and clears a model's setting."""
    with triton_grpc.InferenceServerClient(oip.grpc_address) as client:
        settings = {"trace_rate": "7", "trace_level": ["OFF"]}
        changed = client.update_trace_settings("matmul", settings, as_json=True)["settings"]
        assert changed["trace_rate"] == {"value": ["7"]}
        assert changed["trace_level"] == {"value": ["OFF"]}
        kept = client.get_trace_settings("matmul", as_json=True)["settings"]
        assert kept == changed
        cleared = client.update_trace_settings("matmul", {"trace_rate": None}, as_json=True)
    expected = trace.get("/v2/trace/setting").json()["trace_rate"]
    assert cleared["settings"]["trace_rate"] == {"value": [expected]}


@pytest.mark.parametrize(
    ("model_name", "setting", "values", "code"),
    [
        ("", "trace_rate", ["1", "2"], grpc.StatusCode.INVALID_ARGUMENT),
        ("", "trace_rate", ["x"], grpc.StatusCode.INVALID_ARGUMENT),
        ("", "speed", ["x"], grpc.StatusCode.INVALID_ARGUMENT),
        ("", "trace_file", ["x"], grpc.StatusCode.UNIMPLEMENTED),
        ("nowhere", "trace_rate", ["7"], grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
def test_a_wrong_trace_setting_over_grpc_is_refused(
    rpc: Grpc, model_name: str, setting: str, values: list[str], code: grpc.StatusCode
) -> None:
    """2.8 TraceSetting, E34: the code of each mistake."""
    request = pb.TraceSettingRequest(model_name=model_name)
    request.settings[setting].value.extend(values)
    with pytest.raises(grpc.RpcError) as refused:
        rpc.stub.TraceSetting(request)
    assert refused.value.code() is code
