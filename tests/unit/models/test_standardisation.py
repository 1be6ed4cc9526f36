"""Networks in their numbers' own units."""

import math

import pytest
import torch
from torch import nn

from atril_models.standardisation import InOwnUnits, Units


def test_inputs_are_standardised_and_outputs_given_their_unit() -> None:
    """The answer is mean_y + std_y · f((x - mean_x) / std_x), here with f(x) = -x1."""

    class Negative(nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return -inputs[..., :1]

    module = InOwnUnits(Negative(), Units((10.0, 5.0), (2.0, 4.0)), Units((100.0,), (50.0,)))
    # (14 - 10) / 2 = 2 and (9 - 10) / 2 = -0.5, so 100 - 50 · 2 = 0 and 100 + 50 · 0.5 = 125
    assert module(torch.tensor([[14.0, 0.0], [9.0, 77.0]])).tolist() == [[0.0], [125.0]]


def test_logits_have_no_unit() -> None:
    """Without units of the output the network's answer is passed on as it is."""
    module = InOwnUnits(nn.Identity(), Units((1.0, 1.0), (2.0, 2.0)))
    assert module(torch.tensor([[3.0, -1.0]])).tolist() == [[1.0, -1.0]]


def test_steps_of_a_sequence_share_their_units() -> None:
    """Only the last dimension is that of the numbers: rows and series of rows alike."""
    module = InOwnUnits(nn.Identity(), Units((1.0, 2.0), (1.0, 2.0)))
    series = torch.tensor([[[2.0, 4.0], [1.0, 0.0]]])  # [1, 2, 2]
    assert module(series).tolist() == [[[1.0, 1.0], [0.0, -1.0]]]


def test_units_move_with_the_network_and_are_not_learnt() -> None:
    """They are buffers: part of the state, and no parameters."""
    module = InOwnUnits(nn.Linear(1, 1), Units((1.0,), (2.0,)), Units((0.0,), (1.0,)))
    assert {name for name, _ in module.named_buffers()} == {
        "input_mean", "input_std", "output_mean", "output_std",
    }  # fmt: skip
    assert len(list(module.parameters())) == 2


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ((1.0, 2.0), (1.0,), "each of 2 means, got 1"),
        ((1.0, 2.0), (1.0, 0.0), "number 1: .* above 0, got 2.0 and 0.0"),
        ((1.0,), (-1.0,), "number 0: .* got 1.0 and -1.0"),
        ((math.nan,), (1.0,), "number 0: expected a finite mean"),
        ((1.0,), (math.inf,), "number 0: .* got 1.0 and inf"),
    ],
)
def test_impossible_units_are_refused(
    mean: tuple[float, ...], std: tuple[float, ...], message: str
) -> None:
    """The error names the number and what it has."""
    with pytest.raises(ValueError, match=message):
        Units(mean, std)
