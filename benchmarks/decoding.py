"""How much of a bare step loop's tokens a second continuous batching keeps.

    python -m benchmarks.decoding

A Transformer of 3 + 3 layers (d 256, 4 heads, feed-forward 1024, vocabulary 10,000), fresh weights,
sources of 14 tokens and targets of 20, float32, one thread. The bare loop runs the same graph on
rows that all begin and end together: no queue, no search but the largest logit, no scores.
"""

import asyncio
import statistics
import time
from dataclasses import replace

import numpy as np
import onnxruntime as ort
import torch

from atril_common.batching import BatchResult
from atril_common.core import InferRequest
from atril_inference.decoding.layout import CACHE_LENGTH, StepLayout, next_name, update_name
from atril_inference.decoding.scheduler import ContinuousDecoder, DecodingLimits
from atril_inference.decoding.search import BeamSearch, GreedySearch, Search
from atril_inference.session import tensor_specs
from atril_models import create_model
from atril_models.translation import SequenceToSequence
from atril_training.export import export_graph
from atril_training.tasks.translation_exports import DECODER, ENCODER, export_parts
from tests.support.exported_decoders import TASK

VOCABULARY, SOURCE, TARGET = 10_000, 14, 20
EOS = VOCABULARY  # never written: every target is as long as the next
REPETITIONS = 5


class Graph:
    """An executor on one thread, in place."""

    def __init__(self, graph: bytes) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self.names = [node.name for node in self.session.get_outputs()]

    def execute(self, batch: InferRequest) -> BatchResult:
        """See `Executor.execute`."""
        values = self.session.run(self.names, batch.inputs)
        return BatchResult(dict(zip(self.names, values, strict=True)), "1")

    def layout(self) -> StepLayout:
        """Of a step."""
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        return StepLayout.read(tensor_specs(inputs), tensor_specs(outputs))


class Unobserved:
    """Notes nothing."""

    def admitted(self, waited_s: float) -> None:
        """See `DecodingObserver`."""

    def first_token(self, since_submitted_s: float) -> None:
        """See `DecodingObserver`."""

    def stepped(self, rows: int, tokens: int, duration_s: float) -> None:
        """See `DecodingObserver`."""


def graphs() -> tuple[Graph, Graph]:
    """Encoder and step."""
    torch.manual_seed(0)
    network = create_model(
        "transformer",
        vocabulary=VOCABULARY,
        model_size=256,
        layers=3,
        heads=4,
        feedforward_size=1024,
    ).eval()
    assert isinstance(network, SequenceToSequence)
    sources = [torch.randint(3, VOCABULARY, (SOURCE,)).tolist() for _ in range(64)]
    parts = {e.suffix: e for e in export_parts(network, sources, replace(TASK, pad_id=0))}
    return Graph(export_graph(parts[ENCODER])), Graph(export_graph(parts[DECODER]))


def sources(rows: int) -> np.ndarray:
    """Random sentences."""
    return np.random.default_rng(rows).integers(3, VOCABULARY, (rows, SOURCE))


def bare(encoder: Graph, step: Graph, rows: int) -> float:
    """Tokens a second of rows in lock-step."""
    layout = step.layout()
    source = sources(rows)
    started_s = time.perf_counter()
    lengths = np.full(rows, SOURCE)
    encoded = encoder.execute(
        InferRequest("", {"source": source, "source_length": lengths})
    ).outputs
    caches = {
        spec.name: np.zeros(spec.shape(rows, TARGET + 1), spec.dtype) for spec in layout.caches
    }
    feed = {spec.name: encoded[spec.name] for spec in (*layout.memory, *layout.states)}
    token = np.ones(rows, np.int64)
    for place in range(TARGET):
        length = np.full(rows, place)
        outputs = step.execute(
            InferRequest(
                "",
                {
                    "token": token,
                    "source_length": lengths,
                    "position": length,
                    CACHE_LENGTH: length,
                    **feed,
                    **caches,
                },
            )
        ).outputs
        for spec in layout.states:
            feed[spec.name] = outputs[next_name(spec.name)]
        for name, cache in caches.items():
            cache[:, :, place] = outputs[update_name(name)][:, :, 0]
        token = outputs["logits"].argmax(axis=1)
    return rows * TARGET / (time.perf_counter() - started_s)


async def decoded(encoder: Graph, step: Graph, requests: int, slots: int, beam: int) -> float:
    """Tokens a second of requests that come at once."""
    limits = DecodingLimits(slots=slots, max_queue_size=10_000)
    decoder = ContinuousDecoder("bench", encoder, step, step.layout(), limits, Unobserved())

    def search() -> Search:
        if beam == 1:
            return GreedySearch(EOS, TARGET, 0.0)
        return BeamSearch(EOS, TARGET, beam, 0.0, 1)

    started_s = time.perf_counter()
    rows = sources(requests).tolist()
    await asyncio.gather(*(decoder.submit(row, 1, search()).result for row in rows))
    return requests * TARGET / (time.perf_counter() - started_s)


def main() -> None:
    """Print a table; the ways take turns."""
    encoder, step = graphs()
    ways = {
        "bare loop, 1 row": lambda: bare(encoder, step, 1),
        "decoder, 1 request": lambda: asyncio.run(decoded(encoder, step, 1, 32, 1)),
        "bare loop, 32 rows": lambda: bare(encoder, step, 32),
        "decoder, 32 requests": lambda: asyncio.run(decoded(encoder, step, 32, 32, 1)),
        "decoder, 64 requests, 32 slots": lambda: asyncio.run(decoded(encoder, step, 64, 32, 1)),
        "decoder, 32 requests, one slot": lambda: asyncio.run(decoded(encoder, step, 32, 1, 1)),
        "decoder, 8 requests, beam 4": lambda: asyncio.run(decoded(encoder, step, 8, 32, 4)),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(REPETITIONS):
        for name, way in ways.items():
            rates[name].append(way())
    for name, values in rates.items():
        print(f"{name:34} {statistics.median(values):8.0f} tokens/s")


if __name__ == "__main__":
    main()
