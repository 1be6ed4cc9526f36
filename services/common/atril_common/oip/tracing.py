"""Traces of requests, written to a file in Triton's form (H17, 2.11).

A trace is a few JSON objects with one `id`: the model, the moments that the request went through
(nanoseconds of the monotonic clock), and with level TENSORS its tensors. `trace_file` is a JSON
array at any time; with `log_frequency` n, `trace_file.0`, `trace_file.1` … get n traces each.
"""

import asyncio
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from atril_common.core import InferenceCore, InferRequest, InferResponse
from atril_common.errors import InvalidInputError, NotFoundError
from atril_common.oip.trace_settings import TENSORS, TIMESTAMPS, TraceSettings
from atril_common.tensors import DATATYPES, Tensor

logger = logging.getLogger(__name__)

_MAX_PENDING = 256
"""Traces that wait to be written; more are dropped, and the log says how many."""

_STAGES = ("COMPUTE_START", "COMPUTE_INPUT_END", "COMPUTE_OUTPUT_START", "COMPUTE_END")


class Trace:
    """One request, as far as it has come."""

    __slots__ = ("_tensors", "_timestamps", "head", "levels")

    def __init__(self, head: dict[str, Any], levels: tuple[str, ...]) -> None:
        self.head = head
        self.levels = levels
        self._timestamps: list[tuple[str, int]] = []
        self._tensors: list[tuple[str, str, Tensor]] = []

    def stamp(self, name: str, ns: int) -> None:
        """Record when something happened."""
        if TIMESTAMPS in self.levels:
            self._timestamps.append((name, ns))

    def executed(self, enqueued_ns: int, stages_ns: tuple[int, int, int, int]) -> None:
        """See `ExecutionTrace`."""
        self.stamp("QUEUE_START", enqueued_ns)
        for name, ns in zip(_STAGES, stages_ns, strict=True):
            self.stamp(name, ns)

    def tensors(self, activity: str, tensors: Mapping[str, Tensor]) -> None:
        """Record what went in or came out."""
        if TENSORS in self.levels:
            self._tensors += [(activity, name, tensor) for name, tensor in tensors.items()]

    def to_json(self) -> bytes:
        """The trace's objects, separated by commas."""
        number = self.head["id"]
        stamps = [
            {"id": number, "timestamps": [{"name": name, "ns": ns}]}
            for name, ns in self._timestamps
        ]
        tensors = [
            {"id": number, "activity": activity, "tensor": _tensor_json(name, tensor)}
            for activity, name, tensor in self._tensors
        ]
        return orjson.dumps([self.head, *stamps, *tensors])[1:-1]


