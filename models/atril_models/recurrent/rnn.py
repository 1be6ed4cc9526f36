"""Simple recurrent networks and their changes of time scale: skips, leaks and longer delays.

Source: lecture 5.1 and 5.4 to 5.6; Goodfellow, Bengio & Courville 2016, "Deep learning", 10.9.

Dimensions: B batch, T time steps, P inputs, H hidden units, D delay.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from atril_models.recurrent.layers import RecurrentLayer
from atril_models.recurrent.operators import State, rnn_tanh


class SimpleRNN(RecurrentLayer):
    """h(t) = tanh(W_xh x(t) + W_hh h(t-1) + b).

    P·H + H² + H parameters: one bias, where PyTorch's `nn.RNN` has two that are only ever added.

    Source: lecture 5.1.2 with f = tanh; its X W_xh, samples in rows, is W_xh x here.
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__(inputs, hidden, {"h": (hidden,)})
        self.weight_xh = self._weight(hidden, inputs)
        self.weight_hh = self._weight(hidden, hidden)
        self.bias = self._bias(hidden)

    def project(self, x: Tensor) -> Tensor:
        """W_xh x + b."""
        return functional.linear(x, self.weight_xh, self.bias)

    def recur(self, projected_t: Tensor, state: State) -> tuple[Tensor, State]:
        """h(t) and, as the state, h(t) again."""
        (h,) = state
        h = torch.tanh(projected_t + functional.linear(h, self.weight_hh))
        return h, (h,)

    def summary(self, state: State) -> Tensor:
        """The last h."""
        return state[0]

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """All time steps at once, by the kernel of the same equation."""
        (h_0,) = state or self.initial_state(x)
        h = rnn_tanh(x, h_0, self.weight_xh, self.weight_hh, self.bias)
        return h, (h[:, -1],)


class SkipRNN(RecurrentLayer):
    """h(t) = tanh(W_xh x(t) + W_hh h(t-1) + W_dh h(t-D) + b): a connection over D steps is added.

    P·H + 2·H² + H parameters. The state holds the last D hidden vectors, oldest first.

    Source: lecture 5.4; Lin, Horne, Tino & Giles 1996, "Learning long-term dependencies in NARX
    recurrent neural networks", IEEE Trans. Neural Networks 7(6).

    Args:
        inputs: P.
        hidden: H.
        delay: D.

    Raises:
        ValueError: delay < 2, or a size below 1.
    """

    def __init__(self, inputs: int, hidden: int, delay: int) -> None:
        _check_delay(delay)
        super().__init__(inputs, hidden, {"past": (delay, hidden)})
        self.delay = delay
        self.weight_xh = self._weight(hidden, inputs)
        self.weight_hh = self._weight(hidden, hidden)
        self.weight_dh = self._weight(hidden, hidden)
        self.bias = self._bias(hidden)

    def project(self, x: Tensor) -> Tensor:
        """W_xh x + b."""
        return functional.linear(x, self.weight_xh, self.bias)

    def recur(self, projected_t: Tensor, state: State) -> tuple[Tensor, State]:
        """h(t), and the last D hidden vectors with it."""
        oldest, *newer = state[0].unbind(1)
        h = torch.tanh(
            projected_t
            + functional.linear(newer[-1], self.weight_hh)
            + functional.linear(oldest, self.weight_dh)
        )
        return h, (torch.stack([*newer, h], dim=1),)

    def summary(self, state: State) -> Tensor:
        """The last h."""
        return state[0][:, -1]


