"""How a model batches and how long its requests may wait (protocol reference 2.11)."""

from enum import Enum, auto
from typing import NamedTuple


class TimeoutAction(Enum):
    """What becomes of a request that has waited its time."""

    REJECT = auto()
    DELAY = auto()
    """It is run after all others of its level that have time left."""


class QueuePolicy(NamedTuple):
    """How the requests of one priority level wait.

    `max_queue_size` 0 leaves only the batcher's own bound; `timeout_us` 0 is no time-out. With
    `allow_timeout_override` a request may set a shorter time-out than the policy's, not a longer.
    """

    max_queue_size: int = 0
    timeout_us: int = 0
    allow_timeout_override: bool = False
    timeout_action: TimeoutAction = TimeoutAction.REJECT


class BatchPolicy(NamedTuple):
    """How a model batches.

    `max_batch_size` 0 is a model that runs one request at a time. `max_queue_size` bounds all
    levels together. `concurrency` is how many batches may be under way at once. With `same_options`
    only requests whose options are equal share a batch, for an executor that hands them on.
    `levels` are the queues by priority, the first is priority 1; `default_level` is the priority
    of a request that names none, or one that is not there.
    """

    max_batch_size: int
    max_queue_delay_s: float
    max_queue_size: int
    concurrency: int = 1
    same_options: bool = False
    preferred_batch_sizes: frozenset[int] = frozenset()
    preserve_ordering: bool = False
    levels: tuple[QueuePolicy, ...] = (QueuePolicy(),)
    default_level: int = 1
