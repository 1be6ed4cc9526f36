"""What a configuration says of sequences: `sequence_batching`, with state by explicit pairs.

The server gives a model the inputs that the protocol's callers do not: what state it left behind
(`state`, by the names of input and output), and where in its sequence a request is
(`control_input`).
"""

from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tritonclient.grpc import model_config_pb2
from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelSequenceBatching

from atril_common.core import SequenceControl
from atril_common.errors import InvalidInputError, NotReadyError
from atril_common.tensors import DTYPES, Tensor, TensorSpec

INITIAL_STATE_FOLDER = "initial_state"
"""Folder of a model that holds the files which `data_file` names, as in Triton."""

DEFAULT_IDLE_US = 1_000_000
"""Triton's own `max_sequence_idle_microseconds`."""

MAX_SEQUENCES = 4096
"""Most live sequences of one model; `max_candidate_sequences` may lower it."""


_ID_DATATYPES = ("INT32", "INT64", "UINT32", "UINT64", "BYTES")


class StatePair(NamedTuple):
    """A state: the input that takes it, the output that replaces it, and what it is at the start.

    `initial` has the batch dimension where the model batches.
    """

    input_name: str
    output_name: str
    initial: Tensor


class ControlKind(Enum):
    """What a control input tells of a request."""

    START = "CONTROL_SEQUENCE_START"
    END = "CONTROL_SEQUENCE_END"
    READY = "CONTROL_SEQUENCE_READY"
    CORRID = "CONTROL_SEQUENCE_CORRID"


class ControlInput(NamedTuple):
    """An input that tells where in its sequence a request is.

    `false` and `true` are its two values, which a CORRID has none of: it is the sequence's id.
    """

    spec: TensorSpec
    kind: ControlKind
    false: float = 0
    true: float = 1

    def tensor(self, sequence: SequenceControl) -> Tensor:
        """The input of one request.

        Raises:
            InvalidInputError: the sequence's id is not of the datatype that the model takes.
        """
        shape = tuple(max(1, dim) for dim in self.spec.shape)
        dtype = DTYPES[self.spec.datatype]
        if self.kind is ControlKind.CORRID:
            return np.full(shape, _id_as(self.spec, sequence.sequence_id), dtype)
        told = {ControlKind.START: sequence.start, ControlKind.END: sequence.end}
        return np.full(shape, self.true if told.get(self.kind, True) else self.false, dtype)


class SequencePlan(NamedTuple):
    """How a model serves sequences."""

    states: tuple[StatePair, ...]
    controls: tuple[ControlInput, ...]
    inputs: tuple[TensorSpec, ...]
    """All that the server gives the model beside what a request brings."""
    outputs: tuple[str, ...]
    """What a request is answered that names no outputs."""
    idle_s: float
    max_sequences: int


