"""Cards of published models, as `publication` wrote them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from atril_common.errors import InvalidInputError
from atril_common.repository import CARD_FILE, list_versions


def latest_card(repository: Path, model_name: str) -> tuple[int, Mapping[str, Any]] | None:
    """Number and card of the newest version that has a card; None where there is none.

    Raises:
        InvalidInputError: the file is not a card.
    """
    for version in reversed(list_versions(repository, model_name)):
        path = repository / model_name / str(version) / CARD_FILE
        if path.is_file():
            try:
                card = orjson.loads(path.read_bytes())
            except orjson.JSONDecodeError as err:
                raise InvalidInputError(f"{path}: not a model card: {err}") from err
            if not isinstance(card, dict):
                raise InvalidInputError(f"{path}: not a model card: expected a JSON object")
            return version, card
    return None
