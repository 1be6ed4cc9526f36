"""What there is to say of an architecture without training it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from atril_models import CATALOGUE, Architecture, LayerCount, count_layers, create_model
from atril_training.recipes import RECIPES, Recipe


@dataclass(frozen=True, slots=True)
class Description:
    """An architecture in one form: its layers for one input, and the recipes that train it."""

    architecture: Architecture
    options: Mapping[str, object]
    input_shapes: tuple[tuple[int, ...], ...]
    layers: tuple[LayerCount, ...]
    recipes: tuple[Recipe, ...]

    @property
    def parameters(self) -> int:
        """Of all layers."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def multiply_adds(self) -> int:
        """For one input, of all layers."""
        return sum(layer.multiply_adds for layer in self.layers)

    @property
    def connections(self) -> int:
        """As the lecture counts them, of all layers."""
        return sum(layer.connections for layer in self.layers)


def describe(name: str, options: Mapping[str, object] | None = None) -> Description:
    """Describe an architecture; with no options in its published form.

    Nothing is computed: the network is made of shapes alone, so that one of 500 MB is described as
    fast as one of 500 bytes.

    Raises:
        UnknownArchitectureError: there is none of this name.
    """
    chosen: dict[str, Any] = dict(options or {})
    architecture = CATALOGUE[name]
    with torch.device("meta"):
        network = create_model(name, **chosen)
        inputs = network.example_inputs()
        layers = count_layers(network, *inputs)
    return Description(
        architecture=architecture,
        options=chosen,
        input_shapes=tuple(tuple(tensor.shape) for tensor in inputs),
        layers=layers,
        recipes=tuple(recipe for (owner, _), recipe in RECIPES.items() if owner == name),
    )
