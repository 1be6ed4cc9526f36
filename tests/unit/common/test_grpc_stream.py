"""ModelStreamInfer over a core whose answers the test gives (2.8)."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from types import MappingProxyType
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.model_config_pb2 import ModelConfig

from atril_common.core import InferRequest, InferResponse
from atril_common.errors import InvalidInputError, NotFoundError
from atril_common.h2grpc.messages import RpcStatusError
from atril_common.h2grpc.rpc import RpcContext
from atril_common.oip import grpc_stream
from atril_common.oip.controls import Controls
from atril_common.oip.grpc_stream import StreamInfer
from atril_common.oip.tracing import Tracer
from atril_common.telemetry import Telemetry

DEADLINE_S = 10.0


class Core:
    """Answers when the test says so; `many` is a decoupled model."""

    def __init__(self) -> None:
        self.asked: list[asyncio.Future[InferResponse]] = []
        self.many: asyncio.Queue[InferResponse | Exception | None] = asyncio.Queue()
        self.closed = asyncio.Event()

    async def config(self, model_name: str, model_version: str = "") -> ModelConfig:
        """Decoupled or not; `nowhere` is not there."""
        if model_name == "nowhere":
            raise NotFoundError("'nowhere' is not found")
        config = ModelConfig(name=model_name)
        config.model_transaction_policy.decoupled = model_name == "many"
        return config

    def infer(self, request: InferRequest) -> asyncio.Future[InferResponse]:
        """A future for the test to resolve."""
        future: asyncio.Future[InferResponse] = asyncio.get_running_loop().create_future()
        self.asked.append(future)
        return future

    async def stream(self, request: InferRequest) -> AsyncIterator[InferResponse]:
        """What the test puts into the queue, until None."""
        try:
            while (response := await self.many.get()) is not None:
                if isinstance(response, Exception):
                    raise response
                yield response
        finally:
            self.closed.set()


def request(request_id: str, model_name: str = "one", **parameters: bool) -> Any:
    """A request without tensors."""
    message = pb.ModelInferRequest(model_name=model_name, id=request_id)
    for name, value in parameters.items():
        message.parameters[name].bool_param = value
    return message


def response(value: float = 0.0) -> InferResponse:
    """An answer with one number."""
    return InferResponse("one", "1", {"y": np.array([value], np.float32)})


class Client:
    """The other end of a stream."""

    def __init__(
        self,
        core: Any,
        metadata: dict[str, str | bytes] | None = None,
        controls: Controls | None = None,
    ) -> None:
        self.requests: asyncio.Queue[Any] = asyncio.Queue()
        controls = controls or Controls()
        context = RpcContext(MappingProxyType(metadata or {}), None, "test")
        self.answers = StreamInfer(core, Telemetry(), controls).handle(self._sent(), context)

    async def _sent(self) -> AsyncIterator[Any]:
        while (message := await self.requests.get()) is not None:
            yield message

    def send(self, *messages: Any) -> None:
        """Send requests; None ends the sending."""
        for message in messages:
            self.requests.put_nowait(message)

    async def next(self) -> Any:
        """The next message of the server."""
        data = await asyncio.wait_for(anext(self.answers), DEADLINE_S)
        return pb.ModelStreamInferResponse.FromString(data)

    async def ended(self) -> bool:
        """Whether the stream ends without another message."""
        return await asyncio.wait_for(anext(self.answers, None), DEADLINE_S) is None


async def until_asked(core: Core, count: int) -> None:
    """Wait until the core has been asked so many times."""

    async def asked() -> None:
        while len(core.asked) < count:
            await asyncio.sleep(0)

    await asyncio.wait_for(asked(), DEADLINE_S)


async def test_answers_keep_the_order_of_the_requests_while_all_run() -> None:
    """2.8: the second is under way before the first is answered, and answered after it."""
    core = Core()
    client = Client(core)
    client.send(*(request(str(i)) for i in range(3)), None)
    first = asyncio.create_task(client.next())
    await until_asked(core, 3)
    for i in (2, 1):
        core.asked[i].set_result(response(i))
    await asyncio.sleep(0)
    assert not first.done()
    core.asked[0].set_result(response(0))
    messages = [await first, await client.next(), await client.next()]
    assert [m.infer_response.id for m in messages] == ["0", "1", "2"]
    assert all(m.infer_response.parameters["triton_final_response"].bool_param for m in messages)
    assert await client.ended()


async def test_an_error_is_a_message_in_its_turn_and_the_stream_lives_on() -> None:
    """2.8: `error_message` with the id of the bad request; those around it are answered."""
    core = Core()
    client = Client(core)
    client.send(request("a"), request("b", "nowhere"), request("c"))
    first = asyncio.create_task(client.next())
    await until_asked(core, 2)
    core.asked[1].set_result(response())
    core.asked[0].set_exception(InvalidInputError("no good"))
    bad, unknown, good = await first, await client.next(), await client.next()
    assert (bad.error_message, bad.infer_response.id) == ("no good", "a")
    assert "'nowhere'" in unknown.error_message
    assert unknown.infer_response.id == "b"
    assert (good.error_message, good.infer_response.id) == ("", "c")
    client.send(None)
    assert await client.ended()


async def test_the_first_error_ends_a_stream_that_asks_for_true_statuses() -> None:
    """2.8 `triton_grpc_error: true`: the code is that of the error, the rest is cancelled."""
    core = Core()
    client = Client(core, {"triton_grpc_error": "true"})
    client.send(request("a"), request("b"), request("c"))
    first = asyncio.create_task(client.next())
    await until_asked(core, 3)
    core.asked[0].set_result(response())
    core.asked[1].set_exception(InvalidInputError("no good"))
    assert (await first).infer_response.id == "a"
    with pytest.raises(RpcStatusError, match="no good") as ended:
        await client.next()
    assert ended.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert core.asked[2].cancelled()


async def test_an_unforeseen_error_tells_nothing_of_the_server() -> None:
    """2.3 internal: the text is the same for every fault of ours."""
    core = Core()
    client = Client(core)
    client.send(request("a"))
    first = asyncio.create_task(client.next())
    await until_asked(core, 1)
    core.asked[0].set_exception(ZeroDivisionError("secret"))
    message = await first
    assert "secret" not in message.error_message
    assert "internal error" in message.error_message


async def test_ending_the_stream_cancels_what_has_not_been_answered() -> None:
    """2.8 cancellation: every request under way is cancelled."""
    core = Core()
    client = Client(core)
    client.send(*(request(str(i)) for i in range(3)))
    waiting = asyncio.create_task(client.next())
    await until_asked(core, 3)
    waiting.cancel()
    await asyncio.wait((waiting,))
    assert all(future.cancelled() for future in core.asked)


async def test_requests_under_way_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """2.8: beyond the limit a request is not even read from the stream."""
    monkeypatch.setattr(grpc_stream, "MAX_IN_FLIGHT", 2)
    core = Core()
    client = Client(core)
    client.send(*(request(str(i)) for i in range(5)))
    first = asyncio.create_task(client.next())
    await until_asked(core, 2)
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(core.asked) == 2
    assert client.requests.qsize() == 2  # the third is held until there is a place
    core.asked[0].set_result(response())
    await first
    await until_asked(core, 3)
    await client.answers.aclose()  # type: ignore[attr-defined]


@pytest.mark.parametrize("wanted", [False, True])
async def test_a_decoupled_model_gives_any_number_of_responses(wanted: bool) -> None:
    """2.8: none of them is final; an empty final one comes where it was asked for."""
    core = Core()
    client = Client(core)
    client.send(request("a", "many", triton_enable_empty_final_response=wanted), None)
    for item in (response(1), response(2), None):
        core.many.put_nowait(item)
    for value in (1.0, 2.0):
        answer = (await client.next()).infer_response
        assert np.frombuffer(answer.raw_output_contents[0], np.float32).tolist() == [value]
        assert not answer.parameters["triton_final_response"].bool_param
    if wanted:
        answer = (await client.next()).infer_response
        assert (answer.id, len(answer.outputs)) == ("a", 0)
        assert answer.parameters["triton_final_response"].bool_param
    assert await client.ended()


async def test_a_decoupled_model_holds_back_no_other_answers() -> None:
    """2.8: order is kept among models with one response only."""
    core = Core()
    client = Client(core)
    client.send(request("many", "many"), request("one"))
    first = asyncio.create_task(client.next())
    await until_asked(core, 1)
    core.asked[0].set_result(response())
    assert (await first).infer_response.id == "one"
    core.many.put_nowait(InvalidInputError("half way"))
    message = await client.next()
    assert (message.error_message, message.infer_response.id) == ("half way", "many")
    await client.answers.aclose()  # type: ignore[attr-defined]


async def test_ending_the_stream_closes_a_decoupled_request() -> None:
    """2.8 cancellation: the core is told by the end of the iteration."""
    core = Core()
    client = Client(core)
    client.send(request("a", "many"))
    core.many.put_nowait(response())
    await client.next()
    await client.answers.aclose()  # type: ignore[attr-defined]
    await asyncio.wait_for(core.closed.wait(), DEADLINE_S)


async def test_requests_of_a_stream_are_traced(tmp_path: Path) -> None:
    """2.11 trace: as those of ModelInfer are."""
    tracer = Tracer(tmp_path / "trace.json")
    tracer.update("", {"trace_level": ["TIMESTAMPS"], "trace_rate": "1"})
    core = Core()
    client = Client(core, controls=Controls(tracer=tracer))
    client.send(request("a"), None)
    first = asyncio.create_task(client.next())
    await until_asked(core, 1)
    core.asked[0].set_result(response())
    await first
    assert await client.ended()
    await tracer.close()
    written = json.loads((tmp_path / "trace.json").read_bytes())
    assert written[0]["model_name"] == "one"
    assert written[0]["request_id"] == "a"
