"""What a model is run on before it is served: every size of batch that it will be served in.

ONNX Runtime plans memory, and CUDA searches algorithms, for each shape that it meets the first
time; the first caller of each size would pay for it. So the samples that the configuration lists
under `model_warmup` are run, and then zeros in every size that they leave out: 1, the preferred
sizes, the powers of two, and the maximum.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import model_config_pb2
from tritonclient.grpc.model_config_pb2 import ModelConfig

from atril_common.batching import Tensors
from atril_common.errors import InvalidInputError, NotReadyError
from atril_common.tensors import DTYPES, Tensor, TensorSpec, tensor_from_bytes

FOLDER = "warmup"
"""Folder of a model that holds the files which `input_data_file` names, as in Triton."""

_MOST_RUNS = 100
_MOST_FILE_BYTES = 1 << 30


class WarmUpSample(NamedTuple):
    """Inputs to run a model on, and how many times.

    `declared` samples come from the configuration and are run whatever they cost.
    """

    name: str
    batch_size: int
    inputs: Tensors
    runs: int = 1
    declared: bool = False


def batch_sizes(config: ModelConfig) -> tuple[int, ...]:
    """Sizes of batch to warm up, the smallest and the largest first; 1 where nothing is batched."""
    limit = config.max_batch_size
    if limit <= 1:
        return (1,)
    sizes = {size for size in config.dynamic_batching.preferred_batch_size if 0 < size <= limit}
    sizes.update(1 << power for power in range(limit.bit_length()) if 1 << power <= limit)
    return (1, limit, *sorted(sizes - {1, limit}, reverse=True))


def warm_up_samples(
    config: ModelConfig, inputs: Sequence[TensorSpec], folder: Path
) -> Iterator[WarmUpSample]:
    """What to run a model on, one sample at a time, for they may be large.

    Args:
        config: the model's configuration.
        inputs: its inputs as declared, with the batch dimension where it batches.
        folder: the model's folder, which holds `warmup/` where samples name files.

    Raises:
        NotReadyError: a sample of the configuration does not fit the model; the text names it.
    """
    covered = set()
    for sample in config.model_warmup:
        try:
            declared = _declared(sample, config.max_batch_size, inputs, folder / FOLDER)
        except (InvalidInputError, OSError) as err:
            raise NotReadyError(f"model_warmup '{sample.name}': {err}") from err
        covered.add(declared.batch_size)
        yield declared
    for size in batch_sizes(config):
        if size not in covered:
            yield WarmUpSample(f"zeros, batch {size}", size, _zeros(inputs, config, size))


def _zeros(inputs: Sequence[TensorSpec], config: ModelConfig, size: int) -> Tensors:
    batched = config.max_batch_size > 0
    return {spec.name: _zero(spec.datatype, _shape(spec, batched, size)) for spec in inputs}


def _shape(spec: TensorSpec, batched: bool, size: int) -> tuple[int, ...]:
    """A shape of an input; variable dimensions are taken as 1."""
    dims = [max(dim, 1) for dim in spec.shape]
    return (size, *dims[1:]) if batched else tuple(dims)


def _zero(datatype: str, shape: tuple[int, ...]) -> Tensor:
    if datatype == "BYTES":
        return np.full(shape, b"", dtype=object)
    return np.zeros(shape, DTYPES[datatype])


def _declared(
    sample: model_config_pb2.ModelWarmup,
    max_batch_size: int,
    inputs: Sequence[TensorSpec],
    folder: Path,
) -> WarmUpSample:
    """A sample of the configuration, checked.

    Raises:
        InvalidInputError: it does not fit the model, or is out of bounds.
        OSError: its file cannot be read.
    """
    size = max(1, sample.batch_size)
    if size > max(1, max_batch_size):
        raise InvalidInputError(f"batch_size is {size}, the model takes at most {max_batch_size}")
    if sample.count > _MOST_RUNS:
        raise InvalidInputError(f"count is {sample.count}, at most {_MOST_RUNS} are run")
    names = {spec.name for spec in inputs}
    if set(sample.inputs) != names:
        raise InvalidInputError(f"it has the inputs {sorted(sample.inputs)}, not {sorted(names)}")
    tensors = {}
    for spec in inputs:
        given = sample.inputs[spec.name]
        datatype = model_config_pb2.DataType.Name(given.data_type).removeprefix("TYPE_")
        datatype = "BYTES" if datatype == "STRING" else datatype
        shape = (size, *given.dims) if max_batch_size else tuple(given.dims)
        if datatype != spec.datatype or not _fits(shape, spec.shape):
            raise InvalidInputError(
                f"input '{spec.name}' is {datatype} {list(shape)}, but the model takes "
                f"{spec.datatype} {list(spec.shape)}"
            )
        tensors[spec.name] = _content(spec.name, given, datatype, shape, folder)
    return WarmUpSample(sample.name, size, tensors, max(1, sample.count), declared=True)


def _fits(shape: tuple[int, ...], declared: tuple[int, ...]) -> bool:
    return len(shape) == len(declared) and all(
        size > 0 and dim in (-1, size) for size, dim in zip(shape, declared, strict=True)
    )


def _content(
    name: str,
    given: model_config_pb2.ModelWarmup.Input,
    datatype: str,
    shape: tuple[int, ...],
    folder: Path,
) -> Tensor:
    source = given.WhichOneof("input_data_type")
    if source == "input_data_file":
        return _from_file(name, given.input_data_file, datatype, shape, folder)
    if source == "random_data" and given.random_data:
        return _random(datatype, shape)
    return _zero(datatype, shape)


def _from_file(
    name: str, file_name: str, datatype: str, shape: tuple[int, ...], folder: Path
) -> Tensor:
    """The little-endian contents of a file in the model's `warmup` folder, for the whole batch."""
    path = folder / file_name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InvalidInputError(f"input_data_file '{file_name}' lies outside the folder {FOLDER}")
    if path.stat().st_size > _MOST_FILE_BYTES:
        raise InvalidInputError(
            f"input_data_file '{file_name}' has {path.stat().st_size} bytes, at most "
            f"{_MOST_FILE_BYTES} are read"
        )
    return tensor_from_bytes(path.read_bytes(), datatype, shape, name=name)


def _random(datatype: str, shape: tuple[int, ...]) -> Tensor:
    """Random values: small whole numbers for integers, which are often indices, else [0, 1)."""
    random = np.random.default_rng(0)
    if datatype == "BYTES":
        digits: NDArray[Any] = random.integers(0, 10, shape)
        texts = np.empty(digits.size, dtype=object)
        texts[:] = [str(digit).encode() for digit in digits.ravel()]
        return texts.reshape(shape)
    if DTYPES[datatype].kind in "biu":
        return random.integers(0, 2, shape).astype(DTYPES[datatype])
    return random.random(shape).astype(DTYPES[datatype])
