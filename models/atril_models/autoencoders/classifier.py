"""A classifier on the code of an autoencoder.

Dimensions: B batch, K classes.
"""

from math import prod

from torch import Tensor, nn

from atril_models.architecture import Network
from atril_models.autoencoders.autoencoder import DeterministicAutoencoder


class CodeClassifier(Network):
    """Logits of the code that an autoencoder's encoder gives: o = V f(x) + c.

    With the encoder held fixed this is logistic regression on its features; with the encoder
    learning too, it is the fine-tuning of a pre-trained layer.

    Source: Vincent et al. 2010, §6; Makhzani & Frey 2013, §4.4.

    Args:
        autoencoder: whose encoder it takes, not a copy of it.
        classes: K.

    Shape:
        image [B, C, H, W]; returns logits [B, K].

    Raises:
        ValueError: classes < 2.
    """

    def __init__(self, autoencoder: DeterministicAutoencoder, classes: int) -> None:
        super().__init__()
        if classes < 2:
            raise ValueError(f"a classifier needs at least 2 classes, got {classes}")
        self.autoencoder = autoencoder
        self.output = nn.Linear(prod(autoencoder.code_shape), classes)

    def example_inputs(self, batch: int = 1) -> tuple[Tensor]:
        """`batch` empty pictures."""
        return self.autoencoder.example_inputs(batch)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of each class."""
        logits: Tensor = self.output(self.autoencoder.encode(image).flatten(1))
        return logits
