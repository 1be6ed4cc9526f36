"""A translator among the models: text in, text out, over the protocol.

The model is decoupled, as language models in Triton are: a request has one response, or with the
parameter `stream` one for each piece of text. So ModelStreamInfer and the generate routes reach it.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from typing import NamedTuple

import numpy as np
from tritonclient.grpc.model_config_pb2 import ModelConfig

from atril_common.batching import ExecutionTimes
from atril_common.core import InferRequest, InferResponse, ModelMetadata
from atril_common.errors import AtrilError, InternalError, InvalidInputError, UnsupportedError
from atril_common.tasks import (
    ATTENTION,
    FINISHED,
    SCORE,
    SOURCE_TOKENS,
    TARGET_TOKENS,
    TEXT_INPUT,
    TEXT_OUTPUT,
    TranslationTask,
)
from atril_common.tensors import Tensor, TensorSpec
from atril_common.validation import RequestValidator
from atril_inference.decoding.layout import StepLayout
from atril_inference.decoding.scheduler import ContinuousDecoder, DecodingLimits
from atril_inference.decoding.statistics import DecodingStatistics
from atril_inference.decoding.translation import (
    Translation,
    TranslationOptions,
    Translator,
    read_options,
)
from atril_inference.providers import Placement
from atril_inference.served import LoadRecord, Serving
from atril_inference.session import OnnxSession
from atril_inference.statistics import ModelStatistics

PLATFORM = "atril"
STREAM = "stream"
"""Parameter of a request that wants its text in pieces."""

INPUTS = (TensorSpec(TEXT_INPUT, "BYTES", (1,)),)
OUTPUTS = (
    TensorSpec(TEXT_OUTPUT, "BYTES", (-1,)),
    TensorSpec(SCORE, "FP32", (-1,)),
    TensorSpec(FINISHED, "BOOL", (-1,)),
)
EXPLAINED = (
    TensorSpec(SOURCE_TOKENS, "BYTES", (-1,)),
    TensorSpec(TARGET_TOKENS, "BYTES", (-1,)),
    TensorSpec(ATTENTION, "FP32", (-1, -1)),
)
"""Answered by models that attend, to requests that ask for an explanation."""


class Parts(NamedTuple):
    """The sessions of a translator: `explainer` is None where it does not attend."""

    encoder: OnnxSession
    decoder: OnnxSession
    explainer: OnnxSession | None

    def close(self) -> None:
        """Let the sessions go; nothing may be running."""
        for session in self:
            if session is not None:
                session.close()


class LoadedTranslator(NamedTuple):
    """Sessions that are ready to be driven; made off the event loop."""

    config: ModelConfig
    version: int
    task: TranslationTask
    parts: Parts
    slots: int
    record: LoadRecord

    def serve(self, serving: Serving) -> "ServedTranslator":
        """See `Loaded.serve`; nothing is cached."""
        return ServedTranslator(self, serving.max_queue_size)

    def close(self) -> None:
        """See `Loaded.close`."""
        self.parts.close()


class ServedTranslator:
    """A version of a translator, see `Served`."""

    decoupled = True

    def __init__(self, loaded: LoadedTranslator, max_queue_size: int) -> None:
        self.config = loaded.config
        self.version = str(loaded.version)
        self.placement: Placement = loaded.parts.decoder.placement
        self.load_record = loaded.record
        self.statistics = ModelStatistics()
        self.decoding = DecodingStatistics()
        outputs = OUTPUTS if loaded.parts.explainer is None else (*OUTPUTS, *EXPLAINED)
        name = loaded.config.name
        self.metadata = ModelMetadata(name, (self.version,), PLATFORM, INPUTS, outputs)
        self._validator = RequestValidator(name, INPUTS, [spec.name for spec in outputs], 0)
        self._task = loaded.task
        self._parts = loaded.parts
        decoders = [
            self._decoder(step, loaded.slots, max_queue_size)
            for step in (loaded.parts.decoder, loaded.parts.explainer)
            if step is not None
        ]
        explainer = decoders[1] if len(decoders) > 1 else None
        self._translator = Translator(name, loaded.task, decoders[0], explainer)

    @property
    def pending(self) -> int:
        """Requests that wait for slots."""
        return self.decoding.slots()[1]

    def submit(self, request: InferRequest) -> asyncio.Future[InferResponse]:
        """Refuse; see `Served.submit`.

        Raises:
            UnsupportedError: always, for a translator answers streams.
        """
        raise UnsupportedError(f"model '{request.model_name}' has a decoupled transaction policy")

    async def stream(self, request: InferRequest) -> AsyncGenerator[InferResponse, None]:
        """See `Served.stream`; closing the iterator gives the slots back."""
        enqueued_ns = time.monotonic_ns()
        try:
            text, options, in_pieces = self._read(request)
            pieces: asyncio.Queue[str | None] = asyncio.Queue()
            answer = self._translator.submit(text, options, pieces.put_nowait, request.deadline_s)
        except AtrilError as err:
            self.statistics.failed(1, err)
            raise
        answer.add_done_callback(lambda done: self._ended(done, enqueued_ns))
        try:
            if in_pieces:
                answer.add_done_callback(lambda _: pieces.put_nowait(None))
                while (piece := await pieces.get()) is not None:
                    yield self._response({TEXT_OUTPUT: _texts([piece])})
                await answer  # for its error
            else:
                yield self._response(_outputs(await answer, request.outputs))
        finally:
            answer.cancel()

    async def close(self) -> None:
        """Answer what was accepted, then let the sessions go."""
        await self._translator.close()
        self._parts.close()

    def _decoder(self, step: OnnxSession, slots: int, max_queue_size: int) -> ContinuousDecoder:
        decoder = ContinuousDecoder(
            self.config.name,
            self._parts.encoder,
            step,
            StepLayout.read(step.inputs, step.outputs),
            DecodingLimits(slots, max_queue_size),
            self.decoding,
        )
        self.decoding.watch(lambda: (decoder.active_slots, decoder.waiting))
        return decoder

    def _read(self, request: InferRequest) -> tuple[str, TranslationOptions, bool]:
        """The text of a request, how to translate it, and whether it is wanted in pieces."""
        self._validator.check(request)
        if request.options.classification or request.options.sequence is not None:
            raise InvalidInputError(
                f"model '{self.config.name}' answers texts: it has neither classes nor sequences"
            )
        parameters = dict(request.options.parameters)
        in_pieces = parameters.pop(STREAM, False)
        if not isinstance(in_pieces, bool):
            raise InvalidInputError(
                f"parameter '{STREAM}': expected true or false, got {in_pieces!r}"
            )
        options = read_options(parameters.items(), self._task)
        if in_pieces and (options.n_best > 1 or options.explain):
            raise InvalidInputError(
                f"parameter '{STREAM}' is for one text: it goes neither with n_best nor explain"
            )
        unasked = [spec.name for spec in EXPLAINED if spec.name in request.outputs]
        if unasked and not options.explain:
            raise InvalidInputError(f"output '{unasked[0]}' needs the parameter explain: true")
        try:
            text: str = request.inputs[TEXT_INPUT][0].decode()
        except UnicodeDecodeError as err:
            raise InvalidInputError(f"input '{TEXT_INPUT}' must be UTF-8: {err}") from None
        return text, options, in_pieces

    def _response(self, outputs: dict[str, Tensor]) -> InferResponse:
        return InferResponse(self.config.name, self.version, outputs)

    def _ended(self, done: "asyncio.Future[list[Translation]]", enqueued_ns: int) -> None:
        """Count a request that was accepted."""
        now_ns = time.monotonic_ns()
        if done.cancelled():
            self.statistics.cancelled(1)
        elif (error := done.exception()) is None:
            times = ExecutionTimes(enqueued_ns, enqueued_ns, now_ns, now_ns)
            self.statistics.executed(1, [enqueued_ns], times)
        else:
            known = error if isinstance(error, AtrilError) else InternalError(str(error))
            self.statistics.failed(1, known, now_ns - enqueued_ns)


def _outputs(found: Sequence[Translation], wanted: tuple[str, ...]) -> dict[str, Tensor]:
    best = found[0]
    outputs: dict[str, Tensor] = {
        TEXT_OUTPUT: _texts([one.text for one in found]),
        SCORE: np.array([one.score for one in found], np.float32),
        FINISHED: np.array([one.finished for one in found]),
    }
    if best.source_tokens:
        outputs |= {
            SOURCE_TOKENS: _texts(best.source_tokens),
            TARGET_TOKENS: _texts(best.target_tokens),
            ATTENTION: np.array(best.attention, np.float32).reshape(-1, len(best.source_tokens)),
        }
    return {name: outputs[name] for name in wanted} if wanted else outputs


def _texts(texts: Sequence[str]) -> Tensor:
    tensor = np.empty(len(texts), dtype=object)
    tensor[:] = [text.encode() for text in texts]
    return tensor
