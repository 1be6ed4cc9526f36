"""The documentation page tells the truth: its examples work and its statuses are the real ones."""

from typing import Any

import httpx
import pytest

from .fakes import FakeCore

PATHS = ["/v1/models/{model_name}:classify", "/v1/models/{model_name}/versions/{version}:classify"]


async def operation(client: httpx.AsyncClient, path: str) -> dict[str, Any]:
    """What the page says of a POST route."""
    document = (await client.get("/openapi.json")).json()
    return document["paths"][path]["post"]


@pytest.mark.parametrize("path", PATHS)
async def test_the_json_examples_work(client: httpx.AsyncClient, path: str) -> None:
    """Each example, sent as it is, is answered, and the array is the same picture as the file."""
    described = await operation(client, path)
    examples = described["requestBody"]["content"]["application/json"]["examples"]
    url = path.format(model_name="grey", version="3")
    answers = {}
    for name, example in examples.items():
        response = await client.post(url, json=example["value"])
        assert response.status_code == 200, response.text
        answers[name] = response.json()["results"]
    assert answers["array"] == answers["file"]
    assert len(answers["several"]) == 2


@pytest.mark.parametrize("path", PATHS)
async def test_bodies_and_errors_are_listed(client: httpx.AsyncClient, path: str) -> None:
    """The content types are those of the 415, and 422 does not occur."""
    described = await operation(client, path)
    refused = await client.post(
        path.format(model_name="grey", version="3"), content=b"x", headers={"content-type": "a/b"}
    )
    for content_type in described["requestBody"]["content"]:
        assert content_type in refused.json()["error"]
    statuses = {"200", "400", "404", "413", "415", "503", "504", "default"}
    assert set(described["responses"]) == statuses
    assert [p["name"] for p in described["parameters"]][-1] == "top_k"


async def test_the_answer_is_described(client: httpx.AsyncClient, core: FakeCore) -> None:
    """The schema's fields are those of a real answer."""
    document = (await client.get("/openapi.json")).json()
    schemas = document["components"]["schemas"]
    answer = (await client.post("/v1/models/grey:classify", json=[[1]])).json()
    assert list(schemas["Classification"]["properties"]) == list(answer)
    score = answer["results"][0]["top"][0]
    assert list(schemas["LabelScore"]["properties"]) == list(score)
    models = (await client.get("/v1/models")).json()["models"]
    assert list(schemas["ModelSummary"]["properties"]) == list(models[0])
    assert list(schemas["ErrorBody"]["properties"]) == ["error"]


async def test_the_page_is_served(client: httpx.AsyncClient) -> None:
    """A person finds the documentation under /docs."""
    response = await client.get("/docs")
    assert response.status_code == 200
    assert "openapi.json" in response.text
