"""`config.pbtxt`: Triton's own message, read and written with the stubs that tritonclient ships."""

from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from atril_common.errors import InvalidInputError


def read_config(path: Path) -> ModelConfig:
    """Parse a `config.pbtxt`.

    Raises:
        InvalidInputError: the file is not a model configuration; the text gives line and column.
    """
    try:
        return text_format.Parse(path.read_text(encoding="utf-8"), ModelConfig())
    except (text_format.ParseError, UnicodeDecodeError) as err:
        raise InvalidInputError(f"{path.name}: not a model configuration: {err}") from err


def config_to_text(config: ModelConfig) -> str:
    """The text of a `config.pbtxt`."""
    return str(text_format.MessageToString(config))
