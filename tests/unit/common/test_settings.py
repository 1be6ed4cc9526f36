"""Settings from the environment."""

import re

import pytest
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from atril_common.errors import InvalidInputError
from atril_common.settings import load_settings
from atril_inference.settings import InferenceSettings


class PlainSettings(BaseSettings):
    """Two settings."""

    model_config = SettingsConfigDict(env_prefix="ATRIL_PLAIN_", frozen=True)

    port: int = Field(80, ge=1, le=65535)
    name: str = "none"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("ATRIL_PLAIN_PORT", "ATRIL_PLAIN_NAME"):
        monkeypatch.delenv(variable, raising=False)


def test_defaults_hold_where_nothing_is_set() -> None:
    """An empty environment is a good one."""
    assert load_settings(PlainSettings).port == 80


def test_a_variable_sets_its_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefix and name, in capitals."""
    monkeypatch.setenv("ATRIL_PLAIN_PORT", "81")
    assert load_settings(PlainSettings).port == 81


def test_variables_of_others_are_none_of_its_business(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what has the prefix is looked at."""
    monkeypatch.setenv("ATRIL_OTHER_PROT", "9")
    assert load_settings(PlainSettings).port == 80


def test_an_unknown_variable_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt variable is not silently ignored; the text says which there are."""
    monkeypatch.setenv("ATRIL_PLAIN_PROT", "81")
    with pytest.raises(InvalidInputError, match=r"ATRIL_PLAIN_PROT.*ATRIL_PLAIN_PORT"):
        load_settings(PlainSettings)


@pytest.mark.parametrize("value", ["0", "65536", "-1", "eighty", "", "80.5"])
def test_a_value_out_of_its_bounds_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """The text names the variable and what it holds."""
    monkeypatch.setenv("ATRIL_PLAIN_PORT", value)
    with pytest.raises(InvalidInputError, match=re.escape(f"ATRIL_PLAIN_PORT='{value}'")):
        load_settings(PlainSettings)


def test_every_bad_value_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One start, all mistakes."""
    monkeypatch.setenv("ATRIL_INFERENCE_HTTP_PORT", "-1")
    monkeypatch.setenv("ATRIL_INFERENCE_DEVICE", "tpu")
    with pytest.raises(InvalidInputError) as raised:
        load_settings(InferenceSettings)
    assert "ATRIL_INFERENCE_HTTP_PORT='-1'" in str(raised.value)
    assert "ATRIL_INFERENCE_DEVICE='tpu'" in str(raised.value)


def test_settings_cannot_be_changed_later() -> None:
    """They are read once."""
    settings = load_settings(PlainSettings)
    with pytest.raises(ValueError, match="frozen"):
        settings.port = 1


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("INTRA_OP_THREADS", "-1"),
        ("INTRA_OP_THREADS", "257"),
        ("MAX_QUEUE_SIZE", "0"),
        ("GRPC_PORT", "65536"),
        ("METRICS_PORT", "-1"),
        ("MAX_BODY_BYTES", "1023"),
        ("DRAIN_S", "-1"),
        ("DRAIN_S", "301"),
        ("DRAIN_S", "nan"),
        ("DEVICE", "CPU0"),
    ],
)
def test_the_inference_settings_are_bounded(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    """Every number of the inference service has its bounds."""
    monkeypatch.setenv(f"ATRIL_INFERENCE_{variable}", value)
    with pytest.raises(InvalidInputError, match=f"ATRIL_INFERENCE_{variable}"):
        load_settings(InferenceSettings)
