"""Recurrent layers against their equations, the library's layers and closed forms."""

from collections.abc import Callable
from math import log

import pytest
import torch
from torch import Tensor, nn

from atril_models.accounting import Work, count_work
from atril_models.recurrent.layers import RecurrentLayer
from atril_models.recurrent.long_short_term_memory import LSTM, BiLSTM, CombinedOutput
from atril_models.recurrent.rnn import DelayedRNN, LeakyRNN, SimpleRNN, SkipRNN
from atril_models.recurrent.stack import RecurrentStack

LAYERS: dict[str, Callable[[int, int], RecurrentLayer]] = {
    "simple": SimpleRNN,
    "skip": lambda inputs, hidden: SkipRNN(inputs, hidden, 3),
    "leaky": lambda inputs, hidden: LeakyRNN(inputs, hidden, 0.7),
    "learned leaky": lambda inputs, hidden: LeakyRNN(inputs, hidden, 0.7, learn_alpha=True),
    "delayed": lambda inputs, hidden: DelayedRNN(inputs, hidden, 3),
    "lstm": LSTM,
}
every_layer = pytest.mark.parametrize("make", LAYERS.values(), ids=list(LAYERS))


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _step_by_step(layer: RecurrentLayer, x: Tensor) -> Tensor:
    state = layer.initial_state(x)
    outputs = []
    for x_t in x.unbind(1):
        h_t, state = layer.step(x_t, state)
        outputs.append(h_t)
    return torch.stack(outputs, dim=1)


@pytest.mark.parametrize(
    ("name", "expected", "library"),
    [
        ("simple", 20_096, 20_224),
        ("skip", 36_480, None),
        ("leaky", 20_096, None),
        ("learned leaky", 20_224, None),
        ("delayed", 20_096, None),
        ("lstm", 80_384, 80_896),
    ],
)
def test_parameters_are_those_of_the_formula(name: str, expected: int, library: int | None) -> None:
    """28 inputs and 128 units: ph + h² + h a gate; the library has one more bias for each."""
    assert _parameters(LAYERS[name](28, 128)) == expected
    if library is not None:
        kind = {"simple": nn.RNN, "lstm": nn.LSTM}[name]
        assert _parameters(kind(28, 128)) == library


@pytest.mark.parametrize(("kind", "expected"), [(SimpleRNN, 295_936), (LSTM, 1_183_744)])
def test_parameters_of_a_large_layer(
    kind: Callable[[int, int], RecurrentLayer], expected: int
) -> None:
    """65 inputs and 512 units."""
    with torch.device("meta"):
        assert _parameters(kind(65, 512)) == expected


@every_layer
def test_work_is_every_parameter_once_a_step(make: Callable[[int, int], RecurrentLayer]) -> None:
    """Seven steps make seven times as many connections as there are weights and biases."""
    layer = make(3, 5)
    weights = sum(p.numel() for p in layer.parameters() if p.dim() == 2)
    assert count_work(layer, (7, 5)) == Work(7 * _parameters(layer), 7 * weights)


@every_layer
@pytest.mark.parametrize("length", [1, 2, 3, 10])
def test_sequence_is_its_steps_in_turn(
    make: Callable[[int, int], RecurrentLayer], length: int
) -> None:
    """The kernel for a whole sequence gives what the equation gives step by step, and the state."""
    torch.manual_seed(0)
    layer = make(3, 5).double()
    x = torch.randn(4, length, 3, dtype=torch.float64)
    h, state = layer(x)
    torch.testing.assert_close(h, _step_by_step(layer, x), rtol=0, atol=1e-12)

    more = torch.randn(4, 4, 3, dtype=torch.float64)
    whole, _state = layer(torch.cat([x, more], dim=1))
    torch.testing.assert_close(layer(more, state)[0], whole[:, length:], rtol=0, atol=1e-12)


