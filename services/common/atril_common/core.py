"""The port: the one way to reach a model.

The engine implements `InferenceCore` in process; the gateway's remote adapter implements it over
any number of replicas. Fronts are written against the port and never know which they were given.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from types import MappingProxyType
from typing import NamedTuple, Protocol

from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.model_config_pb2 import ModelConfig

from atril_common.tensors import Tensor, TensorSpec

ParameterValue = bool | int | float | str


class SequenceControl(NamedTuple):
    """To which sequence a request belongs, and whether it is the first or the last of it."""

    sequence_id: int | str
    start: bool = False
    end: bool = False


class RequestOptions(NamedTuple):
    """What a request asks for beside its tensors (protocol reference 2.10).

    `priority` 0 is the model's default, 1 the highest; `timeout_us` 0 is the queue policy's own.
    `classification` gives, by output, how many classes to answer in place of the tensor.
    `parameters` are those that the protocol does not reserve. All of it is hashable.
    """

    priority: int = 0
    timeout_us: int = 0
    sequence: SequenceControl | None = None
    classification: tuple[tuple[str, int], ...] = ()
    parameters: tuple[tuple[str, ParameterValue], ...] = ()


NO_OPTIONS = RequestOptions()


class ExecutionTrace(Protocol):
    """Is told when a request that is traced was executed."""

    def executed(self, enqueued_ns: int, stages_ns: tuple[int, int, int, int]) -> None:
        """The request was run.

        Args:
            enqueued_ns: when it joined the queue, on the monotonic clock.
            stages_ns: when its batch was put together, run, answered and taken apart.
        """
        ...


class InferRequest(NamedTuple):
    """One inference request, decoded.

    Shape: every input of a batching model is `[batch, …]` with one common batch size.
    `model_version` empty means the highest ready one; `outputs` empty means all.
    `deadline_s` is a point on the event loop's clock (seconds), or None. `trace`, where the request
    is traced, is told of its execution.
    """

    model_name: str
    inputs: dict[str, Tensor]
    model_version: str = ""
    outputs: tuple[str, ...] = ()
    deadline_s: float | None = None
    options: RequestOptions = NO_OPTIONS
    trace: ExecutionTrace | None = None


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


class LoadOptions(NamedTuple):
    """What a load request brings along.

    `config` is the JSON text of a model configuration that stands in for the repository's;
    `files` are contents by `<version>/<file>` that stand in for the model's folder.
    """

    config: str | None = None
    files: Mapping[str, bytes] = MappingProxyType({})


NO_LOAD_OPTIONS = LoadOptions()


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

    def stream(self, request: InferRequest) -> AsyncIterator[InferResponse]:
        """Answer a request with any number of responses; a model that is not decoupled gives one.

        Closing the iterator cancels the request.

        Raises:
            AtrilError: as for `infer`, at the first step or later.
        """
        ...

    async def statistics(
        self, model_name: str = "", model_version: str = ""
    ) -> list[pb.ModelStatistics]:
        """What the ready versions of one model, or of all, have done (protocol reference 2.8).

        Raises:
            InvalidInputError: unknown model or version (case E05).
        """
        ...

    async def load(self, model_name: str, options: LoadOptions = NO_LOAD_OPTIONS) -> None:
        """Load a model, or load it anew; what is served goes on until the new one is ready.

        Raises:
            NotReadyError: the repository is not under explicit control (case E28).
            NotFoundError: the repository has no such model.
            InvalidInputError: the configuration or a file name is not acceptable.
            LoadFailedError: it cannot be loaded; the text says why (case E29).
        """
        ...

    async def unload(self, model_name: str, *, unload_dependents: bool = False) -> None:
        """Stop serving a model; returns when it takes no more requests, those accepted finish.

        Raises:
            NotReadyError: the repository is not under explicit control (case E28).
            NotFoundError: no such model.
        """
        ...
