"""Classification of whole sequences by a recurrent network.

Dimensions: B batch, T time steps, P features, H hidden units, Q classes.
"""

import torch
from torch import Tensor, nn

from atril_models.architecture import Network
from atril_models.recurrent.layers import RecurrentLayer
from atril_models.recurrent.long_short_term_memory import BiLSTM, CombinedOutput


class SequenceClassifier(Network):
    """A recurrent layer reads the sequence; a dense layer on what it has kept gives the logits.

    O = H(T) W_hq + b_q, of which the softmax is the answer (lecture 5.1.2), with what the layer
    gives as its summary for H(T).

    Shape:
        sequence [B, T, P] float32; returns logits [B, Q] float32.

    Raises:
        ValueError: classes < 2.
    """

    def __init__(self, layer: RecurrentLayer, classes: int) -> None:
        super().__init__()
        _check_classes(classes)
        self.classes = classes
        self.features = layer.inputs
        self.layer = layer
        self.output = nn.Linear(layer.hidden, classes)

    def example_inputs(self, batch: int = 1) -> tuple[Tensor]:
        """Sequences of as many time steps as features: square pictures row by row."""
        return (torch.zeros(batch, self.features, self.features),)

    def forward(self, sequence: Tensor) -> Tensor:
        """Logits of each class."""
        _h, state = self.layer(sequence)
        logits: Tensor = self.output(self.layer.summary(state))
        return logits


class BiLSTMClassifier(Network):
    """Two LSTMs read the sequence in both directions; every time step votes.

    y(t) = W_F h_F(t) + W_B h_B(t) + b (lecture 5.8.3 before σ); the logits are the mean over t.

    Shape:
        sequence [B, T, P] float32; returns logits [B, Q] float32.

    Raises:
        ValueError: classes < 2, or a size below 1.
    """

    def __init__(self, features: int, hidden: int, classes: int) -> None:
        super().__init__()
        _check_classes(classes)
        self.classes = classes
        self.features = features
        self.layer = BiLSTM(features, hidden)
        self.output = CombinedOutput(hidden, classes)

    def example_inputs(self, batch: int = 1) -> tuple[Tensor]:
        """Sequences of as many time steps as features: square pictures row by row."""
        return (torch.zeros(batch, self.features, self.features),)

    def votes(self, sequence: Tensor) -> Tensor:
        """Logits of each class at each time step, [B, T, Q]."""
        votes: Tensor = self.output(*self.layer(sequence))
        return votes

    def forward(self, sequence: Tensor) -> Tensor:
        """Logits of each class."""
        return self.votes(sequence).mean(dim=1)


def _check_classes(classes: int) -> None:
    if classes < 2:
        raise ValueError(f"a classifier needs at least 2 classes, got {classes}")
