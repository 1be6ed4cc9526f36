"""The slim encoder-decoders as exported graphs, and executors that run them in place."""

from functools import lru_cache
from typing import NamedTuple

import onnxruntime as ort

from atril_common.batching import BatchResult
from atril_common.core import InferRequest
from atril_common.tasks import TranslationTask
from atril_inference.decoding.layout import StepLayout
from atril_inference.session import tensor_specs
from atril_models.translation import StepContract
from atril_training.export import Export, export_graph
from atril_training.parity import open_session
from atril_training.tasks.translation_exports import DECODER, ENCODER, EXPLAINER, export_parts
from tests.support.slim_translators import BOS, EOS, random_tokens, slim_translator

TASK = TranslationTask(
    encoder_suffix=ENCODER,
    decoder_suffix=DECODER,
    explainer_suffix=EXPLAINER,
    source_language="en",
    target_language="es",
    tokenizer="{}",
    pad_id=0,
    bos_id=BOS,
    eos_id=EOS,
    max_source_length=12,
    max_target_length=40,
    beam=1,
    length_penalty=0.0,
)


class ExportedParts(NamedTuple):
    """The graphs of one network by suffix, and what it keeps to."""

    contract: StepContract
    graphs: dict[str, bytes]


@lru_cache
def exported_parts(form: str) -> ExportedParts:
    """The graphs of a slim form with fresh weights."""
    exports = exports_of(form, TASK)
    contract = slim_translator(form).contract
    return ExportedParts(contract, {export.suffix: export_graph(export) for export in exports})


def exports_of(form: str, task: TranslationTask) -> tuple[Export, ...]:
    """What a course would publish of it."""
    sources = [random_tokens(1 + n % 9, seed=n).tolist() for n in range(64)]
    return export_parts(slim_translator(form), sources, task)


class GraphExecutor:
    """Runs a graph in place, as a quick model is run.

    Attributes:
        sizes: the batch size of each run.
    """

    def __init__(self, graph: bytes) -> None:
        self.session: ort.InferenceSession = open_session(graph)
        self.sizes: list[int] = []
        self._names = [node.name for node in self.session.get_outputs()]

    def execute(self, batch: InferRequest) -> BatchResult:
        """See `Executor.execute`."""
        self.sizes.append(len(next(iter(batch.inputs.values()))))
        values = self.session.run(self._names, batch.inputs)
        return BatchResult(dict(zip(self._names, values, strict=True)), "1")

    def layout(self) -> StepLayout:
        """Of a step's graph."""
        return StepLayout.read(
            tensor_specs(self.session.get_inputs()), tensor_specs(self.session.get_outputs())
        )
