"""Parameters, neurons and connections of each layer, counted as the lecture counts them.

A neuron is one element of a layer's output. A connection is one multiplication or addition of a
parameter that a neuron makes: a convolution reuses all its parameters at each output position
(lecture 3.2.6: 156 · 28 · 28 for C1), a dense layer uses each once, and a pooled neuron has one
connection for each element of its window, and one more for its bias where it has one.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import singledispatch
from math import prod

import torch
from torch import Tensor, nn

from atril_models.layers import TableConv2d, TrainableSubsampling


@dataclass(frozen=True, slots=True)
class LayerCount:
    """One row of the table; `output_shape` is without the batch."""

    name: str
    kind: str
    output_shape: tuple[int, ...]
    neurons: int
    parameters: int
    connections: int


def count_layers(model: nn.Module, input_shape: tuple[int, ...]) -> tuple[LayerCount, ...]:
    """Count every layer in the order of the forward pass, from the modules themselves.

    Activations and other modules without connections have no row.

    Args:
        model: the network; it is run once on zeros, in eval mode, and left as it was.
        input_shape: shape of one input, without the batch.
    """
    outputs: list[tuple[str, nn.Module, tuple[int, ...]]] = []

    def record(name: str, layer: nn.Module) -> None:
        def hook(_layer: nn.Module, _args: tuple[Tensor, ...], output: Tensor) -> None:
            outputs.append((name, layer, tuple(output.shape[1:])))

        hooks.append(layer.register_forward_hook(hook))

    hooks: list[torch.utils.hooks.RemovableHandle] = []
    was_training = model.training
    try:
        for name, layer in _counted_layers(model):
            record(name, layer)
        with torch.no_grad():
            model.eval()(torch.zeros(1, *input_shape))
    finally:
        for handle in hooks:
            handle.remove()
        model.train(was_training)
    return tuple(_count(name, layer, shape) for name, layer, shape in outputs)


def _counted_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in model.named_modules():
        if count_connections.dispatch(type(module)) is not count_connections.dispatch(object):
            yield name, module


def _count(name: str, layer: nn.Module, output_shape: tuple[int, ...]) -> LayerCount:
    return LayerCount(
        name=name,
        kind=type(layer).__name__,
        output_shape=output_shape,
        neurons=prod(output_shape),
        parameters=_parameters(layer),
        connections=count_connections(layer, output_shape),
    )


def _parameters(layer: nn.Module) -> int:
    return sum(parameter.numel() for parameter in layer.parameters())


@singledispatch
def count_connections(layer: nn.Module, _output_shape: tuple[int, ...]) -> int:
    """Connections of one layer whose output has this shape; register a rule for each layer type.

    Raises:
        TypeError: no rule counts this type of layer.
    """
    raise TypeError(f"no rule counts the connections of {type(layer).__name__}")


@count_connections.register(nn.Conv2d)
@count_connections.register(TableConv2d)
def _(layer: nn.Module, output_shape: tuple[int, ...]) -> int:
    _maps, height, width = output_shape
    return _parameters(layer) * height * width


@count_connections.register
def _(layer: nn.Linear, _output_shape: tuple[int, ...]) -> int:
    return _parameters(layer)


@count_connections.register
def _(layer: TrainableSubsampling, output_shape: tuple[int, ...]) -> int:
    return (layer.window**2 + 1) * prod(output_shape)


@count_connections.register
def _(layer: nn.AvgPool2d, output_shape: tuple[int, ...]) -> int:
    side = layer.kernel_size
    height, width = (side, side) if isinstance(side, int) else side
    return height * width * prod(output_shape)
