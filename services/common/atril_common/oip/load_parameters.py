"""What a load request brings along (2.6), out of the parameters of either protocol."""

import binascii
from collections.abc import Iterable, Mapping
from typing import Any

from atril_common.core import LoadOptions
from atril_common.errors import InvalidInputError, sample

_FILE = "file:"
_CHUNK = 4 * 256 * 1024
"""Characters of base64 decoded at once, so that other threads have their turn."""


def load_options(parameters: Iterable[tuple[str, str | bytes]]) -> LoadOptions:
    """The override that the parameters describe.

    Raises:
        InvalidInputError: an unknown parameter, one of another kind, or files without `config`.
    """
    config: str | None = None
    files: dict[str, bytes] = {}
    for name, value in parameters:
        if name == "config" and isinstance(value, str):
            config = value
        elif name.startswith(_FILE) and isinstance(value, bytes):
            files[name.removeprefix(_FILE)] = value
        else:
            raise InvalidInputError(
                f"unrecognized load parameter '{name}': expected 'config' with the text of a model "
                "configuration, or 'file:<version>/<file>' with a file's content"
            )
    if files and config is None:
        raise InvalidInputError(
            "load parameter 'config' must be given along with files: a model that is uploaded is "
            "described by its request, not by the repository"
        )
    return LoadOptions(config, files)


def parameters_of(message: Mapping[str, Any]) -> dict[str, Any]:
    """The `parameters` of a request body, empty if there are none.

    Raises:
        InvalidInputError: they are not an object.
    """
    parameters = message.get("parameters", {})
    if not isinstance(parameters, dict):
        raise InvalidInputError(
            f"Unable to parse 'parameters': expected a JSON object, got {sample(parameters)}"
        )
    return parameters


def load_options_from_json(message: Mapping[str, Any]) -> LoadOptions:
    """The override in a load request's JSON body, in which files are base64.

    Raises:
        InvalidInputError: see `load_options`; also what is not base64.
    """
    return load_options(
        (name, _content(name, value)) for name, value in parameters_of(message).items()
    )


def _content(name: str, value: object) -> str | bytes:
    if not isinstance(value, str):
        raise InvalidInputError(
            f"invalid value type for load parameter '{name}', expected a string, got "
            f"{sample(value)}"
        )
    if not name.startswith(_FILE):
        return value
    try:
        return b"".join(
            binascii.a2b_base64(value[start : start + _CHUNK], strict_mode=True)
            for start in range(0, len(value), _CHUNK)
        )
    except ValueError as err:
        raise InvalidInputError(f"load parameter '{name}' is not base64: {err}") from None
