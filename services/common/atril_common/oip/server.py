"""What a server says of itself, over either protocol."""

from importlib.metadata import version as package_version
from typing import NamedTuple

from atril_common.core import InferenceCore
from atril_common.lifecycle import Lifecycle
from atril_common.oip.controls import Controls

EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "logging",
    "model_configuration",
    "model_repository",
    "model_repository(unload_dependents)",
    "parameters",
    "schedule_policy",
    "sequence",
    "statistics",
    "trace",
)
"""Only what is implemented whole."""


class ServerMetadata(NamedTuple):
    """Name, version and protocol extensions of a server."""

    name: str = "atril"
    version: str = package_version("atril")
    extensions: tuple[str, ...] = EXTENSIONS

    @classmethod
    def of(cls, controls: Controls) -> "ServerMetadata":
        """With what the server's own settings add or leave out."""
        optional = ("system_shared_memory",) if controls.memory.enabled else ()
        return cls(extensions=(*EXTENSIONS, *optional))


async def is_ready(core: InferenceCore, lifecycle: Lifecycle) -> bool:
    """Whether new requests are welcome."""
    return not lifecycle.draining and await core.ready()
