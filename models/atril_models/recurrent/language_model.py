"""Character language models of recurrent layers.

Source: lecture 5.1.2; in the form of Karpathy's char-rnn: characters as one-hot vectors, layers
on top of each other, a softmax over the alphabet.

Dimensions: B batch, T time steps, V characters of the alphabet, H hidden units.
"""

import torch
from torch import Tensor, nn

from atril_models.architecture import Network
from atril_models.recurrent.one_step import OneStep, empty_states, state_names
from atril_models.recurrent.operators import State
from atril_models.recurrent.stack import RecurrentStack


class CharacterModel(Network):
    """The probability of each next character, given all before it.

    Args:
        stack: reads V inputs.

    Shape:
        tokens [B, T] int64, each 0 … V-1; returns logits [B, T, V] of the character that follows
        each.
    """

    def __init__(self, stack: RecurrentStack) -> None:
        super().__init__()
        self.vocabulary = stack.inputs
        self.stack = stack
        self.output = nn.Linear(stack.hidden, self.vocabulary)

    def example_inputs(self, batch: int = 1) -> tuple[Tensor]:
        """Eight times the first character."""
        return (torch.zeros(batch, 8, dtype=torch.int64),)

    def read(self, tokens: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Logits [B, T, V], and the state from which the text can be read on."""
        x = self.one_hot(tokens)
        h, state = self.stack(x, state or self.stack.initial_state(x))
        return self.output(h), state

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of the next character at each position."""
        return self.read(tokens)[0]

    def one_hot(self, tokens: Tensor) -> Tensor:
        """Tokens of any shape as vectors, [..., V]."""
        places = torch.arange(self.vocabulary, device=tokens.device)
        return (tokens[..., None] == places).to(self.output.weight.dtype)


class CharacterStep(OneStep):
    """One character in, the logits of the next one out.

    Shape:
        token [B] int64 and the states; returns logits [B, V] and the next states.
    """

    def __init__(self, model: CharacterModel) -> None:
        before, after = state_names(model.stack.state_shapes)
        super().__init__(("token", *before), ("logits", *after))
        self.model = model

    def example_inputs(self, batch: int = 1) -> tuple[Tensor, ...]:
        """The first character at the start of a text."""
        shapes = self.model.stack.state_shapes
        return (torch.zeros(batch, dtype=torch.int64), *empty_states(shapes, batch))

    def forward(self, token: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """Logits and next states."""
        h, following = self.model.stack.step(self.model.one_hot(token), state)
        return self.model.output(h), *following
