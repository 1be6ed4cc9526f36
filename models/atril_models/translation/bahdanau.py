"""The recurrent encoder-decoder that looks for the part of the source to translate next.

Source: Bahdanau, Cho & Bengio 2015, "Neural machine translation by jointly learning to align and
translate", arXiv:1409.0473; lecture 6.1, equations 6.1.5 to 6.1.9.

Dimensions: B batch, S source positions, T target positions, E embedding, N hidden units,
A alignment units, M maxout units, V vocabulary.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from atril_models.architecture import Architecture, Family
from atril_models.translation.attention import AdditiveAttention, length_mask
from atril_models.translation.contract import (
    BATCH,
    SOURCE,
    SequenceToSequence,
    StepContract,
    TensorSpec,
)
from atril_models.translation.recurrent import (
    ContextGRUCell,
    GruLayer,
    maxout,
    reverse_within,
)

_MAXOUT_PIECES = 2


class Bahdanau(SequenceToSequence):
    """A bidirectional GRU annotates each source position; the decoder attends to them anew a step.

    h_j = [forward GRU at j; backward GRU at j];  s_0 = tanh(W_s backward h_1)
    alpha_t = softmax_j(v' tanh(W s_(t-1) + U h_j));  c_t = sum_j alpha_tj h_j
    s_t = f(s_(t-1), y_(t-1), c_t)
    p(y_t | y_<t, x) = softmax(W_o maxout(O_s s_t + O_y y_(t-1) + O_c c_t))

    The readout sees s_t, as in lecture equation 6.1.5 and §3.1 of the paper; the paper's appendix
    A.2.2 writes s_(t-1). The defaults give RNNsearch: 80,401,000 weights without biases.

    Args:
        vocabulary: V, of source and of target, whose embeddings are two.
        embedding_size: E.
        hidden_size: N, of each direction of the encoder and of the decoder.
        alignment_size: A.
        maxout_units: M, each the larger of two linear units.
        dropout: the share of embedded inputs and readout units set to 0 in training; the paper
            has none.

    Raises:
        ValueError: a size is less than 1.
    """

    def __init__(
        self,
        vocabulary: int = 30_000,
        *,
        embedding_size: int = 620,
        hidden_size: int = 1000,
        alignment_size: int = 1000,
        maxout_units: int = 500,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        sizes = (vocabulary, embedding_size, hidden_size, alignment_size, maxout_units)
        if min(sizes) < 1:
            raise ValueError(f"every size must be at least 1, got {sizes}")
        annotation_size = 2 * hidden_size
        readout = maxout_units * _MAXOUT_PIECES
        self.source_embedding = nn.Embedding(vocabulary, embedding_size)
        self.forward_encoder = GruLayer(embedding_size, hidden_size)
        self.backward_encoder = GruLayer(embedding_size, hidden_size)
        self.first_state = nn.Linear(hidden_size, hidden_size)
        self.annotation_key = nn.Linear(annotation_size, alignment_size)
        self.attention = AdditiveAttention(hidden_size, alignment_size, annotation_size)
        self.target_embedding = nn.Embedding(vocabulary, embedding_size)
        self.decoder = ContextGRUCell(embedding_size, annotation_size, hidden_size)
        self.readout_state = nn.Linear(hidden_size, readout)
        self.readout_input = nn.Linear(embedding_size, readout, bias=False)
        self.readout_context = nn.Linear(annotation_size, readout, bias=False)
        self.output = nn.Linear(maxout_units, vocabulary)
        self.dropout = nn.Dropout(dropout)
        self.contract = StepContract(
            vocabulary=vocabulary,
            memory=(
                TensorSpec("memory_annotations", (BATCH, SOURCE, annotation_size)),
                TensorSpec("memory_keys", (BATCH, SOURCE, alignment_size)),
            ),
            states=(TensorSpec("state_hidden", (BATCH, hidden_size)),),
            attends=True,
        )

    def forward(self, source: Tensor, source_length: Tensor, target: Tensor) -> Tensor:
        """Logits at every target position, each given the true tokens up to it.

        Shape: as in `SequenceToSequence.forward`.
        """
        encoded = self.encode(source, source_length)
        keys, annotations = encoded["memory_keys"], encoded["memory_annotations"]
        mask = length_mask(source_length, source.shape[1])
        inputs = self.dropout(self.target_embedding(target))  # [B, T, E]
        state = encoded["state_hidden"]
        states, contexts = [], []
        for gates in self.decoder.from_input(inputs).unbind(1):
            _, context = self.attention(state, keys, annotations, mask)
            state = self.decoder(gates + self.decoder.from_context(context), state)
            states.append(state)
            contexts.append(context)
        return self._logits(torch.stack(states, 1), inputs, torch.stack(contexts, 1))

    def encode(self, source: Tensor, source_length: Tensor) -> dict[str, Tensor]:
        """The annotations h_j, their part U h_j of the energies, and the first state."""
        words = self.dropout(self.source_embedding(source))  # [B, S, E]
        ahead = self.forward_encoder(words)  # [B, S, N]
        back = self.backward_encoder(reverse_within(words, source_length))
        back = reverse_within(back, source_length)
        annotations = torch.cat((ahead, back), dim=2)  # [B, S, 2N]
        return {
            "memory_annotations": annotations,
            "memory_keys": self.annotation_key(annotations),
            "state_hidden": torch.tanh(self.first_state(back[:, 0])),
        }

    def step(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Logits, the next state, and the weights of the source positions."""
        annotations = inputs["memory_annotations"]
        mask = length_mask(inputs["source_length"], annotations.shape[1])
        word = self.target_embedding(inputs["token"])  # [B, E]
        before = inputs["state_hidden"]
        weights, context = self.attention(before, inputs["memory_keys"], annotations, mask)
        gates = self.decoder.from_input(word) + self.decoder.from_context(context)
        state = self.decoder(gates, before)
        logits = self._logits(state, word, context)
        return {"logits": logits, "next_state_hidden": state, "attention": weights}

    def _logits(self, state: Tensor, word: Tensor, context: Tensor) -> Tensor:
        units = self.readout_state(state) + self.readout_input(word) + self.readout_context(context)
        logits: Tensor = self.output(self.dropout(maxout(units, _MAXOUT_PIECES)))
        return logits


ARCHITECTURES = (
    Architecture(
        name="bahdanau",
        title="Bahdanau attention (RNNsearch)",
        family=Family.SEQUENCE_TO_SEQUENCE,
        lecture_section="6.1",
        source="Bahdanau, Cho & Bengio 2015, arXiv:1409.0473",
        formula="A bidirectional GRU gives annotations h_j. At each step "
        "alpha_tj = softmax_j(v' tanh(W s_(t-1) + U h_j)), c_t = sum_j alpha_tj h_j, "
        "s_t = f(s_(t-1), y_(t-1), c_t), p(y_t) = g(y_(t-1), s_t, c_t).",
        build=Bahdanau,
    ),
)
