"""Recurrences over time, each as one operator: fast while it runs, of any length once exported.

A loop over the time steps written in Python is unrolled by the exporter, and the graph then fits
one length only. So while a network is being exported, the recurrences below put the ONNX operator
of the same definition into the graph: `RNN`, `LSTM`, or `Scan` around a step for every other
recurrence. Otherwise they call PyTorch's kernels, or loop. See
docs/decisions/0005-recurrent-export.md.

Dimensions: B batch, T time steps, P inputs, H hidden units.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch._higher_order_ops.scan import scan

State = tuple[Tensor, ...]
"""What a recurrence remembers: tensors whose first dimension is the batch."""

Step = Callable[[Tensor, State], tuple[Tensor, State]]
"""One time step: from the input [B, P] and a state to the output [B, H] and the next state."""

_OPSET = 20


def unroll(step: Step, x: Tensor, state: State) -> tuple[Tensor, State]:
    """Apply a step to each time step in turn.

    Args:
        step: must depend on the batch and the length through its arguments' shapes alone, and
            call no operation that asks for either as a number.
        x: the inputs.
        state: before the first step.

    Shape: x [B, T, P]; returns the outputs [B, T, H] and the state after the last step.
    """
    if torch.onnx.is_in_onnx_export():
        return _scan(step, x, state)
    outputs = []
    for x_t in x.unbind(1):
        output, state = step(x_t, state)
        outputs.append(output)
    return torch.stack(outputs, dim=1), state


def _scan(step: Step, x: Tensor, state: State) -> tuple[Tensor, State]:
    def body(carry: State, x_t: Tensor) -> tuple[State, Tensor]:
        output, carry = step(x_t, carry)
        # What a scan carries and what it gives out may not be the same tensor.
        return tuple(part.clone() for part in carry), output.clone()

    state, outputs = scan(body, state, x.transpose(0, 1))
    return outputs.transpose(0, 1), state


def rnn_tanh(x: Tensor, h_0: Tensor, weight_xh: Tensor, weight_hh: Tensor, bias: Tensor) -> Tensor:
    """h(t) = tanh(W_xh x(t) + W_hh h(t-1) + b), lecture 5.1.2, for all t.

    Shape:
        x [B, T, P], h_0 [B, H], weight_xh [H, P], weight_hh [H, H], bias [H]; returns [B, T, H].
    """
    zeros = torch.zeros_like(bias)  # kernel and operator have a second bias, which adds nothing
    if not torch.onnx.is_in_onnx_export():
        weights = (weight_xh, weight_hh, bias, zeros)
        with _kernel_for(x) as training:
            h, _last = torch.rnn_tanh(x, h_0[None], weights, True, 1, 0.0, training, False, True)
        return h
    batch, length = x.shape[:2]
    hidden = len(bias)
    h, _last = torch.onnx.ops.symbolic_multi_out(
        "RNN",
        (x.transpose(0, 1), weight_xh[None], weight_hh[None], _biases(bias), None, h_0[None]),
        {"hidden_size": hidden, "activations": ["Tanh"]},
        dtypes=(x.dtype, x.dtype),
        shapes=((length, 1, batch, hidden), (1, batch, hidden)),
        version=_OPSET,
    )
    return h.squeeze(1).transpose(0, 1)


def lstm(
    x: Tensor, state: State, weight_x: Tensor, weight_h: Tensor, bias: Tensor
) -> tuple[Tensor, State]:
    """Equations 5.7.1 and 5.7.2 of the lecture for all t.

    The rows of the weights are those of the gates i, f, g, o in this order, H of each.

    Shape:
        x [B, T, P]; state h and s, [B, H] each; weight_x [4·H, P], weight_h [4·H, H], bias [4·H].
        Returns h [B, T, H] and the state after the last step.
    """
    h_0, s_0 = (part[None] for part in state)
    if not torch.onnx.is_in_onnx_export():
        weights = (weight_x, weight_h, bias, torch.zeros_like(bias))
        with _kernel_for(x) as training:
            h, h_last, s_last = torch.lstm(
                x, (h_0, s_0), weights, True, 1, 0.0, training, False, True
            )
        return h, (h_last[0], s_last[0])
    batch, length = x.shape[:2]
    hidden = len(bias) // 4
    weight_x, weight_h, bias = (_rows_as_in_onnx(part) for part in (weight_x, weight_h, bias))
    h, h_last, s_last = torch.onnx.ops.symbolic_multi_out(
        "LSTM",
        (x.transpose(0, 1), weight_x[None], weight_h[None], _biases(bias), None, h_0, s_0),
        {"hidden_size": hidden},
        dtypes=(x.dtype, x.dtype, x.dtype),
        shapes=((length, 1, batch, hidden), (1, batch, hidden), (1, batch, hidden)),
        version=_OPSET,
    )
    return h.squeeze(1).transpose(0, 1), (h_last[0], s_last[0])


def _biases(bias: Tensor) -> Tensor:
    """The bias of the inputs and that of the recurrence, as ONNX wants them."""
    return torch.cat([bias, torch.zeros_like(bias)])[None]


def _rows_as_in_onnx(stacked: Tensor) -> Tensor:
    """Gates i, f, g, o in the order i, o, f, g of the ONNX operator."""
    # Not `chunk`: the exporter folds slices of weights into constants and leaves splits alone.
    hidden = len(stacked) // 4
    i, f, g, o = (stacked[gate * hidden : (gate + 1) * hidden] for gate in range(4))
    return torch.cat([i, o, f, g])


@contextmanager
def _kernel_for(x: Tensor) -> Iterator[bool]:
    """Whether the kernel has to prepare for a backward pass."""
    if not x.is_cuda:
        yield torch.is_grad_enabled()
        return
    with warnings.catch_warnings():
        # cuDNN wants a layer's weights in one block; where they are not, it copies them.
        warnings.filterwarnings("ignore", message="RNN module weights are not part of single")
        yield torch.is_grad_enabled()