class LeakyRNN(RecurrentLayer):
    """h(t) = α h(t-1) + (1 - α) tanh(W_xh x(t) + W_hh h(t-1) + b): a moving average of the units.

    Without input and recurrence a unit loses half of what it holds in ln ½ / ln α steps: 6.6 for
    α = 0.9. α = 0 is the simple RNN.

    Source: lecture 5.5.

    Args:
        inputs: P.
        hidden: H.
        alpha: α of every unit.
        learn_alpha: each unit learns its own, which starts at `alpha` and stays between 0 and 1:
            H more parameters.

    Raises:
        ValueError: alpha outside 0 ≤ alpha < 1, or 0 where it is to be learned; or a size below 1.
    """

    def __init__(
        self, inputs: int, hidden: int, alpha: float, *, learn_alpha: bool = False
    ) -> None:
        super().__init__(inputs, hidden, {"h": (hidden,)})
        if not 0 <= alpha < 1 or (learn_alpha and alpha == 0):
            least = "0 < " if learn_alpha else "0 <= "
            raise ValueError(f"alpha must satisfy {least}alpha < 1, got {alpha}")
        self.weight_xh = self._weight(hidden, inputs)
        self.weight_hh = self._weight(hidden, hidden)
        self.bias = self._bias(hidden)
        self.first_alpha = alpha
        self.learn_alpha = learn_alpha
        if learn_alpha:
            self.alpha_logit = nn.Parameter(torch.logit(torch.full((hidden,), alpha)))

    @property
    def alpha(self) -> Tensor | float:
        """α of each unit, [H], where it is learned; else the one α of all."""
        return torch.sigmoid(self.alpha_logit) if self.learn_alpha else self.first_alpha

    def project(self, x: Tensor) -> Tensor:
        """W_xh x + b."""
        return functional.linear(x, self.weight_xh, self.bias)

    def recur(self, projected_t: Tensor, state: State) -> tuple[Tensor, State]:
        """h(t) and, as the state, h(t) again."""
        (h,) = state
        alpha = self.alpha
        new = torch.tanh(projected_t + functional.linear(h, self.weight_hh))
        h = alpha * h + (1 - alpha) * new
        return h, (h,)

    def summary(self, state: State) -> Tensor:
        """The last h."""
        return state[0]


class DelayedRNN(RecurrentLayer):
    """h(t) = tanh(W_xh x(t) + W_dh h(t-D) + b): the connection over one step is removed.

    As many parameters as the simple RNN. The hidden vectors at t, t-D, t-2D … are a chain that
    never meets the D-1 others, so the layer is a simple RNN on D interleaved sequences, and is
    computed as one. What it has read is in the last D hidden vectors together, which are its
    state, oldest first; their mean is the summary.

    Source: lecture 5.6.

    Args:
        inputs: P.
        hidden: H.
        delay: D.

    Raises:
        ValueError: delay < 2, or a size below 1.
    """

    def __init__(self, inputs: int, hidden: int, delay: int) -> None:
        _check_delay(delay)
        super().__init__(inputs, hidden, {"past": (delay, hidden)})
        self.delay = delay
        self.weight_xh = self._weight(hidden, inputs)
        self.weight_dh = self._weight(hidden, hidden)
        self.bias = self._bias(hidden)

    def project(self, x: Tensor) -> Tensor:
        """W_xh x + b."""
        return functional.linear(x, self.weight_xh, self.bias)

    def recur(self, projected_t: Tensor, state: State) -> tuple[Tensor, State]:
        """h(t), and the last D hidden vectors with it."""
        oldest, *newer = state[0].unbind(1)
        h = torch.tanh(projected_t + functional.linear(oldest, self.weight_dh))
        return h, (torch.stack([*newer, h], dim=1),)

    def summary(self, state: State) -> Tensor:
        """The mean of the last D hidden vectors, the newest of each chain."""
        return state[0].mean(dim=1)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """All time steps, the D chains as D sequences."""
        (past,) = state or self.initial_state(x)
        batch, length, inputs = x.shape
        steps = (length + self.delay - 1) // self.delay  # of the longest chain
        # What is added behind the end to fill the shorter chains comes after all that is returned.
        filled = functional.pad(x, (0, 0, 0, self.delay - 1))[:, : steps * self.delay]
        chains = filled.reshape(batch, steps, self.delay, inputs).transpose(1, 2)
        h_chains = rnn_tanh(
            chains.reshape(batch * self.delay, steps, inputs),
            past.reshape(batch * self.delay, self.hidden),
            self.weight_xh,
            self.weight_dh,
            self.bias,
        )
        h = h_chains.reshape(batch, self.delay, steps, self.hidden).transpose(1, 2)
        h = h.reshape(batch, steps * self.delay, self.hidden).narrow(1, 0, length)
        return h, (torch.cat([past, h], dim=1)[:, -self.delay :],)


def _check_delay(delay: int) -> None:
    if delay < 2:
        raise ValueError(f"delay must be at least 2 steps, got {delay}: 1 is the simple RNN")
