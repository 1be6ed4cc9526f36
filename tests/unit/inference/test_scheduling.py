"""What configurations say of queues and batches, in force or refused with the reason."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from atril_common.batching import QueuePolicy, TimeoutAction
from atril_common.core import InferRequest, RequestOptions
from atril_common.errors import NotReadyError, OverloadedError, QueueTimeoutError
from atril_inference.scheduling import batch_policy, check_scheduling
from tests.support import tiny_models
from tests.support.engines import running_engine
from tests.support.repositories import config_of, write_model


def config(text: str, max_batch_size: int = 8) -> ModelConfig:
    """A configuration with this text in it."""
    return text_format.Parse(f"max_batch_size: {max_batch_size} {text}", ModelConfig())


def test_every_field_has_its_place_in_the_policy() -> None:
    """2.11: the queues of three levels, one with a policy of its own."""
    parsed = config("""
        dynamic_batching {
          preferred_batch_size: [ 4, 8 ] max_queue_delay_microseconds: 250
          priority_levels: 3 default_priority_level: 2
          default_queue_policy { default_timeout_microseconds: 7 max_queue_size: 5 }
          priority_queue_policy {
            key: 3 value { timeout_action: DELAY allow_timeout_override: true }
          }
        }
        instance_group [ { count: 2 } ]
        """)
    check_scheduling(parsed)
    policy = batch_policy(parsed, 64)
    usual = QueuePolicy(max_queue_size=5, timeout_us=7)
    delay = QueuePolicy(allow_timeout_override=True, timeout_action=TimeoutAction.DELAY)
    assert policy.levels == (usual, usual, delay)
    assert (policy.default_level, policy.max_queue_size, policy.concurrency) == (2, 64, 2)
    assert (policy.preferred_batch_sizes, policy.max_queue_delay_s) == ({4, 8}, 0.00025)
    assert not policy.preserve_ordering


def test_without_dynamic_batching_requests_run_alone() -> None:
    """As in Triton: a batch dimension alone does not make batches."""
    assert batch_policy(config(""), 64).max_batch_size == 0
    assert batch_policy(config("dynamic_batching {}"), 64).max_batch_size == 8


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("dynamic_batching { preferred_batch_size: [ 9 ] }", "preferred_batch_size .* got 9"),
        ("dynamic_batching { preferred_batch_size: [ 0 ] }", "preferred_batch_size .* got 0"),
        ("dynamic_batching { priority_levels: 2 }", "default_priority_level .* got 0"),
        (
            "dynamic_batching { priority_levels: 2 default_priority_level: 3 }",
            "default_priority_level .* got 3",
        ),
        (
            "dynamic_batching { priority_levels: 65 default_priority_level: 3 }",
            "priority_levels .* at most 64, got 65",
        ),
        (
            "dynamic_batching { priority_queue_policy { key: 1 value {} } }",
            "priority_queue_policy .* got 1",
        ),
        (
            "dynamic_batching {"
            " preserve_ordering: true priority_levels: 2 default_priority_level: 1 }",
            "preserve_ordering .* priority_levels, got 2",
        ),
        (
            "dynamic_batching {"
            " preserve_ordering: true default_queue_policy { timeout_action: DELAY } }",
            "preserve_ordering .* DELAY",
        ),
        ("input { allow_ragged_batch: true }", "allow_ragged_batch"),
    ],
)
def test_a_contradiction_is_refused(text: str, reason: str) -> None:
    """The model is not ready, and the reason names the field and what came."""
    with pytest.raises(NotReadyError, match=reason):
        check_scheduling(config(text))


async def test_a_contradiction_makes_the_model_unavailable(tmp_path: Path) -> None:
    """2.6: the index has the reason."""
    model = tiny_models.matmul()
    broken = config_of("m", model, max_batch_size=8, queue_delay_us=0)
    broken.dynamic_batching.priority_levels = 2
    write_model(tmp_path, broken, {1: model})
    async with running_engine(tmp_path) as engine:
        (entry,) = await engine.index()
        assert entry.state == "UNAVAILABLE"
        assert "default_priority_level" in entry.reason


async def test_priorities_bounds_and_time_outs_hold_before_a_busy_model(tmp_path: Path) -> None:
    """2.10, E24, E25 with a real session: urgent first, a full level refuses, late is answered."""
    model = tiny_models.slow()
    busy = config_of("slow", model, max_batch_size=8)
    text_format.Parse(
        """
        dynamic_batching {
          priority_levels: 2 default_priority_level: 2
          default_queue_policy { max_queue_size: 3 allow_timeout_override: true }
        }
        """,
        busy,
    )
    busy.max_batch_size = 1
    write_model(tmp_path, busy, {1: model})
    async with running_engine(tmp_path) as engine:
        order: list[str] = []

        def ask(name: str, rounds: int, **options: int) -> "asyncio.Future[object]":
            inputs = {
                "rounds": np.array([[rounds]], np.int64),
                "x": np.zeros((1, 1), np.float32),
            }
            future = engine.infer(InferRequest("slow", inputs, options=RequestOptions(**options)))
            future.add_done_callback(lambda _: order.append(name))
            return future  # type: ignore[return-value]

        futures = [ask("first", 2000)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        futures += [ask("usual", 0), ask("late", 0, timeout_us=1), ask("urgent", 0, priority=1)]
        futures.append(ask("low", 0, priority=2))
        with pytest.raises(OverloadedError, match="Exceeds maximum queue size: 3"):
            ask("refused", 0)
        answers = await asyncio.gather(*futures, return_exceptions=True)
    assert order == ["late", "first", "urgent", "usual", "low"]
    assert [type(a) for a in answers if isinstance(a, Exception)] == [QueueTimeoutError]


async def test_instances_run_at_once_on_one_session(tmp_path: Path) -> None:
    """`instance_group`: with two, a short request does not wait for a long one."""
    model = tiny_models.slow()
    two = config_of("slow", model, max_batch_size=1, queue_delay_us=0)
    two.instance_group.add(count=2)
    write_model(tmp_path, two, {1: model})
    async with running_engine(tmp_path) as engine:
        order: list[int] = []
        futures = []
        for rounds in (4000, 0):
            inputs = {
                "rounds": np.array([[rounds]], np.int64),
                "x": np.zeros((1, 1), np.float32),
            }
            future = engine.infer(InferRequest("slow", inputs))
            future.add_done_callback(lambda _, rounds=rounds: order.append(rounds))  # type: ignore[misc]
            futures.append(future)
        await asyncio.gather(*futures)
    assert order == [0, 4000]
