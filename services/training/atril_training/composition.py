"""A translator as one model: its graphs in one version, for a server that can drive them.

The parts are published as models of their own too, for servers that can not; a real Triton is given
a list of models without the translator.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tritonclient.grpc import model_config_pb2
from tritonclient.grpc.model_config_pb2 import ModelConfig

from atril_common.repository import DECODER_FILE, ENCODER_FILE, EXPLAINER_FILE
from atril_common.tasks import (
    ATTENTION,
    FINISHED,
    SCORE,
    SOURCE_TOKENS,
    TARGET_TOKENS,
    TEXT_INPUT,
    TEXT_OUTPUT,
    TranslationTask,
    write_task,
)
from atril_training.export import Export

BACKEND = "atril"

_TEXTS = model_config_pb2.TYPE_STRING
_OUTPUTS = (
    (TEXT_OUTPUT, _TEXTS, (-1,)),
    (SCORE, model_config_pb2.TYPE_FP32, (-1,)),
    (FINISHED, model_config_pb2.TYPE_BOOL, (-1,)),
)
_EXPLAINED = (
    (SOURCE_TOKENS, _TEXTS, (-1,)),
    (TARGET_TOKENS, _TEXTS, (-1,)),
    (ATTENTION, model_config_pb2.TYPE_FP32, (-1, -1)),
)


@dataclass(frozen=True, slots=True)
class Composition:
    """The configuration of the whole, and by file name which export's graph it holds.

    `step` is the place of the decoding step among the exports.
    """

    config: ModelConfig
    files: dict[str, int]
    step: int


def compose(model_name: str, exports: Sequence[Export]) -> Composition | None:
    """The translator that the exports are the parts of; None where they are not."""
    places = {export.suffix: place for place, export in enumerate(exports)}
    task = next((e.task for e in exports if isinstance(e.task, TranslationTask)), None)
    if task is None:
        return None
    files = {
        ENCODER_FILE: places[task.encoder_suffix],
        DECODER_FILE: places[task.decoder_suffix],
    }
    if task.explainer_suffix is not None:
        files[EXPLAINER_FILE] = places[task.explainer_suffix]
    return Composition(_config(model_name, task), files, places[task.decoder_suffix])


def _config(model_name: str, task: TranslationTask) -> ModelConfig:
    config = ModelConfig(name=model_name, backend=BACKEND)
    config.model_transaction_policy.decoupled = True
    config.input.add(name=TEXT_INPUT, data_type=_TEXTS, dims=[1])
    explained = _EXPLAINED if task.explainer_suffix is not None else ()
    for name, datatype, dims in (*_OUTPUTS, *explained):
        config.output.add(name=name, data_type=datatype, dims=dims)
    write_task(config, task)
    return config
