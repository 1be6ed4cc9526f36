"""An encoder-decoder as it is published, with the steps of real translations to prove it on.

Dimensions: B batch, S source positions, P room for past positions.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from atril_common.tasks import TranslationTask
from atril_models.translation import DecoderStep, Encoder, SequenceToSequence
from atril_models.translation import TensorSpec as StepTensor
from atril_models.translation.contract import (
    BATCH,
    CACHE,
    SOURCE,
    next_state_name,
    update_name,
)
from atril_training.export import Export, OutputSpec, ParityCase, TensorSpec

ENCODER, DECODER, EXPLAINER = "-encoder", "-decoder", "-explainer"
"""Suffixes of the names of the published parts."""

_LOGITS = "logits"

_SIZES = ({BATCH: 64, SOURCE: 24}, {BATCH: 7, SOURCE: 5}, {BATCH: 1, SOURCE: 1})
"""Parity is measured at these; a cache has as much room as the source has positions."""

_TRACED = {BATCH: 2, SOURCE: 6, CACHE: 4}
_BATCHES_OF_A_CASE = 2
_PAD_ID = 0


def export_parts(
    network: SequenceToSequence, sources: Sequence[Sequence[int]], task: TranslationTask
) -> tuple[Export, ...]:
    """Encoder, explaining step where the network attends, and step; the step carries the task.

    The cases of the steps are all steps of greedy translations of the sources, so that where
    PyTorch and ONNX Runtime find the same token likeliest in each, they translate alike.

    Args:
        network: in eval mode, on the CPU.
        sources: tokens of real sentences, as they are given to the encoder.
        task: what the model is for.
    """
    cases = [_batches(sources, sizes[BATCH], sizes[SOURCE]) for sizes in _SIZES]
    encoder = Encoder(network)
    encoding = _export(
        encoder,
        ENCODER,
        [ParityCase(sizes, batches) for sizes, batches in zip(_SIZES, cases, strict=True)],
    )
    steps = [
        ParityCase(
            {**sizes, CACHE: sizes[SOURCE]},
            [
                inputs
                for batch in batches
                for inputs in _greedy_steps(network, *batch, bos_id=task.bos_id)
            ],
        )
        for sizes, batches in zip(_SIZES, cases, strict=True)
    ]
    explaining = (
        (_export(DecoderStep(network, explain=True), EXPLAINER, steps),)
        if network.contract.attends
        else ()
    )
    return (encoding, *explaining, _export(DecoderStep(network), DECODER, steps, task))


def _export(
    module: Encoder | DecoderStep,
    suffix: str,
    cases: Sequence[ParityCase],
    task: TranslationTask | None = None,
) -> Export:
    return Export(
        module=module,
        inputs=tuple(TensorSpec(spec.name, spec.dims, spec.dtype) for spec in module.inputs),
        outputs=tuple(
            OutputSpec(spec.name, spec.dims, spec.dtype, same_argmax=spec.name == _LOGITS)
            for spec in module.outputs
        ),
        example=tuple(_traced(spec) for spec in module.inputs),
        cases=tuple(cases),
        suffix=suffix,
        task=task,
    )


def _traced(spec: StepTensor) -> Tensor:
    """Zeros, but for lengths of one: a source has no fewer tokens."""
    zeros = spec.zeros(_TRACED)
    return zeros + 1 if spec.name == "source_length" else zeros


def _batches(
    sources: Sequence[Sequence[int]], batch: int, positions: int
) -> list[tuple[Tensor, Tensor]]:
    """Sources cut or padded to so many positions, and their lengths, in full batches.

    Raises:
        ValueError: fewer sources than a batch.
    """
    if len(sources) < batch:
        raise ValueError(f"parity needs at least {batch} sources, got {len(sources)}")
    starts = range(0, len(sources) - batch + 1, batch)[:_BATCHES_OF_A_CASE]
    batches = []
    for start in starts:
        rows = [list(row[:positions]) for row in sources[start : start + batch]]
        lengths = torch.tensor([len(row) for row in rows])
        tokens = torch.tensor([row + [_PAD_ID] * (positions - len(row)) for row in rows])
        batches.append((tokens, lengths))
    return batches


def _greedy_steps(
    network: SequenceToSequence, source: Tensor, source_length: Tensor, *, bos_id: int
) -> Iterator[tuple[Tensor, ...]]:
    """Inputs of the decoder in each step of greedy translations, until a full cache was read."""
    contract, room = network.contract, source.shape[1]
    with torch.no_grad():
        inputs = dict(network.encode(source, source_length))
    token = torch.full_like(source_length, bos_id)
    inputs["source_length"] = source_length
    sizes = {BATCH: len(source), CACHE: room}
    inputs |= {cache.name: cache.zeros(sizes) for cache in contract.caches}
    for position in range(room + 1):
        place = torch.full_like(source_length, position)
        inputs |= {"token": token, "position": place, "cache_length": place}
        yield tuple(inputs[spec.name] for spec in contract.decoder_inputs)
        with torch.no_grad():
            outputs = network.step(inputs)
        token = outputs[_LOGITS].argmax(-1)
        inputs |= {state.name: outputs[next_state_name(state.name)] for state in contract.states}
        if position < room:
            inputs |= {
                cache.name: _written(inputs[cache.name], outputs[update_name(cache.name)], position)
                for cache in contract.caches
            }


def _written(cache: Tensor, update: Tensor, position: int) -> Tensor:
    """A copy of a cache with one more position."""
    written = cache.clone()
    written[..., position : position + 1, :] = update
    return written
