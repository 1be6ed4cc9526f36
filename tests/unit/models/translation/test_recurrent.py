"""The recurrent parts against the library's and against packed sequences."""

import pytest
import torch
from torch import nn

from atril_models.translation.recurrent import (
    ContextGRUCell,
    GruLayer,
    last_state,
    maxout,
    reverse_within,
)

LENGTHS = torch.tensor([5, 1, 3])


def test_context_cell_is_the_librarys_on_input_and_context() -> None:
    """Taken apart, the cell still is `nn.GRUCell` on [y, c], forward and in every gradient."""
    torch.manual_seed(0)
    ours = ContextGRUCell(3, 4, 5).double()
    theirs = nn.GRUCell(3 + 4, 5, dtype=torch.float64)
    with torch.no_grad():
        theirs.weight_ih.copy_(torch.cat((ours.from_input.weight, ours.from_context.weight), 1))
        theirs.weight_hh.copy_(ours.from_state.weight)
        theirs.bias_ih.copy_(ours.from_input.bias)
        theirs.bias_hh.copy_(ours.from_state.bias)
    word, context, state = (torch.randn(2, size, dtype=torch.float64) for size in (3, 4, 5))

    after = ours(ours.from_input(word) + ours.from_context(context), state)
    expected = theirs(torch.cat((word, context), 1), state)

    torch.testing.assert_close(after, expected, rtol=0, atol=1e-12)
    after.square().sum().backward()
    expected.square().sum().backward()
    joined = torch.cat((ours.from_input.weight.grad, ours.from_context.weight.grad), 1)
    torch.testing.assert_close(joined, theirs.weight_ih.grad, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        ours.from_state.weight.grad, theirs.weight_hh.grad, rtol=0, atol=1e-12
    )


def test_padded_rows_read_both_ways_equal_packed_sequences() -> None:
    """Forward and, reversed within their lengths, backward states are those of a packed Bi-GRU."""
    torch.manual_seed(0)
    ahead, back = GruLayer(4, 6), GruLayer(4, 6)
    theirs = nn.GRU(4, 6, batch_first=True, bidirectional=True)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            one = back if name.endswith("_reverse") else ahead
            parameter.copy_(one.get_parameter(name.removesuffix("_reverse")))
    words = torch.randn(3, 5, 4)
    packed = nn.utils.rnn.pack_padded_sequence(
        words, LENGTHS, batch_first=True, enforce_sorted=False
    )
    expected, _ = nn.utils.rnn.pad_packed_sequence(theirs(packed)[0], batch_first=True)

    backward = reverse_within(back(reverse_within(words, LENGTHS)), LENGTHS)
    states = torch.cat((ahead(words), backward), 2)

    for row, length in enumerate(LENGTHS.tolist()):
        torch.testing.assert_close(states[row, :length], expected[row, :length])


def test_rows_are_reversed_within_their_length_only() -> None:
    """The first `length` positions swap ends; the padding stays; twice is not at all."""
    rows = torch.arange(15.0).view(3, 5, 1)
    reversed_rows = reverse_within(rows, LENGTHS)
    assert reversed_rows[..., 0].tolist() == [
        [4, 3, 2, 1, 0],
        [5, 6, 7, 8, 9],
        [12, 11, 10, 13, 14],
    ]
    assert torch.equal(reverse_within(reversed_rows, LENGTHS), rows)


def test_last_state_is_that_of_the_last_word() -> None:
    """Each row answers with its position length - 1."""
    rows = torch.arange(15.0).view(3, 5, 1)
    assert last_state(rows, LENGTHS)[:, 0].tolist() == [4, 5, 12]


@pytest.mark.parametrize(("pieces", "expected"), [(1, [-3, -1, -2, -7]), (2, [-1, -2])])
def test_maxout_takes_the_largest_of_neighbours(pieces: int, expected: list[float]) -> None:
    """No zero takes part in it (lecture 2.1.12 has one); one piece is linear."""
    assert maxout(torch.tensor([-3.0, -1.0, -2.0, -7.0]), pieces).tolist() == expected


def test_recurrent_matrices_start_orthogonal() -> None:
    """U of each gate satisfies U'U = 1."""
    for weight in (GruLayer(3, 4).weight_hh_l0, ContextGRUCell(3, 2, 4).from_state.weight):
        for gate in weight.detach().chunk(3):
            torch.testing.assert_close(gate.T @ gate, torch.eye(4), rtol=0, atol=1e-5)
