"""The task API over gRPC: the methods, for a server on the core's event loop."""

import asyncio
import logging

import numpy as np
from PIL import Image

from atril_common.core import InferenceCore
from atril_common.errors import AtrilError, ErrorKind, InvalidInputError
from atril_common.h2grpc.messages import RpcStatusError
from atril_common.h2grpc.rpc import Method, RpcContext, UnaryMethod
from atril_common.status import STATUS
from atril_common.telemetry import Telemetry
from atril_gateway.classification import DEFAULT_TOP_K, Classification, Classifier
from atril_gateway.offload import Offload
from atril_gateway.pictures import PictureLimits, read_pictures
from atril_gateway.record import INTERNAL_ERROR, REQUEST_ID, RequestRecord, request_id_from
from atril_gateway.settings import GatewaySettings
from atril_proto.v1 import classification_pb2 as pb

logger = logging.getLogger(__name__)


SERVICE = "atril.v1.Classification"


def classification_methods(
    core: InferenceCore, settings: GatewaySettings, telemetry: Telemetry
) -> tuple[Method, ...]:
    """The methods of `atril.v1.Classification` over a core."""
    front = _ClassificationFront(core, settings, telemetry)
    return (UnaryMethod(f"/{SERVICE}/Classify", pb.ClassifyRequest.FromString, front.classify),)


class _ClassificationFront:
    def __init__(
        self, core: InferenceCore, settings: GatewaySettings, telemetry: Telemetry
    ) -> None:
        offload = Offload(settings.decode_threads, settings.max_pending_decodes)
        self._classifier = Classifier(core, settings.request_timeout_s, offload)
        self._limits = PictureLimits(settings.max_image_pixels, settings.max_pictures)
        self._telemetry = telemetry

    async def classify(self, request: pb.ClassifyRequest, context: RpcContext) -> bytes:
        """Answer the most probable labels of each picture, in the pictures' order."""
        record = _record(request, context)
        context.initial_metadata = [(REQUEST_ID, record.request_id)]
        try:
            return await self._classify(request, context, record)
        except AtrilError as err:
            record.kind = err.kind
            raise
        except asyncio.CancelledError:
            record.kind = ErrorKind.CANCELLED
            raise
        except Exception as err:
            record.kind = ErrorKind.INTERNAL
            logger.exception("request_failed", extra={"request_id": record.request_id})
            raise RpcStatusError(STATUS[record.kind].grpc, INTERNAL_ERROR) from err
        finally:
            record.known = self._classifier.has_found(record.model_name)
            record.finish(self._telemetry)

    async def _classify(
        self, request: pb.ClassifyRequest, context: RpcContext, record: RequestRecord
    ) -> bytes:
        pictures = _decode(request, self._limits)
        record.pictures = len(pictures)
        deadline_s = context.deadline_s
        classification = await self._classifier.classify(
            request.model_name,
            request.model_version,
            pictures,
            request.top_k or DEFAULT_TOP_K,
            timeout_s=None
            if deadline_s is None
            else deadline_s - asyncio.get_running_loop().time(),
        )
        record.model_version = classification.model_version
        return _encode(classification).SerializeToString()


def _record(request: pb.ClassifyRequest, context: RpcContext) -> RequestRecord:
    return RequestRecord(
        protocol="grpc",
        request_id=request_id_from(str(context.metadata.get(REQUEST_ID, ""))),
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