@every_layer
def test_gradients_of_a_sequence_are_those_of_its_steps(
    make: Callable[[int, int], RecurrentLayer],
) -> None:
    """Backpropagation through time by the kernel equals that through the written-out steps."""
    torch.manual_seed(0)
    layer = make(3, 5).double()
    x = torch.randn(4, 8, 3, dtype=torch.float64)
    weights = torch.randn(4, 8, 5, dtype=torch.float64)

    def gradients(h: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad((h * weights).sum(), list(layer.parameters()))

    for by_kernel, by_steps in zip(
        gradients(layer(x)[0]), gradients(_step_by_step(layer, x)), strict=True
    ):
        torch.testing.assert_close(by_kernel, by_steps, rtol=0, atol=1e-10)


def test_gradient_through_time_is_5_3_3_put_right() -> None:
    """Around zero dh(3)/dh(0) = Q Λ³ Q' for W = [[2, 1], [1, 0]], and not Q' Λ³ Q as printed."""
    layer = SimpleRNN(1, 2).double()
    turn = torch.tensor(torch.pi / 8, dtype=torch.float64)
    q = torch.stack([turn.cos(), -turn.sin(), turn.sin(), turn.cos()]).view(2, 2)
    eigenvalues = torch.tensor([1 + 2**0.5, 1 - 2**0.5], dtype=torch.float64)
    with torch.no_grad():
        layer.bias.zero_()
        layer.weight_hh.copy_(torch.tensor([[2.0, 1.0], [1.0, 0.0]]))
    torch.testing.assert_close(q @ eigenvalues.diag() @ q.T, layer.weight_hh.detach())

    silence = torch.zeros(1, 3, 1, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(
        lambda h_0: layer(silence, (h_0[None],))[0][0, -1], torch.zeros(2, dtype=torch.float64)
    )
    cubed = (eigenvalues**3).diag()
    torch.testing.assert_close(jacobian, q @ cubed @ q.T)
    assert float((jacobian - q.T @ cubed @ q).abs().max()) > 1


def test_simple_rnn_is_the_librarys() -> None:
    """With the weights copied and the two biases added, `nn.RNN` gives the same."""
    torch.manual_seed(0)
    library = nn.RNN(3, 5, batch_first=True)
    layer = SimpleRNN(3, 5)
    with torch.no_grad():
        layer.weight_xh.copy_(library.weight_ih_l0)
        layer.weight_hh.copy_(library.weight_hh_l0)
        layer.bias.copy_(library.bias_ih_l0 + library.bias_hh_l0)
    x = torch.randn(2, 9, 3)
    torch.testing.assert_close(layer(x)[0], library(x)[0], rtol=0, atol=1e-6)


def test_lstm_of_equation_5_7_1_is_the_librarys_in_outputs_and_gradients() -> None:
    """Written out and as `nn.LSTM`: outputs, states and all gradients agree to 1e-6.

    The library's two biases are added in the forward pass, so each of them has the gradient that
    the one bias of the equation has.
    """
    torch.manual_seed(0)
    library = nn.LSTM(4, 6, batch_first=True)
    layer = LSTM(4, 6)
    with torch.no_grad():
        layer.weight_x.copy_(library.weight_ih_l0)
        layer.weight_h.copy_(library.weight_hh_l0)
        layer.bias.copy_(library.bias_ih_l0 + library.bias_hh_l0)
    x = torch.randn(3, 12, 4)
    weights = torch.randn(3, 12, 6)
    expected, (h_last, s_last) = library(x)
    written_out = _step_by_step(layer, x)
    _h, state = layer(x)

    torch.testing.assert_close(written_out, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(state[0], h_last[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(state[1], s_last[0], rtol=0, atol=1e-6)
    theirs = torch.autograd.grad((expected * weights).mean(), list(library.parameters()))
    ours = torch.autograd.grad((written_out * weights).mean(), list(layer.parameters()))
    for mine, of_library in zip((*ours, ours[2]), theirs, strict=True):
        torch.testing.assert_close(mine, of_library, rtol=0, atol=1e-6)


def test_lstm_step_is_the_equation_gate_by_gate() -> None:
    """i, f, o by sigmoid and g by tanh, each with its own rows; s = g·i + s·f; h = tanh(s)·o."""
    torch.manual_seed(0)
    layer = LSTM(2, 3)
    x, h, s = torch.randn(1, 2), torch.randn(1, 3), torch.randn(1, 3)

    def gate(number: int) -> Tensor:
        rows = slice(3 * number, 3 * number + 3)
        return x @ layer.weight_x[rows].T + h @ layer.weight_h[rows].T + layer.bias[rows]

    i, f, o = torch.sigmoid(gate(0)), torch.sigmoid(gate(1)), torch.sigmoid(gate(3))
    g = torch.tanh(gate(2))
    s_next = g * i + s * f
    got, state = layer.step(x, (h, s))
    torch.testing.assert_close(state[1], s_next)
    torch.testing.assert_close(got, torch.tanh(s_next) * o)


def test_open_lstm_keeps_its_state_and_gradient_for_a_thousand_steps() -> None:
    """With f = 1 and i = 0 the constant error carousel turns: s and ds(1000)/ds(0) are exact."""
    torch.manual_seed(0)
    layer = LSTM(2, 3).double()
    with torch.no_grad():
        layer.weight_x.zero_()
        layer.weight_h.zero_()
        layer.bias.copy_(torch.tensor([-1e4] * 3 + [1e4] * 3 + [0.3] * 6))
    s_0 = torch.randn(1, 3, dtype=torch.float64, requires_grad=True)
    state = (torch.zeros(1, 3, dtype=torch.float64), s_0)
    _h, (_h_last, s_last) = layer(torch.randn(1, 1000, 2, dtype=torch.float64), state)
    (gradient,) = torch.autograd.grad(s_last.sum(), s_0)
    assert torch.equal(s_last, s_0)
    assert torch.equal(gradient, torch.ones_like(s_0))


def test_forget_bias_starts_one_higher() -> None:
    """The forget gates of a new layer are more open than the others."""
    torch.manual_seed(0)
    bias = LSTM(4, 64).bias.detach()
    bound = 64**-0.5
    assert bias[64:128].min() >= 1 - bound
    assert torch.cat([bias[:64], bias[128:]]).abs().max() <= bound


def test_leaky_unit_without_input_has_the_half_life_of_its_alpha() -> None:
    """A unit that hears nothing is at α^t after t steps: at one half after ln ½ / ln 0.9 = 6.58."""
    layer = LeakyRNN(1, 1, 0.9).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
    start = (torch.ones(1, 1, dtype=torch.float64),)
    h, _state = layer(torch.zeros(1, 20, 1, dtype=torch.float64), start)
    powers = 0.9 ** torch.arange(1, 21, dtype=torch.float64)
    torch.testing.assert_close(h[0, :, 0], powers, rtol=1e-12, atol=0)
    half_life = log(0.5) / log(0.9)
    assert half_life == pytest.approx(6.5788, abs=1e-4)
    assert h[0, 5, 0] > 0.5 > h[0, 6, 0]


def test_leaky_units_of_alpha_zero_are_a_simple_rnn() -> None:
    """Without a leak nothing but the new value remains."""
    torch.manual_seed(0)
    leaky, simple = LeakyRNN(3, 4, 0.0), SimpleRNN(3, 4)
    simple.load_state_dict(leaky.state_dict())
    x = torch.randn(2, 6, 3)
    torch.testing.assert_close(leaky(x)[0], simple(x)[0])


def test_learned_alpha_starts_where_it_is_set_and_moves() -> None:
    """Each unit's α begins at the given value and has a gradient."""
    torch.manual_seed(0)
    layer = LeakyRNN(3, 4, 0.7, learn_alpha=True)
    torch.testing.assert_close(layer.alpha, torch.full((4,), 0.7))
    layer(torch.randn(2, 6, 3))[0].sum().backward()
    assert layer.alpha_logit.grad is not None
    assert bool((layer.alpha_logit.grad != 0).all())


def test_skip_without_its_weight_is_a_simple_rnn() -> None:
    """The skip connection is an addition: with zero weight it does nothing."""
    torch.manual_seed(0)
    skip, simple = SkipRNN(3, 4, 2), SimpleRNN(3, 4)
    with torch.no_grad():
        skip.weight_dh.zero_()
    kept = {name: value for name, value in skip.state_dict().items() if name != "weight_dh"}
    simple.load_state_dict(kept)
    x = torch.randn(2, 6, 3)
    torch.testing.assert_close(skip(x)[0], simple(x)[0])


def test_delayed_layer_is_interleaved_simple_ones() -> None:
    """Inputs at t, t+D, t+2D … alone decide the outputs there, as a simple RNN would."""
    torch.manual_seed(0)
    delayed, simple = DelayedRNN(3, 4, 3), SimpleRNN(3, 4)
    simple.load_state_dict(
        {name.replace("dh", "hh"): value for name, value in delayed.state_dict().items()}
    )
    x = torch.randn(2, 11, 3)
    h, _state = delayed(x)
    for chain in range(3):
        torch.testing.assert_close(h[:, chain::3], simple(x[:, chain::3])[0])


@every_layer
def test_summary_depends_on_every_time_step(make: Callable[[int, int], RecurrentLayer]) -> None:
    """What stands for the sequence changes with the input at any time step."""
    torch.manual_seed(0)
    layer = make(2, 6).double()
    x = torch.randn(1, 7, 2, dtype=torch.float64, requires_grad=True)
    summary = layer.summary(layer(x)[1])
    (gradient,) = torch.autograd.grad(summary.sum(), x)
    assert bool((gradient.abs().amax(dim=2) > 0).all())


def test_both_directions_meet_at_every_step() -> None:
    """h_F(t) has read x up to t, h_B(t) has read it from t on, and neither more."""
    torch.manual_seed(0)
    layer = BiLSTM(2, 3)
    x = torch.randn(1, 6, 2)
    changed = x.clone()
    changed[:, 3] += 1
    ahead, back = ((new - old).abs().sum(dim=2)[0] > 0 for new, old in zip(
        layer(changed), layer(x), strict=True
    ))  # fmt: skip
    assert ahead.tolist() == [False] * 3 + [True] * 3
    assert back.tolist() == [True] * 4 + [False] * 2


def test_backward_direction_is_an_lstm_on_the_reversed_sequence() -> None:
    """5.8.2: h_B(t) depends on h_B(t+1)."""
    torch.manual_seed(0)
    layer = BiLSTM(2, 3)
    x = torch.randn(2, 5, 2)
    expected = layer.back(x.flip(1))[0].flip(1)
    torch.testing.assert_close(layer(x)[1], expected)


def test_combined_output_is_a_dense_layer_on_the_concatenation() -> None:
    """W_F h_F + W_B h_B + b = [W_F W_B] [h_F; h_B] + b; 2·128·q + q parameters."""
    torch.manual_seed(0)
    output, dense = CombinedOutput(5, 3), nn.Linear(10, 3)
    with torch.no_grad():
        dense.weight.copy_(torch.cat([output.ahead.weight, output.back.weight], dim=1))
        dense.bias.copy_(output.ahead.bias)
    ahead, back = torch.randn(2, 7, 5), torch.randn(2, 7, 5)
    torch.testing.assert_close(output(ahead, back), dense(torch.cat([ahead, back], dim=2)))
    assert _parameters(CombinedOutput(128, 10)) == 2 * 128 * 10 + 10


def test_bidirectional_layer_is_the_librarys() -> None:
    """`nn.LSTM(bidirectional=True)` with the same weights puts h_F and h_B side by side."""
    torch.manual_seed(0)
    library = nn.LSTM(3, 4, batch_first=True, bidirectional=True)
    layer = BiLSTM(3, 4)
    with torch.no_grad():
        for own, suffix in ((layer.ahead, ""), (layer.back, "_reverse")):
            own.weight_x.copy_(getattr(library, f"weight_ih_l0{suffix}"))
            own.weight_h.copy_(getattr(library, f"weight_hh_l0{suffix}"))
            biases = (getattr(library, f"bias_{kind}_l0{suffix}") for kind in ("ih", "hh"))
            own.bias.copy_(sum(biases))
    assert _parameters(BiLSTM(28, 128)) == 160_768
    x = torch.randn(2, 6, 3)
    torch.testing.assert_close(torch.cat(layer(x), dim=2), library(x)[0], rtol=0, atol=1e-6)


def test_stack_feeds_each_layer_with_the_one_below() -> None:
    """Two layers in a stack are the second on the first; their states are kept apart."""
    torch.manual_seed(0)
    layers = [LSTM(3, 4), SimpleRNN(4, 5)]
    stack = RecurrentStack(layers)
    x = torch.randn(2, 6, 3)
    h, state = stack(x, stack.initial_state(x))
    torch.testing.assert_close(h, layers[1](layers[0](x)[0])[0])
    assert list(stack.state_shapes) == ["0_h", "0_s", "1_h"]
    assert [tuple(part.shape) for part in state] == [(2, 4), (2, 4), (2, 5)]


def test_stack_drops_units_only_while_it_learns() -> None:
    """Dropout changes the output in training mode, and not in eval mode."""
    torch.manual_seed(0)
    stack = RecurrentStack([SimpleRNN(3, 32)], dropout=0.5)
    x = torch.randn(2, 6, 3)
    first, second = (stack(x, stack.initial_state(x))[0] for _ in range(2))
    assert not torch.equal(first, second)
    assert float((first == 0).double().mean()) == pytest.approx(0.5, abs=0.1)
    stack.eval()
    first, second = (stack(x, stack.initial_state(x))[0] for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SimpleRNN(0, 3), "at least 1, got 0 and 3"),
        (lambda: LSTM(3, 0), "at least 1, got 3 and 0"),
        (lambda: SkipRNN(3, 4, 1), "delay must be at least 2 steps, got 1"),
        (lambda: DelayedRNN(3, 4, 0), "delay must be at least 2 steps, got 0"),
        (lambda: LeakyRNN(3, 4, 1.0), r"alpha must satisfy 0 <= alpha < 1, got 1.0"),
        (lambda: LeakyRNN(3, 4, 0.0, learn_alpha=True), r"0 < alpha < 1, got 0.0"),
        (lambda: RecurrentStack([]), "at least 1 layer, got none"),
        (lambda: RecurrentStack([LSTM(3, 4), LSTM(5, 4)]), "5 inputs cannot read one of 4 units"),
        (lambda: RecurrentStack([LSTM(3, 4)], dropout=1.0), "dropout < 1, got 1.0"),
    ],
)
def test_impossible_layers_are_refused(make: Callable[[], object], message: str) -> None:
    """The error says what was given and what is allowed."""
    with pytest.raises(ValueError, match=message):
        make()
