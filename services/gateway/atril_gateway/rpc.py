"""The task API over gRPC, for a grpcio thread-pool server.

The core lives on the event loop; a worker thread decodes, hands the work over and waits.
"""

import asyncio
import concurrent.futures
import logging
from typing import Any

import grpc
import numpy as np
from PIL import Image

from atril_common.core import InferenceCore
from atril_common.errors import AtrilError, ErrorKind, InvalidInputError
from atril_common.status import STATUS
from atril_common.telemetry import Telemetry
from atril_gateway.classification import DEFAULT_TOP_K, Classification, Classifier
from atril_gateway.offload import Offload
from atril_gateway.pictures import PictureLimits, read_pictures
from atril_gateway.record import INTERNAL_ERROR, REQUEST_ID, RequestRecord, request_id_from
from atril_gateway.settings import GatewaySettings
from atril_proto.v1 import classification_pb2 as pb
from atril_proto.v1.classification_pb2_grpc import (
    ClassificationServicer as ClassificationBase,
)

logger = logging.getLogger(__name__)


class ClassificationServicer(ClassificationBase):
    """`atril.v1.Classification` over a core; its methods run in worker threads.

    Args:
        core: reaches the models; called on `loop` only.
        settings: the limits.
        telemetry: counts the requests, on `loop` only.
        loop: the event loop that the core lives on.
    """

    def __init__(
        self,
        core: InferenceCore,
        settings: GatewaySettings,
        telemetry: Telemetry,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        offload = Offload(settings.decode_threads, settings.max_pending_decodes)
        self._classifier = Classifier(core, settings.request_timeout_s, offload)
        self._limits = PictureLimits(settings.max_image_pixels, settings.max_pictures)
        self._telemetry = telemetry
        self._loop = loop

    def Classify(
        self, request: pb.ClassifyRequest, context: grpc.ServicerContext
    ) -> pb.ClassifyResponse:
        """Answer the most probable labels of each picture, in the pictures' order."""
        record = _record(request, context)
        context.send_initial_metadata(((REQUEST_ID, record.request_id),))
        text = INTERNAL_ERROR
        try:
            return self._classify(request, context, record)
        except AtrilError as err:
            record.kind, text = err.kind, str(err)
        except concurrent.futures.CancelledError:
            record.kind, text = ErrorKind.CANCELLED, "the request was cancelled"
        except Exception:
            record.kind = ErrorKind.INTERNAL
            logger.exception("request_failed", extra={"request_id": record.request_id})
        finally:
            record.known = self._classifier.has_found(record.model_name)
            self._loop.call_soon_threadsafe(record.finish, self._telemetry)
        context.abort(STATUS[record.kind].grpc, text)
        raise AssertionError("abort raises")

    def _classify(
        self, request: pb.ClassifyRequest, context: grpc.ServicerContext, record: RequestRecord
    ) -> pb.ClassifyResponse:
        pictures = _decode(request, self._limits)
        record.pictures = len(pictures)
        future = asyncio.run_coroutine_threadsafe(
            self._classifier.classify(
                request.model_name,
                request.model_version,
                pictures,
                request.top_k or DEFAULT_TOP_K,
                timeout_s=context.time_remaining(),
            ),
            self._loop,
        )
        if not context.add_callback(future.cancel):  # the client has gone already
            future.cancel()
        classification = future.result()
        record.model_version = classification.model_version
        return _encode(classification)


def _record(request: pb.ClassifyRequest, context: grpc.ServicerContext) -> RequestRecord:
    sent: dict[str, Any] = dict(context.invocation_metadata())
    return RequestRecord(
        protocol="grpc",
        request_id=request_id_from(str(sent.get(REQUEST_ID, ""))),
        method="classify",
        model_name=request.model_name,
        model_version=request.model_version,
    )


def _decode(request: pb.ClassifyRequest, limits: PictureLimits) -> list[Image.Image]:
    """The request's pictures.

    Raises:
        AtrilError: see `read_pictures`.
    """
    contents = [_content(picture, index) for index, picture in enumerate(request.pictures)]
    return read_pictures(contents, limits)


def _content(picture: pb.Picture, index: int) -> object:
    form = picture.WhichOneof("content")
    if form is None:
        raise InvalidInputError(f"picture {index}: empty: expected 'encoded' or 'pixels'")
    if form == "encoded":
        return picture.encoded
    pixels = picture.pixels
    shape = (pixels.height, pixels.width, pixels.channels)
    if pixels.height * pixels.width * pixels.channels != len(pixels.values):
        raise InvalidInputError(
            f"picture {index}: {len(pixels.values)} values: expected height × width × channels = "
            f"{' × '.join(map(str, shape))}"
        )
    return np.array(pixels.values, dtype=np.float32).reshape(shape)


def _encode(classification: Classification) -> pb.ClassifyResponse:
    timing = classification.timing
    return pb.ClassifyResponse(
        model_name=classification.model_name,
        model_version=classification.model_version,
        results=[
            pb.Classified(
                top=[
                    pb.LabelScore(label=s.label, index=s.index, probability=s.probability)
                    for s in result.top
                ]
            )
            for result in classification.results
        ],
        timing=pb.Timing(
            preprocess_ms=timing.preprocess_ms,
            inference_ms=timing.inference_ms,
            total_ms=timing.total_ms,
        ),
    )
