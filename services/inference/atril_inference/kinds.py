"""Which kind of model a configuration describes: one graph, or a translator of several."""

from pathlib import Path

from tritonclient.grpc.model_config_pb2 import ModelConfig

from atril_common.repository import DECODER_FILE, ENCODER_FILE, EXPLAINER_FILE, MODEL_FILE
from atril_inference.declaration import DEFAULT_MAX_BATCH_SIZE
from atril_inference.decoding.loading import BACKEND, load_translator
from atril_inference.model import load_version
from atril_inference.served import Loaded
from atril_inference.session_options import SessionOptions


def graph_files(config: ModelConfig) -> tuple[str, ...]:
    """Names of the graphs that a version of the model may hold."""
    if config.backend == BACKEND:
        return (ENCODER_FILE, DECODER_FILE, EXPLAINER_FILE)
    return (config.default_model_filename or MODEL_FILE,)


def load_any(
    folder: Path,
    version: int,
    config: ModelConfig,
    options: SessionOptions,
    default_max_batch_size: int = DEFAULT_MAX_BATCH_SIZE,
) -> Loaded:
    """Load, check and warm up `<folder>/<version>`; it blocks.

    Raises:
        NotReadyError: it cannot be served; the text says why.
    """
    if config.backend == BACKEND:
        return load_translator(folder, version, config, options)
    return load_version(folder, version, config, options, default_max_batch_size)
