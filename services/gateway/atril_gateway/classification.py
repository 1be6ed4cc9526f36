"""The task `classify`: pictures in, the most probable labels out, with any classifier.

    pictures ──► tensor ──► chunks of at most max_batch_size ──► InferenceCore ──► top k labels each

What the model needs to know of a picture (size, mean, std) and what its output means (labels) comes
from its own configuration. Nothing here knows HTTP or gRPC.

Shape letters: N pictures, C channels, H height, W width, K labels.
"""

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tritonclient.grpc.model_config_pb2 import ModelConfig

from atril_common.core import InferenceCore, InferRequest, InferResponse
from atril_common.errors import (
    DeadlineExceededError,
    InternalError,
    InvalidInputError,
    NotReadyError,
)
from atril_common.tasks import (
    CLASSIFICATION,
    ClassificationTask,
    ImageInput,
    declared_task,
    read_task,
)
from atril_common.tensors import Tensor
from atril_gateway.offload import Offload
from atril_gateway.pictures import tensor_from_pictures

DEFAULT_TOP_K = 3
MAX_TOP_K = 1000

INLINE_PIXELS = 256 * 256
"""Up to so many pixels in all (about a millisecond) are decoded on the event loop."""


@dataclass(frozen=True, slots=True)
class LabelScore:
    """A label, its position among the model's labels, and its probability."""

    label: str
    index: int
    probability: float


@dataclass(frozen=True, slots=True)
class Classified:
    """The answer for one picture: its most probable labels, most probable first."""

    top: tuple[LabelScore, ...]


@dataclass(frozen=True, slots=True)
class Timing:
    """Where the time went, in milliseconds."""

    preprocess_ms: float
    inference_ms: float
    total_ms: float


@dataclass(frozen=True, slots=True)
class Classification:
    """The answer: one result a picture, in the pictures' order, from one version of the model."""

    model_name: str
    model_version: str
    results: tuple[Classified, ...]
    timing: Timing


class Classifier:
    """The use case, over any core.

    Args:
        core: reaches the models.
        request_timeout_s: how long one request may take at most.
        offload: decodes what is too big for the event loop.
    """

    def __init__(self, core: InferenceCore, request_timeout_s: float, offload: Offload) -> None:
        self._core = core
        self._request_timeout_s = request_timeout_s
        self._offload = offload
        self._found: set[str] = set()

    def has_found(self, model_name: str) -> bool:
        """Whether the core has ever known this model; such names are a closed set."""
        return model_name in self._found

    async def classify(
        self,
        model_name: str,
        model_version: str,
        pictures: Sequence[Image.Image],
        top_k: int = DEFAULT_TOP_K,
        *,
        timeout_s: float | None = None,
    ) -> Classification:
        """Classify pictures; `model_version` empty means the highest ready one.

        The pictures are closed on the way. If this is cancelled, so are the requests to the core.

        Raises:
            InvalidInputError: `top_k` out of range, a damaged picture, or no classifier.
            DeadlineExceededError: neither `timeout_s` nor the service's own limit sufficed.
            InternalError: the model's answer is not made of probabilities.
            AtrilError: whatever the core raises.
        """
        check_top_k(top_k)
        limit_s = self._request_timeout_s
        if timeout_s is not None:
            limit_s = min(limit_s, timeout_s)
        deadline_s = asyncio.get_running_loop().time() + limit_s
        try:
            async with asyncio.timeout_at(deadline_s) as deadline:
                return await self._classify(model_name, model_version, pictures, top_k, deadline_s)
        except TimeoutError as err:
            if not deadline.expired():
                raise
            raise DeadlineExceededError(
                f"model '{model_name}' did not answer within {limit_s:g} s"
            ) from err

    async def _classify(
        self,
        model_name: str,
        model_version: str,
        pictures: Sequence[Image.Image],
        top_k: int,
        deadline_s: float,
    ) -> Classification:
        started = perf_counter()
        config = await self._core.config(model_name, model_version)
        self._found.add(model_name)
        task, image = task_of(config)
        tensor = await self._tensor(pictures, image)
        preprocessed = perf_counter()
        request = InferRequest(model_name, {}, model_version, (task.output,), deadline_s)
        responses = await self._infer(_chunks(request, tensor, image.name, config))
        inferred = perf_counter()
        probabilities = _probabilities(responses, task, len(pictures))
        results = tuple(Classified(top_labels(row, task.labels, top_k)) for row in probabilities)
        timing = Timing(
            preprocess_ms=_ms(preprocessed - started),
            inference_ms=_ms(inferred - preprocessed),
            total_ms=_ms(perf_counter() - started),
        )
        return Classification(model_name, responses[0].model_version, results, timing)

    async def _tensor(
        self, pictures: Sequence[Image.Image], image: ImageInput
    ) -> NDArray[np.float32]:
        if sum(p.width * p.height for p in pictures) <= INLINE_PIXELS:
            return tensor_from_pictures(pictures, image, stopped=lambda: False)
        stop = threading.Event()
        try:
            return await self._offload.run(
                tensor_from_pictures, pictures, image, stopped=stop.is_set
            )
        finally:
            stop.set()

    async def _infer(self, requests: list[InferRequest]) -> list[InferResponse]:
        """Run all chunks on one version: if a newer one came in between, once more on that."""
        responses = await self._gather(requests)
        versions = {response.model_version for response in responses}
        if len(versions) > 1:
            newest = max(versions, key=int)
            requests = [request._replace(model_version=newest) for request in requests]
            responses = await self._gather(requests)
        return responses

    async def _gather(self, requests: list[InferRequest]) -> list[InferResponse]:
        futures: list[asyncio.Future[InferResponse]] = []
        try:
            for request in requests:
                futures.append(self._core.infer(request))
            return await asyncio.gather(*futures)
        finally:
            for future in futures:
                future.cancel()


