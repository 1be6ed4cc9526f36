"""Answers that are given again without running the model, for models that ask for it.

A model whose configuration says `response_cache { enable: true }` answers a request whose tensors
it has seen before from memory, if the server has a cache at all (`RESPONSE_CACHE_BYTES`). What was
used longest ago goes first. Looking costs a hash of all input bytes, which a miss pays for nothing:
so it is off unless both ask for it, and the statistics tell what hits and misses took.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b
from itertools import count

from atril_common.core import InferRequest, InferResponse
from atril_common.tensors import Tensor, tensor_to_bytes
from atril_inference.statistics import ModelStatistics

_ENTRY_BYTES = 512
"""What an entry takes beside its tensors, about."""

Schedule = Callable[[InferRequest, int], "asyncio.Future[InferResponse]"]
"""Accepts a validated request of so many rows."""


class ResponseCache:
    """Answers of all models of a server, within a number of bytes; used on the event loop."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[bytes, tuple[InferResponse, int]] = OrderedDict()
        self._owners = count()
        self.used_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def owner(self) -> bytes:
        """A prefix of keys that no other version has, nor the same one once it is loaded anew."""
        return next(self._owners).to_bytes(8, "big")

    def get(self, key: bytes) -> InferResponse | None:
        """An answer, which becomes the one that was used last."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return entry[0]

    def put(self, key: bytes, response: InferResponse) -> None:
        """Keep a copy of an answer, if it has room at all."""
        outputs = {name: _frozen(tensor) for name, tensor in response.outputs.items()}
        size = _ENTRY_BYTES + sum(map(_size, outputs.values()))
        if size > self._max_bytes:
            return
        self._drop(key)
        while self.used_bytes + size > self._max_bytes:
            self._drop(next(iter(self._entries)))
        self._entries[key] = response._replace(outputs=outputs), size
        self.used_bytes += size

    def forget(self, owner: bytes) -> None:
        """Drop all answers of a version."""
        for key in [key for key in self._entries if key.startswith(owner)]:
            self._drop(key)

    def _drop(self, key: bytes) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.used_bytes -= entry[1]


class CachedModel:
    """Stands before the queue of one version."""

    def __init__(
        self, cache: ResponseCache, schedule: Schedule, statistics: ModelStatistics
    ) -> None:
        self._cache = cache
        self._owner = cache.owner()
        self._schedule = schedule
        self._statistics = statistics

    def submit(self, request: InferRequest, rows: int) -> "asyncio.Future[InferResponse]":
        """Answer from the cache, or run the model and keep what it answers."""
        started_ns = time.monotonic_ns()
        key = self._owner + _digest(request)
        found = self._cache.get(key)
        looked_ns = time.monotonic_ns() - started_ns
        if found is not None:
            self._statistics.cache_hit(looked_ns)
            answer: asyncio.Future[InferResponse] = asyncio.get_running_loop().create_future()
            answer.set_result(found)
            return answer
        answer = self._schedule(request, rows)

        def keep(done: "asyncio.Future[InferResponse]") -> None:
            put_ns = time.monotonic_ns()
            if not done.cancelled() and done.exception() is None:
                self._cache.put(key, done.result())
            self._statistics.cache_miss(looked_ns + time.monotonic_ns() - put_ns)

        answer.add_done_callback(keep)
        return answer

    def close(self) -> None:
        """Forget the version's answers."""
        self._cache.forget(self._owner)


def _digest(request: InferRequest) -> bytes:
    """Of everything that decides the answer."""
    digest = blake2b(digest_size=32)
    for name in sorted(request.inputs):
        tensor = request.inputs[name]
        digest.update(repr((name, tensor.dtype.str, tensor.shape)).encode())
        digest.update(tensor_to_bytes(tensor))
    digest.update(repr(request.outputs).encode())
    return digest.digest()


def _frozen(tensor: Tensor) -> Tensor:
    """A copy that nobody changes; an answer may be a part of a whole batch."""
    copy = tensor.copy()
    copy.setflags(write=False)
    return copy


def _size(tensor: Tensor) -> int:
    elements = sum(len(element) for element in tensor.ravel()) if tensor.dtype.kind == "O" else 0
    return int(tensor.nbytes) + elements
