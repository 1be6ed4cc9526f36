"""Counting rules, each against a count done by hand."""

import pytest
import torch
from torch import nn

from atril_models.accounting import count_connections, count_layers
from atril_models.layers import TrainableSubsampling


@pytest.mark.parametrize(
    ("layer", "output_shape", "expected"),
    [
        (nn.Conv2d(3, 4, 5), (4, 7, 6), 4 * (3 * 25 + 1) * 7 * 6),
        (nn.Conv2d(3, 4, 5, bias=False), (4, 7, 6), 4 * 3 * 25 * 7 * 6),
        (nn.Linear(10, 4), (4,), 44),
        (TrainableSubsampling(6, 2), (6, 14, 14), 5 * 6 * 14 * 14),
        (nn.AvgPool2d(2), (6, 14, 14), 4 * 6 * 14 * 14),
        (nn.AvgPool2d((2, 3)), (1, 2, 2), 6 * 4),
    ],
    ids=["conv", "conv without bias", "linear", "sub-sampling", "average", "average 2x3"],
)
def test_connections_of_a_layer(
    layer: nn.Module, output_shape: tuple[int, ...], expected: int
) -> None:
    """One connection for each product and each bias that a neuron adds up."""
    assert count_connections(layer, output_shape) == expected


def test_layer_without_a_rule_is_not_guessed() -> None:
    """Asking for a type that nobody counts is an error that names it."""
    with pytest.raises(TypeError, match="connections of Dropout"):
        count_connections(nn.Dropout(), (3,))


def test_counting_leaves_the_model_as_it_was() -> None:
    """Mode, hooks and weights are the same after as before."""
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8, 2)).train()
    weights = [parameter.clone() for parameter in model.parameters()]
    rows = count_layers(model, (1, 4, 4))
    assert [row.kind for row in rows] == ["Conv2d", "Linear"]
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())
    assert all(map(torch.equal, weights, model.parameters()))
