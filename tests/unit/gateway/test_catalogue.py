"""The list of models."""

import httpx

from atril_common.core import ModelIndexEntry

from .fakes import FakeCore


async def test_the_list_says_what_each_model_is_for(
    client: httpx.AsyncClient, core: FakeCore
) -> None:
    """Names in order, the versions that answer, the state, the task and its labels."""
    core.entries = [
        ModelIndexEntry("grey", "1", "UNAVAILABLE", "unloaded"),
        ModelIndexEntry("grey", "2", "READY"),
        ModelIndexEntry("grey", "3", "READY"),
        ModelIndexEntry("broken", "1", "UNAVAILABLE", "bad file"),
        ModelIndexEntry("translator", "1", "READY"),
        ModelIndexEntry("bare", "1", "READY"),
        ModelIndexEntry("new"),
        ModelIndexEntry("colour.v1-small", "1", "READY"),
    ]
    facts = core.configs["colour.v1-small"].parameters["atril.classification"]
    facts.string_value = "{"
    response = await client.get("/v1/models")
    rows = {model.pop("name"): tuple(model.values()) for model in response.json()["models"]}
    reason = rows.pop("colour.v1-small")[2]
    assert reason.startswith("model 'colour.v1-small': malformed parameter atril.classification: ")
    assert rows == {
        "bare": (["1"], "READY", "", "", 0),
        "broken": ([], "UNAVAILABLE", "bad file", "", 0),
        "grey": (["2", "3"], "READY", "", "classification", 5),
        "new": ([], "", "", "", 0),
        "translator": (["1"], "READY", "", "translation", 0),
    }
