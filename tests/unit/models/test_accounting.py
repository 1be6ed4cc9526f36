"""Counting rules, each against a count done by hand."""

import pytest
import torch
from torch import nn

from atril_models.accounting import Work, count_layers, count_work
from atril_models.layers import TrainableSubsampling


@pytest.mark.parametrize(
    ("layer", "output_shape", "expected"),
    [
        (nn.Conv2d(3, 4, 5), (4, 7, 6), (4 * (3 * 25 + 1) * 7 * 6, 4 * 3 * 25 * 7 * 6)),
        (nn.Conv2d(3, 4, 5, bias=False), (4, 7, 6), (4 * 3 * 25 * 7 * 6,) * 2),
        (nn.Linear(10, 4), (4,), (44, 40)),
        (TrainableSubsampling(6, 2), (6, 14, 14), (5 * 6 * 14 * 14, 6 * 14 * 14)),
        (nn.AvgPool2d(2), (6, 14, 14), (4 * 6 * 14 * 14, 0)),
        (nn.Conv2d(4, 6, 3, groups=2), (6, 5, 5), (6 * (2 * 9 + 1) * 25, 6 * 2 * 9 * 25)),
        (nn.ConvTranspose2d(3, 2, 2, stride=2), (2, 8, 8), (3 * 2 * 4 * 16 + 128, 3 * 2 * 4 * 16)),
        (nn.Linear(10, 4), (7, 4), (7 * 44, 7 * 40)),
        (nn.LSTM(3, 5, batch_first=True), (7, 5), (7 * 4 * (15 + 25 + 10), 7 * 4 * (15 + 25))),
        (nn.BatchNorm2d(3), (3, 2, 2), (24, 12)),
        (nn.Embedding(9, 4), (7, 4), (0, 0)),
        (nn.AvgPool2d((2, 3)), (1, 2, 2), (6 * 4, 0)),
    ],
    ids=[
        "conv",
        "conv without bias",
        "linear",
        "sub-sampling",
        "average",
        "groups",
        "transposed",
        "linear at each step",
        "lstm",
        "norm",
        "embedding",
        "average 2x3",
    ],
)
def test_work_of_a_layer(
    layer: nn.Module, output_shape: tuple[int, ...], expected: tuple[int, int]
) -> None:
    """One connection for each product and each bias that a neuron adds up."""
    assert count_work(layer, output_shape) == Work(*expected)


def test_layer_without_a_rule_is_not_guessed() -> None:
    """Asking for a type that nobody counts is an error that names it."""
    with pytest.raises(TypeError, match="no rule counts Dropout"):
        count_work(nn.Dropout(), (3,))


def test_counting_leaves_the_model_as_it_was() -> None:
    """Mode, hooks and weights are the same after as before."""
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8, 2)).train()
    weights = [parameter.clone() for parameter in model.parameters()]
    rows = count_layers(model, torch.zeros(1, 1, 4, 4))
    assert [row.kind for row in rows] == ["Conv2d", "Linear"]
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())
    assert all(map(torch.equal, weights, model.parameters()))


def test_parameters_without_a_rule_are_not_overlooked() -> None:
    """A module that holds a parameter and that no rule counts is an error, not a short total."""

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

    with pytest.raises(TypeError, match="no rule counts Odd, which holds parameters"):
        count_layers(nn.Sequential(nn.Linear(3, 3), Odd()), torch.zeros(1, 3))


def test_a_layer_called_twice_does_twice_the_work_with_the_same_parameters() -> None:
    """A shared layer has one row; tied parameters are counted once, in the first row."""
    shared = nn.Linear(4, 4)
    tied = nn.Linear(4, 4, bias=False)
    tied.weight = shared.weight
    rows = count_layers(nn.Sequential(shared, nn.Tanh(), shared, tied), torch.zeros(1, 4))
    assert [(r.name, r.parameters, r.connections, r.multiply_adds) for r in rows] == [
        ("0", 20, 40, 32),
        ("3", 0, 16, 16),
    ]
