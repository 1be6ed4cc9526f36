"""The architectures of the lectures as plain PyTorch modules, and the catalogue that names them."""

from atril_models.accounting import LayerCount, count_layers
from atril_models.architecture import Architecture, Family, ImageSpec, Network
from atril_models.catalogue import (
    CATALOGUE,
    Catalogue,
    DuplicateArchitectureError,
    UnknownArchitectureError,
    UnknownOptionError,
    create_model,
)
from atril_models.classifier import ClassifierWithProbabilities

__all__ = [
    "CATALOGUE",
    "Architecture",
    "Catalogue",
    "ClassifierWithProbabilities",
    "DuplicateArchitectureError",
    "Family",
    "ImageSpec",
    "LayerCount",
    "Network",
    "UnknownArchitectureError",
    "UnknownOptionError",
    "count_layers",
    "create_model",
]
