"""The response cache: the same answers, without an inference, within its bytes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atril_common.core import InferRequest, InferResponse
from atril_common.errors import NotReadyError
from atril_inference.engine import Engine
from atril_inference.repository import LocalRepository
from atril_inference.response_cache import ResponseCache
from atril_inference.session_options import SessionOptions
from tests.support.repositories import config_of, write_model
from tests.support.tiny_models import matmul

CPU = SessionOptions(device="cpu", intra_op_threads=1)


@asynccontextmanager
async def engine(
    root: Path, *, enable: bool = True, cache_bytes: int = 1 << 20
) -> AsyncIterator[Engine]:
    """An engine with one model, which wants its answers remembered or not."""
    model = matmul()
    config = config_of("m", model, max_batch_size=8, queue_delay_us=0)
    config.response_cache.enable = enable
    write_model(root, config, {1: model})
    subject = Engine(LocalRepository(root), CPU, 64, response_cache_bytes=cache_bytes)
    await subject.start()
    yield subject
    await subject.close()


async def ask(subject: Engine, *rows: float, outputs: tuple[str, ...] = ()) -> InferResponse:
    """A request of constant rows."""
    (spec,) = (await subject.metadata("m")).inputs
    x = np.array([[row] * spec.shape[1] for row in rows], np.float32)
    return await subject.infer(InferRequest("m", {spec.name: x}, outputs=outputs))


async def counts(subject: Engine) -> tuple[int, int, int, int]:
    """Successes, inferences, hits and misses."""
    (message,) = await subject.statistics("m")
    stats = message.inference_stats
    return (
        stats.success.count, message.inference_count, stats.cache_hit.count, stats.cache_miss.count
    )  # fmt: skip


async def test_the_same_request_is_answered_without_an_inference(tmp_path: Path) -> None:
    """2.8: a hit counts as a success and not as an inference; the answer is the same."""
    async with engine(tmp_path) as subject:
        first = await ask(subject, 1, 2)
        again = await ask(subject, 1, 2)
        other = await ask(subject, 1, 3)
        found = await counts(subject)
        stages = (await subject.statistics("m"))[0].inference_stats.compute_infer.count

    assert first.outputs.keys() == again.outputs.keys()
    assert all((first.outputs[name] == again.outputs[name]).all() for name in first.outputs)
    assert any((first.outputs[name] != other.outputs[name]).any() for name in first.outputs)
    assert found == (3, 4, 1, 2)
    assert stages == 2


@pytest.mark.parametrize(("enable", "cache_bytes"), [(False, 1 << 20), (True, 0)])
async def test_nothing_is_remembered_unless_both_ask_for_it(
    tmp_path: Path, enable: bool, cache_bytes: int
) -> None:
    """Without the model's word or the server's room, every request runs, and none is looked up."""
    async with engine(tmp_path, enable=enable, cache_bytes=cache_bytes) as subject:
        await ask(subject, 1)
        await ask(subject, 1)
        assert await counts(subject) == (2, 2, 0, 0)


async def test_the_outputs_that_are_asked_for_are_part_of_the_question(tmp_path: Path) -> None:
    """An answer of all outputs is none to a request for one."""
    async with engine(tmp_path) as subject:
        everything = await ask(subject, 1)
        name = next(iter(everything.outputs))
        one = await ask(subject, 1, outputs=(name,))
        assert set(one.outputs) == {name}
        assert (await counts(subject))[2:] == (0, 2)


async def test_a_model_loaded_anew_knows_no_old_answers(tmp_path: Path) -> None:
    """What another version answered is forgotten with it."""
    cache = ResponseCache(1 << 20)
    old, new = cache.owner(), cache.owner()
    cache.put(old + b"key", InferResponse("m", "1", {"y": np.zeros(3)}))
    assert cache.get(new + b"key") is None

    cache.forget(old)

    assert (len(cache), cache.used_bytes) == (0, 0)


async def test_an_answer_cannot_be_changed_from_outside() -> None:
    """It is a copy, and read-only."""
    cache = ResponseCache(1 << 20)
    batch = np.arange(8.0)
    cache.put(b"key", InferResponse("m", "1", {"y": batch[:2]}))
    batch[:] = 0

    found = cache.get(b"key")

    assert found is not None
    assert found.outputs["y"].tolist() == [0.0, 1.0]
    with pytest.raises(ValueError, match="read-only"):
        found.outputs["y"][0] = 5


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 400)), max_size=40))
def test_the_bytes_are_kept_and_the_oldest_go_first(puts: list[tuple[int, int]]) -> None:
    """Whatever comes, no more than the limit is held, and what was used last is still there."""
    cache = ResponseCache(4096)
    for name, size in puts:
        key = bytes([name])
        cache.put(key, InferResponse("m", "1", {"y": np.full(size, name, np.float64)}))
        assert cache.used_bytes <= 4096
        found = cache.get(key)
        assert (found is None) == (512 + 8 * size > 4096) or found is not None
        if found is not None and 512 + 8 * size <= 4096:
            assert found.outputs["y"].tolist() == [float(name)] * size
    assert (len(cache) == 0) == (cache.used_bytes == 0)


async def test_a_sequence_model_cannot_be_cached(tmp_path: Path) -> None:
    """Its answers depend on what came before; the index says why it is not ready."""
    model = matmul()
    config = config_of("m", model, max_batch_size=8)
    config.response_cache.enable = True
    config.sequence_batching.SetInParent()
    write_model(tmp_path, config, {1: model})
    subject = Engine(LocalRepository(tmp_path), CPU, 64, response_cache_bytes=1 << 20)
    await subject.start()
    with pytest.raises(NotReadyError, match="response_cache"):
        await ask(subject, 1)
    await subject.close()
