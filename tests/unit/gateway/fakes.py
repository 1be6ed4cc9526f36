"""A core without an engine: it answers probabilities that can be computed by hand."""

import asyncio

import numpy as np
from tritonclient.grpc.model_config_pb2 import ModelConfig

from atril_common.core import InferRequest, InferResponse, ModelIndexEntry, ModelMetadata
from atril_common.errors import AtrilError, NotFoundError
from atril_common.tasks import ClassificationTask, ImageInput, TranslationTask, write_task
from atril_common.tensors import Tensor

TRANSLATION = TranslationTask(
    encoder_suffix="-encoder",
    decoder_suffix="-decoder",
    explainer_suffix=None,
    source_language="en",
    target_language="es",
    tokenizer="{}",
    pad_id=0,
    bos_id=1,
    eos_id=2,
    max_source_length=8,
    max_target_length=8,
    beam=1,
    length_penalty=0.0,
)
GREY = ImageInput("image", 4, 4, (0.5,), (0.25,))
COLOUR = ImageInput("image", 4, 4, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
LABELS = ("zero", "one", "two", "three", "four")


def classifier_config(
    name: str,
    image: ImageInput = GREY,
    *,
    max_batch_size: int = 4,
    labels: tuple[str, ...] = LABELS,
) -> ModelConfig:
    """The configuration of a classifier."""
    config = ModelConfig(name=name, max_batch_size=max_batch_size)
    config.input.add(name=image.name, dims=[image.channels, image.height, image.width])
    write_task(config, ClassificationTask(image, "probabilities", labels))
    return config


def probabilities_of(batch: Tensor, count: int = len(LABELS)) -> Tensor:
    """What the fake answers: a distribution that depends on nothing but the picture's mean.

    Shape: batch `[N, C, H, W]`, returns float32 `[N, K]`.
    """
    means = batch.reshape(len(batch), -1).mean(axis=1, dtype=np.float64)
    logits = np.cos(means[:, None] * np.arange(1, count + 1) * 2.0)
    exponents = np.exp(logits)
    return (exponents / exponents.sum(axis=1, keepdims=True)).astype(np.float32)


class FakeCore:
    """An `InferenceCore` that records what it is asked.

    `answer` replaces the outputs, `error` is raised by `infer`, `hold` leaves requests unanswered,
    `versions_answered` overrides which version answers, request by request.
    """

    def __init__(self, *configs: ModelConfig) -> None:
        self.configs = {config.name: config for config in configs}
        self.entries = [ModelIndexEntry(config.name, "3", "READY") for config in configs]
        self.requests: list[InferRequest] = []
        self.futures: list[asyncio.Future[InferResponse]] = []
        self.answer: dict[str, Tensor] | None = None
        self.error: Exception | None = None
        self.error_at = 0
        self.hold = False
        self.held = asyncio.Event()
        self.versions_answered: list[str] = []

    def infer(self, request: InferRequest) -> asyncio.Future[InferResponse]:
        """Answer at once, or keep the request."""
        if self.error is not None and len(self.requests) >= self.error_at:
            raise self.error
        self.requests.append(request)
        future: asyncio.Future[InferResponse] = asyncio.get_running_loop().create_future()
        self.futures.append(future)
        if self.hold:
            self.held.set()
            return future
        version = request.model_version or "3"
        if self.versions_answered:
            version = self.versions_answered.pop(0)
        future.set_result(InferResponse(request.model_name, version, self._outputs(request)))
        return future

    def _outputs(self, request: InferRequest) -> dict[str, Tensor]:
        if self.answer is not None:
            return self.answer
        (batch,) = request.inputs.values()
        return {"probabilities": probabilities_of(batch if batch.ndim == 4 else batch[None])}

    async def ready(self) -> bool:
        """Whether every model is ready."""
        return True

    async def model_ready(self, model_name: str, model_version: str = "") -> bool:
        """Whether a model is ready."""
        return model_name in self.configs

    async def metadata(self, model_name: str, model_version: str = "") -> ModelMetadata:
        """Names and shapes; no test needs them."""
        raise AssertionError("the gateway's tasks do not ask for metadata")

    async def config(self, model_name: str, model_version: str = "") -> ModelConfig:
        """The configuration."""
        if model_name not in self.configs or model_version not in ("", "2", "3"):
            raise NotFoundError(f"unknown model '{model_name}' version '{model_version}'")
        return self.configs[model_name]

    async def index(self, *, ready_only: bool = False) -> list[ModelIndexEntry]:
        """The repository."""
        return self.entries


def fake_core() -> FakeCore:
    """A core with a grey, a colour and an unbatched classifier, and models of other kinds."""
    translator = ModelConfig(name="translator")
    write_task(translator, TRANSLATION)
    return FakeCore(
        classifier_config("grey"),
        classifier_config("colour.v1-small", COLOUR),
        classifier_config("single", max_batch_size=0),
        translator,
        ModelConfig(name="bare"),
    )


class BoomError(Exception):
    """A failure that nobody expects."""


ATRIL_ERRORS = sorted(AtrilError.__subclasses__(), key=lambda c: c.__name__)
