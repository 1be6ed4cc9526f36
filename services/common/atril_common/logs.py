"""Structured logs: one JSON object a line on standard error."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

import orjson

_STANDARD = frozenset(vars(logging.LogRecord("", 0, "", 0, "", (), None))) | {"message", "asctime"}


class JsonFormatter(logging.Formatter):
    """Time, level, logger and event of a record, and the fields given as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line of JSON."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        line.update({k: v for k, v in vars(record).items() if k not in _STANDARD})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return _to_json(line)


class LineFormatter(logging.Formatter):
    """The same as a line of text, as Triton writes it: `I1123 19:31:19.735922 42 x.py:7] "…"`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, with the fields given as `extra` as JSON behind the event."""
        when = datetime.fromtimestamp(record.created, UTC).strftime("%m%d %H:%M:%S.%f")
        where = f"{record.process} {record.filename}:{record.lineno}]"
        extra = {k: v for k, v in vars(record).items() if k not in _STANDARD}
        if record.exc_info:
            extra["traceback"] = self.formatException(record.exc_info)
        rest = f" {_to_json(extra)}" if extra else ""
        return f"{record.levelname[0]}{when} {where} {_to_json(record.getMessage())}{rest}"


def _to_json(content: object) -> str:
    try:
        return orjson.dumps(content, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
    except TypeError:  # an integer over 64 bits, a lone surrogate: slower, but it writes them
        return json.dumps(content, default=str)


def configure_logging(level: str = "INFO") -> None:
    """Send every log record of the process to standard error as JSON; called once, by `main`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
