"""Long short-term memory, one way and both ways.

Source: lecture 5.7 and 5.8; Hochreiter & Schmidhuber 1997, "Long short-term memory", Neural
Computation 9(8); with the forget gate of Gers, Schmidhuber & Cummins 2000, "Learning to forget",
Neural Computation 12(10).

Dimensions: B batch, T time steps, P inputs, H hidden units (memory cells), Q outputs.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from atril_models.recurrent.layers import RecurrentLayer
from atril_models.recurrent.operators import State, lstm


class LSTM(RecurrentLayer):
    """Memory cells whose input, content and output pass through gates.

    i = σ(W_xi x(t) + W_hi h(t-1) + b_i), likewise f and o; g = tanh(W_xg x(t) + W_hg h(t-1) + b_g)
    s(t) = g ⊙ i + s(t-1) ⊙ f;  h(t) = tanh(s(t)) ⊙ o

    4·(P·H + H² + H) parameters: one bias a gate, where PyTorch's `nn.LSTM` has two that are only
    ever added. The weights of the four gates are stacked, in PyTorch's order i, f, g, o; the bias
    of the forget gates starts 1 higher than the others, so that a new cell keeps what it holds.

    Source: lecture 5.7.1 and 5.7.2. In the text's line for the internal state s stands in the
    place of i; see docs/lectures/errata.md. The forget bias: Gers et al. 2000, §4.
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__(inputs, hidden, {"h": (hidden,), "s": (hidden,)})
        self.weight_x = self._weight(4 * hidden, inputs)
        self.weight_h = self._weight(4 * hidden, hidden)
        self.bias = self._bias(4 * hidden)
        with torch.no_grad():
            self.bias[hidden : 2 * hidden] += 1

    def project(self, x: Tensor) -> Tensor:
        """W_x x + b of the four gates, [..., 4·H]."""
        return functional.linear(x, self.weight_x, self.bias)

    def recur(self, projected_t: Tensor, state: State) -> tuple[Tensor, State]:
        """h(t), and h(t) and s(t) as the state."""
        h, s = state
        i, f, g, o = (projected_t + functional.linear(h, self.weight_h)).chunk(4, dim=-1)
        s = torch.tanh(g) * torch.sigmoid(i) + s * torch.sigmoid(f)
        h = torch.tanh(s) * torch.sigmoid(o)
        return h, (h, s)

    def summary(self, state: State) -> Tensor:
        """The last h."""
        return state[0]

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """All time steps at once, by the kernel of the same equations."""
        return lstm(x, state or self.initial_state(x), self.weight_x, self.weight_h, self.bias)


class BiLSTM(nn.Module):
    """One LSTM reads the sequence forwards, another one backwards.

    h_F(t) = LSTM_F(x(t), h_F(t-1));  h_B(t) = LSTM_B(x(t), h_B(t+1))

    Source: lecture 5.8.1 and 5.8.2; Schuster & Paliwal 1997, "Bidirectional recurrent neural
    networks", IEEE Trans. Signal Processing 45(11).

    Shape:
        x [B, T, P]; returns h_F and h_B, [B, T, H] each.

    Raises:
        ValueError: inputs < 1 or hidden < 1.
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.ahead = LSTM(inputs, hidden)
        self.back = LSTM(inputs, hidden)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Both directions, each in the order of time."""
        h_ahead, _state = self.ahead(x)
        h_back, _state = self.back(x.flip(1))
        return h_ahead, h_back.flip(1)


class CombinedOutput(nn.Module):
    """W_F h_F(t) + W_B h_B(t) + b: the output of a network that reads both ways, without its σ.

    2·H·Q + Q parameters. It is a dense layer on the two vectors put one after the other.

    Source: lecture 5.8.3, whose b_t is one b: a bias that changed with time could not serve
    sequences of any length.

    Args:
        hidden: H.
        outputs: Q.

    Shape:
        h_F and h_B, [..., H] each; returns [..., Q].
    """

    def __init__(self, hidden: int, outputs: int) -> None:
        super().__init__()
        self.ahead = nn.Linear(hidden, outputs)
        self.back = nn.Linear(hidden, outputs, bias=False)

    def forward(self, h_ahead: Tensor, h_back: Tensor) -> Tensor:
        """The two products and the bias."""
        combined: Tensor = self.ahead(h_ahead) + self.back(h_back)
        return combined