def check_top_k(top_k: int) -> None:
    """Refuse what no request may ask for.

    Raises:
        InvalidInputError: not within 1 … `MAX_TOP_K`.
    """
    if not 1 <= top_k <= MAX_TOP_K:
        raise InvalidInputError(f"top_k is {top_k}: expected 1 … {MAX_TOP_K}")


def task_of(config: ModelConfig) -> tuple[ClassificationTask, ImageInput]:
    """The classification of pictures that a model declares, and how it takes them.

    Raises:
        InvalidInputError: it declares another task or none, or classifies something else.
        NotReadyError: its declaration is malformed; it cannot be used until it is published anew.
    """
    if declared_task(config) != CLASSIFICATION:
        raise InvalidInputError(f"model '{config.name}' is not a classifier: {_purpose(config)}")
    try:
        task = read_task(config)
    except InvalidInputError as err:
        raise NotReadyError(str(err)) from err
    assert isinstance(task, ClassificationTask)
    if not task.labels:
        raise NotReadyError(f"model '{config.name}' declares a classifier without labels")
    if not isinstance(task.input, ImageInput):
        raise InvalidInputError(
            f"model '{config.name}' does not classify pictures: it takes {task.input.kind} "
            f"({', '.join(task.input.features)})"
        )
    return task, task.input


def _purpose(config: ModelConfig) -> str:
    if declared := declared_task(config):
        return f"it is for '{declared}'"
    return (
        f"its configuration declares no task, so it answers tensors only "
        f"(/v2/models/{config.name}/infer)"
    )


def top_labels(
    probabilities: NDArray[np.floating], labels: Sequence[str], top_k: int
) -> tuple[LabelScore, ...]:
    """The `top_k` most probable labels (all, if there are fewer); of equal ones the first leads.

    Shape: probabilities `[K]`.
    """
    order = np.argsort(-probabilities, kind="stable")[:top_k].tolist()
    return tuple(LabelScore(labels[i], i, float(probabilities[i])) for i in order)


def _chunks(
    request: InferRequest, tensor: Tensor, input_name: str, config: ModelConfig
) -> list[InferRequest]:
    """One request for each batch that the model takes.

    A model that does not batch (`max_batch_size` 0) takes one picture at a time, with or without a
    dimension of size 1 before it, as it declares.
    """
    size = config.max_batch_size
    if size < 1:
        rank = next((len(i.dims) for i in config.input if i.name == input_name), tensor.ndim)
        batches = [picture if rank < tensor.ndim else picture[None] for picture in tensor]
    else:
        batches = [tensor[start : start + size] for start in range(0, len(tensor), size)]
    return [request._replace(inputs={input_name: batch}) for batch in batches]


def _probabilities(
    responses: Sequence[InferResponse], task: ClassificationTask, pictures: int
) -> Tensor:
    """Shape: returns `[N, K]`.

    Raises:
        InternalError: the output is missing, has another shape or holds values that are not finite.
    """
    count = len(task.labels)
    answers = [response.outputs.get(task.output) for response in responses]
    rows = [a.reshape(-1, count) for a in answers if a is not None and a.size % count == 0]
    model = f"model '{responses[0].model_name}' version {responses[0].model_version}"
    if sum(map(len, rows)) != pictures or len(rows) != len(answers):
        shapes = [None if a is None else list(a.shape) for a in answers]
        raise InternalError(
            f"{model} answered '{task.output}' of shape {shapes}: expected {pictures} × {count}, "
            f"one probability for each picture and label"
        )
    probabilities = np.concatenate(rows)
    if not np.isfinite(probabilities).all():
        raise InternalError(f"{model} answered values in '{task.output}' that are not finite")
    return probabilities


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
