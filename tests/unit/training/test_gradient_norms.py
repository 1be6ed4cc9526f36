"""Gradients through time against powers of matrices (lecture 5.3 to 5.7)."""

from math import log

import numpy as np
import pytest
import torch
from torch import Tensor

from atril_models.recurrent.layers import RecurrentLayer
from atril_models.recurrent.long_short_term_memory import LSTM
from atril_models.recurrent.rnn import DelayedRNN, LeakyRNN, SimpleRNN, SkipRNN
from atril_training.diagnostics.gradient_norms import (
    compare_recurrences,
    draw_gradient_norms,
    gradient_norms,
    set_spectral_radius,
)

STEPS = 60


def _silent(layer: RecurrentLayer) -> RecurrentLayer:
    """Without biases: from zeros and on zeros it is linear."""
    for name, parameter in layer.named_parameters():
        if name == "bias":
            torch.nn.init.zeros_(parameter)
    return layer.double()


def _zeros(steps: int = STEPS) -> Tensor:
    return torch.zeros(steps, 2, dtype=torch.float64)


def test_gradient_of_a_linear_recurrence_is_a_power_of_its_weights() -> None:
    """5.3.1: dh(t)/dh(0) = W^t, exactly."""
    torch.manual_seed(0)
    layer = _silent(SimpleRNN(2, 5))
    assert isinstance(layer, SimpleRNN)
    norms = gradient_norms(layer, _zeros(20)).norms
    weight = layer.weight_hh.detach().numpy()
    expected = [np.linalg.norm(np.linalg.matrix_power(weight, t), 2) for t in range(1, 21)]
    np.testing.assert_allclose(norms, expected, rtol=1e-12)


@pytest.mark.parametrize("radius", [0.5, 0.9, 1.0, 1.2])
def test_gradient_grows_by_the_spectral_radius(radius: float) -> None:
    """Of a symmetric matrix, as 5.3.2 has it, every power has the norm radius^t."""
    torch.manual_seed(0)
    layer = _silent(SimpleRNN(2, 5))
    assert isinstance(layer, SimpleRNN)
    with torch.no_grad():
        layer.weight_hh += layer.weight_hh.T.clone()
    set_spectral_radius(layer.weight_hh, radius)
    norms = gradient_norms(layer, _zeros())
    assert norms.growth == pytest.approx(radius, rel=1e-9)
    np.testing.assert_allclose(norms.norms, radius ** np.arange(1, STEPS + 1), rtol=1e-9)


@pytest.mark.parametrize("delay", [2, 5])
def test_over_a_delay_the_exponent_is_divided_by_it(delay: int) -> None:
    """5.4, 5.6: what decays with τ over single steps decays with τ/d over d."""
    torch.manual_seed(0)
    layer = _silent(DelayedRNN(2, 5, delay))
    assert isinstance(layer, DelayedRNN)
    with torch.no_grad():
        layer.weight_dh += layer.weight_dh.T.clone()
    set_spectral_radius(layer.weight_dh, 0.8)
    steps = np.arange(1, STEPS + 1)
    norms = gradient_norms(layer, _zeros()).norms
    np.testing.assert_allclose(norms, 0.8 ** np.ceil(steps / delay), rtol=1e-9)


def test_skip_alone_is_a_delay_and_with_the_single_step_it_can_explode() -> None:
    """5.4: an added connection of the same sign only adds to the gradient."""
    delay = 4
    layer = _silent(SkipRNN(2, 1, delay))
    assert isinstance(layer, SkipRNN)
    with torch.no_grad():
        layer.weight_hh.fill_(0.0)
        layer.weight_dh.fill_(0.8)
    alone = gradient_norms(layer, _zeros()).norms
    np.testing.assert_allclose(alone, 0.8 ** np.ceil(np.arange(1, STEPS + 1) / delay), rtol=1e-9)
    with torch.no_grad():
        layer.weight_hh.fill_(0.5)
    assert gradient_norms(layer, _zeros()).growth > 1


def test_leaky_gradient_has_the_half_life_of_alpha() -> None:
    """5.5: without recurrent weights the gradient after t steps is α^t: half after 6.58 for 0.9."""
    layer = _silent(LeakyRNN(2, 3, 0.9))
    assert isinstance(layer, LeakyRNN)
    torch.nn.init.zeros_(layer.weight_hh)
    norms = gradient_norms(layer, _zeros()).norms
    np.testing.assert_allclose(norms, 0.9 ** np.arange(1, STEPS + 1), rtol=1e-9)
    half_life = np.interp(log(2), -np.log(norms), np.arange(1, STEPS + 1))
    assert half_life == pytest.approx(6.5788, abs=1e-3)


def test_open_lstm_neither_loses_nor_gains() -> None:
    """5.7: with f = 1 and i = 0 the gradient is as large after 1000 steps as after one."""
    torch.manual_seed(0)
    layer = LSTM(2, 3)
    with torch.no_grad():
        layer.weight_x.zero_()
        layer.weight_h.zero_()
        layer.bias.copy_(torch.tensor([-1e4] * 3 + [1e4] * 3 + [0.0] * 6))
    norms = gradient_norms(layer.double(), _zeros(1_000)).norms
    # h = tanh(s) · σ(0), and s stays at 0, where tanh has slope 1.
    np.testing.assert_allclose(norms, 0.5, rtol=1e-12)


def test_tanh_holds_an_explosion_back() -> None:
    """Away from zero the slope of tanh is below 1: the gradient of a loud network is smaller."""
    torch.manual_seed(0)
    layer = SimpleRNN(2, 5).double()
    set_spectral_radius(layer.weight_hh, 1.5)
    quiet = gradient_norms(_silent(layer), _zeros()).norms[-1]
    loud = gradient_norms(layer, 2 * torch.randn(STEPS, 2, dtype=torch.float64)).norms[-1]
    assert loud < quiet / 1e3


def test_remedies_stand_beside_what_they_remedy() -> None:
    """The simple recurrence of radius 0.9 vanishes and that of 1.1 explodes; no other does."""
    norms = compare_recurrences(steps=100)
    vanishing, exploding, *remedies = (one.norms[-1] for one in norms.values())
    assert vanishing < 1e-3
    assert exploding > 1e3
    assert all(0.05 < norm < 20 for norm in remedies)


def test_picture_of_the_norms_is_a_png_that_is_the_same_each_time() -> None:
    """The same norms give the same bytes."""
    norms = compare_recurrences(steps=10)
    picture = draw_gradient_norms(norms)
    assert picture.startswith(b"\x89PNG\r\n")
    assert picture == draw_gradient_norms(norms)


def test_one_step_is_too_few() -> None:
    """There is no growth over a single step."""
    with pytest.raises(ValueError, match="at least 2 time steps, got 1"):
        gradient_norms(SimpleRNN(2, 3), torch.zeros(1, 2))
