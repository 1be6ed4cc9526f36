"""The recurrent parts of the encoder-decoders.

Dimensions: B batch, S source positions, E embedding, N hidden units, C context, V vocabulary.
"""

import torch
from torch import Tensor, nn

_OPSET = 20


def last_state(states: Tensor, length: Tensor) -> Tensor:
    """The state at the last position of each row that counts.

    Shape: states [B, S, N]; length int64 [B]; returns [B, N].
    """
    index = (length - 1)[:, None, None].expand(-1, 1, states.shape[2])
    return states.gather(1, index).squeeze(1)


def reverse_within(rows: Tensor, length: Tensor) -> Tensor:
    """Each row with its first `length` positions in reverse order, the rest as they are.

    A recurrent layer that is to read padded rows from their end reads the rows reversed in this
    way forwards: it meets the padding after the words, where its states no longer count. Packed
    sequences would do the same, but have no form in ONNX.

    Shape: rows [B, S, E]; length int64 [B]; returns [B, S, E].
    """
    position = torch.arange(rows.shape[1], device=rows.device)[None]
    mirrored = torch.where(position < length[:, None], length[:, None] - 1 - position, position)
    return rows.gather(1, mirrored[..., None].expand(-1, -1, rows.shape[2]))


class GruLayer(nn.GRU):
    """One layer of gated recurrent units that reads rows from left to right.

    r = sigmoid(W_r x + U_r h),  z = sigmoid(W_z x + U_z h),  h~ = tanh(W x + r * (U h)),
    h_t = (1 - z) * h~ + z * h

    It starts from zeros, and its recurrent matrices start orthogonal, as in both papers. It runs
    PyTorch's kernel; while it is being exported it is ONNX's operator of the same definition,
    since the exporter would otherwise unroll it to the length it has seen.

    Source: Cho et al. 2014, arXiv:1406.1078, §2.3; lecture equation 6.1.1. Where the reset gate
    stands: see `ContextGRUCell`.

    Args:
        input_size: E.
        hidden_size: N.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, batch_first=True)
        self.weight_ih_l0: nn.Parameter
        self.weight_hh_l0: nn.Parameter
        self.bias_ih_l0: nn.Parameter
        self.bias_hh_l0: nn.Parameter
        _make_orthogonal(self.weight_hh_l0)

    def forward(self, inputs: Tensor) -> Tensor:  # type: ignore[override]  # one form of nn.GRU's
        """All states [B, S, N], of inputs [B, S, E]."""
        if not torch.onnx.is_in_onnx_export():
            states: Tensor = super().forward(inputs)[0]
            return states
        batch, length = inputs.shape[:2]
        biases = torch.cat((_as_in_onnx(self.bias_ih_l0), _as_in_onnx(self.bias_hh_l0)))
        outputs = torch.onnx.ops.symbolic(
            "GRU",
            (
                inputs.transpose(0, 1),
                _as_in_onnx(self.weight_ih_l0)[None],
                _as_in_onnx(self.weight_hh_l0)[None],
                biases[None],
            ),
            {"hidden_size": self.hidden_size, "linear_before_reset": 1},
            dtype=inputs.dtype,
            shape=(length, 1, batch, self.hidden_size),
            version=_OPSET,
        )
        return outputs.squeeze(1).transpose(0, 1)


def _as_in_onnx(gates: Tensor) -> Tensor:
    """Rows of the gates r, z, h~ in the order z, r, h~ of the ONNX operator."""
    size = len(gates) // 3
    return torch.cat((gates[size : 2 * size], gates[:size], gates[2 * size :]))


class ContextGRUCell(nn.Module):
    """A gated recurrent unit of the decoder: s_t = f(s_(t-1), y_(t-1), c_t).

    r = sigmoid(W_r y + C_r c + U_r s),  z = sigmoid(W_z y + C_z c + U_z s),
    s~ = tanh(W y + C c + r * (U s)),  s_t = (1 - z) * s~ + z * s

    This is `nn.GRUCell` on [y, c], taken apart so that W y of all positions, and C c where it is
    the same at each, are computed once. Biases are omitted from the formulas.

    Source: Cho et al. 2014, arXiv:1406.1078, §2.3 and appendix A; lecture equation 6.1.6. The
    papers put the reset gate inside, U (r * s), which libraries and ONNX's GRU with
    `linear_before_reset` do not; Cho's decoder also resets C c.

    Args:
        input_size: E. context_size: C. hidden_size: N.
    """

    def __init__(self, input_size: int, context_size: int, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.from_input = nn.Linear(input_size, 3 * hidden_size)
        self.from_context = nn.Linear(context_size, 3 * hidden_size, bias=False)
        self.from_state = nn.Linear(hidden_size, 3 * hidden_size)
        _make_orthogonal(self.from_state.weight)

    def forward(self, gates: Tensor, state: Tensor) -> Tensor:
        """The next state [B, N], of the state before and `from_input(y) + from_context(c)`.

        Shape: gates [B, 3N], in the order r, z, s~; state [B, N].
        """
        size = self.hidden_size
        recurrent = self.from_state(state)
        reset, update = torch.sigmoid(gates[:, : 2 * size] + recurrent[:, : 2 * size]).chunk(2, 1)
        candidate = torch.tanh(gates[:, 2 * size :] + reset * recurrent[:, 2 * size :])
        return candidate + update * (state - candidate)


def maxout(inputs: Tensor, pieces: int) -> Tensor:
    """The largest of each group of neighbours; of groups of one, the inputs as they are.

    Source: Goodfellow et al. 2013, arXiv:1302.4389; lecture equation 2.1.12 without its zero.

    Shape: inputs [..., M * pieces]; returns [..., M].
    """
    return inputs.view(*inputs.shape[:-1], -1, pieces).amax(-1)


def _make_orthogonal(weight: Tensor) -> None:
    """Make the three square matrices that lie on top of each other orthogonal, as the papers do."""
    for gate in weight.detach().chunk(3):
        nn.init.orthogonal_(gate)
