"""What an operator may change of a running server, shared by both protocols."""

from dataclasses import dataclass, field

from atril_common.oip.log_settings import LogSettings
from atril_common.oip.shared_memory import SharedMemory
from atril_common.oip.tracing import Tracer

DEFAULT_MAX_LOAD_BYTES = 256 * 1024 * 1024
"""Largest load request: a model's files travel in it, over HTTP a third larger than they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Controls:
    """The control plane's state and limits.

    Attributes:
        log: what of the process's log is written.
        tracer: whose requests' timestamps are written, and where.
        memory: regions of shared memory that clients have registered.
        max_load_bytes: largest body of a load request.
    """

    log: LogSettings = field(default_factory=LogSettings)
    tracer: Tracer = field(default_factory=Tracer)
    memory: SharedMemory = field(default_factory=lambda: SharedMemory(enabled=True))
    max_load_bytes: int = DEFAULT_MAX_LOAD_BYTES
