"""How much memory a session takes, as far as it can be seen from outside.

ONNX Runtime does not tell in Python what its arenas hold. So the memory of the process, or on a GPU
of its share of the device, is read before a session is made, after that, and after its warm-up: the
first growth is the session (graph, weights), the second one its arena, which has then met every
size of batch. Whatever else the process did meanwhile is in the figures too.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from atril_inference.gpus import process_bytes
from atril_inference.session_options import SessionOptions

_STATM = Path("/proc/self/statm")


class SessionMemory(NamedTuple):
    """Bytes of a session and of its arena, and where they lie: `CPU` or `GPU`, by index."""

    kind: str
    device_id: int
    session_bytes: int
    arena_bytes: int

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.session_bytes + self.arena_bytes


class MemoryMeter:
    """Watches the memory of the device on which a session is made."""

    def __init__(self, options: SessionOptions) -> None:
        self._kind = "CPU" if options.device == "cpu" else "GPU"
        self._device_id = options.device_id
        self._read: Callable[[], int] = (
            resident_bytes
            if options.device == "cpu"
            else lambda: process_bytes(options.device_id) or 0
        )
        self._before = self._loaded = self._read()

    def loaded(self) -> None:
        """Note that the session has been made."""
        self._loaded = self._read()

    def warmed_up(self) -> SessionMemory:
        """What the session has taken, now that it has been warmed up."""
        session, arena = self._loaded - self._before, self._read() - self._loaded
        return SessionMemory(self._kind, self._device_id, max(0, session), max(0, arena))


def resident_bytes() -> int:
    """Resident memory of this process; 0 where the system does not tell."""
    try:
        pages = int(_STATM.read_text(encoding="utf-8").split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
