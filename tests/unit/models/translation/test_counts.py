"""Parameters of the published forms, against the papers' sizes."""

import math

import pytest
import torch

from atril_models import Network, count_layers, create_model
from atril_models.translation.transformer import Transformer, sinusoidal_positions


def _published(name: str, **options: object) -> Network:
    with torch.device("meta"):
        return create_model(name, **options)


def _by_part(network: Network) -> dict[str, int]:
    """Weights, without biases, by the first part of their name."""
    parts: dict[str, int] = {}
    for name, parameter in network.named_parameters():
        if "bias" not in name:
            part = name.split(".")[0]
            parts[part] = parts.get(part, 0) + parameter.numel()
    return parts


def test_rnnsearch_has_the_weights_of_the_paper() -> None:
    """N = 1000, m = 620, l = 500, n' = 1000, 30,000 words: 80,401,000 weights without biases."""
    network = _published("bahdanau")
    parts = _by_part(network)
    encoder = ("source_embedding", "forward_encoder", "backward_encoder")
    decoder = ("target_embedding", "decoder", "first_state")
    attention = ("annotation_key", "attention")
    output = ("readout_state", "readout_input", "readout_context", "output")
    sums = [sum(parts[name] for name in group) for group in (encoder, decoder, attention, output)]
    assert sums == [28_320_000, 30_460_000, 3_001_000, 18_620_000]
    assert sum(parts.values()) == 80_401_000
    # One bias in each linear layer that has one, two in each gate of a GRU.
    biases = sum(p.numel() for p in network.parameters()) - 80_401_000
    assert biases == 3 * 6 * 1000 + 1000 + 1000 + 1000 + 30_000


def test_rnn_encoder_decoder_has_the_weights_of_the_paper() -> None:
    """1000 units, rank 100 between words and units both ways, 500 maxout units, 15,000 words."""
    parts = _by_part(_published("rnn-encoder-decoder"))
    assert parts == {
        "source_embedding": 1_500_000,
        "encoder": 3 * (100 * 1000 + 1000 * 1000),
        "summary": 1_000_000,
        "first_state": 1_000_000,
        "target_embedding": 1_500_000,
        "decoder": 3 * (100 * 1000 + 1000 * 1000 + 1000 * 1000),
        "readout_state": 1_000_000,
        "readout_input": 100_000,
        "readout_context": 1_000_000,
        "output_rank": 50_000,
        "output": 1_500_000,
    }
    assert sum(parts.values()) == 18_250_000


@pytest.mark.parametrize(("bias", "total"), [(False, 63_045_632), (True, 63_082_496)])
def test_transformer_base_has_the_parameters_of_the_paper(bias: bool, total: int) -> None:
    """An encoder layer has 3,150,336 parameters and a decoder layer 4,199,936 without biases."""
    network = _published("transformer", attention_bias=bias)
    assert isinstance(network, Transformer)
    assert sum(parameter.numel() for parameter in network.parameters()) == total
    layer_sums = [
        {sum(p.numel() for p in layer.parameters()) for layer in layers}
        for layers in (network.encoder, network.decoder)
    ]
    biases = 4 * 512 if bias else 0
    assert layer_sums == [{3_150_336 + biases}, {4_199_936 + 2 * biases}]
    assert len(network.encoder) == len(network.decoder) == 6


def test_pre_norm_adds_one_normalisation_to_each_stack() -> None:
    """Nothing else changes in the number of parameters."""
    network = _published("transformer", pre_norm=True)
    assert sum(p.numel() for p in network.parameters()) == 63_045_632 + 2 * 2 * 512


def test_transformer_table_counts_its_products() -> None:
    """Multiply-adds of 7 source and 5 target positions, by hand: projections, attention, output."""
    rows = count_layers(_slim := _published("transformer"), *_slim_inputs(_slim))
    work = {row.name: row.multiply_adds for row in rows}
    assert work["encoder.0.self_attention.query"] == 7 * 512 * 512
    assert work["encoder.0.self_attention.attention"] == 2 * 7 * 7 * 512
    assert work["decoder.0.self_attention.attention"] == 2 * 5 * 5 * 512
    assert work["decoder.0.source_attention.attention"] == 2 * 5 * 7 * 512
    assert work["decoder.0.source_attention.key"] == 7 * 512 * 512
    assert work["decoder.5.feedforward.0"] == 5 * 512 * 2048
    assert work["output"] == 5 * 512 * 37_000


def _slim_inputs(network: Network) -> list[torch.Tensor]:
    return [tensor.to("meta") for tensor in network.example_inputs()]


def test_additive_attention_counts_one_row_for_all_its_calls() -> None:
    """Five steps of W s, v and a weighted mean over seven annotations; v and W are its only own."""
    network = _published("bahdanau")
    rows = {row.name: row for row in count_layers(network, *_slim_inputs(network))}
    row = rows["attention"]
    assert row.parameters == 1000 * 1000 + 1000
    assert row.connections == 5 * (1000 * 1000 + 7 * 1000)
    assert row.multiply_adds == 5 * (1000 * 1000 + 7 * 1000 + 7 * 2000)


def test_positions_are_the_papers_waves() -> None:
    """PE(p, 2i) = sin(p / 10000^(2i/D)) and the cosine beside it, for any p."""
    encoded = sinusoidal_positions(torch.tensor([0, 1, 500]), 6)
    for row, position in enumerate((0, 1, 500)):
        for pair in range(3):
            angle = position / 10_000 ** (2 * pair / 6)
            assert encoded[row, 2 * pair].item() == pytest.approx(math.sin(angle), abs=1e-4)
            assert encoded[row, 2 * pair + 1].item() == pytest.approx(math.cos(angle), abs=1e-4)


def test_an_odd_model_size_is_refused() -> None:
    """Sine and cosine come in pairs."""
    with pytest.raises(ValueError, match="must be even, for sine and cosine, got 9"):
        Transformer(10, model_size=9, heads=3)
