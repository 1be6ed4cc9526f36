"""The protocol's logging extension (H18, 2.11) over Python's logging."""

import logging
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from atril_common.errors import InvalidInputError, UnsupportedError, sample
from atril_common.logs import JsonFormatter, LineFormatter

_MAX_VERBOSITY = 2**32 - 1

_FORMATTERS: Mapping[str, Callable[[], logging.Formatter]] = MappingProxyType(
    {"ISO8601": JsonFormatter, "default": LineFormatter}
)
"""Triton's names: ISO8601 are the JSON lines a service starts with, default are Triton's lines."""


class LogSettings:
    """Which records a process writes, and in which form; a change takes effect at once.

    Args:
        root: the logger whose level and handlers are changed; the process's own if not given.
    """

    def __init__(self, root: logging.Logger | None = None) -> None:
        self._root = root or logging.getLogger()
        level = self._root.level
        self._settings: dict[str, bool | int | str] = {
            "log_file": "",
            "log_info": level <= logging.INFO,
            "log_warning": level <= logging.WARNING,
            "log_error": level <= logging.ERROR,
            "log_verbose_level": int(level <= logging.DEBUG),
            "log_format": "ISO8601",
        }

    def get(self) -> dict[str, bool | int | str]:
        """Every setting by its name in the protocol."""
        return dict(self._settings)

    def update(self, changes: Mapping[str, object]) -> None:
        """Change settings, all or none.

        Raises:
            InvalidInputError: an unknown setting, or a value of another kind.
            UnsupportedError: `log_file`, which is read-only (case E34).
        """
        self._settings |= {name: _value(name, value) for name, value in changes.items()}
        self._apply(reformat="log_format" in changes)

    def _apply(self, *, reformat: bool) -> None:
        self._root.setLevel(self._lowest_level())
        for handler in self._root.handlers:
            if self._wanted not in handler.filters:
                handler.addFilter(self._wanted)
            if reformat:
                handler.setFormatter(_FORMATTERS[str(self._settings["log_format"])]())

    def _lowest_level(self) -> int:
        for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
            if self._is_written(level):
                return level
        return logging.CRITICAL + 1

    def _wanted(self, record: logging.LogRecord) -> bool:
        """Each class of records is switched by itself: warnings may be off while infos are on."""
        return self._is_written(record.levelno)

    def _is_written(self, level: int) -> bool:
        if level >= logging.ERROR:
            return bool(self._settings["log_error"])
        if level >= logging.WARNING:
            return bool(self._settings["log_warning"])
        if level >= logging.INFO:
            return bool(self._settings["log_info"])
        return int(self._settings["log_verbose_level"]) > 0


def _value(name: str, value: Any) -> bool | int | str:
    if name == "log_file":
        raise UnsupportedError("log file location can not be updated through network protocol")
    if name in ("log_info", "log_warning", "log_error"):
        if isinstance(value, bool):
            return value
        raise _wrong(name, "true or false", value)
    if name == "log_verbose_level":
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_VERBOSITY:
            return value
        raise _wrong(name, "a number from 0", value)
    if name == "log_format":
        if isinstance(value, str) and value in _FORMATTERS:
            return value
        raise _wrong(name, " or ".join(f"'{known}'" for known in _FORMATTERS), value)
    raise InvalidInputError(
        f"unknown log setting {sample(name)}: expected log_info, log_warning, log_error, "
        "log_verbose_level or log_format"
    )


def _wrong(name: str, expected: str, value: object) -> InvalidInputError:
    return InvalidInputError(f"log setting '{name}': expected {expected}, got {sample(value)}")
