"""The engine: `InferenceCore` over a model repository on this machine."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

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
    AtrilError,
    InvalidInputError,
    NotFoundError,
    NotReadyError,
    UnsupportedError,
)
from atril_common.model_config import read_config
from atril_common.repository import CONFIG_FILE, list_models, list_versions
from atril_inference.model import ServedModel, load_version
from atril_inference.session_options import SessionOptions

logger = logging.getLogger(__name__)

READY, LOADING, UNAVAILABLE = "READY", "LOADING", "UNAVAILABLE"


class Engine:
    """Loads every model of a repository and answers requests for them.

    A model or version that cannot be loaded does not stop the others; the index says why it is
    unavailable, and the engine is not ready while it is.
    """

    def __init__(self, root: Path, options: SessionOptions, max_queue_size: int) -> None:
        self._root = root
        self._options = options
        self._max_queue_size = max_queue_size
        self._models: dict[str, dict[str, ServedModel]] = {}
        self._latest: dict[str, ServedModel] = {}
        self._index: dict[tuple[str, str], ModelIndexEntry] = {}
        self._loaded = False

    async def start(self) -> None:
        """Load the repository; the engine answers while it does, for what is loaded already."""
        try:
            names = await asyncio.to_thread(list_models, self._root)
        except OSError:
            logger.exception("repository_unreadable", extra={"path": str(self._root)})
            return
        for name in names:
            await self._load_model(name)
        self._loaded = True

    async def close(self) -> None:
        """Refuse new requests, answer those accepted, let the sessions go."""
        await asyncio.gather(*(model.close() for model in self.served()))

    def served(self) -> Iterator[ServedModel]:
        """Every ready version, by model and version."""
        for versions in self._models.values():
            yield from versions.values()

    def entries(self) -> list[ModelIndexEntry]:
        """The repository index."""
        return sorted(self._index.values(), key=lambda e: (e.name, int(e.version or 0)))

    def infer(self, request: InferRequest) -> asyncio.Future[InferResponse]:
        """See `InferenceCore.infer`."""
        model = self._find(request.model_name, request.model_version)
        if model.decoupled:
            raise UnsupportedError(
                f"model '{request.model_name}' has a decoupled transaction policy, which a route "
                f"of exactly one response does not support; use ModelStreamInfer"
            )
        return self._submit(model, request)

    def _submit(self, model: ServedModel, request: InferRequest) -> asyncio.Future[InferResponse]:
        counts = request.options.classification
        try:
            rows = model.validator.check(request)
            model.check_strings(request)
            if counts:
                model.classifier.check(counts)
        except InvalidInputError as err:
            model.statistics.failed(1, err)
            raise
        answered = model.batcher.submit(request, rows)
        return model.classifier.classified(answered, counts) if counts else answered

    async def ready(self) -> bool:
        """See `InferenceCore.ready`."""
        return self._loaded and all(entry.state == READY for entry in self._index.values())

    async def model_ready(self, model_name: str, model_version: str = "") -> bool:
        """See `InferenceCore.model_ready`."""
        try:
            self._find(model_name, model_version)
        except NotReadyError:
            return False
        return True

    async def metadata(self, model_name: str, model_version: str = "") -> ModelMetadata:
        """See `InferenceCore.metadata`."""
        model = self._find(model_name, model_version)
        return model.metadata._replace(versions=tuple(self._models[model_name]))

    async def config(self, model_name: str, model_version: str = "") -> ModelConfig:
        """See `InferenceCore.config`."""
        return self._find(model_name, model_version).config

    async def index(self, *, ready_only: bool = False) -> list[ModelIndexEntry]:
        """See `InferenceCore.index`."""
        return [e for e in self.entries() if not ready_only or e.state == READY]

    async def stream(self, request: InferRequest) -> AsyncIterator[InferResponse]:
        """See `InferenceCore.stream`."""
        model = self._find(request.model_name, request.model_version)
        yield await self._submit(model, request)

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
        return [model.statistics_message() for model in models]

    async def load(self, model_name: str, options: LoadOptions = NO_LOAD_OPTIONS) -> None:  # noqa: ARG002
        """See `InferenceCore.load`."""
        raise UnsupportedError("model load is not implemented")

    async def unload(self, model_name: str, *, unload_dependents: bool = False) -> None:  # noqa: ARG002
        """See `InferenceCore.unload`."""
        raise UnsupportedError("model unload is not implemented")

    def _find(self, model_name: str, model_version: str) -> ServedModel:
        if not model_version:
            model = self._latest.get(model_name)
        else:
            model = self._models.get(model_name, {}).get(model_version)
        if model is None:
            raise self._absence(model_name, model_version)
        return model

    def _absence(self, model_name: str, model_version: str) -> AtrilError:
        """Why a model or version cannot be had, as an error."""
        entries = [e for e in self.entries() if e.name == model_name]
        if not entries:
            known = ", ".join(sorted({e.name for e in self.entries()})) or "none"
            return NotFoundError(
                f"Request for unknown model: '{model_name}' is not found; models here: {known}"
            )
        wanted = [e for e in entries if model_version in ("", e.version) and e.version]
        if wanted:
            entry = wanted[-1]
            return NotReadyError(
                f"Request for unready model: '{model_name}' version {entry.version} is not at "
                f"ready state: {entry.reason or entry.state}"
            )
        if model_version:
            return NotFoundError(
                f"Request for unknown model: '{model_name}' version {model_version} is not found"
            )
        return NotFoundError(
            f"Request for unknown model: '{model_name}' has no available versions: "
            f"{entries[-1].reason}"
        )

    async def _load_model(self, name: str) -> None:
        folder = self._root / name
        try:
            config, versions = await asyncio.to_thread(_read_model, folder)
        except (AtrilError, OSError) as err:
            self._note(name, "", UNAVAILABLE, str(err))
            return
        for version in versions:
            self._note(name, str(version), LOADING)
            try:
                loaded = await asyncio.to_thread(
                    load_version, folder, version, config, self._options
                )
            except (NotReadyError, OSError) as err:
                self._note(name, str(version), UNAVAILABLE, str(err))
                continue
            except Exception as err:
                logger.exception("load_failed", extra={"model_name": name})
                self._note(name, str(version), UNAVAILABLE, f"cannot be loaded: {err!r}")
                continue
            model = ServedModel(loaded, self._max_queue_size)
            self._models.setdefault(name, {})[model.version] = model
            self._latest[name] = model
            self._note(name, model.version, READY)

    def _note(self, name: str, version: str, state: str, reason: str = "") -> None:
        self._index[name, version] = ModelIndexEntry(name, version, state, reason)
        level = logging.ERROR if state == UNAVAILABLE else logging.INFO
        logger.log(
            level,
            "model_state",
            extra={"model_name": name, "model_version": version, "state": state, "reason": reason},
        )


def _read_model(folder: Path) -> tuple[ModelConfig, list[int]]:
    """A model's configuration and the versions that its policy wants served, ascending.

    Raises:
        InvalidInputError: the configuration is malformed or names another model.
        NotFoundError: there is no version to serve.
    """
    config = read_config(folder / CONFIG_FILE)
    if config.name not in ("", folder.name):
        raise InvalidInputError(
            f"{CONFIG_FILE} names model '{config.name}', but the folder is '{folder.name}'"
        )
    config.name = folder.name
    present = list_versions(folder.parent, folder.name)
    policy = config.version_policy
    if policy.HasField("all"):
        versions = present
    elif policy.HasField("specific"):
        versions = [v for v in present if v in set(policy.specific.versions)]
    else:
        versions = present[-max(1, policy.latest.num_versions) :]
    if not versions:
        raise NotFoundError(f"the repository has no version to serve, only {present}")
    return config, versions
