"""Cards of published models, as `publication` wrote them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from atril_common.errors import InvalidInputError
from atril_common.repository import CARD_FILE, list_models, list_versions


def latest_card(repository: Path, name: str) -> tuple[int, Mapping[str, Any]] | None:
    """Number and card of the newest version of a model; None where there is none.

    A model that is published in parts alone is found by the card of one of them.

    Raises:
        InvalidInputError: the file is not a card.
    """
    parts = [part for part in list_models(repository) if part.startswith(f"{name}-")]
    for model in (name, *parts):
        found = _card(repository, model)
        if found is not None and found[1].get("model") == name:
            return found
    return None


def _card(repository: Path, model: str) -> tuple[int, Mapping[str, Any]] | None:
    for version in reversed(list_versions(repository, model)):
        path = repository / model / str(version) / CARD_FILE
        if path.is_file():
            try:
                card = orjson.loads(path.read_bytes())
            except orjson.JSONDecodeError as err:
                raise InvalidInputError(f"{path}: not a model card: {err}") from err
            if not isinstance(card, dict):
                raise InvalidInputError(f"{path}: not a model card: expected a JSON object")
            return version, card
    return None


def list_cards(repository: Path) -> dict[str, tuple[int, Mapping[str, Any]]]:
    """The newest card of each training in a repository, by the name it was published under.

    Raises:
        InvalidInputError: a file is not a card.
    """
    cards: dict[str, tuple[int, Mapping[str, Any]]] = {}
    for model in list_models(repository):  # by name, so that a whole comes before its parts
        found = _card(repository, model)
        if found is not None:
            cards.setdefault(str(found[1].get("model")), found)
    return cards
