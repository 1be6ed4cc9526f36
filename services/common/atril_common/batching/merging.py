"""Many requests into one, and one answer into many."""

from collections.abc import Sequence
from typing import cast

import numpy as np

from atril_common.batching.execution import Tensors
from atril_common.batching.queue import Waiting
from atril_common.core import InferRequest
from atril_common.errors import InternalError


def merge(batch: Sequence[Waiting]) -> InferRequest:
    """The request that runs a batch: its rows one after another, the outputs that any wants.

    It has the latest of the deadlines, and the options of the first.
    """
    first = batch[0].request
    if len(batch) == 1:
        return first
    outputs = first.outputs
    if any(w.request.outputs != outputs for w in batch):
        outputs = _outputs_of_any(batch)
    inputs = {
        name: np.concatenate([w.request.inputs[name] for w in batch]) for name in first.inputs
    }
    deadline_s = _latest([w.request.deadline_s for w in batch])
    return first._replace(inputs=inputs, outputs=outputs, deadline_s=deadline_s)


def _latest(deadlines_s: list[float | None]) -> float | None:
    """Until when somebody waits; None if somebody waits for ever."""
    return None if None in deadlines_s else max(cast(list[float], deadlines_s))


def _outputs_of_any(batch: Sequence[Waiting]) -> tuple[str, ...]:
    """The outputs that any request of a batch wants; empty, which is all, if one wants all."""
    if not all(w.request.outputs for w in batch):
        return ()
    return tuple(dict.fromkeys(name for w in batch for name in w.request.outputs))


def split(model_name: str, batch: Sequence[Waiting], outputs: Tensors) -> list[Tensors]:
    """Each request's own rows of the outputs that it asked for, in its order.

    Raises:
        InternalError: the outputs cannot be told apart by rows, or one is missing.
    """
    missing = {n for w in batch for n in w.request.outputs if n not in outputs}
    if missing:
        raise InternalError(f"model '{model_name}' did not answer output {sorted(missing)}")
    if len(batch) == 1:
        return [{name: outputs[name] for name in batch[0].request.outputs or outputs}]
    rows = sum([waiting.rows for waiting in batch])
    for name, tensor in outputs.items():
        if not tensor.ndim or tensor.shape[0] != rows:
            raise InternalError(
                f"output '{name}' of model '{model_name}' does not have one row for each row of "
                f"the batch, so the model cannot be batched"
            )
    answers, offset = [], 0
    for waiting in batch:
        end = offset + waiting.rows
        names = waiting.request.outputs or outputs
        answers.append({name: outputs[name][offset:end] for name in names})
        offset = end
    return answers
