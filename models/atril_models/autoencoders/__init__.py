"""Autoencoders: lecture chapter 4."""

from atril_models.autoencoders import (
    contractive,
    convolutional,
    denoising,
    dense,
    dncnn,
    sparse,
    variational,
)
from atril_models.autoencoders.autoencoder import (
    Autoencoder,
    DecoderPart,
    DeterministicAutoencoder,
    EncoderPart,
    OutputUnit,
)

ARCHITECTURES = (
    *dense.ARCHITECTURES,
    *contractive.ARCHITECTURES,
    *sparse.ARCHITECTURES,
    *denoising.ARCHITECTURES,
    *convolutional.ARCHITECTURES,
    *dncnn.ARCHITECTURES,
    *variational.ARCHITECTURES,
)

__all__ = [
    "ARCHITECTURES",
    "Autoencoder",
    "DecoderPart",
    "DeterministicAutoencoder",
    "EncoderPart",
    "OutputUnit",
]
