"""The engine: `InferenceCore` over a model repository on this machine."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing

from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.model_config_pb2 import ModelConfig

from atril_common.core import (
    NO_LOAD_OPTIONS,
    InferRequest,
    InferResponse,
    LoadOptions,
    ModelIndexEntry,
    ModelMetadata,
)
from atril_common.errors import (
    InvalidInputError,
    NotFoundError,
    NotReadyError,
    UnsupportedError,
)
from atril_inference.control import Controller, ModelControl
from atril_inference.loader import Loader, LoadPolicy
from atril_inference.manager import READY, Loading, ModelManager, index_order
from atril_inference.repository import Repository
from atril_inference.response_cache import ResponseCache
from atril_inference.served import Served, Serving, statistics_message
from atril_inference.session_options import SessionOptions

logger = logging.getLogger(__name__)

DEFAULT_LOAD_POLICY = LoadPolicy()

NO_CONTROL = ModelControl()
"""Load everything at the start and change nothing after that."""


class Engine:
    """Serves the models of a repository and answers requests for them.

    A model or version that cannot be loaded does not stop the others; the index says why it is
    unavailable.
    """

    def __init__(
        self,
        repository: Repository,
        options: SessionOptions,
        max_queue_size: int,
        control: ModelControl = NO_CONTROL,
        load_policy: LoadPolicy = DEFAULT_LOAD_POLICY,
        response_cache_bytes: int = 0,
    ) -> None:
        cache = ResponseCache(response_cache_bytes) if response_cache_bytes else None
        self._repository = repository
        self._loader = loader = Loader(repository, options, load_policy)
        self._manager = ModelManager(
            Loading(loader.open, loader.load), Serving(max_queue_size, cache)
        )
        self._controller = Controller(control, repository, self._manager)

    async def start(self) -> None:
        """Load the repository; the engine answers while it does, for what is loaded already."""
        await self._controller.start()

    async def close(self) -> None:
        """Refuse new requests, answer those accepted, let the sessions go."""
        await self._controller.close()
        await self._manager.close()
        await asyncio.to_thread(self._loader.close)
        await asyncio.to_thread(self._repository.close)

    def served(self) -> Iterator[Served]:
        """Every ready version, by model and version."""
        return self._manager.served()

    def entries(self) -> list[ModelIndexEntry]:
        """The repository index, of all that was ever to be loaded."""
        return self._manager.entries()

    def infer(self, request: InferRequest) -> asyncio.Future[InferResponse]:
        """See `InferenceCore.infer`."""
        model = self._manager.find(request.model_name, request.model_version)
        if model.decoupled:
            raise UnsupportedError(
                f"model '{request.model_name}' has a decoupled transaction policy, which a route "
                f"of exactly one response does not support; use ModelStreamInfer"
            )
        return model.submit(request)

    async def ready(self) -> bool:
        """See `InferenceCore.ready`."""
        return self._controller.ready

    async def model_ready(self, model_name: str, model_version: str = "") -> bool:
        """See `InferenceCore.model_ready`."""
        try:
            self._manager.find(model_name, model_version)
        except NotReadyError:
            return False
        except NotFoundError:
            if self._manager.was_unloaded(model_name, model_version):
                return False
            raise
        return True

    async def metadata(self, model_name: str, model_version: str = "") -> ModelMetadata:
        """See `InferenceCore.metadata`."""
        model = self._manager.find(model_name, model_version)
        return model.metadata._replace(versions=self._manager.versions(model_name))

    async def config(self, model_name: str, model_version: str = "") -> ModelConfig:
        """See `InferenceCore.config`."""
        return self._manager.find(model_name, model_version).config

    async def index(self, *, ready_only: bool = False) -> list[ModelIndexEntry]:
        """See `InferenceCore.index`."""
        entries = self.entries()
        if ready_only:
            return [entry for entry in entries if entry.state == READY]
        try:
            names = await asyncio.to_thread(self._repository.names)
        except OSError:
            logger.exception("repository_unreadable")
            return entries
        never = set(names).difference(entry.name for entry in entries)
        return sorted([*entries, *map(ModelIndexEntry, never)], key=index_order)

    async def stream(self, request: InferRequest) -> AsyncGenerator[InferResponse, None]:
        """See `InferenceCore.stream`."""
        model = self._manager.find(request.model_name, request.model_version)
        async with aclosing(model.stream(request)) as responses:
            async for response in responses:
                yield response

    async def statistics(
        self, model_name: str = "", model_version: str = ""
    ) -> list[pb.ModelStatistics]:
        """See `InferenceCore.statistics`."""
        models = [
            model
            for model in self.served()
            if model_name in ("", model.config.name) and model_version in ("", model.version)
        ]
        if model_name and not models:
            version = f" version {model_version}" if model_version else ""
            raise InvalidInputError(f"requested model '{model_name}'{version} is not available")
        return [statistics_message(model) for model in models]

    async def load(self, model_name: str, options: LoadOptions = NO_LOAD_OPTIONS) -> None:
        """See `InferenceCore.load`."""
        await self._controller.load(model_name, options)

    async def unload(self, model_name: str, *, unload_dependents: bool = False) -> None:  # noqa: ARG002
        """See `InferenceCore.unload`; no model depends on another here."""
        await self._controller.unload(model_name)
