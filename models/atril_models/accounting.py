"""Parameters, neurons, connections and multiply-adds of each layer, from the modules themselves.

A neuron is one element of a layer's output. A connection is one multiplication or addition of a
parameter that a neuron makes: a convolution reuses all its parameters at each output position
(lecture 3.2.6: 156 · 28 · 28 for C1), a dense layer uses each once, and a pooled neuron has one
connection for each element of its window, and one more for its bias where it has one. A
multiply-add is one product that is added to a sum.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import singledispatch
from math import prod

import torch
from torch import Tensor, nn

from atril_models.layers import TableConv2d, TrainableSubsampling


@dataclass(frozen=True, slots=True)
class LayerCount:
    """One row of the table, for one input; `output_shape` is without the batch.

    A layer that is called several times, such as a recurrent one, has the output shape of one call
    and the connections and multiply-adds of all. Parameters that several layers share are counted
    in the first.
    """

    name: str
    kind: str
    output_shape: tuple[int, ...]
    neurons: int
    parameters: int
    connections: int
    multiply_adds: int


@dataclass(frozen=True, slots=True)
class Work:
    """What one call of a layer does for one input."""

    connections: int
    multiply_adds: int


def count_layers(model: nn.Module, *inputs: Tensor) -> tuple[LayerCount, ...]:
    """Count every layer in the order of the forward pass.

    Activations and other modules with neither parameters nor connections have no row.

    Args:
        model: the network; it is run once, in eval mode, and left as it was.
        inputs: what it takes, a batch of one.

    Raises:
        TypeError: a part of the network holds parameters, and no rule counts it.
    """
    calls: list[tuple[str, nn.Module, tuple[int, ...]]] = []

    def record(name: str, layer: nn.Module) -> None:
        def hook(_layer: nn.Module, _args: tuple[Tensor, ...], output: object) -> None:
            first = output[0] if isinstance(output, tuple) else output
            assert isinstance(first, Tensor)
            calls.append((name, layer, tuple(first.shape[1:])))

        hooks.append(layer.register_forward_hook(hook))

    hooks: list[torch.utils.hooks.RemovableHandle] = []
    was_training = model.training
    try:
        for name, layer in _counted_layers(model):
            record(name, layer)
        with torch.no_grad():
            model.eval()(*inputs)
    finally:
        for handle in hooks:
            handle.remove()
        model.train(was_training)
    return _rows(calls)


def _rows(calls: list[tuple[str, nn.Module, tuple[int, ...]]]) -> tuple[LayerCount, ...]:
    rows: dict[str, LayerCount] = {}
    seen: set[int] = set()
    for name, layer, shape in calls:
        work = count_work(layer, shape)
        if name in rows:
            row = rows[name]
            rows[name] = replace(
                row,
                connections=row.connections + work.connections,
                multiply_adds=row.multiply_adds + work.multiply_adds,
            )
            continue
        own = [p for p in layer.parameters() if id(p) not in seen]
        seen.update(map(id, own))
        rows[name] = LayerCount(
            name=name,
            kind=type(layer).__name__,
            output_shape=shape,
            neurons=prod(shape),
            parameters=sum(p.numel() for p in own),
            connections=work.connections,
            multiply_adds=work.multiply_adds,
        )
    return tuple(rows.values())


def _counted_layers(model: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Each layer that a rule counts, and never a part of one."""
    if count_work.dispatch(type(model)) is not count_work.dispatch(object):
        yield prefix, model
        return
    if next(model.parameters(recurse=False), None) is not None:
        raise TypeError(f"no rule counts {type(model).__name__}, which holds parameters")
    for name, child in model.named_children():
        yield from _counted_layers(child, f"{prefix}.{name}" if prefix else name)


@singledispatch
def count_work(layer: nn.Module, _output_shape: tuple[int, ...]) -> Work:
    """What one call does for one input; register a rule for each layer type that has one.

    Raises:
        TypeError: no rule counts this type of layer.
    """
    raise TypeError(f"no rule counts {type(layer).__name__}")


def weighted_sums(weights: int, biases: int, positions: int) -> Work:
    """A layer that uses each weight and each bias once at every one of its positions."""
    return Work((weights + biases) * positions, weights * positions)


def _numel(parameter: Tensor | None) -> int:
    return 0 if parameter is None else parameter.numel()


@count_work.register(nn.Conv2d)
@count_work.register(TableConv2d)
def _(layer: nn.Conv2d | TableConv2d, output_shape: tuple[int, ...]) -> Work:
    _maps, height, width = output_shape
    return weighted_sums(_numel(layer.weight), _numel(layer.bias), height * width)


@count_work.register
def _(layer: nn.ConvTranspose2d, output_shape: tuple[int, ...]) -> Work:
    """Each input position is multiplied by the whole kernel; each output has a bias."""
    _maps, height, width = output_shape
    positions = height * width // prod(_pair(layer.stride))
    products = _numel(layer.weight) * positions
    return Work(products + (_numel(layer.bias) and prod(output_shape)), products)


@count_work.register
def _(layer: nn.Linear, output_shape: tuple[int, ...]) -> Work:
    return weighted_sums(_numel(layer.weight), _numel(layer.bias), prod(output_shape[:-1]))


@count_work.register
def _(_layer: nn.Embedding, _output_shape: tuple[int, ...]) -> Work:
    """A row is looked up, not multiplied."""
    return Work(0, 0)


@count_work.register(nn.BatchNorm2d)
@count_work.register(nn.BatchNorm1d)
@count_work.register(nn.LayerNorm)
def _(_layer: nn.Module, output_shape: tuple[int, ...]) -> Work:
    """A scale and a shift for each neuron."""
    return weighted_sums(1, 1, prod(output_shape))


@count_work.register
def _(_layer: nn.PReLU, output_shape: tuple[int, ...]) -> Work:
    return weighted_sums(1, 0, prod(output_shape))


@count_work.register(nn.RNN)
@count_work.register(nn.GRU)
@count_work.register(nn.LSTM)
def _(layer: nn.RNNBase, output_shape: tuple[int, ...]) -> Work:
    """Every weight once a time step; the layers are built with `batch_first`."""
    named = dict(layer.named_parameters())
    weights = sum(p.numel() for name, p in named.items() if name.startswith("weight"))
    biases = sum(p.numel() for name, p in named.items() if name.startswith("bias"))
    return weighted_sums(weights, biases, output_shape[0])


@count_work.register
def _(layer: TrainableSubsampling, output_shape: tuple[int, ...]) -> Work:
    """The window is summed, and the sum multiplied once."""
    return Work((layer.window**2 + 1) * prod(output_shape), prod(output_shape))


@count_work.register(nn.AvgPool2d)
@count_work.register(nn.MaxPool2d)
def _(layer: nn.AvgPool2d | nn.MaxPool2d, output_shape: tuple[int, ...]) -> Work:
    return Work(prod(_pair(layer.kernel_size)) * prod(output_shape), 0)


def _pair(size: int | tuple[int, ...]) -> tuple[int, ...]:
    return (size, size) if isinstance(size, int) else size
