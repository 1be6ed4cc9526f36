"""A classifier on the code of an autoencoder."""

import pytest
import torch

from atril_models import create_model
from atril_models.autoencoders import DeterministicAutoencoder
from atril_models.autoencoders.classifier import CodeClassifier


def _autoencoder() -> DeterministicAutoencoder:
    torch.manual_seed(0)
    network = create_model("conv-denoising-autoencoder", image_shape=(1, 8, 8), widths=(4, 6))
    assert isinstance(network, DeterministicAutoencoder)
    return network


def test_logits_are_linear_in_the_code() -> None:
    """The formula o = V f(x) + c, the code being flattened."""
    autoencoder = _autoencoder()
    classifier = CodeClassifier(autoencoder, 3)
    image = torch.rand(5, 1, 8, 8)
    code = autoencoder.encode(image).flatten(1)
    expected = code @ classifier.output.weight.T + classifier.output.bias
    torch.testing.assert_close(classifier(image), expected)
    assert classifier(*classifier.example_inputs(2)).shape == (2, 3)


def test_learning_reaches_the_encoder() -> None:
    """It is the autoencoder's own encoder that is fine-tuned; the decoder has no part in it."""
    autoencoder = _autoencoder()
    CodeClassifier(autoencoder, 3)(torch.rand(5, 1, 8, 8)).square().sum().backward()
    assert all(p.grad is not None for p in autoencoder.encoder.parameters())
    assert all(p.grad is None for p in autoencoder.decoder.parameters())


def test_fewer_than_two_classes_are_refused() -> None:
    """The error says how many were asked for."""
    with pytest.raises(ValueError, match="at least 2 classes, got 1"):
        CodeClassifier(_autoencoder(), 1)
