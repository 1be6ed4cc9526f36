"""Recurrent networks as ONNX graphs of any batch and any length."""

import onnx
import pytest
import torch
from torch import Tensor

from atril_models import Network, create_model
from atril_models.recurrent.char_transformer import CharacterTransformer, CharacterTransformerStep
from atril_models.recurrent.forecasting import (
    ForecasterInOwnUnits,
    ForecastStep,
    SequenceForecaster,
)
from atril_models.recurrent.language_model import CharacterModel, CharacterStep
from atril_models.recurrent.long_short_term_memory import LSTM
from atril_models.recurrent.one_step import OneStep
from atril_models.recurrent.rnn import SkipRNN
from atril_training.export import Export, OutputSpec, ParityCase, TensorSpec, export_graph
from atril_training.parity import measure_parity

# Of each entry: slim options, the operators of its recurrence, and the output's name and last
# dimensions.
Form = tuple[dict[str, object], dict[str, int], tuple[str, tuple[int | str, ...]]]
_CLASSIFIER = ("logits", ("batch", 3))
_SIZES: dict[str, object] = {"features": 4, "hidden": 6, "classes": 3}
FORMS: dict[str, Form] = {
    "rnn": (_SIZES, {"RNN": 1}, _CLASSIFIER),
    "rnn-skip": (_SIZES | {"delay": 3}, {"Scan": 1}, _CLASSIFIER),
    "rnn-leaky": (_SIZES | {"learn_alpha": True}, {"Scan": 1}, _CLASSIFIER),
    "rnn-delay": (_SIZES | {"delay": 3}, {"RNN": 1}, _CLASSIFIER),
    "lstm": (_SIZES, {"LSTM": 1}, _CLASSIFIER),
    "bilstm": (_SIZES, {"LSTM": 2}, _CLASSIFIER),
    "lstm-forecaster": (
        {"features": 2, "hidden": 6, "horizon": 3, "lags": 4, "members": 2},
        {"LSTM": 2},
        ("forecast", ("batch", 3)),
    ),
    "char-lstm": (
        {"vocabulary": 5, "hidden": 6},
        {"LSTM": 2},
        ("logits", ("batch", "length", 5)),
    ),
    "char-transformer": (
        {"vocabulary": 5, "context": 60, "layers": 2, "heads": 2, "channels": 8},
        {},
        ("logits", ("batch", "length", 5)),
    ),
}
LENGTHS = (1, 2, 5, 50)
TRACED_LENGTH = 4


def _network(name: str) -> Network:
    torch.manual_seed(0)
    return create_model(name, **FORMS[name][0]).eval()


def _given(network: Network, batch: int, length: int) -> Tensor:
    generator = torch.Generator().manual_seed(batch + length)
    (example,) = network.example_inputs()
    if example.dtype == torch.int64:
        return torch.randint(0, 5, (batch, length), generator=generator)
    return torch.randn(batch, length, example.shape[2], generator=generator)


def _recurrent_operators(model: onnx.ModelProto) -> dict[str, int]:
    kinds = [node.op_type for node in model.graph.node]
    return {kind: kinds.count(kind) for kind in ("RNN", "LSTM", "Scan", "Loop") if kind in kinds}


@pytest.mark.parametrize("name", FORMS)
def test_exported_network_reads_any_length(name: str) -> None:
    """One operator a recurrence, free axes, and parity at lengths 1 to 50, traced with 4."""
    network = _network(name)
    example = _given(network, 2, TRACED_LENGTH)
    dims = ("batch", "length", *example.shape[2:])
    output, output_dims = FORMS[name][2]
    export = Export(
        module=network,
        inputs=(TensorSpec("given", dims, example.dtype),),
        outputs=(OutputSpec(output, output_dims),),
        example=(example,),
        cases=tuple(
            ParityCase({"batch": batch, "length": length}, [(_given(network, batch, length),)])
            for length in LENGTHS
            for batch in (1, 3, 7)
        ),
    )
    graph = export_graph(export)
    assert _recurrent_operators(onnx.load_from_string(graph)) == FORMS[name][1]
    assert measure_parity(export, graph).failures() == ()
    # A network that is exported is the same afterwards.
    torch.testing.assert_close(network(example), _network(name)(example))


def _steps() -> dict[str, OneStep]:
    lstm, transformer = map(_network, ("char-lstm", "char-transformer"))
    assert isinstance(lstm, CharacterModel)
    assert isinstance(transformer, CharacterTransformer)
    members = [LSTM(1, 4), SkipRNN(1, 4, 3)]
    forecaster = ForecasterInOwnUnits(
        SequenceForecaster(members, horizon=2, lags=3), "sqrt", mean=0.5, std=2.0
    )
    return {
        "char-lstm": CharacterStep(lstm).eval(),
        "char-transformer": CharacterTransformerStep(transformer).eval(),
        "lstm-forecaster": ForecastStep(forecaster).eval(),
    }


def _example(step: OneStep, batch: int, room: int) -> tuple[Tensor, ...]:
    """Random inputs of a step, the caches with so much room, partly filled."""
    generator = torch.Generator().manual_seed(batch + room)
    given = []
    for name, zeros in zip(step.input_names, step.example_inputs(batch), strict=True):
        if name in {"position", "cache_length"}:
            given.append(torch.arange(batch) % (room + 1))
        elif zeros.dtype == torch.int64:
            given.append(torch.randint(0, 5, zeros.shape, generator=generator))
        else:
            heads = zeros.shape[1:-2]
            shape = (*zeros.shape[:2], room, zeros.shape[3]) if len(heads) else zeros.shape
            given.append(torch.randn(shape, generator=generator))
    return tuple(given)


@pytest.mark.parametrize("name", ["char-lstm", "char-transformer", "lstm-forecaster"])
def test_exported_step_takes_any_batch_and_any_room(name: str) -> None:
    """A step's graph has the declared names, free axes, and parity for caches of many sizes."""
    step = _steps()[name]
    has_room = any(n.startswith("cache_") for n in step.input_names)
    example = _example(step, 2, 4)
    inputs = tuple(
        TensorSpec(
            input_name,
            tuple(
                "batch" if axis == 0 else "past" if axis == 2 and tensor.dim() == 4 else size
                for axis, size in enumerate(tensor.shape)
            ),
            tensor.dtype,
        )
        for input_name, tensor in zip(step.input_names, example, strict=True)
    )
    with torch.no_grad():
        answers = step(*example)
    export = Export(
        module=step,
        inputs=inputs,
        outputs=tuple(
            OutputSpec(output_name, ("batch", *answer.shape[1:]))
            for output_name, answer in zip(step.output_names, answers, strict=True)
        ),
        example=example,
        cases=tuple(
            ParityCase(
                {"batch": batch} | ({"past": room} if has_room else {}),
                [_example(step, batch, room)],
            )
            for room in (1, 2, 9)
            for batch in (1, 3, 7)
        ),
    )
    assert measure_parity(export, export_graph(export)).failures() == ()
