"""What a configuration says of queues and batches (protocol reference 2.11)."""

from tritonclient.grpc.model_config_pb2 import (
    ModelConfig,
    ModelDynamicBatching,
    ModelQueuePolicy,
)

from atril_common.batching import BatchPolicy, QueuePolicy, TimeoutAction
from atril_common.errors import NotReadyError
from atril_inference.session_options import instance_count

MAX_PRIORITY_LEVELS = 64
"""Each level is looked at for each batch."""

_ACTIONS = {
    ModelQueuePolicy.REJECT: TimeoutAction.REJECT,
    ModelQueuePolicy.DELAY: TimeoutAction.DELAY,
}


def check_scheduling(config: ModelConfig) -> None:
    """Refuse a configuration of queues and batches that contradicts itself.

    Raises:
        NotReadyError: the text names the field.
    """
    if any(tensor.allow_ragged_batch for tensor in config.input):
        raise NotReadyError("allow_ragged_batch is not supported: a batch has one shape")
    policy = config.dynamic_batching
    oldest = config.sequence_batching.oldest
    for size in (*policy.preferred_batch_size, *oldest.preferred_batch_size):
        if not 0 < size <= config.max_batch_size:
            raise NotReadyError(
                f"preferred_batch_size must be positive and at most max_batch_size, which is "
                f"{config.max_batch_size}, got {size}"
            )
    levels, default = policy.priority_levels, policy.default_priority_level
    if levels and not 1 <= default <= levels:
        raise NotReadyError(
            f"default_priority_level must be from 1 to priority_levels, which is {levels}, "
            f"got {default}"
        )
    if levels > MAX_PRIORITY_LEVELS:
        raise NotReadyError(f"priority_levels must be at most {MAX_PRIORITY_LEVELS}, got {levels}")
    for priority in policy.priority_queue_policy:
        if not 1 <= priority <= levels:
            raise NotReadyError(
                f"priority_queue_policy is keyed from 1 to priority_levels, which is {levels}, "
                f"got {priority}"
            )
    if policy.preserve_ordering:
        _check_ordering(policy)


def _check_ordering(policy: ModelDynamicBatching) -> None:
    if policy.priority_levels > 1:
        raise NotReadyError(
            f"preserve_ordering allows one of priority_levels, got {policy.priority_levels}"
        )
    if TimeoutAction.DELAY in {level.timeout_action for level in _levels(policy)}:
        raise NotReadyError("preserve_ordering does not allow the timeout_action DELAY")


def batch_policy(config: ModelConfig, max_queue_size: int) -> BatchPolicy:
    """How a checked configuration wants its requests batched.

    A queue is always bounded: a configuration may lower the server's `max_queue_size`, not raise
    it. Without `dynamic_batching` each request runs alone, as in Triton.
    """
    if config.HasField("sequence_batching"):
        return _sequence_policy(config, max_queue_size)
    policy = config.dynamic_batching
    return BatchPolicy(
        max_batch_size=config.max_batch_size if config.HasField("dynamic_batching") else 0,
        max_queue_delay_s=policy.max_queue_delay_microseconds / 1e6,
        max_queue_size=max_queue_size,
        concurrency=instance_count(config),
        preferred_batch_sizes=frozenset(policy.preferred_batch_size),
        preserve_ordering=policy.preserve_ordering,
        levels=_levels(policy),
        default_level=policy.default_priority_level or 1,
    )


def _sequence_policy(config: ModelConfig, max_queue_size: int) -> BatchPolicy:
    """Requests of different sequences are batched, as either of Triton's strategies does."""
    oldest, direct = config.sequence_batching.oldest, config.sequence_batching.direct
    delay_us = oldest.max_queue_delay_microseconds or direct.max_queue_delay_microseconds
    return BatchPolicy(
        max_batch_size=config.max_batch_size,
        max_queue_delay_s=delay_us / 1e6,
        max_queue_size=max_queue_size,
        concurrency=instance_count(config),
        preferred_batch_sizes=frozenset(oldest.preferred_batch_size),
        preserve_ordering=oldest.preserve_ordering,
    )


def _levels(policy: ModelDynamicBatching) -> tuple[QueuePolicy, ...]:
    """The queue policy of each priority level; one level where there are no priorities."""
    by_level = policy.priority_queue_policy
    return tuple(
        _queue_policy(by_level.get(n, policy.default_queue_policy))
        for n in range(1, max(1, policy.priority_levels) + 1)
    )


def _queue_policy(policy: ModelQueuePolicy) -> QueuePolicy:
    return QueuePolicy(
        max_queue_size=policy.max_queue_size,
        timeout_us=policy.default_timeout_microseconds,
        allow_timeout_override=policy.allow_timeout_override,
        timeout_action=_ACTIONS[policy.timeout_action],
    )
