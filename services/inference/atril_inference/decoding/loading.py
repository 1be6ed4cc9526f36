"""A translator from its files to sessions that are ready to be driven; everything here blocks.

<root>/<model>/config.pbtxt               backend: "atril", and the task's facts
<root>/<model>/<version>/encoder.onnx
<root>/<model>/<version>/decoder.onnx     one step
<root>/<model>/<version>/explainer.onnx   one step that answers attention, where there is any
"""

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tritonclient.grpc.model_config_pb2 import ModelConfig

from atril_common.errors import InvalidInputError, NotReadyError
from atril_common.repository import DECODER_FILE, ENCODER_FILE, EXPLAINER_FILE
from atril_common.tasks import TranslationTask, read_task
from atril_common.tensors import Tensor
from atril_inference.decoding.layout import (
    CACHE_LENGTH,
    POSITION,
    SOURCE,
    SOURCE_LENGTH,
    TOKEN,
    StepLayout,
)
from atril_inference.decoding.served import LoadedTranslator, Parts
from atril_inference.decoding.slots import BUCKET
from atril_inference.memory import MemoryMeter
from atril_inference.served import LoadRecord
from atril_inference.session import OnnxSession, WarmUpTime
from atril_inference.session_options import SessionOptions, options_for
from atril_inference.warm_up import WarmUpSample

logger = logging.getLogger(__name__)

BACKEND = "atril"
SLOTS_KEY = "atril.slots"
"""Parameter of a configuration: how many hypotheses are decoded at once."""

_DEFAULT_SLOTS = 32
_MOST_SLOTS = 1024


def load_translator(
    folder: Path, version: int, config: ModelConfig, options: SessionOptions
) -> LoadedTranslator:
    """Load, check and warm up the graphs of `<folder>/<version>`.

    Raises:
        NotReadyError: it cannot be served; the text says why.
    """
    started_s = time.monotonic()
    task = _task(config)
    slots = _slots(config)
    options = options_for(config, options)
    meter = MemoryMeter(options)
    sessions = {
        name: OnnxSession.load(_existing(folder / str(version) / name), str(version), options)
        for name in (ENCODER_FILE, DECODER_FILE, EXPLAINER_FILE)
        if name != EXPLAINER_FILE or task.explainer_suffix is not None
    }
    meter.loaded()
    times: list[WarmUpTime] = []
    for name, session in sessions.items():
        samples = _steps(session, slots) if name != ENCODER_FILE else _encodings(slots)
        times += session.warm_up(samples, options.warm_up_budget_s)
    record = LoadRecord(time.monotonic() - started_s, tuple(times), meter.warmed_up())
    logger.info(
        "warmed_up",
        extra={
            "model_name": config.name,
            "model_version": str(version),
            "first_s": {taken.sample: round(taken.first_s, 6) for taken in times},
        },
    )
    parts = Parts(sessions[ENCODER_FILE], sessions[DECODER_FILE], sessions.get(EXPLAINER_FILE))
    return LoadedTranslator(config, version, task, parts, slots, record)


def _task(config: ModelConfig) -> TranslationTask:
    try:
        task = read_task(config)
    except InvalidInputError as err:
        raise NotReadyError(str(err)) from err
    if not isinstance(task, TranslationTask):
        raise NotReadyError(
            f"backend '{BACKEND}' runs models of task 'translation', which the parameters of "
            f"'{config.name}' do not declare"
        )
    return task


def _slots(config: ModelConfig) -> int:
    if SLOTS_KEY not in config.parameters:
        return _DEFAULT_SLOTS
    text = str(config.parameters[SLOTS_KEY].string_value)
    if not text.isdecimal() or len(text) > 9 or not 1 <= int(text) <= _MOST_SLOTS:
        raise NotReadyError(
            f"parameter '{SLOTS_KEY}' must be a whole number from 1 to {_MOST_SLOTS}, got {text!r}"
        )
    return int(text)


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise NotReadyError(f"version {path.parent.name} has no {path.name}")
    return path


def _encodings(slots: int) -> Iterator[WarmUpSample]:
    for rows in sorted({1, slots}):
        inputs = {
            SOURCE: np.zeros((rows, BUCKET), np.int64),
            SOURCE_LENGTH: np.ones(rows, np.int64),
        }
        yield WarmUpSample(f"encoder, batch {rows}", rows, inputs)


def _steps(session: OnnxSession, slots: int) -> Iterator[WarmUpSample]:
    layout = StepLayout.read(session.inputs, session.outputs)
    for rows in sorted({1, slots}):
        zeros = np.zeros(rows, np.int64)
        inputs: dict[str, Tensor] = {TOKEN: zeros}
        for name in layout.places & {POSITION, CACHE_LENGTH}:
            inputs[name] = zeros
        if SOURCE_LENGTH in layout.places:
            inputs[SOURCE_LENGTH] = np.ones(rows, np.int64)
        for spec in (*layout.memory, *layout.states, *layout.caches):
            inputs[spec.name] = np.zeros(spec.shape(rows, BUCKET), spec.dtype)
        yield WarmUpSample(f"step, batch {rows}", rows, inputs)
