"""The port: the one way to reach a model.

The engine implements `InferenceCore` in process; the gateway's remote adapter implements it over
any number of replicas. Fronts are written against the port and never know which they were given.
"""

import asyncio
from typing import NamedTuple, Protocol

from tritonclient.grpc.model_config_pb2 import ModelConfig

from atril_common.tensors import Tensor, TensorSpec


class InferRequest(NamedTuple):
    """One inference request, decoded.

    Shape: every input of a batching model is `[batch, …]` with one common batch size.
    `model_version` empty means the highest ready one; `outputs` empty means all.
    `deadline_s` is a point on the event loop's clock (seconds), or None.
    """

    model_name: str
    inputs: dict[str, Tensor]
    model_version: str = ""
    outputs: tuple[str, ...] = ()
    deadline_s: float | None = None


class InferResponse(NamedTuple):
    """The outputs of one request, in the order in which they were asked for."""

    model_name: str
    model_version: str
    outputs: dict[str, Tensor]


class ModelMetadata(NamedTuple):
    """What the protocol calls model metadata."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class ModelIndexEntry(NamedTuple):
    """One line of the repository index; `state` is a Triton state such as READY, or empty."""

    name: str
    version: str = ""
    state: str = ""
    reason: str = ""


class InferenceCore(Protocol):
    """Everything a front may ask of the models behind it.

    All methods are called on the event loop and raise subclasses of `AtrilError`.
    """

    def infer(self, request: InferRequest) -> asyncio.Future[InferResponse]:
        """Accept a request; the future resolves to its answer or to an `AtrilError`.

        Returns at once. Cancelling the future drops the request if it has not been run yet.

        Raises:
            AtrilError: the request is not acceptable as it stands (unknown model, wrong shape,
                full queue …).
        """
        ...

    async def ready(self) -> bool:
        """Whether every model that is meant to be served is ready."""
        ...

    async def model_ready(self, model_name: str, model_version: str = "") -> bool:
        """Whether one model (its highest version, or the given one) answers requests.

        Raises:
            NotFoundError: unknown model or version.
        """
        ...

    async def metadata(self, model_name: str, model_version: str = "") -> ModelMetadata:
        """Names, datatypes and shapes of a ready model.

        Raises:
            NotFoundError: unknown model or version.
            NotReadyError: known, but it cannot answer now.
        """
        ...

    async def config(self, model_name: str, model_version: str = "") -> ModelConfig:
        """The model's configuration, Triton's message; the caller must not change it.

        Raises:
            NotFoundError: unknown model or version.
            NotReadyError: known, but it cannot answer now.
        """
        ...

    async def index(self, *, ready_only: bool = False) -> list[ModelIndexEntry]:
        """Every model and version that the repository holds, with its state and the reason."""
        ...
