"""The logging extension over Python's logging."""

import json
import logging

import pytest

from atril_common.errors import InvalidInputError, UnsupportedError
from atril_common.logs import JsonFormatter, LineFormatter
from atril_common.oip.log_settings import LogSettings


class Lines(logging.Handler):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.setFormatter(JsonFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one line."""
        self.lines.append(self.format(record))


@pytest.fixture
def root() -> logging.Logger:
    """A logger of its own that stands for the process's, with one handler."""
    logger = logging.Logger("root", logging.INFO)
    logger.addHandler(Lines())
    return logger


def written(root: logging.Logger) -> list[str]:
    """The lines written since the last call."""
    (handler,) = root.handlers
    assert isinstance(handler, Lines)
    lines, handler.lines = handler.lines, []
    return lines


def write_each(logger: logging.Logger) -> None:
    """One record of each class."""
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
        logger.log(level, logging.getLevelName(level))


def events(root: logging.Logger) -> list[str]:
    """The events of those lines."""
    return [json.loads(line)["event"] for line in written(root)]


def test_the_settings_begin_with_the_level_in_force(root: logging.Logger) -> None:
    """A process that writes from INFO on says so; nothing is changed by asking."""
    settings = LogSettings(root).get()
    assert settings["log_info"] is True
    assert settings["log_verbose_level"] == 0
    assert LogSettings(logging.Logger("quiet", logging.WARNING)).get()["log_info"] is False


def test_a_verbose_level_writes_debug_records(root: logging.Logger) -> None:
    """H18: verbosity has an effect on the process's log."""
    settings = LogSettings(root)
    settings.update({"log_verbose_level": 1})
    write_each(root)
    assert events(root) == ["DEBUG", "INFO", "WARNING", "ERROR"]
    settings.update({"log_verbose_level": 0})
    write_each(root)
    assert events(root) == ["INFO", "WARNING", "ERROR"]


def test_each_class_of_records_is_switched_by_itself(root: logging.Logger) -> None:
    """Warnings may be off while infos and errors are on."""
    LogSettings(root).update({"log_warning": False})
    write_each(root)
    assert events(root) == ["INFO", "ERROR"]


def test_everything_may_be_off(root: logging.Logger) -> None:
    """With all switches off not even an error is written."""
    LogSettings(root).update({"log_info": False, "log_warning": False, "log_error": False})
    write_each(root)
    assert written(root) == []


def test_the_format_is_json_or_tritons_line(root: logging.Logger) -> None:
    """`default` is Triton's line, `ISO8601` the JSON line with its ISO 8601 time."""
    settings = LogSettings(root)
    settings.update({"log_format": "default"})
    root.warning("model_state", extra={"state": "READY"})
    (line,) = written(root)
    assert line.startswith("W")
    assert line.endswith('] "model_state" {"state":"READY"}')
    settings.update({"log_format": "ISO8601"})
    root.warning("model_state")
    assert events(root) == ["model_state"]


def test_a_line_holds_the_traceback_of_an_error() -> None:
    """An exception stays on the line of its record."""
    try:
        raise ValueError("two\nlines")
    except ValueError as err:
        details = (ValueError, err, err.__traceback__)
        record = logging.LogRecord("x", logging.ERROR, "f.py", 1, "failed", (), details)
    line = LineFormatter().format(record)
    assert line.startswith("E")
    assert "\n" not in line
    assert "ValueError" in line


def test_a_change_is_made_whole_or_not_at_all(root: logging.Logger) -> None:
    """A wrong value beside a good one leaves both as they were."""
    settings = LogSettings(root)
    before = settings.get()
    with pytest.raises(InvalidInputError, match="'log_warning': expected true or false, got 1"):
        settings.update({"log_info": False, "log_warning": 1})
    with pytest.raises(UnsupportedError):
        settings.update({"log_info": False, "log_file": "x"})
    assert settings.get() == before
