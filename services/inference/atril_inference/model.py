"""One version of one model: loaded from the repository, checked, warmed up."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import NamedTuple

from tritonclient.grpc.model_config_pb2 import ModelConfig

from atril_common.batching import DynamicBatcher
from atril_common.core import InferRequest, InferResponse, ModelMetadata
from atril_common.errors import InvalidInputError, NotReadyError
from atril_common.repository import MODEL_FILE
from atril_common.tensors import TensorSpec
from atril_common.validation import RequestValidator
from atril_inference.classification import Classifier, read_labels
from atril_inference.declaration import DEFAULT_MAX_BATCH_SIZE, completed, declared
from atril_inference.decoding.statistics import DecodingStatistics
from atril_inference.memory import MemoryMeter
from atril_inference.response_cache import CachedModel, Schedule
from atril_inference.scheduling import batch_policy, check_scheduling
from atril_inference.sequence_config import SequencePlan, seen_by_callers, sequence_plan
from atril_inference.sequences import SequenceScheduler
from atril_inference.served import LoadRecord, Serving
from atril_inference.session import OnnxSession
from atril_inference.session_options import SessionOptions, instance_count, options_for
from atril_inference.statistics import ModelStatistics
from atril_inference.warm_up import batch_sizes, warm_up_samples

logger = logging.getLogger(__name__)

PLATFORM = "onnxruntime_onnx"
_BACKENDS = ("", "onnxruntime")
_PLATFORMS = ("", PLATFORM, "onnxruntime")


class LoadedVersion(NamedTuple):
    """A session that is ready to be put behind a batcher; made off the event loop."""

    config: ModelConfig
    version: int
    session: OnnxSession
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    labels: dict[str, tuple[str, ...]]
    sequences: SequencePlan | None
    record: LoadRecord

    def serve(self, serving: Serving) -> "ServedModel":
        """See `Loaded.serve`."""
        return ServedModel(self, serving)

    def close(self) -> None:
        """See `Loaded.close`."""
        self.session.close()


def load_version(
    folder: Path,
    version: int,
    config: ModelConfig,
    options: SessionOptions,
    default_max_batch_size: int = DEFAULT_MAX_BATCH_SIZE,
) -> LoadedVersion:
    """Load, check and warm up `<folder>/<version>`; complete what its configuration leaves out.

    Raises:
        NotReadyError: it cannot be served; the text says why.
    """
    started_s = time.monotonic()
    if config.backend not in _BACKENDS or config.platform not in _PLATFORMS:
        raise NotReadyError(
            f"backend '{config.backend}' / platform '{config.platform}' is not one this server runs"
        )
    if config.max_batch_size < 0:
        raise NotReadyError(f"max_batch_size must not be negative, got {config.max_batch_size}")
    check_scheduling(config)
    if config.response_cache.enable and config.HasField("sequence_batching"):
        raise NotReadyError(
            "response_cache: the answer to a request of a sequence depends on those before it, so "
            "it cannot be enabled with sequence_batching"
        )
    path = folder / str(version) / (config.default_model_filename or MODEL_FILE)
    if not path.is_file():
        raise NotReadyError(f"version {version} has no {path.name}")
    options = options_for(config, options)
    meter = MemoryMeter(options)
    session = OnnxSession.load(path, str(version), options)
    meter.loaded()
    brought, answered = seen_by_callers(config, session.inputs, session.outputs)
    config = completed(config, brought, answered, default_max_batch_size)
    sequences = sequence_plan(config, session.inputs, session.outputs, folder)
    inputs = declared("input", config.input, brought, config.max_batch_size)
    outputs = declared("output", config.output, session.outputs, config.max_batch_size)
    session.reshape(inputs.graph_shapes, outputs.caller_shapes, batched=config.max_batch_size > 0)
    labels = read_labels(folder, config)
    if options.device != "cpu" and config.max_batch_size:
        session.bind_buckets(batch_sizes(config), options)
    times = session.warm_up(
        warm_up_samples(config, (*inputs.specs, *(sequences.inputs if sequences else ())), folder),
        options.warm_up_budget_s,
        instance_count(config),
    )
    memory = meter.warmed_up()
    logger.info(
        "warmed_up",
        extra={
            "model_name": config.name,
            "model_version": str(version),
            "first_s": {taken.sample: round(taken.first_s, 6) for taken in times},
            "session_bytes": memory.session_bytes,
            "arena_bytes": memory.arena_bytes,
        },
    )
    return LoadedVersion(
        config,
        version,
        session,
        inputs.specs,
        outputs.specs,
        labels,
        sequences,
        LoadRecord(time.monotonic() - started_s, times, memory),
    )


class ServedModel:
    """A loaded version behind its queue."""

    decoding: DecodingStatistics | None = None

    def __init__(self, loaded: LoadedVersion, serving: Serving) -> None:
        config = loaded.config
        self.config = config
        self.version = str(loaded.version)
        self.placement = loaded.session.placement
        self.load_record = loaded.record
        self.metadata = ModelMetadata(
            config.name, (self.version,), PLATFORM, loaded.inputs, loaded.outputs
        )
        self.decoupled = config.model_transaction_policy.decoupled
        self.statistics = ModelStatistics()
        self.validator = RequestValidator(
            config.name,
            loaded.inputs,
            [spec.name for spec in loaded.outputs],
            config.max_batch_size,
        )
        self.classifier = Classifier(
            config.name, loaded.outputs, loaded.labels, batching=config.max_batch_size > 0
        )
        self._session = loaded.session
        self._string_inputs = [s.name for s in loaded.inputs if s.datatype == "BYTES"]
        self.batcher = DynamicBatcher(
            config.name,
            loaded.session,
            batch_policy(config, serving.max_queue_size),
            self.statistics,
        )
        self.sequences: SequenceScheduler | None = None
        self._schedule: Schedule = self.batcher.submit
        if loaded.sequences is not None:
            self.sequences = SequenceScheduler(
                config.name,
                loaded.sequences,
                self.batcher,
                self.statistics,
                serving.max_queue_size,
            )
            self._schedule = self.sequences.submit
        self._cached: CachedModel | None = None
        if serving.response_cache is not None and config.response_cache.enable:
            self._cached = CachedModel(serving.response_cache, self._schedule, self.statistics)
            self._schedule = self._cached.submit

    @property
    def pending(self) -> int:
        """See `Served.pending`."""
        return self.batcher.pending

    def submit(self, request: InferRequest) -> asyncio.Future[InferResponse]:
        """See `Served.submit`."""
        counts = request.options.classification
        try:
            rows = self.validator.check(request)
            self.check_strings(request)
            if counts:
                self.classifier.check(counts)
            answered = self._schedule(request, rows)
        except InvalidInputError as err:
            self.statistics.failed(1, err)
            raise
        return self.classifier.classified(answered, counts) if counts else answered

    async def stream(self, request: InferRequest) -> AsyncGenerator[InferResponse, None]:
        """See `Served.stream`."""
        yield await self.submit(request)

    def check_strings(self, request: InferRequest) -> None:
        """ONNX Runtime holds strings as UTF-8 and nothing else.

        Raises:
            InvalidInputError: a BYTES input holds other bytes; the text names it.
        """
        for name in self._string_inputs:
            try:
                for element in request.inputs[name].ravel():
                    element.decode()
            except UnicodeDecodeError as err:
                raise InvalidInputError(
                    f"input '{name}' of model '{self.config.name}' must be UTF-8: {err}"
                ) from None

    async def close(self) -> None:
        """Answer what was accepted, then let the session go."""
        if self.sequences is not None:
            await self.sequences.close()
        await self.batcher.close()
        if self._cached is not None:
            self._cached.close()
        self._session.close()
