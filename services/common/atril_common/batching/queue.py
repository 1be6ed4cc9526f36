"""What waits before a model: priority levels, their bounds and their time-outs.

A level is served in order of arrival, and after every level of higher priority. A request whose
time is up is answered when that happens, by a timer of its own; requests without a limit have none.
"""

import asyncio
import time
from collections import deque
from collections.abc import Iterable

from atril_common.batching.execution import BatchObserver
from atril_common.batching.policy import BatchPolicy, QueuePolicy, TimeoutAction
from atril_common.core import NO_OPTIONS, InferRequest, InferResponse
from atril_common.errors import (
    AtrilError,
    DeadlineExceededError,
    OverloadedError,
    QueueTimeoutError,
)

Signature = tuple[tuple[str, tuple[int, ...]], ...]
"""Names and inner shapes of a request's inputs."""


class Waiting:
    """A request in the queue.

    `lane` is the deque that it waits in. `timer` fires at `expires_s` on the loop's clock; both are
    unset for a request that may wait for ever.
    """

    __slots__ = (
        "enqueued_ns",
        "expires_s",
        "future",
        "lane",
        "level",
        "request",
        "rows",
        "signature",
        "timer",
    )

    def __init__(
        self,
        request: InferRequest,
        rows: int,
        future: asyncio.Future[InferResponse],
        level: "_Level",
    ) -> None:
        self.request = request
        self.rows = rows
        self.future = future
        self.level = level
        self.lane = level.arrivals
        self.signature: Signature = tuple([(n, t.shape[1:]) for n, t in request.inputs.items()])
        self.enqueued_ns = time.monotonic_ns()
        self.timer: asyncio.TimerHandle | None = None
        self.expires_s = 0.0


class _Level:
    """One priority: those in time, and those that are late but not rejected."""

    __slots__ = ("arrivals", "delayed", "limit", "limits_wait", "policy")

    def __init__(self, policy: QueuePolicy, max_queue_size: int) -> None:
        self.policy = policy
        self.limit = min(policy.max_queue_size or max_queue_size, max_queue_size)
        self.limits_wait = bool(policy.timeout_us or policy.allow_timeout_override)
        self.arrivals: deque[Waiting] = deque()
        self.delayed: deque[Waiting] = deque()

    @property
    def is_full(self) -> bool:
        return len(self.arrivals) + len(self.delayed) >= self.limit


