"""The ports of the batcher: what runs a batch, and who is told what became of it."""

import asyncio
from enum import Enum
from typing import NamedTuple, Protocol

from atril_common.core import InferRequest
from atril_common.errors import AtrilError
from atril_common.tensors import Tensor

Tensors = dict[str, Tensor]


class ExecutionTimes(NamedTuple):
    """When the stages of one execution began and ended, nanoseconds on the monotonic clock."""

    input_start: int
    infer_start: int
    infer_end: int
    output_end: int


class BatchResult(NamedTuple):
    """The outputs of one batch, and the version of the model that computed them."""

    outputs: Tensors
    model_version: str


class Departure(Enum):
    """Why a batch left the queue as it was."""

    FULL = "full"
    """It had the maximum size, or what waited next would have exceeded it."""
    PREFERRED = "preferred"
    """It had a preferred size."""
    SHAPE = "shape"
    """What waited next has other shapes, or other options where these are handed on."""
    DELAY = "delay"
    """Nothing more waited, and its oldest request had waited the longest queue delay."""


class Executor(Protocol):
    """Runs one batch."""

    def execute(self, batch: InferRequest) -> "BatchResult | asyncio.Future[BatchResult]":
        """Run the model once: the answer itself, or a future of it when it is computed elsewhere.

        Args:
            batch: the inputs of all its requests, the outputs that any of them wants (empty: all),
                the options of the first (requests share them if `BatchPolicy.same_options`), and
                the latest of their deadlines.

        Raises:
            AtrilError: the batch failed.
        """
        ...


class BatchObserver(Protocol):
    """Is told what the batcher did; called on the event loop."""

    def departed(self, reason: Departure) -> None:
        """A batch left the queue."""
        ...

    def executed(self, batch_size: int, enqueued_ns: list[int], times: ExecutionTimes) -> None:
        """A batch was answered; `enqueued_ns` has one entry a request."""
        ...

    def failed(self, requests: int, error: AtrilError, spent_ns: int = 0) -> None:
        """Requests were answered with an error, after `spent_ns` in all."""
        ...

    def cancelled(self, requests: int) -> None:
        """Requests were dropped before they ran because their callers went away."""
        ...