class Tracer:
    """Chooses the requests that are traced and writes their traces.

    Args:
        file: where to; without one nothing can be traced.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._settings = TraceSettings(has_file=file is not None)
        self._traced = 0
        self._writer = _Writer(file)

    @property
    def on(self) -> bool:
        """Whether any request will be traced; the one thing asked for each request."""
        return self._settings.on

    def get(self, model_name: str = "") -> dict[str, Any]:
        """The settings of a model, or the global ones, as the protocol tells them: strings."""
        sampler = self._settings.of(model_name)
        return {
            "trace_level": list(sampler.levels),
            "trace_rate": str(sampler.number("trace_rate")),
            "trace_count": str(sampler.number("trace_count")),
            "log_frequency": str(sampler.number("log_frequency")),
            "trace_file": "" if self._file is None else str(self._file),
            "trace_mode": "triton",
        }

    def update(self, model_name: str, changes: Mapping[str, Any]) -> None:
        """Change settings; see `TraceSettings.update`."""
        self._settings.update(model_name, changes)

    def infer(
        self, core: InferenceCore, request: InferRequest, request_id: str, received: tuple[str, int]
    ) -> asyncio.Future[InferResponse]:
        """`core.infer`, traced if it is this request's turn.

        Args:
            core: what answers.
            request: what is asked.
            request_id: the caller's own.
            received: name and nanoseconds of the moment when the request had arrived.

        Raises:
            AtrilError: the request is not acceptable as it stands.
        """
        sampler = self._settings.of(request.model_name)
        if not sampler.takes():
            return core.infer(request)
        self._settings.settled()
        self._traced += 1
        head: dict[str, Any] = {"id": self._traced, "model_name": request.model_name}
        trace = Trace(head, sampler.levels)
        trace.stamp(*received)
        trace.stamp("REQUEST_START", time.monotonic_ns())
        trace.tensors("TENSOR_QUEUE_INPUT", request.inputs)
        future = core.infer(request._replace(trace=trace))
        frequency = sampler.number("log_frequency")

        def finish(done: asyncio.Future[InferResponse]) -> None:
            trace.stamp("INFER_RESPONSE_COMPLETE", time.monotonic_ns())
            if not done.cancelled() and done.exception() is None:
                response = done.result()
                head["model_version"] = int(response.model_version)
                trace.tensors("TENSOR_BACKEND_OUTPUT", response.outputs)
            if request_id:
                head["request_id"] = request_id
            asyncio.get_running_loop().call_soon(end)  # after the front has written the answer

        def end() -> None:
            trace.stamp("REQUEST_END", time.monotonic_ns())
            self._writer.put(trace, frequency)

        future.add_done_callback(finish)
        return future

    async def close(self) -> None:
        """Write what waits to be written."""
        await self._writer.flush()


async def require_model(core: InferenceCore, model_name: str) -> None:
    """Refuse to change the settings of a model that is not there; an empty name is no model.

    Raises:
        InvalidInputError: unknown model.
    """
    if not model_name:
        return
    try:
        await core.model_ready(model_name)
    except NotFoundError:
        raise InvalidInputError(f"Request for unknown model : {model_name}") from None


class _Writer:
    """Writes traces in a thread, one batch after another."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._pending: list[tuple[Trace, int]] = []
        self._dropped = 0
        self._writing: asyncio.Task[None] | None = None
        self._whole: _ArrayFile | None = None
        self._part: _ArrayFile | None = None
        self._parts = 0

    def put(self, trace: Trace, frequency: int) -> None:
        """Have a trace written soon."""
        if len(self._pending) >= _MAX_PENDING:
            self._dropped += 1
            return
        self._pending.append((trace, frequency))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_pending())

    async def flush(self) -> None:
        """Wait until all of it is written."""
        if self._writing is not None:
            await self._writing

    async def _write_pending(self) -> None:
        try:
            while self._pending:
                batch, self._pending = self._pending, []
                await asyncio.to_thread(self._write, batch)
        except Exception:
            logger.exception("trace_not_written", extra={"path": str(self._file)})
            self._pending.clear()
        finally:
            self._writing = None
        if self._dropped:
            logger.warning("traces_dropped", extra={"count": self._dropped})
            self._dropped = 0

    def _write(self, batch: list[tuple[Trace, int]]) -> None:
        assert self._file is not None
        for trace, frequency in batch:
            self._destination(self._file, frequency).append(trace.to_json())

    def _destination(self, file: Path, frequency: int) -> "_ArrayFile":
        if not frequency:
            if self._whole is None:
                self._whole = _ArrayFile(file)
            return self._whole
        if self._part is None or self._part.count >= frequency:
            self._part = _ArrayFile(file.with_name(f"{file.name}.{self._parts}"))
            self._parts += 1
        return self._part


class _ArrayFile:
    """A JSON array that is complete after each element; written from its beginning."""

    def __init__(self, path: Path) -> None:
        self.count = 0
        self._path = path

    def append(self, element: bytes) -> None:
        if self.count == 0:
            self._path.write_bytes(b"[" + element + b"]")
        else:
            with self._path.open("r+b") as file:
                file.seek(-1, 2)
                file.write(b"," + element + b"]")
        self.count += 1


def _tensor_json(name: str, tensor: Tensor) -> dict[str, str]:
    if tensor.dtype == object:
        values = [element.decode(errors="replace") for element in tensor.ravel()]
    else:
        values = [str(value) for value in tensor.ravel().tolist()]
    return {
        "name": name,
        "data": ",".join(values),
        "shape": ",".join(str(dim) for dim in tensor.shape),
        "dtype": DATATYPES[tensor.dtype],
    }