class RequestQueue:
    """The bounded queue before one model.

    `count` and `rows` are of all that wait; callers who left are counted until they are found.
    """

    def __init__(
        self,
        model_name: str,
        policy: BatchPolicy,
        observer: BatchObserver,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._model_name = model_name
        self._observer = observer
        self._loop = loop
        self._levels = tuple(_Level(level, policy.max_queue_size) for level in policy.levels)
        self._default = self._levels[policy.default_level - 1]
        self._max_queue_size = policy.max_queue_size
        self._lanes = tuple(
            lane for level in self._levels for lane in (level.arrivals, level.delayed)
        )
        """In the order in which they are served."""
        self.count = 0
        self.rows = 0
        self._roomy = min([policy.max_queue_size, *(level.limit for level in self._levels)])
        """While fewer wait, no limit is near."""

    def put(
        self, request: InferRequest, rows: int, future: asyncio.Future[InferResponse]
    ) -> Waiting:
        """Let a request wait, last of its level.

        Raises:
            OverloadedError: its level or the whole queue is full.
        """
        options = request.options
        level = self._default
        if options is not NO_OPTIONS and 0 < options.priority <= len(self._levels):
            level = self._levels[options.priority - 1]
        if self.count >= self._roomy:
            self._require_room(level)
        waiting = Waiting(request, rows, future, level)
        level.arrivals.append(waiting)
        self.count += 1
        self.rows += rows
        if request.deadline_s is not None or level.limits_wait:
            self._limit_wait(waiting)
        return waiting

    def head(self, now_s: float) -> Waiting | None:
        """The next to be run; callers who left and requests that are late are dropped."""
        for lane in self._lanes:
            while lane:
                waiting = lane[0]
                if waiting.future.done():
                    self.take(waiting)
                    self._observer.cancelled(1)
                elif waiting.timer is not None and now_s >= waiting.expires_s:
                    self.take(waiting)
                    self._give_up(waiting)
                else:
                    return waiting
        return None

    def take(self, head: Waiting) -> None:
        """Remove the head of a lane."""
        head.lane.popleft()
        self.count -= 1
        self.rows -= head.rows
        if head.timer is not None:
            head.timer.cancel()

    def put_back(self, batch: Iterable[Waiting]) -> None:
        """Return what was popped last, in order, to where it was."""
        for waiting in reversed(list(batch)):
            waiting.lane.appendleft(waiting)
            self.count += 1
            self.rows += waiting.rows
            if waiting.timer is not None:
                self._arm(waiting)

    def oldest_ns(self) -> int:
        """When the oldest request came, on the monotonic clock; there must be one."""
        return min(lane[0].enqueued_ns for lane in self._lanes if lane)

    def _require_room(self, level: _Level) -> None:
        if level.is_full or self.count >= self._max_queue_size:
            self._forget_cancelled()
        if level.is_full or self.count >= self._max_queue_size:
            limit = level.limit if level.is_full else self._max_queue_size
            error = OverloadedError(
                f"Exceeds maximum queue size: {limit} requests wait for model '{self._model_name}'"
            )
            self._observer.failed(1, error)
            raise error

    def _forget_cancelled(self) -> None:
        """Give the places of callers who left to others."""
        for lane in self._lanes:
            gone = [waiting for waiting in lane if waiting.future.done()]
            if gone:
                alive = [waiting for waiting in lane if not waiting.future.done()]
                lane.clear()
                lane.extend(alive)
                for waiting in gone:
                    if waiting.timer is not None:
                        waiting.timer.cancel()
                self.count -= len(gone)
                self.rows -= sum(waiting.rows for waiting in gone)
                self._observer.cancelled(len(gone))

    def _limit_wait(self, waiting: Waiting) -> None:
        """Arm the timer of a request whose deadline or queue policy bounds its wait."""
        policy, asked_us = waiting.level.policy, waiting.request.options.timeout_us
        timeout_us = policy.timeout_us
        if policy.allow_timeout_override and 0 < asked_us < (timeout_us or asked_us + 1):
            timeout_us = asked_us
        deadline_s = waiting.request.deadline_s
        limits_s = [self._loop.time() + timeout_us / 1e6] if timeout_us else []
        if deadline_s is not None:
            limits_s.append(deadline_s)
        if limits_s:
            waiting.expires_s = min(limits_s)
            self._arm(waiting)

    def _arm(self, waiting: Waiting) -> None:
        waiting.timer = self._loop.call_at(waiting.expires_s, self._expire, waiting)

    def _expire(self, waiting: Waiting) -> None:
        """The timer of a request that still waits."""
        waiting.lane.remove(waiting)
        self.count -= 1
        self.rows -= waiting.rows
        if waiting.future.done():
            self._observer.cancelled(1)
        else:
            self._give_up(waiting)

    def _give_up(self, waiting: Waiting) -> None:
        """Answer a request that is out of the queue because its time is up, or let it wait on."""
        waiting.timer = None
        deadline_s = waiting.request.deadline_s
        if deadline_s is not None and deadline_s <= waiting.expires_s:
            self._reject(
                waiting,
                DeadlineExceededError(
                    "Request timeout expired: the deadline passed while the request waited for "
                    f"model '{self._model_name}'"
                ),
            )
        elif waiting.level.policy.timeout_action is TimeoutAction.REJECT:
            self._reject(
                waiting,
                QueueTimeoutError(
                    "Request timeout expired: it waited longer for model "
                    f"'{self._model_name}' than its queue policy allows"
                ),
            )
        else:
            waiting.lane = waiting.level.delayed
            waiting.lane.append(waiting)
            self.count += 1
            self.rows += waiting.rows
            if deadline_s is not None:
                waiting.expires_s = deadline_s
                self._arm(waiting)

    def _reject(self, waiting: Waiting, error: AtrilError) -> None:
        self._observer.failed(1, error, time.monotonic_ns() - waiting.enqueued_ns)
        waiting.future.set_exception(error)
