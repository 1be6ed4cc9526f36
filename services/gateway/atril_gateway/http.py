"""The task API over HTTP: decode, ask the use case, encode."""

from typing import Annotated

import orjson
from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from atril_common.core import InferenceCore
from atril_gateway.bodies import BodyReader
from atril_gateway.catalogue import ModelList, list_models
from atril_gateway.classification import DEFAULT_TOP_K, MAX_TOP_K, Classification, Classifier
from atril_gateway.disconnect import while_connected
from atril_gateway.openapi import CLASSIFY_BODY, CLASSIFY_ERRORS, LIST_ERRORS
from atril_gateway.record import RequestRecord

TopK = Annotated[
    int | None,
    Query(
        ge=1,
        le=MAX_TOP_K,
        description=f"How many labels to answer for each picture, {DEFAULT_TOP_K} if not given; "
        "more than the model has means all. A `top_k` in the body goes before this one.",
    ),
]


def create_router(core: InferenceCore, classifier: Classifier, bodies: BodyReader) -> APIRouter:
    """The `/v1` routes."""
    router = APIRouter(prefix="/v1", tags=["tasks"])

    async def answer(request: Request, name: str, version: str, top_k: int | None) -> Response:
        record: RequestRecord = request.state.record
        body = await bodies.read(request)
        record.pictures = len(body.pictures)
        wanted = body.top_k if body.top_k is not None else top_k
        work = classifier.classify(
            name, version, body.pictures, DEFAULT_TOP_K if wanted is None else wanted
        )
        try:
            classification = await while_connected(request, work)
        finally:
            record.known = classifier.has_found(name)
        record.model_version = classification.model_version
        return _json(classification)

    @router.post(
        "/models/{model_name}:classify",
        name="classify",
        response_model=Classification,
        responses=CLASSIFY_ERRORS,
        openapi_extra=CLASSIFY_BODY,
    )
    async def classify(request: Request, model_name: str, top_k: TopK = None) -> Response:
        """Answer the most probable labels of pictures, with the newest ready version."""
        return await answer(request, model_name, "", top_k)

    @router.post(
        "/models/{model_name}/versions/{version}:classify",
        name="classify",
        response_model=Classification,
        responses=CLASSIFY_ERRORS,
        openapi_extra=CLASSIFY_BODY,
    )
    async def classify_version(
        request: Request, model_name: str, version: str, top_k: TopK = None
    ) -> Response:
        """Answer the most probable labels of pictures, with the given version."""
        return await answer(request, model_name, version, top_k)

    @router.get("/models", name="models", response_model=ModelList, responses=LIST_ERRORS)
    async def models() -> Response:
        """List the models, their state, and the task that each is for."""
        return _json(await list_models(core))

    return router


def _json(content: Classification | ModelList) -> Response:
    return Response(orjson.dumps(content), media_type="application/json")
