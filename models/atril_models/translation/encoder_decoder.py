"""The recurrent encoder-decoder, whose source is one vector.

Source: Cho et al. 2014, "Learning phrase representations using RNN encoder-decoder for
statistical machine translation", arXiv:1406.1078; lecture 6.1, equations 6.1.1 to 6.1.4.

Dimensions: B batch, S source positions, T target positions, E embedding, N hidden units,
M maxout units, V vocabulary.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from atril_models.architecture import Architecture, Family
from atril_models.translation.contract import (
    BATCH,
    SequenceToSequence,
    StepContract,
    TensorSpec,
)
from atril_models.translation.recurrent import ContextGRUCell, GruLayer, last_state, maxout


class RnnEncoderDecoder(SequenceToSequence):
    """A GRU reads the source into one vector c; a GRU that sees c at every step writes.

    h_t = f(x_t, h_(t-1));  c = tanh(V h_S)
    s_0 = tanh(V' c);  s_t = f(s_(t-1), y_(t-1), c)
    p(y_t | y_<t, x) = softmax(G_l G_r maxout(O_s s_t + O_y y_(t-1) + O_c c))

    The published form, which the defaults give, has matrices of rank 100 between words and units:
    on the way in that is an embedding, on the way out G_l G_r.

    Args:
        vocabulary: V, of source and of target, whose embeddings are two.
        embedding_size: E, and the rank on the way out.
        hidden_size: N, of encoder, context and decoder.
        maxout_units: M.
        maxout_pieces: linear units that each of them takes the largest of; one makes it linear.
        dropout: the share of embedded inputs and readout units set to 0 in training; the paper
            has none.

    Raises:
        ValueError: a size is less than 1.
    """

    def __init__(
        self,
        vocabulary: int = 15_000,
        *,
        embedding_size: int = 100,
        hidden_size: int = 1000,
        maxout_units: int = 500,
        maxout_pieces: int = 2,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        sizes = (vocabulary, embedding_size, hidden_size, maxout_units, maxout_pieces)
        if min(sizes) < 1:
            raise ValueError(f"every size must be at least 1, got {sizes}")
        self.maxout_pieces = maxout_pieces
        readout = maxout_units * maxout_pieces
        self.source_embedding = nn.Embedding(vocabulary, embedding_size)
        self.encoder = GruLayer(embedding_size, hidden_size)
        self.summary = nn.Linear(hidden_size, hidden_size)
        self.first_state = nn.Linear(hidden_size, hidden_size)
        self.target_embedding = nn.Embedding(vocabulary, embedding_size)
        self.decoder = ContextGRUCell(embedding_size, hidden_size, hidden_size)
        self.readout_state = nn.Linear(hidden_size, readout)
        self.readout_input = nn.Linear(embedding_size, readout, bias=False)
        self.readout_context = nn.Linear(hidden_size, readout, bias=False)
        self.output_rank = nn.Linear(maxout_units, embedding_size, bias=False)
        self.output = nn.Linear(embedding_size, vocabulary)
        self.dropout = nn.Dropout(dropout)
        self.contract = StepContract(
            vocabulary=vocabulary,
            memory=(
                TensorSpec("memory_gates", (BATCH, 3 * hidden_size)),
                TensorSpec("memory_readout", (BATCH, readout)),
            ),
            states=(TensorSpec("state_hidden", (BATCH, hidden_size)),),
        )

    def forward(self, source: Tensor, source_length: Tensor, target: Tensor) -> Tensor:
        """Logits at every target position, each given the true tokens up to it.

        Shape: as in `SequenceToSequence.forward`.
        """
        encoded = self.encode(source, source_length)
        inputs = self.dropout(self.target_embedding(target))  # [B, T, E]
        gates = self.decoder.from_input(inputs) + encoded["memory_gates"][:, None]  # [B, T, 3N]
        state = encoded["state_hidden"]
        states = []
        for gates_now in gates.unbind(1):
            state = self.decoder(gates_now, state)
            states.append(state)
        return self._logits(torch.stack(states, 1), inputs, encoded["memory_readout"][:, None])

    def encode(self, source: Tensor, source_length: Tensor) -> dict[str, Tensor]:
        """The context's part of the decoder's gates and readout, and the first state."""
        states = self.encoder(self.dropout(self.source_embedding(source)))  # [B, S, N]
        context = torch.tanh(self.summary(last_state(states, source_length)))  # [B, N]
        return {
            "memory_gates": self.decoder.from_context(context),
            "memory_readout": self.readout_context(context),
            "state_hidden": torch.tanh(self.first_state(context)),
        }

    def step(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Logits and the next state."""
        word = self.target_embedding(inputs["token"])  # [B, E]
        gates = self.decoder.from_input(word) + inputs["memory_gates"]
        state = self.decoder(gates, inputs["state_hidden"])
        logits = self._logits(state, word, inputs["memory_readout"])
        return {"logits": logits, "next_state_hidden": state}

    def _logits(self, state: Tensor, word: Tensor, context: Tensor) -> Tensor:
        units = self.readout_state(state) + self.readout_input(word) + context
        hidden = self.dropout(maxout(units, self.maxout_pieces))
        logits: Tensor = self.output(self.output_rank(hidden))
        return logits


ARCHITECTURES = (
    Architecture(
        name="rnn-encoder-decoder",
        title="RNN encoder-decoder",
        family=Family.SEQUENCE_TO_SEQUENCE,
        lecture_section="6.1",
        source="Cho et al. 2014, arXiv:1406.1078",
        formula="A GRU reads the source; c = tanh(V h_S) is all that is kept of it. "
        "A second GRU writes: s_t = f(s_(t-1), y_(t-1), c), "
        "p(y_t) = softmax(G maxout(O_s s_t + O_y y_(t-1) + O_c c)).",
        build=RnnEncoderDecoder,
    ),
)
