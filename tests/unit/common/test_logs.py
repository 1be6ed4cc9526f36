"""Structured logs."""

import json
import logging
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atril_common.logs import JsonFormatter, configure_logging

_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(max_size=4),
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(st.text() | st.integers(), children, max_size=3)
    ),
    max_leaves=6,
)


def record(message: str, **extra: Any) -> logging.LogRecord:
    """A log record with extra fields."""
    made = logging.LogRecord("atril.test", logging.WARNING, "file.py", 1, message, (), None)
    vars(made).update(extra)
    return made


def test_a_record_is_one_line_of_json_with_its_fields() -> None:
    """Time, level, logger, event and the extra fields."""
    line = JsonFormatter().format(record("model_state", model_name="lenet5", version=1))
    parsed = json.loads(line)
    assert "\n" not in line
    assert parsed.pop("time").endswith("+00:00")
    assert parsed == {
        "level": "warning",
        "logger": "atril.test",
        "event": "model_state",
        "model_name": "lenet5",
        "version": 1,
    }


def test_an_exception_is_a_field_of_the_line() -> None:
    """The traceback does not break the line."""
    try:
        raise ValueError("two\nlines")
    except ValueError:
        made = record("failed")
        made.exc_info = sys.exc_info()
    line = JsonFormatter().format(made)
    assert "\n" not in line
    assert "ValueError: two\nlines" in json.loads(line)["traceback"]


@given(_values)
def test_any_field_can_be_logged(value: Any) -> None:
    """A value that JSON has no form for is written as text; no line is ever lost."""
    assert "field" in json.loads(JsonFormatter().format(record("event", field=value)))


def test_a_name_that_is_no_unicode_can_be_logged() -> None:
    """File names may hold any bytes; Python gives them as lone surrogates."""
    assert json.loads(JsonFormatter().format(record("event", path="caf\udce9")))["event"] == "event"


def test_logging_is_configured_for_the_whole_process(capsys: pytest.CaptureFixture[str]) -> None:
    """Every logger, a library's too, writes JSON to standard error."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        configure_logging()
        logging.getLogger("uvicorn.error").warning("from a library")
        logging.getLogger("atril_common").info("from_us", extra={"n": 1})
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    captured = capsys.readouterr()
    assert captured.out == ""
    events = [json.loads(line)["event"] for line in captured.err.splitlines()]
    assert events == ["from a library", "from_us"]
