"""One request as the log and the metrics tell it."""

import logging
import uuid
from dataclasses import dataclass, field
from time import perf_counter

from atril_common.errors import ErrorKind
from atril_common.telemetry import OK, UNKNOWN_MODEL, Telemetry

logger = logging.getLogger(__name__)

REQUEST_ID = "x-request-id"
"""Header and metadata key of a request's id, which comes back with the answer."""

INTERNAL_ERROR = "internal error"
"""All that a caller learns of an unexpected failure; the log has the rest."""

_MAX_ID_CHARACTERS = 128


@dataclass(slots=True)
class RequestRecord:
    """Filled in while a request is answered; `finish` tells it once.

    `model_name` is what the caller asked for. It becomes a metric's label only after the model was
    found (`known`), so that callers cannot make up labels.
    """

    protocol: str
    request_id: str
    method: str = "unknown"
    model_name: str = ""
    model_version: str = ""
    pictures: int = 0
    known: bool = False
    kind: ErrorKind | None = None
    started: float = field(default_factory=perf_counter)

    def finish(self, telemetry: Telemetry) -> None:
        """Write the request's one log line and count it; on the event loop."""
        duration_s = perf_counter() - self.started
        logger.info(
            "request_finished",
            extra={
                "protocol": self.protocol,
                "request_id": self.request_id,
                "method": self.method,
                "model_name": self.model_name,
                "model_version": self.model_version,
                "outcome": OK if self.kind is None else self.kind.value,
                "duration_ms": round(duration_s * 1000, 3),
                "pictures": self.pictures,
            },
        )
        model = self.model_name if self.known else UNKNOWN_MODEL
        telemetry.observe(self.method, model, self.kind, duration_s)


def request_id_from(text: str) -> str:
    """The caller's own id if it is fit to be logged and echoed, else a new one."""
    if 0 < len(text) <= _MAX_ID_CHARACTERS and text.isascii() and text.isprintable():
        return text
    return uuid.uuid4().hex
