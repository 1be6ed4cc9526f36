"""A forecaster that was exported with its states kept by the server, driven by sequences."""

import asyncio
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from atril_common.core import InferRequest, RequestOptions, SequenceControl
from atril_training.configuration import model_config
from atril_training.datasets import file_source
from atril_training.export import export_graph
from atril_training.recipes import find_recipe
from atril_training.tasks import prepare
from tests.support.engines import running_engine
from tests.support.repositories import write_model


async def test_sequences_end_where_the_whole_window_does(tmp_path: Path) -> None:
    """Interleaved series of several callers: each gets the forecast of its own window."""
    course = prepare(find_recipe("lstm-forecaster"), file_source(None))
    torch.manual_seed(0)
    exports = {e.suffix: e for e in course.exports(course.build().eval())}
    sequence = exports["-sequence"]
    graph = export_graph(sequence)
    write_model(tmp_path, model_config("forecaster-sequence", sequence), {1: graph})
    whole = onnxruntime.InferenceSession(export_graph(exports[""]))
    windows = np.random.default_rng(0).normal(500, 100, (4, 7, 1)).astype(np.float32)
    async with running_engine(tmp_path) as engine:
        metadata = await engine.metadata("forecaster-sequence")
        assert [spec.name for spec in metadata.inputs] == ["observation"]
        assert [spec.name for spec in metadata.outputs] == ["forecast", "deviation"]
        for position in range(windows.shape[1]):
            futures = []
            for number, window in enumerate(windows, 1):
                control = SequenceControl(number, start=position == 0, end=position == 6)
                futures.append(
                    engine.infer(
                        InferRequest(
                            "forecaster-sequence",
                            {"observation": window[position][None]},
                            options=RequestOptions(sequence=control),
                        )
                    )
                )
            last = await asyncio.gather(*futures)
        (statistics,) = await engine.statistics("forecaster-sequence")
    assert [b.batch_size for b in statistics.batch_stats] == [4]
    for output in ("forecast", "deviation"):
        (expected,) = whole.run([output], {"window": windows})
        answered = np.concatenate([response.outputs[output] for response in last])
        np.testing.assert_allclose(answered, expected, rtol=1e-4)