def seen_by_callers(
    config: ModelConfig, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """The graph's inputs and outputs without those that the server gives and takes itself."""
    batching = config.sequence_batching
    given = {tensor.name for tensor in batching.control_input}
    given.update(state.input_name for state in batching.state)
    taken = {state.output_name for state in batching.state}
    return (
        tuple(spec for spec in inputs if spec.name not in given),
        tuple(spec for spec in outputs if spec.name not in taken),
    )


def sequence_plan(
    config: ModelConfig,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    folder: Path,
) -> SequencePlan | None:
    """How a configuration wants sequences served; None where it has no `sequence_batching`.

    Args:
        config: the model's.
        inputs: of the graph.
        outputs: of the graph.
        folder: the model's folder, which holds `initial_state/` where a state names a file.

    Raises:
        NotReadyError: it does not fit the graph or asks for what is not supported.
    """
    if not config.HasField("sequence_batching"):
        return None
    batching = config.sequence_batching
    if batching.iterative_sequence:
        raise NotReadyError("sequence_batching.iterative_sequence is not supported")
    takes, gives = {s.name: s for s in inputs}, {s.name: s for s in outputs}
    batched = config.max_batch_size > 0
    states = tuple(_state(state, takes, gives, folder, batched) for state in batching.state)
    controls = tuple(
        _control(control, declared.name, takes)
        for declared in batching.control_input
        for control in declared.control
    )
    names = [state.input_name for state in states] + [control.spec.name for control in controls]
    declared_names = [*names, *(tensor.name for tensor in config.input)]
    if doubled := {name for name in names if declared_names.count(name) > 1}:
        raise NotReadyError(f"sequence_batching declares input {sorted(doubled)} a second time")
    asked = batching.oldest.max_candidate_sequences
    return SequencePlan(
        states,
        controls,
        tuple(takes[name] for name in names),
        tuple(output.name for output in config.output),
        (batching.max_sequence_idle_microseconds or DEFAULT_IDLE_US) / 1e6,
        min(asked, MAX_SEQUENCES) if asked > 0 else MAX_SEQUENCES,
    )


def _state(
    state: ModelSequenceBatching.State,
    takes: Mapping[str, TensorSpec],
    gives: Mapping[str, TensorSpec],
    folder: Path,
    batched: bool,
) -> StatePair:
    name = f"state '{state.input_name}'"
    datatype = _datatype(state.data_type)
    for kind, tensor, graph in (
        ("input", state.input_name, takes),
        ("output", state.output_name, gives),
    ):
        spec = graph.get(tensor)
        if spec is None:
            raise NotReadyError(f"{name}: the model has no {kind} '{tensor}', only {sorted(graph)}")
        dims = (*((-1,) if batched else ()), *state.dims)
        fits = len(dims) == len(spec.shape) and all(
            -1 in (a, b) or a == b for a, b in zip(dims, spec.shape, strict=True)
        )
        if spec.datatype != datatype or not fits:
            raise NotReadyError(
                f"{name} is {datatype} {list(dims)} in config.pbtxt, but the model's {kind} "
                f"'{tensor}' is {spec.datatype} {list(spec.shape)}"
            )
    if datatype == "BYTES":
        raise NotReadyError(f"{name}: a state of TYPE_STRING is not supported")
    initial = _initial(state, datatype, folder)
    return StatePair(state.input_name, state.output_name, initial[None] if batched else initial)


def _initial(state: ModelSequenceBatching.State, datatype: str, folder: Path) -> Tensor:
    """The first state of a sequence: zeros or a file; a variable dimension is 1 if none is told."""
    name, dtype = f"state '{state.input_name}'", DTYPES[datatype]
    if len(state.initial_state) > 1:
        raise NotReadyError(f"{name} has {len(state.initial_state)} initial_state, one is allowed")
    if not state.initial_state:
        return np.zeros([max(1, dim) for dim in state.dims], dtype)
    told = state.initial_state[0]
    dims = list(told.dims) or [max(1, dim) for dim in state.dims]
    fits = len(dims) == len(state.dims) and all(
        got > 0 and want in (-1, got) for want, got in zip(state.dims, dims, strict=True)
    )
    if _datatype(told.data_type) != datatype or not fits:
        raise NotReadyError(
            f"{name} is {datatype} {list(state.dims)}, but its initial_state "
            f"{_datatype(told.data_type)} {list(told.dims)}"
        )
    if not told.data_file:
        return np.zeros(dims, dtype)
    path = (folder / INITIAL_STATE_FOLDER / told.data_file).resolve()
    if not path.is_relative_to((folder / INITIAL_STATE_FOLDER).resolve()) or not path.is_file():
        raise NotReadyError(f"{name}: data_file '{told.data_file}' is not a file of the model")
    expected = int(np.prod(dims)) * dtype.itemsize
    if path.stat().st_size != expected:
        raise NotReadyError(
            f"{name}: data_file '{told.data_file}' has {path.stat().st_size} bytes, not {expected}"
        )
    return np.frombuffer(path.read_bytes(), dtype).reshape(dims)


def _control(
    control: ModelSequenceBatching.Control, name: str, takes: Mapping[str, TensorSpec]
) -> ControlInput:
    spec = takes.get(name)
    if spec is None:
        raise NotReadyError(
            f"control_input '{name}' is not an input of the model, which has {sorted(takes)}"
        )
    kind = ControlKind(ModelSequenceBatching.Control.Kind.Name(control.kind))
    if kind is ControlKind.CORRID:
        _require(name, spec, _datatype(control.data_type))
        if spec.datatype not in _ID_DATATYPES:
            raise NotReadyError(
                f"control_input '{name}' is {spec.datatype}, but a sequence's id is one of "
                f"{', '.join(_ID_DATATYPES)}"
            )
        return ControlInput(spec, kind)
    for datatype, values in (
        ("INT32", control.int32_false_true),
        ("FP32", control.fp32_false_true),
        ("BOOL", control.bool_false_true),
    ):
        if values:
            _require(name, spec, datatype)
            if len(values) != 2:
                raise NotReadyError(
                    f"control_input '{name}' must have two values, false and true, got "
                    f"{list(values)}"
                )
            return ControlInput(spec, kind, values[0], values[1])
    raise NotReadyError(f"control_input '{name}' has no values for false and true")


def _require(name: str, spec: TensorSpec, datatype: str) -> None:
    if spec.datatype != datatype:
        raise NotReadyError(
            f"control_input '{name}' is {datatype} in config.pbtxt but {spec.datatype} in the model"
        )


def _id_as(spec: TensorSpec, sequence_id: int | str) -> int | bytes:
    """A sequence's id as the model takes it."""
    if spec.datatype == "BYTES":
        return str(sequence_id).encode()
    if isinstance(sequence_id, int):
        limits = np.iinfo(DTYPES[spec.datatype])
        if limits.min <= sequence_id <= limits.max:
            return sequence_id
    raise InvalidInputError(
        f"sequence_id must be {spec.datatype} for this model, got {sequence_id!r}"
    )


def _datatype(number: int) -> str:
    """The wire datatype of a configuration's number."""
    name = model_config_pb2.DataType.Name(number).removeprefix("TYPE_")
    return "BYTES" if name == "STRING" else name
