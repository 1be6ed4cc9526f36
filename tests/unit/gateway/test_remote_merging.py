"""What several replicas tell, as one: statistics summed, indexes merged."""

from tritonclient.grpc import service_pb2 as pb

from atril_common.core import ModelIndexEntry
from atril_gateway.remote.index import merge_indexes
from atril_gateway.remote.statistics import sum_statistics

A, B = "10.0.0.1:9001", "10.0.0.2:9001"


def statistics(name: str, version: str, last: int, inferences: int) -> pb.ModelStatistics:
    """One model's tree with every kind of field in it; most figures follow `inferences`."""
    tree = pb.ModelStatistics(
        name=name,
        version=version,
        last_inference=last,
        inference_count=inferences,
        execution_count=inferences // 2,
    )
    tree.inference_stats.success.count = inferences
    tree.inference_stats.success.ns = inferences * 1000
    tree.inference_stats.cache_hit.count = 1
    batch = tree.batch_stats.add(batch_size=inferences)
    batch.compute_infer.count, batch.compute_infer.ns = 1, 500
    tree.memory_usage.add(type="CPU", id=0, byte_size=100)
    tree.response_stats["0"].success.count = inferences
    return tree


def test_counts_and_times_are_added_and_the_last_inference_is_the_latest() -> None:
    """2.8: one tree a model and version; the replicas' figures are added, times to times."""
    both = sum_statistics([[statistics("m", "1", 70, 4)], [statistics("m", "1", 50, 10)]])
    (total,) = both
    assert (total.name, total.version, total.last_inference) == ("m", "1", 70)
    assert (total.inference_count, total.execution_count) == (14, 7)
    success = total.inference_stats.success
    assert (success.count, success.ns) == (14, 14_000)
    assert total.inference_stats.cache_hit.count == 2
    assert total.response_stats["0"].success.count == 14


def test_batch_sizes_and_memories_are_added_to_their_own_kind() -> None:
    """2.8: `batch_stats` by batch size, in order; `memory_usage` by type and device."""
    other = statistics("m", "1", 1, 2)
    other.memory_usage.add(type="GPU", id=1, byte_size=7)
    (total,) = sum_statistics([[statistics("m", "1", 1, 8)], [other], [statistics("m", "1", 1, 8)]])
    assert [
        (b.batch_size, b.compute_infer.count, b.compute_infer.ns) for b in total.batch_stats
    ] == [
        (2, 1, 500),
        (8, 2, 1000),
    ]
    assert [(m.type, m.id, m.byte_size) for m in total.memory_usage] == [
        ("CPU", 0, 300),
        ("GPU", 1, 7),
    ]


def test_models_and_versions_stay_apart_and_in_order() -> None:
    """Version 10 comes after 2; a model that one replica alone serves is there all the same."""
    summed = sum_statistics(
        [
            [statistics("m", "10", 1, 1), statistics("m", "2", 1, 1)],
            [statistics("m", "2", 1, 1), statistics("alone", "1", 1, 3)],
        ]
    )
    assert [(s.name, s.version, s.inference_count) for s in summed] == [
        ("alone", "1", 3),
        ("m", "2", 2),
        ("m", "10", 1),
    ]


def test_what_is_summed_is_not_changed() -> None:
    """The sum is a tree of its own."""
    one = statistics("m", "1", 1, 4)
    before = one.SerializeToString(deterministic=True)
    sum_statistics([[one], [one]])
    assert one.SerializeToString(deterministic=True) == before


def test_replicas_that_agree_are_told_once() -> None:
    """2.6: one line a version, as each of them tells it."""
    ready = ModelIndexEntry("m", "1", "READY")
    broken = ModelIndexEntry("b", "2", "UNAVAILABLE", "not ONNX")
    assert merge_indexes({A: [ready, broken], B: [broken, ready]}) == [broken, ready]


def test_a_version_that_some_serve_is_ready_and_the_reason_names_the_others() -> None:
    """2.6: READY on one and broken on another is READY, with the reason of the one that is not."""
    (entry,) = merge_indexes(
        {
            A: [ModelIndexEntry("m", "1", "READY")],
            B: [ModelIndexEntry("m", "1", "UNAVAILABLE", "no memory")],
        }
    )
    assert entry.state == "READY"
    assert entry.reason == f"READY on 1 of 2 replicas; {B}: UNAVAILABLE, no memory"


def test_a_version_that_a_replica_does_not_know_is_told_with_its_name() -> None:
    """2.6: a name without a version on one replica is the version of the others, not loaded."""
    merged = merge_indexes(
        {
            A: [ModelIndexEntry("m", "2", "READY"), ModelIndexEntry("m", "10", "READY")],
            B: [ModelIndexEntry("m")],
        }
    )
    assert [(entry.name, entry.version, entry.state) for entry in merged] == [
        ("m", "2", "READY"),
        ("m", "10", "READY"),
    ]
    assert merged[0].reason == f"READY on 1 of 2 replicas; {B}: not loaded"


def test_a_version_that_nobody_serves_keeps_the_state_of_the_first_that_knows_it() -> None:
    """2.6: where states differ and none is READY the reason tells all of them."""
    (entry,) = merge_indexes(
        {
            A: [ModelIndexEntry("m", "1", "LOADING")],
            B: [ModelIndexEntry("m", "1", "UNAVAILABLE", "unloaded")],
        }
    )
    assert entry.state == "LOADING"
    assert entry.reason == f"READY on 0 of 2 replicas; {A}: LOADING; {B}: UNAVAILABLE, unloaded"


def test_a_model_that_nobody_has_loaded_is_its_name_only() -> None:
    """2.6: never loaded anywhere."""
    assert merge_indexes({A: [ModelIndexEntry("m")], B: [ModelIndexEntry("m")]}) == [
        ModelIndexEntry("m")
    ]
