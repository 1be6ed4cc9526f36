"""A classifier as it is served."""

import torch
from torch import Tensor, nn


class ClassifierWithProbabilities(nn.Module):
    """Adds a softmax to a network of logits, so that the exported graph answers with both.

    Shape:
        image [B, C, H, W] float32; returns (logits [B, classes], probabilities [B, classes]);
        each row of the probabilities sums to 1.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and their softmax."""
        logits = self.network(image)
        return logits, torch.softmax(logits, dim=1)
